"""`plot`: charts for a paper, in a file; or here and now, in the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli.console import note, say
from lsqctl.cli.groups import CommandGroup
from lsqctl.cli.options import RunArgument, RunArguments, get_settings, open_store
from lsqctl.cli.serve import Force

if TYPE_CHECKING:
    from lsqctl.leaderboard.charts.chart import Chart

app = typer.Typer(
    cls=CommandGroup,
    help="Draw accuracy, curves and ablations, in a terminal or file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Dataset = Annotated[
    str | None, typer.Option(help="Of this dataset; else a chart for each with local runs.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write .svg, .pdf or .png instead."),
]


@app.command(epilog="Example: lsqctl plot size -o size.pdf")
def size(
    ctx: typer.Context, dataset: Dataset = None, output: Output = None, force: Force = False
) -> None:
    """Draw Top-1 against size, a line a network.

    As the LSQ paper's Figure 3.
    """
    from lsqctl.services.plots import plot_cost

    with open_store(ctx) as store:
        charts = plot_cost(store, "size_bytes", dataset=dataset, settings=get_settings(ctx))
    _write_or_print(charts, output, force=force)


@app.command(epilog="Example: lsqctl plot bops --dataset digits")
def bops(
    ctx: typer.Context, dataset: Dataset = None, output: Output = None, force: Force = False
) -> None:
    """Draw Top-1 against bit operations, a line a network."""
    from lsqctl.services.plots import plot_cost

    with open_store(ctx) as store:
        charts = plot_cost(store, "gbops", dataset=dataset, settings=get_settings(ctx))
    _write_or_print(charts, output, force=force)


@app.command(epilog="Example: lsqctl plot bits --dataset imagenet -o bits.svg")
def bits(
    ctx: typer.Context, dataset: Dataset = None, output: Output = None, force: Force = False
) -> None:
    """Draw Top-1 against bits beside full precision, by network."""
    from lsqctl.services.plots import plot_bits

    with open_store(ctx) as store:
        charts, left_out = plot_bits(store, dataset=dataset, settings=get_settings(ctx))
    _write_or_print(charts, output, force=force)
    if left_out:
        note(left_out)


@app.command(epilog="Example: lsqctl plot curves @last @last~1 --metric loss -o loss.pdf")
def curves(
    ctx: typer.Context,
    run_refs: RunArguments,
    metric: Annotated[str, typer.Option(help="Which of a run's metrics.")] = "top1",
    split: Annotated[str, typer.Option(help="On which images: eval, train.")] = "eval",
    output: Output = None,
    force: Force = False,
) -> None:
    """Draw one metric of runs by step, a line a run."""
    from lsqctl.services.plots import plot_curves

    with open_store(ctx) as store:
        charts = plot_curves(store, run_refs, metric, split)
    _write_or_print(charts, output, force=force)


@app.command(epilog="Example: lsqctl plot steps @last")
def steps(
    ctx: typer.Context, run_ref: RunArgument, output: Output = None, force: Force = False
) -> None:
    """Draw how far each quantizer's step size has moved.

    From its first value.
    """
    from lsqctl.services.plots import plot_step_sizes

    with open_store(ctx) as store:
        charts = plot_step_sizes(store, run_ref)
    _write_or_print(charts, output, force=force)


@app.command(epilog="Example: lsqctl plot ablation quant.n_features --sweep mine -o ablation.svg")
def ablation(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A recipe's key, as train.lr.")],
    dataset: Dataset = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the runs of this sweep.")
    ] = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Draw Top-1 by the value of a recipe's key.

    With 95 % intervals in a file.
    """
    from lsqctl.services.plots import plot_ablation

    with open_store(ctx) as store:
        charts = plot_ablation(store, key, dataset=dataset, sweep=sweep)
    _write_or_print(charts, output, force=force)


def _write_or_print(charts: Sequence[Chart], output: Path | None, *, force: bool) -> None:
    """Write the file, or draw as wide as the terminal is."""
    if output is not None:
        from lsqctl.services.plots import write_plot

        size_bytes = write_plot(charts, output, force=force)
        say(f"{output}: {size_bytes} bytes")
        return
    from lsqctl.leaderboard.charts.terminal import draw_lines

    terminal = (
        shutil.get_terminal_size() if sys.stdout.isatty() else shutil.get_terminal_size((80, 24))
    )
    for number, chart in enumerate(charts):
        print("\n" * bool(number) + "\n".join(draw_lines(chart, width=terminal.columns, height=16)))
