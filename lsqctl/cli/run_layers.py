"""Print how a run's quantizers stand, layer by layer, and what stands out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsqctl.cli.render import note, print_json, print_table, say, stdout
from lsqctl.facts import QuantizerStats

if TYPE_CHECKING:
    from lsqctl.api.layer_findings import LayerFinding

COLUMNS = ("layer", "bits", "step", "clip %", "codes", "R", "osc %", "clamped")


def print_quantizers(run_id: str, stats: Sequence[QuantizerStats], *, json: bool) -> None:
    """Print the last epoch's quantizers and the findings; for a machine, every epoch's."""
    from lsqctl.api.layer_findings import findings, latest

    last = latest(stats)
    found = findings(last)
    if json:
        print_json({"run": run_id, "layers": last, "findings": found, "epochs": stats})
        return
    if not last:
        say(
            f"{run_id} has no numbers of quantizers: it is full precision, has not begun yet, or "
            "an older lsqctl trained it"
        )
        return
    print_table(COLUMNS, [_row(one) for one in last], right=COLUMNS[2:], give_way=COLUMNS[:4:-1])
    _print_findings(found)
    when = f"after epoch {last[0].epoch}" if last[0].epoch else "right after calibration"
    note(f"{when}, step {last[0].step} · docs/layers.md says what each column is")


def _row(one: QuantizerStats) -> tuple[str, ...]:
    from lsqctl.api.layer_findings import label

    return (
        label(one),
        _bits(one),
        _step(one),
        f"{100 * one.clip_fraction:.2f}",
        f"{one.codes_used}/{one.n_codes}",
        "" if one.r_ratio is None else f"{one.r_ratio:.2g}",
        "" if one.oscillation_rate is None else f"{100 * one.oscillation_rate:.2f}",
        str(one.clamped or ""),
    )


def _bits(one: QuantizerStats) -> str:
    """Return e.g. ``W4`` or ``A4``; activations with a sign, which are the exception, ``A4±``."""
    if one.kind == "weight":
        return f"W{one.bits}"
    return f"A{one.bits}{'±' if one.signed else ''}"


def _step(one: QuantizerStats) -> str:
    """Return the step, or the least and the largest of one a channel."""
    if one.step_size_min == one.step_size_max:
        return f"{one.step_size:.4g}"
    return f"{one.step_size_min:.2g}–{one.step_size_max:.2g}"


def _print_findings(found: Sequence[LayerFinding]) -> None:
    """Print a finding a paragraph that wraps; in a pipe, a line of sentence and advice."""
    if not sys.stdout.isatty():
        for one in found:
            print(f"{one.text}\t{one.advice}")
        return
    from rich.padding import Padding
    from rich.text import Text

    from lsqctl.leaderboard.clean import clean

    for one in found:
        stdout().print(Text(f"\n• {clean(one.text)}"), soft_wrap=False)
        stdout().print(Padding(Text(one.advice, style="dim"), (0, 0, 0, 2)), soft_wrap=False)
    print()
