"""What `runs show` prints of one run: its fields, metrics, attempts, quantizers and cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lsqctl.cli.console import (
    note,
    print_fields,
    print_json,
    print_table,
    say,
    stdout_console,
    to_json_types,
)
from lsqctl.events import COST_FIELDS
from lsqctl.run import RECORDED, RunDetail, RunState
from lsqctl.settings import Settings
from lsqctl.text import format_bops, format_bytes, format_duration, when_text

if TYPE_CHECKING:
    from lsqctl.events import Evaluation, MetricSummary, QuantizerStats, Result
    from lsqctl.services.cost import RecipeCost
    from lsqctl.services.layer_findings import LayerFinding


_MOMENTS = ("created", "started", "finished")


def print_run(
    detail: RunDetail, folder: Path, tags: Sequence[str] = (), result: Result | None = None
) -> None:
    """Print the fields of a run, one a line."""
    run = detail.run
    fields = {
        "run": run.name,
        "id": run.id,
        "state": "lease expired (its worker does not renew)"
        if run.lease_expired
        else run.state.value,
        "held": "until `lsqctl runs release`" if run.held and not run.finished_at else "",
        "priority": str(run.priority or ""),
        "reason": ": ".join(filter(None, (run.reason, run.message))),
        "seed": str(run.seed),
        "epoch": f"{run.epoch} of {run.epochs}, step {run.step} of {run.total_steps}",
        "Top-1": "" if run.top1 is None else f"{run.top1:.2f} %",
        "computes": arithmetic_text(detail.environment),
        "cost": cost_line(result) if result and result.size_bytes is not None else "",
        "waits for" if run.state is RunState.WAITING else "parents": ", ".join(
            f"{role}: {parent}" for role, parent in detail.parents.items()
        ),
        "tags": " ".join(tags),
        "note": run.note,
        "user": run.user,
        "origin": f"recorded of {detail.recorded_of()}, which lsqctl did not run"
        if run.origin == RECORDED
        else "",
        **{moment: when_text(getattr(run, f"{moment}_at")) for moment in _MOMENTS},
        "recipe": run.recipe_sha256[:16],
        "commit": _commit_text(detail.provenance),
        "code": _changed_code(detail),
        "folder": _folder_text(folder, detail),
    }
    print_fields(fields)


IMITATED = (
    "bf16, which its device is not known to multiply: an imitation takes many times as long as "
    "fp32, which `train.precision: auto` takes there"
)


def arithmetic_text(environment: Mapping[str, object]) -> str:
    """Return in what the newest attempt computes, as it decided; nothing before it has.

    >>> arithmetic_text({"precision": "fp32", "compile": True})
    'in fp32, compiled'
    """
    if not (precision := environment.get("precision")):
        return ""
    parts = [
        f"in {IMITATED if environment.get('imitated') else precision}",
        "compiled" if environment.get("compile") else "",
    ]
    return ", ".join(filter(None, parts))


def _folder_text(folder: Path, detail: RunDetail) -> str:
    """Return where a run's files are, and where else when they are not here."""
    if folder.is_dir():
        return str(folder)
    if detail.run.origin == RECORDED:
        return "none here: it has no log, and no checkpoint was recorded on this machine"
    host = detail.host_of()
    return f"{folder} (not here: it ran on {host})" if host else str(folder)


def _commit_text(provenance: Mapping[str, object]) -> str:
    commit = str(provenance.get("code_commit", ""))[:12]
    return commit + (" with changes" if provenance.get("code_dirty") else "")


def _changed_code(detail: RunDetail) -> str:
    """Return the attempts that ran other code than was submitted; nothing when none did."""
    submitted = detail.provenance.get("code_sha256")
    code_by_attempt = {
        attempt.number: attempt.environment.get("code_sha256", submitted)
        for attempt in detail.attempts
    }
    changed = [str(number) for number, code in code_by_attempt.items() if code != submitted]
    return f"changed after submit: attempt {', '.join(changed)} ran other code" if changed else ""


def print_metrics(summaries: list[MetricSummary]) -> None:
    """Print the last and the best value of each metric."""
    if summaries:
        print()
        print_table(
            ("metric", "last", "at step", "best", "at step"),
            [
                (
                    f"{summary.split}/{summary.name}",
                    f"{summary.last:.6g}",
                    str(summary.last_step),
                    f"{summary.best:.6g}",
                    str(summary.best_step),
                )
                for summary in summaries
            ],
            right_aligned=("last", "at step", "best"),
        )


def print_attempts(detail: RunDetail) -> None:
    """Print who tried, for how long, and how it ended."""
    if not detail.attempts:
        return
    print()
    print_table(
        ("attempt", "worker", "took", "ended", "message"),
        [
            (
                str(attempt.number),
                attempt.worker,
                format_duration((attempt.finished_at - attempt.started_at).total_seconds())
                if attempt.finished_at
                else "",
                str(attempt.reason or "running"),
                attempt.message,
            )
            for attempt in detail.attempts
        ],
    )


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """Return an evaluation for JSON; its bitmap of per-image hits stays in the store."""
    fields: dict[str, object] = to_json_types(evaluation)
    fields.pop("hits", None)
    return fields


