"""`deploy`: from a run to a folder of integer files, and the check of such a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.console import print_error, print_json, print_table, say
from lsqctl.cli.groups import WORDS_IN_GROUPS, CommandGroup
from lsqctl.cli.options import Json, RunArgument, get_settings, open_store, positive_int

if TYPE_CHECKING:
    from typer._click import Context

    from lsqctl.deploy.folder import FolderVerdict
    from lsqctl.run import JsonObject
    from lsqctl.services.deploy import Deployment


class DeployGroup(CommandGroup):
    """A group whose words are a run's, unless they name a command: ``deploy RUN`` is ``run``."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put the command's name before a run."""
        if args and args[0] not in (*self.commands, *WORDS_IN_GROUPS, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DeployGroup,
    help="Turn a run into integers that other runtimes execute.",
    epilog="Example: lsqctl deploy @last -o DIR",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Threads = Annotated[
    int, typer.Option(parser=positive_int, metavar="N", help="Threads of the check.")
]


_SHOWN = ("forms", "edges", "settled", "fake_quantized")  # of a folder's report, in JSON


def image_count(text: str | int | None) -> int | None:
    """Parse how many images are compared; ``all`` is None."""
    if text in (None, "all"):
        return None
    try:
        return positive_int(str(text))
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message}; all images: all") from None


@app.command(epilog="Example: lsqctl deploy run @last -o DIR --check 1000")
def run(
    ctx: typer.Context,
    run_ref: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The new folder.")],
    form: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|all", help="A form to write (exact); may be repeated."),
    ] = None,
    check: Annotated[
        int | None,
        typer.Option(
            parser=image_count,
            metavar="N|all",
            help="Images of the evaluation split to compare (all).",
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Standard ONNX operators only, none of onnxruntime's own."),
    ] = False,
    settle: Annotated[
        bool, typer.Option("--settle", help="Move biases off the ties between codes.")
    ] = False,
    hub: Annotated[
        bool, typer.Option("--hf", help="Lay the folder out as Hugging Face's readers want it.")
    ] = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Write a run's network as integers, and compare every code.

    Of its headline variant; `run` may be left out.
    """
    from lsqctl.services.deploy import deploy_run

    with open_store(ctx) as store:
        from lsqctl.deploy import Options  # imports torch, which takes longer

        options = Options(tuple(form or ["exact"]), plain, settle, hub, threads)
        deployment = deploy_run(store, get_settings(ctx), run_ref, output, options, check=check)
    if json:
        print_json(_as_json(deployment))
    else:
        _print_deployment(deployment)


def _as_json(deployment: Deployment) -> dict[str, object]:
    from lsqctl.deploy.folder import read_report

    directory = deployment.conversion.directory
    return {
        "run_id": deployment.run_id,
        "directory": str(directory),
        "bytes": dict(deployment.conversion.file_bytes),
        **{key: value for key, value in read_report(directory).items() if key in _SHOWN},
    }


def _print_deployment(deployment: Deployment) -> None:
    from lsqctl.deploy.card import check_lines
    from lsqctl.deploy.folder import read_report

    conversion, headline = deployment.conversion, deployment.headline
    say(
        f"run {deployment.run_id} ({deployment.name}): {headline.variant} weights, "
        f"{headline.selection} epoch, {headline.n_correct} of {headline.n_total} right on the board"
    )
    report = read_report(conversion.directory)
    _print_edges(report["edges"])
    for line in check_lines(report):
        if line:
            say(line)
    if deployed := deployment.deployed:
        counted = deployed.evaluation
        say(
            f"on the board as variant {counted.variant}: {counted.n_correct} of "
            f"{counted.n_total} right, {deployed.exactness}, {deployed.file_bytes:,} bytes"
        )
    else:
        say("not on the board: a variant `deployed` needs every image (`--check all`) and codes")
    for name, size in conversion.file_bytes.items():
        say(f"{conversion.directory / name}  {size:,} bytes")


def _print_edges(edges: Sequence[JsonObject]) -> None:
    """Print a line for each quantized tensor: what gives its codes, and what is proved of it."""
    rows = [
        (
            edge["codes"],
            edge["source"] or " + ".join(edge["summands"]),
            f"{edge['accumulators']:,}" if edge["accumulators"] else "",
            f"{edge['thresholds']:,}" if edge["finite"] else "",
            "" if edge["margin"] is None else f"{edge['margin']:.2g}",
            _proof(edge),
        )
        for edge in edges
    ]
    headings = ("codes", "given by", "accumulators", "thresholds", "margin", "for every input")
    print_table(headings, rows, right_aligned=headings[2:5], hide_first=headings[1:4])


def _proof(edge: JsonObject) -> str:
    if edge["proved"]:
        return "proved"
    return edge["reason"] or f"{edge['channels_fitted']} of {edge['channels']} channels"


@app.command(epilog="Example: lsqctl deploy check DIR")
def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `deploy` wrote.")],
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Compile and run model.c too: trusts who made the folder."),
    ] = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Hash a deployed folder's files, and run them.

    On its expected images; exit 1 if any differs.

    Needs numpy and the runtimes of its forms, no run and no torch; says what it could not run.
    """
    from lsqctl.deploy.folder import check_folder

    verdict = check_folder(directory, threads=threads, trusted=compile_)
    if json:
        print_json(
            {"directory": str(directory), "problems": verdict.problems, "not_run": verdict.not_run}
        )
    else:
        _print_verdict(verdict)
    if verdict.problems:
        raise typer.Exit(1)


def _print_verdict(verdict: FolderVerdict) -> None:
    for problem in verdict.problems:
        print_error(problem)
    for line in verdict.not_run:
        say(line)
    if not verdict.problems:
        ran = f"; {', '.join(verdict.models)} on {verdict.n_images} images: the expected logits"
        say(
            f"{verdict.directory}: {verdict.n_files} files as they were written"
            f"{ran if verdict.models else ''}"
        )
