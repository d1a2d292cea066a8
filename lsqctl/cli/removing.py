"""`runs rm|trash|restore`: take runs out, and bring them back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.durations import duration_seconds
from lsqctl.cli.render import ago, print_json, print_table, say
from lsqctl.cli.state import Json, RunArguments, get_settings, open_store
from lsqctl.errors import UsageError
from lsqctl.wording import pluralize

if TYPE_CHECKING:
    from lsqctl.api.remove import Removal
    from lsqctl.api.trash import TrashedRun

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would go.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


TrashedRunArguments = Annotated[
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
    run_refs: RunArguments,
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
    from lsqctl.api.trash import move_to_trash

    settings = get_settings(ctx)
    with open_store(ctx) as store:
        runs = {run.id: run for run in map(store.resolve, run_refs)}
        removals = plan_removal(settings, list(runs.values()))
        size = format_bytes(sum(removal.size_bytes for removal in removals))
        if for_good and not (dry_run or force or yes):
            _confirm(f"remove {pluralize(len(removals), 'run')} and {size} for good?")
        if not dry_run:
            (
                remove_runs(store, removals, force=force)
                if for_good
                else move_to_trash(store, settings, removals, force=force)
            )
    if json:
        print_json({"removed": not dry_run, "for_good": for_good, "runs": removals})
        return
    _print_removals(removals)
    where = "for good" if for_good else "to the trash"
    outcome = "would be removed; nothing was" if dry_run else f"removed {where}"
    restore_hint = f"; back with: lsqctl runs restore {removals[0].run.id}"
    say(f"{pluralize(len(removals), 'run')}, {size}, {outcome}" + restore_hint * (not dry_run and not for_good))


def trash(
    ctx: typer.Context,
    empty: Annotated[
        bool, typer.Option("--empty", help="Remove for good what is in it; asks first.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(parser=duration_seconds, metavar="TIME", help="Only what was removed 30d, 12h ago."),
    ] = 0.0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """List removed runs, newest first; with --empty remove them for good."""
    from lsqctl.api import trash as api

    settings = get_settings(ctx)
    trashed = api.list_trash(settings, older_than=older_than)
    size = format_bytes(sum(trashed_run.size_bytes for trashed_run in trashed))
    if empty and trashed:
        if not yes:
            _confirm(f"remove {pluralize(len(trashed), 'run')} and {size} for good?")
        api.empty_trash(settings, trashed)
    if json:
        print_json({"emptied": empty, "runs": trashed})
        return
    _print_trashed(trashed)
    if not trashed:
        say("the trash is empty" if not older_than else "nothing has been there for so long")
    elif empty:
        say(f"{pluralize(len(trashed), 'run')} removed for good, {size} freed")
    else:
        say(f"{pluralize(len(trashed), 'run')}, {size}; next: lsqctl runs restore {trashed[0].id}")


def restore(ctx: typer.Context, run_refs: TrashedRunArguments, json: Json = False) -> None:
    """Bring removed runs back from the trash, as they were."""
    from lsqctl.api import trash as api

    with open_store(ctx) as store:
        restored = api.restore_runs(store, get_settings(ctx), run_refs)
    if json:
        print_json({"restored": restored})
        return
    _print_trashed(restored)
    say(f"{pluralize(len(restored), 'run')} restored; next: lsqctl runs show {restored[0].id}")


def format_bytes(count: int) -> str:
    """Return bytes for people."""
    from lsqctl.leaderboard.view import bytes_text

    return bytes_text(count)


def _print_removals(removals: list[Removal]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size"),
        [
            (removal.run.id, removal.run.name, str(removal.run.seed), removal.run.state.value, format_bytes(removal.size_bytes))
            for removal in removals
        ],
        right_aligned=("seed", "size"),
    )


def _print_trashed(trashed: list[TrashedRun]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size", "removed"),
        [
            (run.id, run.name, str(run.seed), run.state, format_bytes(run.size_bytes), ago(run.removed_at))
            for run in trashed
        ],
        right_aligned=("seed", "size"),
    )


def _confirm(question: str) -> None:
    """Let a person confirm; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("removing for good asks first, and there is no terminal; --yes")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was removed")
