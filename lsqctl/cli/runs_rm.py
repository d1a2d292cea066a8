"""`runs rm|trash|restore|gc|tag|note`: take out, bring back, clean up, label."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.console import note as in_passing
from lsqctl.cli.console import print_json, print_table, say
from lsqctl.cli.options import (
    Json,
    RunArgument,
    RunArguments,
    duration_seconds,
    get_settings,
    open_store,
    positive_int,
)
from lsqctl.errors import UsageError
from lsqctl.text import ago, format_bytes, pluralize

if TYPE_CHECKING:
    from lsqctl.services.gc import Garbage
    from lsqctl.services.removal import Removal, TrashedRun

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
    """Move runs to the workspace's trash.

    Rows, metrics, results, logs and checkpoints.
    """
    from lsqctl.services.removal import move_to_trash, plan_removal, remove_runs
    from lsqctl.services.run_control import resolve_runs

    settings = get_settings(ctx)
    with open_store(ctx) as store:
        removals = plan_removal(settings, resolve_runs(store, run_refs))
        size = format_bytes(sum(removal.size_bytes for removal in removals))
        if for_good and not (dry_run or force or yes):
            _confirm(f"remove {pluralize(len(removals), 'run')} and {size} for good?")
        if dry_run:
            ids = [removal.run.id for removal in removals]
            store.trash.check_removable(ids, for_good=for_good, force=force)
            outcome = "would be removed; nothing was"
        elif for_good:
            remove_runs(store, removals, force=force)
            outcome = "removed for good"
        else:
            move_to_trash(store, settings, removals, force=force)
            back = f"lsqctl runs restore {removals[0].run.id}"
            outcome = f"removed to the trash; back with: {back}"
    if json:
        print_json({"removed": not dry_run, "for_good": for_good, "runs": removals})
        return
    _print_removals(removals)
    say(f"{pluralize(len(removals), 'run')}, {size}, {outcome}")


def trash(
    ctx: typer.Context,
    empty: Annotated[
        bool, typer.Option("--empty", help="Remove for good what is in it; asks first.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(
            parser=duration_seconds, metavar="TIME", help="Only what was removed 30d, 12h ago."
        ),
    ] = 0.0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """List removed runs, newest first; --empty removes for good."""
    from lsqctl.services import removal as api

    settings = get_settings(ctx)
    with open_store(ctx) as store:
        trashed = api.list_trash(store, settings, older_than=older_than)
        size = format_bytes(sum(trashed_run.size_bytes for trashed_run in trashed))
        if empty and trashed:
            if not yes:
                _confirm(f"remove {pluralize(len(trashed), 'run')} and {size} for good?")
            api.empty_trash(store, settings, trashed)
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
    from lsqctl.services import removal as api

    with open_store(ctx) as store:
        restored = api.restore_runs(store, get_settings(ctx), run_refs)
    if json:
        print_json({"restored": restored})
        return
    _print_trashed(restored)
    say(f"{pluralize(len(restored), 'run')} restored; next: lsqctl runs show {restored[0].id}")


def _print_removals(removals: list[Removal]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size"),
        [
            (
                removal.run.id,
                removal.run.name,
                str(removal.run.seed),
                removal.run.state.value,
                format_bytes(removal.size_bytes),
            )
            for removal in removals
        ],
        right_aligned=("seed", "size"),
        hide_first=("size", "seed"),
        names=("run",),
    )


def _print_trashed(trashed: Sequence[TrashedRun]) -> None:
    print_table(
        ("id", "run", "seed", "state", "size", "removed"),
        [
            (
                run.id,
                run.name,
                str(run.seed),
                run.state,
                format_bytes(run.size_bytes),
                ago(run.removed_at),
            )
            for run in trashed
        ],
        right_aligned=("seed", "size"),
        hide_first=("size", "removed", "seed"),
        names=("run",),
    )


def _confirm(question: str) -> None:
    """Let a person confirm; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("removing for good asks first, and there is no terminal; --yes")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was removed")


_MAX_NOTE_LENGTH = 10_000


def register_gc_and_labels(app: typer.Typer) -> None:
    """Add the commands of this module to `runs`."""
    app.command("gc", epilog="Example: lsqctl runs gc --older-than 30d --apply")(collect_garbage)
    app.command(
        epilog="Example: lsqctl runs tag @last +paper -draft",
        context_settings={"ignore_unknown_options": True},  # -word takes a tag away
    )(tag)
    app.command("note", epilog="Example: lsqctl runs note @last 'the one in the talk'")(annotate)


