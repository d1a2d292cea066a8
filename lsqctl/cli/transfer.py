"""`runs export|import`, `db merge|grants`: runs go to colleagues, who may share a server."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_json, say
from lsqctl.cli.options import Json, get_settings, open_store
from lsqctl.errors import IllegalTransition, UsageError
from lsqctl.text import format_bytes, pluralize

if TYPE_CHECKING:
    from lsqctl.services.transfer import TransferReport

_MAX_SHOWN = 20  # of what is left out


def register(runs_app: typer.Typer, db_app: typer.Typer) -> None:
    """Add the commands of this module to `runs` and `db`."""
    runs_app.command("export", epilog="Example: lsqctl runs export @last mine.lsq")(export)
    runs_app.command("import", epilog="Example: lsqctl runs import mine.lsq")(import_)
    db_app.command(epilog="Example: lsqctl db merge ../theirs/.lsqctl --dry-run")(merge)
    db_app.command(epilog="Example: lsqctl db grants --schema public")(grants)


def export(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... FILE",
            help="Runs (ids, unique prefixes, names, @last), then the file to be written.",
            autocompletion=completion.runs,
        ),
    ],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="With the checkpoints that the runs have.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Write finished runs into one file.

    Rows, metrics, logs, provenance; parents come along.
    """
    from lsqctl.services.transfer import export_runs

    *run_refs, file = words
    if not run_refs:
        raise UsageError("name runs, and then the file: lsqctl runs export @last mine.lsq")
    with open_store(ctx) as store:
        settings = get_settings(ctx)
        report = export_runs(
            store, settings, run_refs, Path(file), checkpoints=checkpoints, force=force
        )
    if json:
        print_json({"export": report})
        return
    print(report.path)
    along = f" and {pluralize(len(report.parents), 'parent')}" if report.parents else ""
    runs = pluralize(len(report.runs), "run")
    say(f"{runs}{along}, {format_bytes(report.size_bytes)}, sha256 {report.sha256}")


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `runs export` wrote.")],
    json: Json = False,
) -> None:
    """Take in the runs of an exported file, all or none.

    What is here already is left as it is.
    """
    from lsqctl.services.transfer import import_runs
    from lsqctl.services.transfer_file import open_export

    open_export(file).close()  # no workspace is made for what is no such file
    with open_store(ctx, create=True) as store:
        report = import_runs(store, get_settings(ctx), file)
    _print_report(report, json=json)


def merge(
    ctx: typer.Context,
    other: Annotated[
        Path, typer.Argument(metavar="WORKSPACE", help="The folder of another workspace.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Take in what another workspace has.

    Finished runs, all or none, and published rows.

    What stays there is listed first, each with the reason: unfinished runs, its trash, settings and
    plugins. Where runs clash, they are listed and nothing is taken in. That workspace is only read.
    """
    from lsqctl.services.transfer import merge_workspace, settings_of_other

    settings_of_other(get_settings(ctx), other)  # no workspace is made for what is none
    with open_store(ctx, create=True) as store:
        tell = None if json else _print_left_out
        report = merge_workspace(store, get_settings(ctx), other, dry_run=dry_run, on_left_out=tell)
    _print_report(report, json=json, dry_run=dry_run)


def grants(
    schema: Annotated[
        str, typer.Option(metavar="NAME", help="The schema that holds the tables.")
    ] = "public",
) -> None:
    """Print the SQL that makes four roles on PostgreSQL.

    Reader, submitter, worker, owner.
    """
    from lsqctl.store.grants import grants_sql

    print(grants_sql(schema), end="")


def _print_report(report: TransferReport, *, json: bool, dry_run: bool = False) -> None:
    """Print what was taken in; raise where runs clash."""
    if json:
        print_json({"dry_run": dry_run, "transfer": report})
    if report.clashes:
        for run_id, clash in report.clashes.items():
            say(f"{run_id}: {clash}")
        clashing = pluralize(len(report.clashes), "run")
        raise IllegalTransition(f"{clashing} clash with what is here; nothing was taken in")
    if json:
        return
    for run_id in report.imported:
        print(run_id)
    verb = "would be taken in" if dry_run else "taken in"
    published = f" and {pluralize(report.published, 'published row')}" if report.published else ""
    taken_in = pluralize(len(report.imported), "run")
    say(f"{taken_in}{published} {verb}, {len(report.existing)} here already")
    for name, advice in islice(report.missing_plugins.items(), _MAX_SHOWN):
        say(f"the {name} is of a plugin that cannot be used here, but for its results: {advice}")


def _print_left_out(left_out: Mapping[str, str]) -> None:
    """List what stays in the other workspace, the first lines of it."""
    for name, reason in islice(left_out.items(), _MAX_SHOWN):
        say(f"left out: {name} {reason}")
    if len(left_out) > _MAX_SHOWN:
        say(f"left out: {len(left_out) - _MAX_SHOWN:,} more; --dry-run --json lists all")
