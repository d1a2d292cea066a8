"""Which code and environment a result is made of, and which lsqctl this is; never a secret."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from lsqctl import __version__
from lsqctl.bundled import bundled, code_sha256, file_sha256, package_root
from lsqctl.recipe import Recipe, plugins_of
from lsqctl.run import JsonObject
from lsqctl.settings import recorded_variables

_RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "sqlalchemy",
    "scikit-learn",
    "pillow",
    "torchcodec",
)


def collect_provenance(folder: Path) -> JsonObject:
    """Return what is true now of the code and of the machine that submits from ``folder``."""
    git = git_state(folder)
    return {
        "lsqctl": __version__,
        "code_sha256": code_sha256(),
        "code_commit": git.get("commit", ""),
        "code_dirty": git.get("dirty"),
        "code_diff_sha256": git.get("diff_sha256", ""),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": installed_versions(_RECORDED_PACKAGES),
        "variables": recorded_variables(),
    }


def plugin_provenance(recipe: Recipe) -> JsonObject:
    """Return of each plugin that a recipe uses package, version, file and digest of its source.

    By what it declares: ``model a/b``. Raises NotFound and PluginError where one cannot be used.
    """
    return {
        name: {
            "package": plugin.package,
            "version": plugin.version,
            "path": str(plugin.path),
            "sha256": plugin.sha256(),
        }
        for name, plugin in plugins_of(recipe).items()
    }


def script_provenance() -> JsonObject:
    """Return the script that Python runs, by path and sha256; of a notebook, which has none,
    nothing.
    """
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or not Path(path).is_file():
        return {}
    return {"script": {"path": str(Path(path).absolute()), "sha256": file_sha256(Path(path))}}


def git_state(folder: Path) -> JsonObject:
    """Return commit, whether files differ from it, and the digest of that difference.

    Of files that git does not know, their names count, not what is in them.  The difference itself
    is not kept: it may hold what nobody meant to publish.  Empty where ``folder`` is in no git
    checkout, or git is not installed.

    A checkout may come out of somebody's archive, with commands in its configuration that git would
    run: none is.  Where its files go through filters of its own, or git does not answer in time,
    only the commit is told.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    if _has_own_filters(folder):
        return {"commit": commit.decode().strip()}
    diff = _git(folder, "diff", "HEAD", *_DIFF_OPTIONS)
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard")
    if diff is None or untracked is None:  # git failed, or took too long
        return {"commit": commit.decode().strip()}
    dirty = bool(diff or untracked)
    return {
        "commit": commit.decode().strip(),
        "dirty": dirty,
        "diff_sha256": hashlib.sha256(diff + b"\0" + untracked).hexdigest() if dirty else "",
    }


# a submodule has a configuration of its own: its commit is compared, git does not look into it
_DIFF_OPTIONS = ("--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")
_RUN_NOTHING = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def _has_own_filters(folder: Path) -> bool:
    """Return whether the checkout itself, not its user or system, says what filters files."""
    asked = ("--includes", "--show-scope", "--get-regexp", r"^filter\.")
    lines = (_git(folder, "config", *asked) or b"").splitlines()
    return any(not line.startswith((b"global", b"system")) for line in lines)


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        completed = subprocess.run(
            ["git", "-C", str(folder), *_RUN_NOTHING, *arguments],
            capture_output=True,
            check=False,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout if completed.returncode == 0 else None


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each of these packages that is installed; none is imported."""
    by_name = {}
    for name in names:
        try:
            by_name[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return by_name


def version_line() -> str:
    """Return version, commit of the checkout (if it is one), code digest, and database schema."""
    git = git_state(package_root()) if (package_root().parent / ".git").exists() else {}
    commit = f"commit {git['commit'][:12]}{'+' if git.get('dirty') else ''}, " if git else ""
    return f"lsqctl {__version__} ({commit}code {code_sha256()[:12]}, schema {newest_schema()})"


def newest_schema() -> str:
    """Return the newest database revision that this code knows."""
    names = sorted(path.name for path in (bundled("db") / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0]
