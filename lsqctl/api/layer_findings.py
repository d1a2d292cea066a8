"""What a run's quantizers say in plain words: their numbers in, sentences out.  No database.

Every rule has a threshold that stands here once, in the sentence and in docs/layers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lsqctl.facts import QuantizerStats

FEW_CODES = 0.3  # of its codes, where there were values enough to use them
ENOUGH_VALUES = 8  # a code
MANY_CLIPPED = 0.2  # of the values; a clipped weight gets no gradient
MANY_OSCILLATING = 0.1  # of the weights
FAST_STEP = 30.0  # R; the paper wants it near 1, one batch is noisy


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """One thing that stands out, of the layers it holds for, the worst first."""

    rule: str
    layers: tuple[str, ...]
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Rule:
    """When a quantizer is worth a word: ``how_bad`` above 1 is past the threshold."""

    name: str
    how_bad: Callable[[QuantizerStats], float]
    text: Callable[[QuantizerStats], str]
    advice: str


def latest(stats: Sequence[QuantizerStats]) -> list[QuantizerStats]:
    """Return those of the last epoch."""
    last = max((one.step for one in stats), default=0)
    return [one for one in stats if one.step == last]


def findings(stats: Sequence[QuantizerStats]) -> list[LayerFinding]:
    """Return what stands out among the quantizers of one epoch; a rule gives one finding."""
    return [found for rule in RULES for found in _found(rule, stats)]


def label(one: QuantizerStats) -> str:
    """Return a quantizer in a reader's words: ``layer1.0.conv1``, or its own name if it has one."""
    usual = one.name.endswith((".weight_quantizer", ".input_quantizer"))
    return one.layer if usual and one.layer else one.name


def _found(rule: Rule, stats: Sequence[QuantizerStats]) -> Iterator[LayerFinding]:
    bad = [one for one in stats if rule.how_bad(one) > 1]
    if not bad:
        return
    bad.sort(key=rule.how_bad, reverse=True)
    layers = tuple(dict.fromkeys(_of(one) for one in bad))
    yield LayerFinding(rule.name, layers, rule.text(bad[0]) + _likewise(bad[1:]), rule.advice)


def _likewise(others: Sequence[QuantizerStats]) -> str:
    named = ", ".join(_of(one) for one in others[:2])
    more = f" and {len(others) - 2} more" if len(others) > 2 else ""
    return f"; likewise {named}{more}" if others else ""


def _of(one: QuantizerStats) -> str:
    return label(one) if one.kind == "weight" else f"the input of {label(one)}"


def _few_codes(one: QuantizerStats) -> float:
    if one.n_values < ENOUGH_VALUES * one.n_codes or one.codes_used == 1:
        return 0.0
    return FEW_CODES * one.n_codes / one.codes_used


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


RULES: tuple[Rule, ...] = (
    Rule(
        "dead",
        lambda one: 2.0 if one.codes_used == 1 and one.n_values > 1 else 0.0,
        lambda one: f"{_of(one)} has one code for all of its values",
        "it passes nothing on: set quant.per_channel, or more bits for this layer",
    ),
    Rule(
        "clamped",
        lambda one: 1.0 + one.clamped if one.clamped else 0.0,
        lambda one: f"the step of {_of(one)} was clamped to its floor {_times(one.clamped)}",
        "its steps are too large: lower quant.step_lr_scale or train.lr",
    ),
    Rule(
        "few-codes",
        _few_codes,
        lambda one: f"{_of(one)} uses {one.codes_used} of {one.n_codes} codes",
        "quant.init: mse begins with a finer step; fewer bits would do as well",
    ),
    Rule(
        "clipped",
        lambda one: one.clip_fraction / MANY_CLIPPED,
        lambda one: f"{_share(one.clip_fraction)} of the values of {_of(one)} are clipped",
        "they get no gradient: quant.init: mse or percentile begins with a larger step",
    ),
    Rule(
        "oscillating",
        lambda one: (one.oscillation_rate or 0.0) / MANY_OSCILLATING,
        lambda one: f"{_share(one.oscillation_rate or 0.0)} of the weights of {_of(one)} oscillate",
        "batch norm's statistics lag behind: train.bn_reestimate_images estimates them again",
    ),
    Rule(
        "fast-step",
        lambda one: (one.r_ratio or 0.0) / FAST_STEP,
        lambda one: (
            f"the step of {_of(one)} moves {one.r_ratio or 0.0:.3g} times as fast as its weights"
        ),
        "the paper wants R near 1: lower quant.step_lr_scale",
    ),
)
