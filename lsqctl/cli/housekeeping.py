"""`runs gc|tag|note`: remove what is not needed, and write on runs what a person knows."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from lsqctl.cli.durations import duration
from lsqctl.cli.removing import size_text
from lsqctl.cli.render import note as in_passing
from lsqctl.cli.render import print_json, print_table, say
from lsqctl.cli.state import Json, RunArgument, positive, settings, workspace
from lsqctl.errors import UsageError
from lsqctl.wording import counted

_NOTE_LIMIT = 10_000


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `runs`."""
    app.command("gc", epilog="Example: lsqctl runs gc --older-than 30d --apply")(collect)
    app.command(
        epilog="Example: lsqctl runs tag @last +paper -draft",
        context_settings={"ignore_unknown_options": True},  # -word takes a tag away
    )(tag)
    app.command(epilog="Example: lsqctl runs note @last 'the one in the talk'")(note)


def collect(
    ctx: typer.Context,
    keep_last: Annotated[
        int,
        typer.Option(parser=positive, metavar="N", help="Newest checkpoints of a run that stay."),
    ] = 1,
    older_than: Annotated[
        float,
        typer.Option(parser=duration, metavar="TIME", help="Only of runs that ended 30d, 12h ago."),
    ] = 0.0,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, only look.")] = False,
    json: Json = False,
) -> None:
    """Find checkpoints and folders that nothing needs; remove them with --apply.

    What unfinished runs have stays, and of finished ones the newest checkpoint, the best, and
    those that a result names.
    """
    from lsqctl.api.gc import find_rubbish, remove_rubbish

    with workspace(ctx) as store:
        found = find_rubbish(store, settings(ctx), keep_last=keep_last, older_than=older_than)
        rubbish = remove_rubbish(store, found.rubbish) if apply else list(found.rubbish)
    size = sum(one.size_bytes for one in rubbish)
    if json:
        print_json({"removed": apply, "bytes": size, "rubbish": rubbish, "strange": found.strange})
        return
    print_table(
        ("run", "what", "size", "folder"),
        [(one.run_id, one.kind, size_text(one.size_bytes), str(one.path)) for one in rubbish],
        right=("size",),
    )
    if found.strange:
        say(
            f"{found.strange} run folders, and the database knows none of them: is it another "
            "workspace's? They stay"
        )
    kinds = ", ".join(f"{n} × {kind}" for kind, n in Counter(one.kind for one in rubbish).items())
    if not rubbish:
        say("nothing to remove")
    elif apply:
        say(f"{size_text(size)} freed: {kinds}")
    else:
        say(f"{size_text(size)} would be freed: {kinds}; next: lsqctl runs gc --apply")


def tag(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN… +TAG… -TAG…", help="Runs, tags to give, tags to take away."),
    ],
    json: Json = False,
) -> None:
    """Give runs tags (+paper) and take tags away (-draft); `runs ls --tag` finds them."""
    add = [word[1:] for word in words if word.startswith("+")]
    gone = [word[1:] for word in words if word.startswith("-")]
    refs = [word for word in words if not word.startswith(("+", "-"))]
    if not refs or not (add or gone):
        raise UsageError("name runs, and tags as +word or -word: lsqctl runs tag @last +paper")
    with workspace(ctx) as store:
        found = list({run.id: run for run in map(store.resolve, refs)}.values())
        for run in found:
            store.tag(run.id, add, gone)
        tags = store.tags([run.id for run in found])
    if json:
        print_json({"tags": {run.id: tags.get(run.id, ()) for run in found}})
        return
    for run in found:
        say(f"{run.id}  {run.name}  {' '.join(tags.get(run.id, ())) or 'no tags'}")
    in_passing(
        f"{counted(len(found), 'run')} tagged"
        + (f"; next: lsqctl runs ls --tag {add[0]}" if add else "")
    )


def note(
    ctx: typer.Context,
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What to remember; '' removes the note.")],
    json: Json = False,
) -> None:
    """Write a note on a run; `runs show` prints it."""
    if len(text) > _NOTE_LIMIT:
        raise UsageError(f"a note has {_NOTE_LIMIT} characters at most, got {len(text)}")
    with workspace(ctx) as store:
        found = store.resolve(run)
        store.annotate(found.id, text)
    if json:
        print_json({"id": found.id, "note": text})
    else:
        say(f"{found.id}  {found.name}  " + (f"note: {text}" if text else "note removed"))
