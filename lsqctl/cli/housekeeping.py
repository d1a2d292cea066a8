"""`runs gc|tag|note`: remove what is not needed, and write on runs what a person knows."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from lsqctl.cli.durations import duration_seconds
from lsqctl.cli.removing import format_bytes
from lsqctl.cli.render import note as in_passing
from lsqctl.cli.render import print_json, print_table, say
from lsqctl.cli.state import Json, RunArgument, positive_int, get_settings, open_store
from lsqctl.errors import UsageError
from lsqctl.wording import pluralize

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
        typer.Option(parser=positive_int, metavar="N", help="Newest checkpoints of a run that stay."),
    ] = 1,
    older_than: Annotated[
        float,
        typer.Option(parser=duration_seconds, metavar="TIME", help="Only of runs that ended 30d, 12h ago."),
    ] = 0.0,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, only look.")] = False,
    json: Json = False,
) -> None:
    """Find checkpoints and folders that nothing needs; remove them with --apply.

    What unfinished runs have stays, and of finished ones the newest checkpoint, the best, and
    those that a result names.
    """
    from lsqctl.api.gc import find_garbage, remove_garbage

    with open_store(ctx) as store:
        report = find_garbage(store, get_settings(ctx), keep_last=keep_last, older_than=older_than)
        garbage = remove_garbage(store, report.garbage) if apply else list(report.garbage)
    size = sum(item.size_bytes for item in garbage)
    if json:
        print_json({"removed": apply, "bytes": size, "garbage": garbage, "unknown_dirs": report.unknown_dirs})
        return
    print_table(
        ("run", "what", "size", "folder"),
        [(item.run_id, item.kind, format_bytes(item.size_bytes), str(item.path)) for item in garbage],
        right_aligned=("size",),
    )
    if report.unknown_dirs:
        say(
            f"{report.unknown_dirs} run folders, and the database knows none of them: is it another "
            "workspace's? They stay"
        )
    kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(item.kind for item in garbage).items())
    if not garbage:
        say("nothing to remove")
    elif apply:
        say(f"{format_bytes(size)} freed: {kinds}")
    else:
        say(f"{format_bytes(size)} would be freed: {kinds}; next: lsqctl runs gc --apply")


def tag(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN… +TAG… -TAG…", help="Runs, tags to give, tags to take away."),
    ],
    json: Json = False,
) -> None:
    """Give runs tags (+paper) and take tags away (-draft); `runs ls --tag` finds them."""
    added_tags = [word[1:] for word in words if word.startswith("+")]
    removed_tags = [word[1:] for word in words if word.startswith("-")]
    run_refs = [word for word in words if not word.startswith(("+", "-"))]
    if not run_refs or not (added_tags or removed_tags):
        raise UsageError("name runs, and tags as +word or -word: lsqctl runs tag @last +paper")
    with open_store(ctx) as store:
        runs = list({run.id: run for run in map(store.resolve, run_refs)}.values())
        for run in runs:
            store.tag(run.id, added_tags, removed_tags)
        tags = store.tags([run.id for run in runs])
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
        run = store.resolve(run_ref)
        store.annotate(run.id, text)
    if json:
        print_json({"id": run.id, "note": text})
    else:
        say(f"{run.id}  {run.name}  " + (f"note: {text}" if text else "note removed"))