def collect_garbage(
    ctx: typer.Context,
    keep_last: Annotated[
        int,
        typer.Option(
            parser=positive_int, metavar="N", help="Newest checkpoints of a run that stay."
        ),
    ] = 1,
    older_than: Annotated[
        float,
        typer.Option(
            parser=duration_seconds, metavar="TIME", help="Only of runs that ended 30d, 12h ago."
        ),
    ] = 0.0,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, only list.")] = False,
    json: Json = False,
) -> None:
    """Find checkpoints, folders and part files that nothing needs.

    Remove them with --apply.

    What unfinished runs have stays, and of finished ones the newest checkpoint, the best, and
    those that a result names. A teacher's cached logits go when no run read them for 30 days, and
    what a killed process left of a file or a download a day later.
    """
    from lsqctl.services.gc import find_garbage, remove_garbage

    with open_store(ctx) as store:
        report = find_garbage(store, get_settings(ctx), keep_last=keep_last, older_than=older_than)
        garbage = remove_garbage(store, report.garbage) if apply else list(report.garbage)
    unknown_dirs, size = report.unknown_dirs, sum(item.size_bytes for item in garbage)
    if json:
        found = {"bytes": size, "garbage": garbage, "unknown_dirs": unknown_dirs}
        print_json({"removed": apply, **found})
        return
    _print_garbage(garbage)
    if unknown_dirs:
        say(
            f"{unknown_dirs} run folders, and the database knows none of them: is it "
            "another workspace's? They stay"
        )
    kinds = ", ".join(
        f"{count} × {kind}" for kind, count in Counter(item.kind for item in garbage).items()
    )
    if not garbage:
        say("nothing to remove")
    elif apply:
        say(f"{format_bytes(size)} freed: {kinds}")
    else:
        say(f"{format_bytes(size)} would be freed: {kinds}; next: lsqctl runs gc --apply")


def _print_garbage(garbage: Sequence[Garbage]) -> None:
    print_table(
        ("run", "kind", "size", "folder"),
        [
            (item.run_id, item.kind, format_bytes(item.size_bytes), str(item.path))
            for item in garbage
        ],
        right_aligned=("size",),
    )


def tag(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN… +TAG… -TAG…", help="Runs, tags to give, tags to take away."),
    ],
    json: Json = False,
) -> None:
    """Give runs tags (+paper) and take tags away (-draft).

    `runs ls --tag` finds them.
    """
    from lsqctl.services.run_control import resolve_runs

    added_tags = [word[1:] for word in words if word.startswith("+")]
    removed_tags = [word[1:] for word in words if word.startswith("-")]
    run_refs = [word for word in words if not word.startswith(("+", "-"))]
    if not run_refs or not (added_tags or removed_tags):
        raise UsageError("name runs, and tags as +word or -word: lsqctl runs tag @last +paper")
    with open_store(ctx) as store:
        runs = resolve_runs(store, run_refs)
        for run in runs:
            store.runs.update_tags(run.id, added_tags, removed_tags)
        tags = store.runs.tags([run.id for run in runs])
    if json:
        print_json({"tags": {run.id: tags.get(run.id, ()) for run in runs}})
        return
    for run in runs:
        say(f"{run.id}  {run.name}  {' '.join(tags.get(run.id, ())) or 'no tags'}")
    in_passing(
        f"{pluralize(len(runs), 'run')} tagged"
        + (f"; next: lsqctl runs ls --tag {added_tags[0]}" if added_tags else "")
    )


def annotate(
    ctx: typer.Context,
    run_ref: RunArgument,
    text: Annotated[str, typer.Argument(help="What to remember; '' removes the note.")],
    json: Json = False,
) -> None:
    """Write a note on a run; `runs show` prints it."""
    if len(text) > _MAX_NOTE_LENGTH:
        raise UsageError(f"a note has {_MAX_NOTE_LENGTH} characters at most, got {len(text)}")
    with open_store(ctx) as store:
        run = store.runs.resolve(run_ref)
        store.runs.set_note(run.id, text)
    if json:
        print_json({"id": run.id, "note": text})
    else:
        say(f"{run.id}  {run.name}  " + (f"note: {text}" if text else "note removed"))
