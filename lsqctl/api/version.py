"""Say which lsqctl this is: version, commit, schema."""

from __future__ import annotations

from lsqctl import __version__
from lsqctl.api.provenance import git_state
from lsqctl.bundled import bundled, package_root
from lsqctl.training.digest import code_sha256


def version_line() -> str:
    """Return version, commit of the checkout (if it is one), code digest, and database schema."""
    git = git_state(package_root()) if (package_root().parent / ".git").exists() else {}
    commit = f"commit {git['commit'][:12]}{'+' if git['dirty'] else ''}, " if git else ""
    return f"lsqctl {__version__} ({commit}code {code_sha256()[:12]}, schema {newest_schema()})"


def newest_schema() -> str:
    """Return the newest database revision that this code knows."""
    names = sorted(path.name for path in (bundled("db") / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0]
