"""Assemble the commands; end a user's mistake in one line on stderr and its exit code."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from collections.abc import Sequence
from copy import copy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.main import get_command, get_command_name

from lsqctl.cli import (
    board,
    cluster,
    compare,
    data_pack,
    deploy,
    diagnostics,
    doctor,
    plot,
    plugins,
    published,
    recipe,
    runs,
    runs_extend,
    runs_metrics,
    runs_rm,
    runs_update,
    search,
    serve,
    submit,
    sweep,
    transfer,
    verify,
    wait,
    watch,
    worker,
)
from lsqctl.cli.groups import TopLevel
from lsqctl.cli.options import GlobalOptions, use_plugins_of
from lsqctl.errors import FilterError, LsqctlError, RecipeError

if TYPE_CHECKING:
    from typer._click import Command  # its own since 0.29
    from typer.models import CommandInfo

EPILOG = "Global options may stand anywhere: --home, --db, --data-dir, --debug. See README.md."
_GLOBAL_OPTIONS = ("--home", "--db", "--data-dir")
_LONG_RUNNING = frozenset({"worker", "run", "serve", "cluster"})

app = typer.Typer(
    name="lsqctl",
    cls=TopLevel,
    help="Queue, run and rank Learned Step Size Quantization (LSQ) fine-tuning.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
submit.register(app)
worker.register(app)
watch.register(app)
wait.register(app)
runs_update.register(runs.app)
runs_extend.register(runs.app)
runs_metrics.register(runs.app)
runs_rm.register_gc_and_labels(runs.app)
runs_rm.register(runs.app)
published.register_rm(published.app)
app.add_typer(runs.app, name="runs")
board.register(app)
compare.register(app)
serve.register(app)
app.add_typer(plot.app, name="plot")
app.add_typer(deploy.app, name="deploy")
verify.register(app)
verify.register_conformance(app)
app.add_typer(recipe.app, name="recipe")
search.register(sweep.app)
app.add_typer(sweep.app, name="sweep")
app.add_typer(published.app, name="published")
app.add_typer(plugins.app, name="plugins")
app.add_typer(cluster.app, name="cluster")
doctor.data_app.command(epilog="Example: lsqctl data pack flowers -o flowers.pack")(data_pack.pack)
app.add_typer(doctor.data_app, name="data")
app.add_typer(doctor.db_app, name="db")
doctor.register(app)
transfer.register(runs.app, doctor.db_app)
doctor.register_bugreport(app)
diagnostics.register(app)


def _print_version(requested: bool) -> None:
    if requested:
        from lsqctl.services.provenance import version_line

        typer.echo(version_line())
        raise typer.Exit


@app.callback()
def global_options(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(help="Workspace folder; default: .lsqctl found upward, like .git."),
    ] = None,
    db_url: Annotated[
        str | None,
        typer.Option("--db", help="Database URL, e.g. postgresql+psycopg://host/name."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of datasets and weights files.")
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """Read the global options; every other module of the command line finds them in ``ctx``."""
    ctx.obj = GlobalOptions(home, db_url, data_dir, debug)
    use_plugins_of(home)
    if ctx.invoked_subcommand not in _LONG_RUNNING:
        # `lsqctl runs ls | head -1` ends quietly; a worker writes to pipes of children that die
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def split_global_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the global options, wherever they stand, and all other words: first the command."""
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
        elif word in _GLOBAL_OPTIONS:
            front += [word, *([value] if (value := next(remaining, None)) is not None else [])]
        elif _is_global_word(word):
            front.append(word)
        else:
            rest.append(word)
    return front, rest


def _is_global_word(word: str) -> bool:
    return word == "--debug" or word.startswith(tuple(f"{name}=" for name in _GLOBAL_OPTIONS))


@cache
def build_command(name: str = "", subcommand: str = "") -> Command:
    """Return the command line with the command that is named, or with all where none is.

    To read the options of every command off its function takes most of a short command's time.
    """
    groups = [copy(info) for info in app.registered_groups if info.name == name]
    for info in groups:
        if whole := info.typer_instance:
            info.typer_instance = copy(whole)
            only = _named(whole, subcommand)
            info.typer_instance.registered_commands = only or whole.registered_commands
    commands = _named(app, name)
    if not (groups or commands):
        return get_command(app)
    needed = copy(app)
    needed.registered_groups, needed.registered_commands = groups, commands
    return get_command(needed)


def _named(group: typer.Typer, name: str) -> list[CommandInfo]:
    return [info for info in group.registered_commands if _command_name(info) == name]


def _command_name(info: CommandInfo) -> str:
    return info.name or get_command_name(getattr(info.callback, "__name__", ""))


def main() -> None:
    """Run the command line; a user's mistake never ends in a traceback."""
    if os.name != "posix":
        sys.exit("error: lsqctl runs on Linux and macOS; on Windows, use WSL")
    _open_closed_streams()
    front, rest = split_global_options(sys.argv[1:])
    arguments = [*front, *rest]  # Typer wants the global ones in front
    gc.set_threshold(100_000)  # collecting while libraries load is a tenth of a short command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without some letter is no reason to die
            stream.reconfigure(errors="backslashreplace")
    try:
        build_command(*rest[:2])(args=arguments, prog_name="lsqctl")
    except LsqctlError as error:
        if "--debug" in arguments:
            raise
        _print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk or pipe that fails in the middle
        if "--debug" in arguments:
            raise
        _print_error(LsqctlError(_explain(error)))
        sys.exit(LsqctlError.exit_code)


def _explain(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # as os.getcwd says it
        return "the folder that this shell is in was removed: `cd` to one that is there"
    return f"{error}; nothing half done is stored, so try again"


def _open_closed_streams() -> None:
    """Let standard streams that the caller has closed (`>&-`) lead nowhere.

    Else the next file to be opened, as the database, gets their number and what is printed there.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this
        name = ("stdin", "stdout", "stderr")[number]
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _print_error(error: LsqctlError) -> None:
    from lsqctl.cli.console import print_error, stderr_is_terminal

    if isinstance(error, RecipeError):
        from lsqctl.cli.diagnostics import format_diagnostics, format_summary

        print(format_diagnostics(error.diagnostics, colour=stderr_is_terminal()), file=sys.stderr)
        files = ", ".join(dict.fromkeys(diagnostic.file for diagnostic in error.diagnostics))
        print_error(format_summary(error.diagnostics, files))
    elif isinstance(error, FilterError):
        from lsqctl.cli.diagnostics import format_diagnostics

        print(
            format_diagnostics(error.diagnostics, colour=stderr_is_terminal()),
            file=sys.stderr,
            end="",
        )
    else:
        print_error(str(error))
