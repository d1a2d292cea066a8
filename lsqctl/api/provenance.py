"""What a result is made of: the code's digest, git's state, the environment; never a secret."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from lsqctl import __version__
from lsqctl.settings import recorded_variables
from lsqctl.training.digest import code_sha256

_RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "sqlalchemy", "scikit-learn")


def collect_provenance(folder: Path) -> dict[str, Any]:
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


def git_state(folder: Path) -> dict[str, Any]:
    """Return commit, whether files differ from it, and the digest of that difference.

    Of files that git does not know, their names count, not what is in them.  The difference itself
    is not kept: it may hold what nobody meant to publish.  Empty where ``folder`` is in no git
    checkout, or git is not installed.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    diff = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv") or b""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard") or b""
    dirty = bool(diff or untracked)
    return {
        "commit": commit.decode().strip(),
        "dirty": dirty,
        "diff_sha256": hashlib.sha256(diff + b"\0" + untracked).hexdigest() if dirty else "",
    }


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        completed = subprocess.run(
            ["git", "-C", str(folder), *arguments],
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
