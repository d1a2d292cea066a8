"""What a run's quantizers say in plain words: their numbers in, sentences out.  No database.

Every rule has a threshold that stands here once, in the sentence and in docs/layers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lsqctl.events import QuantizerStats
from lsqctl.text import n_times

MIN_CODE_FRACTION = 0.3  # of its codes, where there were values enough to use them
MIN_VALUES_PER_CODE = 8  # a code
MAX_CLIP_FRACTION = 0.2  # of the values; a clipped weight gets no gradient
MAX_OSCILLATION_RATE = 0.1  # of the weights
MAX_R_RATIO = 30.0  # R; the paper wants it near 1, one batch is noisy


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """One thing that stands out, of the layers it holds for, the worst first."""

    rule: str
    layers: tuple[str, ...]
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Rule:
    """When a quantizer is worth a word: ``severity`` above 1 is past the threshold."""

    name: str
    severity: Callable[[QuantizerStats], float]
    text: Callable[[QuantizerStats], str]
    advice: str


def last_epoch_stats(stats: Sequence[QuantizerStats]) -> list[QuantizerStats]:
    """Return those of the last epoch."""
    last_step = max((quantizer.step for quantizer in stats), default=0)
    return [quantizer for quantizer in stats if quantizer.step == last_step]


def evaluate_rules(stats: Sequence[QuantizerStats]) -> list[LayerFinding]:
    """Return what stands out among the quantizers of one epoch; a rule gives one finding."""
    return [finding for rule in RULES for finding in _findings_of(rule, stats)]


def layer_label(quantizer: QuantizerStats) -> str:
    """Return a quantizer in a reader's words: ``layer1.0.conv1``, or its own name if it has one."""
    has_usual_name = quantizer.name.endswith((".weight_quantizer", ".input_quantizer"))
    return quantizer.layer if has_usual_name and quantizer.layer else quantizer.name


def _findings_of(rule: Rule, stats: Sequence[QuantizerStats]) -> Iterator[LayerFinding]:
    exceeding = [quantizer for quantizer in stats if rule.severity(quantizer) > 1]
    if not exceeding:
        return
    exceeding.sort(key=rule.severity, reverse=True)
    layers = tuple(dict.fromkeys(_subject(quantizer) for quantizer in exceeding))
    yield LayerFinding(
        rule.name, layers, rule.text(exceeding[0]) + _likewise(exceeding[1:]), rule.advice
    )


def _likewise(quantizers: Sequence[QuantizerStats]) -> str:
    subjects = ", ".join(_subject(quantizer) for quantizer in quantizers[:2])
    more = f" and {len(quantizers) - 2} more" if len(quantizers) > 2 else ""
    return f"; likewise {subjects}{more}" if quantizers else ""


def _subject(quantizer: QuantizerStats) -> str:
    return (
        layer_label(quantizer)
        if quantizer.kind == "weight"
        else f"the input of {layer_label(quantizer)}"
    )


def _few_codes(quantizer: QuantizerStats) -> float:
    if quantizer.n_values < MIN_VALUES_PER_CODE * quantizer.n_codes or quantizer.codes_used == 1:
        return 0.0
    return MIN_CODE_FRACTION * quantizer.n_codes / quantizer.codes_used


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


RULES: tuple[Rule, ...] = (
    Rule(
        "dead",
        lambda q: 2.0 if q.codes_used == 1 and q.n_values > 1 else 0.0,
        lambda q: f"{_subject(q)} has one code for all of its values",
        "it passes nothing on: set quant.per_channel, or more bits for this layer",
    ),
    Rule(
        "clamped",
        lambda q: 1.0 + q.clamped if q.clamped else 0.0,
        lambda q: f"the step of {_subject(q)} was clamped to its floor {n_times(q.clamped)}",
        "its steps are too large: lower quant.step_lr_scale or train.lr",
    ),
    Rule(
        "few-codes",
        _few_codes,
        lambda q: f"{_subject(q)} uses {q.codes_used} of {q.n_codes} codes",
        "quant.init: mse begins with a finer step; fewer bits would do as well",
    ),
    Rule(
        "clipped",
        lambda q: q.clip_fraction / MAX_CLIP_FRACTION,
        lambda q: f"{_percent(q.clip_fraction)} of the values of {_subject(q)} are clipped",
        "they get no gradient: quant.init: mse or percentile begins with a larger step",
    ),
    Rule(
        "oscillating",
        lambda q: (q.oscillation_rate or 0.0) / MAX_OSCILLATION_RATE,
        lambda q: (
            f"{_percent(q.oscillation_rate or 0.0)} of the weights of {_subject(q)} oscillate"
        ),
        "batch norm's statistics lag behind: train.bn_reestimate_images estimates them again",
    ),
    Rule(
        "fast-step",
        lambda q: (q.r_ratio or 0.0) / MAX_R_RATIO,
        lambda q: (
            f"the step of {_subject(q)} moves {q.r_ratio or 0.0:.3g} times as fast as its weights"
        ),
        "the paper wants R near 1: lower quant.step_lr_scale",
    ),
)
