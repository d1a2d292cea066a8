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
MAX_RUNS = 50
CompletionItem = tuple[str, str]  # the word, and what a shell may show beside it


def runs(ctx: typer.Context, incomplete: str) -> list[CompletionItem]:
    """Return the newest runs, by id and by name."""
    return _query_store(ctx, lambda store: _run_items(store, incomplete))


def sweeps(ctx: typer.Context, incomplete: str) -> list[CompletionItem]:
    """Return the sweeps of the workspace."""
    return _query_store(
        ctx,
        lambda store: [
            (name, "sweep") for name in store.sweeps.names() if _matches(name, incomplete)
        ],
    )


def recipes(incomplete: str) -> list[CompletionItem]:
    """Return bundled recipes, the cells of a sweep that is written out, and what lies here."""
    from lsqctl.recipe_file.find import bundled_recipes
    from lsqctl.recipe_file.lookup import cell_names

    bundled = [(name, "bundled") for name in bundled_recipes() if _matches(name, incomplete)]
    cells = [
        (cell, "cell")
        for sweep in bundled_recipes()
        if incomplete.startswith(sweep)
        for cell in cell_names(sweep)
        if _matches(cell, incomplete)
    ]
    return [*bundled, *cells, *_file_items(incomplete)]


def recipes_and_runs(ctx: typer.Context, incomplete: str) -> list[CompletionItem]:
    """Return what a recipe may be compared with: recipes, and runs."""
    return [*recipes(incomplete), *runs(ctx, incomplete)]


def runs_and_sweeps(ctx: typer.Context, incomplete: str) -> list[CompletionItem]:
    """Return what a result may be compared with: runs, and sweeps."""
    return [*runs(ctx, incomplete), *sweeps(ctx, incomplete)]


def columns(incomplete: str) -> list[str]:
    """Return the columns of the board, for the last name of a list; ``-`` may stand before it."""
    from lsqctl.leaderboard.schema import COLUMN_NAMES

    preceding, comma, last = incomplete.rpartition(",")
    sign = "-" if last.startswith("-") else ""
    prefix = last.removeprefix("-")
    return [f"{preceding}{comma}{sign}{name}" for name in COLUMN_NAMES if name.startswith(prefix)]


def formats(incomplete: str) -> list[CompletionItem]:
    """Return the formats of the board."""
    from lsqctl.leaderboard.formats import FORMATS

    return [(name, info.ending) for name, info in FORMATS.items() if _matches(name, incomplete)]


def codes(incomplete: str) -> list[CompletionItem]:
    """Return the codes of errors and warnings, and the reasons for which runs end."""
    from lsqctl.recipe_file.error_codes import EXPLANATIONS

    return [
        (code, entry.title) for code, entry in EXPLANATIONS.items() if _matches(code, incomplete)
    ]


def _query_store(
    ctx: typer.Context, query: Callable[[Store], list[CompletionItem]]
) -> list[CompletionItem]:
    """Return what the workspace answers; nothing where there is none, or it does not answer."""
    try:
        with _open_store(ctx) as store:
            return query(store)
    except (LsqctlError, OSError):
        return []


@contextmanager
def _open_store(ctx: typer.Context) -> Iterator[Store]:
    from lsqctl.services.workspace import open_workspace

    params = ctx.find_root().params  # the callback that reads them does not run here
    settings = load_settings(home=params.get("home"), db=params.get("db_url"))
    with open_workspace(settings, read_only=True) as store:
        yield store


def _run_items(store: Store, incomplete: str) -> list[CompletionItem]:
    newest_runs = store.runs.list(limit=MAX_RUNS)
    ids = [(run.id, f"{run.name}, seed {run.seed}, {run.state}") for run in newest_runs]
    names = [
        (name, "the newest of this name") for name in dict.fromkeys(run.name for run in newest_runs)
    ]
    last = [("@last", "the newest run")] if newest_runs else []
    return [item for item in [*last, *ids, *names] if _matches(item[0], incomplete)]


def _file_items(incomplete: str) -> list[CompletionItem]:
    folder, _, start = incomplete.rpartition("/")
    try:
        paths = sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).iterdir())
        matching = [path for path in paths if path.name.startswith(start) and path.name[0] != "."]
        prefix = incomplete.removesuffix(start) if start else incomplete
        folders = [(f"{prefix}{path.name}/", "folder") for path in matching if path.is_dir()]
        files = [path for path in matching if path.suffix in (".yaml", ".yml") and path.is_file()]
    except OSError:
        return []
    return [*((f"{prefix}{path.name}", "file") for path in files), *(folders if folder else [])]


def _matches(word: str, incomplete: str) -> bool:
    return word.startswith(incomplete)
