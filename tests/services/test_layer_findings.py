"""What a run's quantizers say in words: every rule at its threshold, and silence below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsqctl.events import QuantizerStats
from lsqctl.services.layer_findings import RULES, evaluate_rules, last_epoch_stats, layer_label

DOCS = Path(__file__).parent.parent.parent / "docs" / "layers.md"


def stats(name: str = "layer1.0.conv1.weight_quantizer", **changes: Any) -> QuantizerStats:
    values: dict[str, Any] = {"epoch": 3, "step": 60, "bits": 8, "signed": True}
    values |= dict.fromkeys(("step_size", "step_size_min", "step_size_max"), 0.1)
    values |= {"clip_fraction": 0.01, "codes_used": 200, "n_codes": 256, "n_values": 9216}
    values |= {"kind": "input" if "input" in name else "weight", "r_ratio": 1.0} | changes
    return QuantizerStats(name=name, **values)


def test_nothing_stands_out_where_all_is_well():
    assert evaluate_rules([]) == evaluate_rules([stats(), stats("fc.input_quantizer")]) == []


@pytest.mark.parametrize(
    ("rule", "past", "short", "words"),
    [
        (
            "few-codes",
            {"codes_used": 66},
            {"codes_used": 77},
            "layer1.0.conv1 uses 66 of 256 codes",
        ),
        (
            "few-codes",
            {"codes_used": 66, "n_values": 2048},
            {"codes_used": 66, "n_values": 2047},
            "66 of 256",
        ),
        ("dead", {"codes_used": 1}, {"codes_used": 1, "n_values": 1}, "has one code for all"),
        ("clamped", {"clamped": 1}, {"clamped": 0}, "clamped to its floor once"),
        (
            "clipped",
            {"clip_fraction": 0.21},
            {"clip_fraction": 0.2},
            "21 % of the values of layer1.0.conv1 are clipped",
        ),
        (
            "oscillating",
            {"oscillation_rate": 0.4},
            {"oscillation_rate": 0.1},
            "40 % of the weights of layer1.0.conv1 oscillate",
        ),
        ("fast-step", {"r_ratio": 31.0}, {"r_ratio": 30.0}, "moves 31 times as fast"),
    ],
)
def test_each_rule_speaks_past_its_threshold_and_not_before(rule, past, short, words):
    (found,) = evaluate_rules([stats(**past)])
    assert (found.rule, found.layers) == (rule, ("layer1.0.conv1",))
    assert words in found.text
    assert found.advice
    assert evaluate_rules([stats(**short)]) == []


def test_none_is_no_finding():
    assert evaluate_rules([stats(r_ratio=None, oscillation_rate=None)]) == []


def test_the_worst_comes_first_and_a_rule_gives_one_finding():
    names = ["a.weight_quantizer", "b.input_quantizer", "c.weight_quantizer", "d.weight_quantizer"]
    many = [stats(name, clamped=n) for name, n in zip(names, (3, 9, 5, 1), strict=True)]
    (found,) = evaluate_rules(many)
    assert found.layers == ("the input of b", "c", "a", "d")
    assert found.text == (
        "the step of the input of b was clamped to its floor 9 times; likewise c, a and 1 more"
    )
    (found,) = evaluate_rules(many[:1])
    assert "likewise" not in found.text


def test_a_quantizer_of_its_own_keeps_its_name():
    assert layer_label(stats("layer1.0.conv1.input_quantizer")) == "layer1.0.conv1"
    assert layer_label(stats("layer1.0.residual")) == "layer1.0.residual"
    assert layer_label(stats("weight_quantizer")) == "weight_quantizer"


def test_the_latest_epoch_is_the_one_with_the_most_steps():
    old, new = stats(step=9), stats(step=10)
    assert last_epoch_stats([new, old]) == [new]
    assert last_epoch_stats([]) == []


def test_the_page_names_every_rule():
    text = DOCS.read_text()
    assert [rule.name for rule in RULES if f"`{rule.name}`" not in text] == []
