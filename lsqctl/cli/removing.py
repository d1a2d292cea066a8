"""`runs rm|trash|restore`: take runs out, and bring them back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import duration
from lsqctl.cli.render import ago, print_json, print_table, say
from lsqctl.cli.state import Json, RunArguments, settings, workspace
from lsqctl.errors import UsageError
from lsqctl.wording import counted

if TYPE_CHECKING:
    from lsqctl.api.remove import Removal
    from lsqctl.api.trash import Buried

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would go.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


Removed = Annotated[
    list[str],
    typer.Argument(metavar="REMOVED", help="Ids, unique prefixes or names of runs in the trash."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `runs`."""
    app.command("rm", epilog="Example: lsqctl runs rm 7kq2 --dry-run")(remove)
    app.command(epilog="Example: lsqctl runs trash --empty --older-than 30d --yes")(trash)
    app.command(epilog="Example: lsqctl runs restore 7kq2")(restore)


def remove(
    ctx: typer.Context,
    runs: RunArguments,
    force: Annotated[
        bool, typer.Option("--force", help="Also what succeeded runs started from; do not ask.")
    ] = False,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Not into the trash: asks first.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove runs: rows, metrics, results, logs and checkpoints go to the workspace's trash."""
    from lsqctl.api.remove import plan_removal, remove_runs
    from lsqctl.api.trash import bury

    here = settings(ctx)
    with workspace(ctx) as store:
        found = {run.id: run for run in map(store.resolve, runs)}
        planned = plan_removal(here, list(found.values()))
        size = size_text(sum(one.size_bytes for one in planned))
        if for_good and not (dry_run or force or yes):
            _ask(f"remove {counted(len(planned), 'run')} and {size} for good?")
        if not dry_run:
            (
                remove_runs(store, planned, force=force)
                if for_good
                else bury(store, here, planned, force=force)
            )
    if json:
        print_json({"removed": not dry_run, "for_good": for_good, "runs": planned})
        return
    _print_removals(planned)
    where = "for good" if for_good else "to the trash"
    done = "would be removed; nothing was" if dry_run else f"removed {where}"
    back = f"; back with: lsqctl runs restore {planned[0].run.id}"
    say(f"{counted(len(planned), 'run')}, {size}, {done}" + back * (not dry_run and not for_good))


def trash(
    ctx: typer.Context,
    empty: Annotated[
        bool, typer.Option("--empty", help="Remove for good what is in it; asks first.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(parser=duration, metavar="TIME", help="Only what was removed 30d, 12h ago."),
    ] = 0.0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """List removed runs, newest first; with --empty remove them for good."""
    from lsqctl.api import trash as api

    here = settings(ctx)
    found = api.buried(here, older_than=older_than)
    size = size_text(sum(one.size_bytes for one in found))
    if empty and found:
        if not yes:
            _ask(f"remove {counted(len(found), 'run')} and {size} for good?")
        api.empty(here, found)
    if json:
        print_json({"emptied": empty, "runs": found})
        return
    _print_buried(found)
    if not found:
        say("the trash is empty" if not older_than else "nothing has been there for so long")
    elif empty:
        say(f"{counted(len(found), 'run')} removed for good, {size} freed")
    else:
        say(f"{counted(len(found), 'run')}, {size}; next: lsqctl runs restore {found[0].id}")


def restore(ctx: typer.Context, runs: Removed, json: Json = False) -> None:
    """Bring removed runs back from the trash, as they were."""
    from lsqctl.api import trash as api

    with workspace(ctx) as store:
        found = api.restore(store, settings(ctx), runs)
    if json:
        print_json({"restored": found})
        return
    _print_buried(found)
    say(f"{counted(len(found), 'run')} restored; next: lsqctl runs show {found[0].id}")


def size_text(count: int) -> str:
    """Return bytes for people."""
    from lsqctl.leaderboard.view import bytes_text

    return bytes_text(count)


def _print_removals(planned: list[Removal]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size"),
        [
            (p.run.id, p.run.name, str(p.run.seed), p.run.state.value, size_text(p.size_bytes))
            for p in planned
        ],
        right=("seed", "size"),
    )


def _print_buried(found: list[Buried]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size", "removed"),
        [
            (b.id, b.name, str(b.seed), b.state, size_text(b.size_bytes), ago(b.removed_at))
            for b in found
        ],
        right=("seed", "size"),
    )


def _ask(question: str) -> None:
    """Let a person confirm; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("removing for good asks first, and there is no terminal; --yes")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was removed")