_EVALUATED = {
    "integer": "evaluated in the integers of the deployed file",
    "trained": "evaluated as trained",
}
QUANTIZER_COLUMNS = ("layer", "bits", "step", "clip %", "codes", "R", "osc %", "clamped")


def print_quantizers(detail: RunDetail, stats: Sequence[QuantizerStats], *, json: bool) -> None:
    """Print the last epoch's quantizers and the findings; for a machine, every epoch's."""
    from lsqctl.services.layer_findings import evaluate_rules, last_epoch_stats

    last_epoch = last_epoch_stats(stats)
    layer_findings = evaluate_rules(last_epoch)
    environment = detail.environment
    kernel, float_layers = environment.get("kernel", ""), environment.get("float_layers", {})
    evaluation = environment.get("evaluation", "trained")
    if json:
        kernels = {"kernel": kernel, "float_layers": float_layers, "evaluation": evaluation}
        stated = {"layers": last_epoch, "findings": layer_findings, "epochs": stats}
        print_json({"run": detail.run.id, **stated, **kernels})
        return
    if not last_epoch:
        say(
            f"{detail.run.id} has no numbers of quantizers: it is full precision, has not begun "
            "yet, or an older lsqctl trained it"
        )
        return
    _print_quantizer_table(last_epoch)
    _print_findings(layer_findings)
    if kernel:
        note(f"{kernel_text(kernel, float_layers)}; {_EVALUATED[evaluation]}")
    epoch, step = last_epoch[0].epoch, last_epoch[0].step
    when = f"after epoch {epoch}" if epoch else "right after calibration"
    note(f"{when}, step {step} · docs/layers.md says what each column is")


def _print_quantizer_table(stats: Sequence[QuantizerStats]) -> None:
    print_table(
        QUANTIZER_COLUMNS,
        [_quantizer_row(quantizer) for quantizer in stats],
        right_aligned=QUANTIZER_COLUMNS[2:],
        hide_first=QUANTIZER_COLUMNS[:4:-1],
    )


def kernel_text(kernel: str, float_layers: Mapping[str, str]) -> str:
    """Return what the layers compute with, and those that do otherwise, by their reason."""
    layers_by_reason: dict[str, list[str]] = {}
    for layer, reason in float_layers.items():
        layers_by_reason.setdefault(reason, []).append(layer)
    exceptions = (
        f"; in floats {', '.join(layers)}: {reason}" for reason, layers in layers_by_reason.items()
    )
    return f"layers compute in {kernel}s{''.join(exceptions)}"


def _quantizer_row(quantizer: QuantizerStats) -> tuple[str, ...]:
    from lsqctl.services.layer_findings import layer_label

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

    from lsqctl.text import sanitize

    for finding in layer_findings:
        stdout_console().print(Text(f"\n• {sanitize(finding.text)}"), soft_wrap=False)
        stdout_console().print(
            Padding(Text(finding.advice, style="dim"), (0, 0, 0, 2)), soft_wrap=False
        )
    print()


class CostTotals(Protocol):
    """What a result and a counted model both have: bytes, and operations for one image."""

    @property
    def size_bytes(self) -> int | None:
        """Bytes as deployed."""

    @property
    def naive_bytes(self) -> int | None:
        """Parameters times bits over 8."""

    @property
    def macs(self) -> int | None:
        """Multiplications with accumulation."""

    @property
    def bops(self) -> int | None:
        """MACs times weight bits times activation bits."""


def cost_line(cost: CostTotals) -> str:
    """Return the sums in one line."""
    size, naive = format_bytes(cost.size_bytes or 0), format_bytes(cost.naive_bytes or 0)
    macs, bops = format_bops(cost.macs or 0), format_bops(cost.bops or 0)
    return f"{size} (naive {naive}), {macs}MAC, {bops}BOP"


def result_cost_json(result: Result | None) -> dict[str, int] | None:
    """Return the sums that a finished run was stored with, for JSON."""
    return {name: getattr(result, name) for name in COST_FIELDS} if result else None


def stored_recipe_cost(recipe: Mapping[str, object], settings: Settings) -> RecipeCost:
    """Return what the network of a stored recipe costs, layer by layer."""
    from lsqctl.recipe import load_stored
    from lsqctl.services.cost import recipe_cost

    return recipe_cost(load_stored(recipe), settings)


def print_layer_costs(recipe_cost: RecipeCost | None) -> None:
    """Print a line for each layer; nothing where none was counted."""
    if recipe_cost is None:
        return
    print()
    print_table(
        ("layer", "W", "A", "params", "size", "MACs", "BOPs"),
        [
            (
                layer.name,
                str(layer.weight_bits),
                str(layer.act_bits),
                f"{layer.params:,}",
                format_bytes(layer.size_bytes),
                format_bops(layer.macs),
                format_bops(layer.bops),
            )
            for layer in recipe_cost.cost.layers
        ],
        right_aligned=("W", "A", "params", "size", "MACs", "BOPs"),
        hide_first=("params", "MACs"),
    )
