"""What commands take: global options, the store they lead to, and options of several commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.errors import LockedDatabase, NotFound
from lsqctl.failpoint import armed_failpoints
from lsqctl.retry import retry
from lsqctl.run import IfExists
from lsqctl.settings import CompileMode, Settings, load_settings
from lsqctl.settings import sources as settings_origins
from lsqctl.text import did_you_mean, parse_amount, parse_duration

if TYPE_CHECKING:
    from lsqctl.store import Store


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
Where = Annotated[
    str | None,
    typer.Option(metavar="FILTER", help='Only rows like this: "weight_bits <= 4 and seed = 0".'),
]
OnlyOwn = Annotated[
    bool, typer.Option("--mine", help="Only runs that you submitted (column `user`).")
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="An id, a unique prefix of it, a name, or @last.",
        autocompletion=completion.runs,
    ),
]
RunArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Ids, unique prefixes, names, or @last.",
        autocompletion=completion.runs,
    ),
]


def any_int(text: str | int) -> int:
    """Parse a whole number, in plain words when it is none."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, got `{text}`") from None


_MAX_INT = 2**31 - 1  # what every column of both databases holds


def stored_int(text: str | int) -> int:
    """Parse a whole number that the database can hold."""
    number = any_int(text)
    if abs(number) > _MAX_INT:
        raise typer.BadParameter(f"must be within ±{_MAX_INT:,}, got {number}")
    return number


def non_negative_int(text: str | int) -> int:
    """Parse a whole number of at least 0."""
    number = stored_int(text)
    if number < 0:
        raise typer.BadParameter(f"must be at least 0, got {number}")
    return number


def positive_int(text: str | int) -> int:
    """Parse a whole number of at least 1."""
    number = stored_int(text)
    if number < 1:
        raise typer.BadParameter(f"must be at least 1, got {number}")
    return number


def format_name(text: str) -> str:
    """Parse the name of a format of the board; ``table`` is the terminal's."""
    from lsqctl.discovery import is_plugin_name
    from lsqctl.leaderboard.formats import FORMATS

    if is_plugin_name(text):
        FORMATS.find(text)
    elif text != "table" and text not in FORMATS:
        names = ("table", *FORMATS)
        raise typer.BadParameter(
            f"no format is named `{text}`{did_you_mean(text, names)}; there are {', '.join(names)}"
        )
    return text


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The options that stand before any command."""

    home: Path | None = None
    db_url: str | None = None
    data_dir: Path | None = None
    debug: bool = False


def use_plugins_of(home: Path | None) -> None:
    """Let names of plugins mean those of the workspace that ``--home`` names, or that is found."""
    from lsqctl.discovery import use_workspace

    use_workspace(home)


def get_settings(ctx: typer.Context) -> Settings:
    """Return the settings that the global options and the environment lead to."""
    armed_failpoints()  # a misspelt failpoint is a mistake of the command line, not of a run
    options: GlobalOptions = ctx.find_root().obj
    return load_settings(home=options.home, db=options.db_url, data_dir=options.data_dir)


def setting_sources(ctx: typer.Context) -> dict[str, str]:
    """Return where each of these settings comes from: a flag, a variable, or ``default``."""
    options: GlobalOptions = ctx.find_root().obj
    return settings_origins(home=options.home, db=options.db_url, data_dir=options.data_dir)


@contextmanager
def open_store(
    ctx: typer.Context, *, create: bool = False, silent: bool = False, wait: bool = False
) -> Iterator[Store]:
    """Open the store, say on stderr which one it is, and close it at the end.

    ``wait`` for one that another process holds locked, however long that takes.
    """
    from lsqctl.services.workspace import open_workspace

    settings = get_settings(ctx)
    open_once = partial(open_workspace, settings, create=create)
    store = retry(open_once, LockedDatabase, _say_that_we_wait) if wait else open_once()
    with _using(store, silent=silent):
        yield store


def _say_that_we_wait(error: LockedDatabase, _failures: int) -> float:
    from lsqctl.cli.console import warn

    warn(f"waiting for it: {error}")
    return 0.0  # the database has waited for some seconds itself


@contextmanager
def open_store_if_any(
    ctx: typer.Context, *, without: str = "published results only"
) -> Iterator[Store | None]:
    """Open the store as ``open_store``; None where there is none yet, and on stderr what then."""
    from lsqctl.cli.console import say
    from lsqctl.services.workspace import open_workspace

    try:
        store = open_workspace(get_settings(ctx))
    except NotFound as error:
        say(f"{without}: {error}")
        yield None
        return
    with _using(store):
        yield store


@contextmanager
def _using(store: Store, *, silent: bool = False) -> Iterator[None]:
    from lsqctl.cli.console import note

    if not silent:
        note(f"store: {store.url}")
    try:
        yield
    finally:
        store.close()


def duration_seconds(text: str | float) -> float:
    """Parse an option's time span, in plain words when it is none."""
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def amount_of_bytes(text: str | float) -> float:
    """Parse an option's size."""
    return _amount(str(text), "B", "120kB or 1.5MB")


def amount_of_bops(text: str | float) -> float:
    """Parse an option's bit operations."""
    return _amount(str(text), "BOPs", "0.5G or 800M")


def _amount(text: str, unit: str, example: str) -> float:
    try:
        return parse_amount(text, unit, example)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def positive_duration_seconds(text: str | float) -> float:
    """Parse an option's time span above zero."""
    seconds = duration_seconds(text)
    if seconds <= 0:
        raise typer.BadParameter(f"must be above zero, got `{text}`")
    return seconds


Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipe files, bundled recipes or cells of one by name, or runs (an id, @last) to "
        "submit changed.",
        autocompletion=completion.recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every recipe; repeatable."),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Call the recipe so, whatever --set makes of it."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="KEY=V1,V2",
        help="Vary a key of every recipe: a run for each value; repeatable, every combination.",
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TAG", help="Give the runs a tag; repeatable."),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", parser=any_int, metavar="N", help="Seed of every recipe; repeat for several."
    ),
]
IfExistsOption = Annotated[
    IfExists, typer.Option(help="For a run that is there already: leave it, run anew, or refuse.")
]
Priority = Annotated[int, typer.Option(parser=stored_int, metavar="N", help="Higher runs first.")]
CheckOnly = Annotated[bool, typer.Option("--dry-run", help="Check and print the plan.")]
Hold = Annotated[bool, typer.Option("--hold", help="Start none before `lsqctl runs release`.")]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop the sweep at its first failed cell.")
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        parser=non_negative_int, metavar="N", help="Stop the sweep at N failed cells; 0: never."
    ),
]
SkipDataCheck = Annotated[
    bool, typer.Option("--skip-data-check", help="The workers have the data, this machine not.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        parser=any_int, metavar="N", help="Attempts at a time; they divide the CPU, or each GPU."
    ),
]
WorkerGpus = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="auto (idle GPUs; the CPU where there is none), all, none (the CPU), or 0,2.",
    ),
]
ReservedGpus = Annotated[
    int,
    typer.Option(
        "--gpus",
        parser=positive_int,
        metavar="N",
        help="Train each run on N GPUs (N slots of a CPU worker), with the bits of one.",
    ),
]
CompileOption = Annotated[
    CompileMode | None,
    typer.Option(
        help="Compile networks: where it repays itself, always, or never; LSQCTL_COMPILE.",
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write TensorBoard's event files beside the metrics."),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        parser=positive_duration_seconds,
        metavar="TIME",
        help="Save and fail an attempt that takes longer: 90m, 2h, 1h30m, or seconds.",
    ),
]
