"""Print how a run's quantizers stand, layer by layer, and what stands out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsqctl.cli.render import note, print_json, print_table, say, stdout_console
from lsqctl.facts import QuantizerStats

if TYPE_CHECKING:
    from lsqctl.api.layer_findings import LayerFinding

QUANTIZER_COLUMNS = ("layer", "bits", "step", "clip %", "codes", "R", "osc %", "clamped")


def print_quantizers(run_id: str, stats: Sequence[QuantizerStats], *, json: bool) -> None:
    """Print the last epoch's quantizers and the findings; for a machine, every epoch's."""
    from lsqctl.api.layer_findings import evaluate_rules, last_epoch_stats

    last_epoch = last_epoch_stats(stats)
    layer_findings = evaluate_rules(last_epoch)
    if json:
        print_json({"run": run_id, "layers": last_epoch, "findings": layer_findings, "epochs": stats})
        return
    if not last_epoch:
        say(
            f"{run_id} has no numbers of quantizers: it is full precision, has not begun yet, or "
            "an older lsqctl trained it"
        )
        return
    print_table(QUANTIZER_COLUMNS, [_quantizer_row(quantizer) for quantizer in last_epoch], right_aligned=QUANTIZER_COLUMNS[2:], hide_first=QUANTIZER_COLUMNS[:4:-1])
    _print_findings(layer_findings)
    when = f"after epoch {last_epoch[0].epoch}" if last_epoch[0].epoch else "right after calibration"
    note(f"{when}, step {last_epoch[0].step} · docs/layers.md says what each column is")


def _quantizer_row(quantizer: QuantizerStats) -> tuple[str, ...]:
    from lsqctl.api.layer_findings import layer_label

    return (
        layer_label(quantizer),
        _bits_text(quantizer),
        _step_size_text(quantizer),
        f"{100 * quantizer.clip_fraction:.2f}",
        f"{quantizer.codes_used}/{quantizer.n_codes}",
        "" if quantizer.r_ratio is None else f"{quantizer.r_ratio:.2g}",
        "" if quantizer.oscillation_rate is None else f"{100 * quantizer.oscillation_rate:.2f}",
        str(quantizer.clamped or ""),
    )


def _bits_text(quantizer: QuantizerStats) -> str:
    """Return e.g. ``W4`` or ``A4``; activations with a sign, which are the exception, ``A4±``."""
    if quantizer.kind == "weight":
        return f"W{quantizer.bits}"
    return f"A{quantizer.bits}{'±' if quantizer.signed else ''}"


def _step_size_text(quantizer: QuantizerStats) -> str:
    """Return the step, or the least and the largest of one a channel."""
    if quantizer.step_size_min == quantizer.step_size_max:
        return f"{quantizer.step_size:.4g}"
    return f"{quantizer.step_size_min:.2g}–{quantizer.step_size_max:.2g}"


def _print_findings(layer_findings: Sequence[LayerFinding]) -> None:
    """Print a finding a paragraph that wraps; in a pipe, a line of sentence and advice."""
    if not sys.stdout.isatty():
        for finding in layer_findings:
            print(f"{finding.text}\t{finding.advice}")
        return
    from rich.padding import Padding
    from rich.text import Text

    from lsqctl.leaderboard.clean import clean

    for finding in layer_findings:
        stdout_console().print(Text(f"\n• {clean(finding.text)}"), soft_wrap=False)
        stdout_console().print(Padding(Text(finding.advice, style="dim"), (0, 0, 0, 2)), soft_wrap=False)
    print()
