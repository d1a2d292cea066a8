"""What a shell proposes after TAB: runs, sweeps, recipes, columns; never a word, never an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from lsqctl.errors import LsqctlError
from lsqctl.settings import load_settings

if TYPE_CHECKING:
    from lsqctl.store import Store

T = TypeVar("T")
NEWEST = 50
Proposal = tuple[str, str]  # the word, and what a shell may show beside it


def runs(ctx: typer.Context, incomplete: str) -> list[Proposal]:
    """Return the newest runs, by id and by name."""
    return _asked(ctx, lambda store: _runs(store, incomplete))


def sweeps(ctx: typer.Context, incomplete: str) -> list[Proposal]:
    """Return the sweeps of the workspace."""
    return _asked(ctx, lambda store: [(n, "sweep") for n in store.sweeps() if _fits(n, incomplete)])


def recipes(incomplete: str) -> list[Proposal]:
    """Return the bundled recipes, and the recipe files and folders that lie here."""
    from lsqctl.recipe_file.find import bundled_recipes

    found = [(name, "bundled") for name in bundled_recipes() if _fits(name, incomplete)]
    return [*found, *_files(incomplete)]


def columns(incomplete: str) -> list[str]:
    """Return the columns of the board, for the last name of a list; ``-`` may stand before it."""
    from lsqctl.leaderboard.columns import NAMES

    before, comma, last = incomplete.rpartition(",")
    sign = "-" if last.startswith("-") else ""
    wanted = last.removeprefix("-")
    return [f"{before}{comma}{sign}{name}" for name in NAMES if name.startswith(wanted)]


def codes(incomplete: str) -> list[Proposal]:
    """Return the codes of errors and warnings."""
    from lsqctl.recipe_file.codes import CODES

    return [(one, CODES[one].title) for one in CODES if _fits(one, incomplete)]


def _asked(ctx: typer.Context, ask: Callable[[Store], list[Proposal]]) -> list[Proposal]:
    """Return what the workspace answers; nothing where there is none, or it does not answer."""
    try:
        with _opened(ctx) as store:
            return ask(store)
    except (LsqctlError, OSError):
        return []


@contextmanager
def _opened(ctx: typer.Context) -> Iterator[Store]:
    from lsqctl.api.workspace import open_workspace

    given = ctx.find_root().params  # the callback that reads them does not run here
    here = load_settings(home=given.get("home"), db=given.get("db_url"))
    with open_workspace(here, read_only=True) as store:
        yield store


def _runs(store: Store, incomplete: str) -> list[Proposal]:
    found = store.runs(limit=NEWEST)
    ids = [(run.id, f"{run.name}, seed {run.seed}, {run.state}") for run in found]
    names = [(name, "the newest of this name") for name in dict.fromkeys(run.name for run in found)]
    last = [("@last", "the newest run")] if found else []
    return [one for one in [*last, *ids, *names] if _fits(one[0], incomplete)]


def _files(incomplete: str) -> list[Proposal]:
    folder, _, start = incomplete.rpartition("/")
    try:
        found = sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).iterdir())
        kept = [path for path in found if path.name.startswith(start) and path.name[0] != "."]
        before = incomplete.removesuffix(start) if start else incomplete
        folders = [(f"{before}{path.name}/", "folder") for path in kept if path.is_dir()]
        files = [path for path in kept if path.suffix in (".yaml", ".yml") and path.is_file()]
    except OSError:
        return []
    return [*((f"{before}{path.name}", "file") for path in files), *(folders if folder else [])]


def _fits(word: str, incomplete: str) -> bool:
    return word.startswith(incomplete)
