"""Looking at the quantizers changes no number of a run, and each due epoch is told of once."""

from __future__ import annotations

import pytest

from lsqctl.events import LogMessage, Metric, QuantizerStats
from lsqctl.training import quantizer_stats, session

from .attempts import assert_same_state, run
from .conftest import tiny

QUANTIZERS = 16  # two for each of resnet8's eight layers


def seen(facts):
    return [one for one in facts if isinstance(one, QuantizerStats)]


@pytest.fixture(scope="module")
def short():
    return tiny(quant={"weight_bits": 2, "act_bits": 2}, data={"batch_size": 120})


def test_a_run_that_is_not_looked_at_has_the_same_numbers_to_the_bit(short, job, monkeypatch):
    monkeypatch.setattr(quantizer_stats, "_MIN_STEPS_PER_READING", 1)
    facts = run(short, job("seen"))
    found = seen(facts)
    assert [one.epoch for one in found] == [0] * QUANTIZERS + [1] * QUANTIZERS + [2] * QUANTIZERS
    assert {one.step for one in found} == {0, 11, 22}
    monkeypatch.setattr(session, "OscillationTracker", lambda model: None)
    unseen = run(short, job("unseen"))
    assert seen(unseen) == []
    numbers = [
        [one for one in part if isinstance(one, Metric) and one.name != "seconds"]
        for part in (facts, unseen)
    ]
    assert numbers[0] == numbers[1]
    assert_same_state(job("seen").run_dir, job("unseen").run_dir)
    _says_what_it_can(found)


def _says_what_it_can(found):
    """No R before a gradient, oscillations of weights in epochs only, six digits."""
    for one in found:
        assert (one.r_ratio is None) is (one.epoch == 0), one
        assert (one.oscillation_rate is None) is (one.epoch == 0 or one.kind == "input"), one
        assert one.step_size == float(f"{one.step_size:.6g}")
    assert any(one.oscillation_rate for one in found)
    assert len({one.step_size for one in found if one.name == "conv1.weight_quantizer"}) == 3


def test_short_epochs_are_told_of_every_few_and_the_last_always(job, monkeypatch):
    monkeypatch.setattr(quantizer_stats, "_MIN_STEPS_PER_READING", 4)
    recipe = tiny(data={"batch_size": 600}, train={"epochs": 3})  # three steps an epoch
    found = seen(run(recipe, job()))
    assert [one.epoch for one in found[::QUANTIZERS]] == [0, 2, 3]
    weights = [one for one in found if one.kind == "weight"]
    assert {one.epoch for one in weights if one.oscillation_rate is not None} == {2, 3}


def test_clamps_are_told_of_the_quantizer_that_had_them(job, monkeypatch):
    monkeypatch.setattr(quantizer_stats, "_MIN_STEPS_PER_READING", 1)
    quant = {"weight_bits": 2, "act_bits": 2, "step_lr_scale": 100}
    facts = run(tiny(quant=quant, data={"batch_size": 120}, train={"epochs": 1}), job())
    (total,) = [
        one.value for one in facts if isinstance(one, Metric) and one.name == "clamped_steps"
    ]
    assert sum(one.clamped for one in seen(facts)) == total > 0
    (warning,) = [one.text for one in facts if isinstance(one, LogMessage) and "floor" in one.text]
    assert warning.startswith("suspect: epoch 1: the step size of ")
    assert warning.endswith("lower quant.step_lr_scale or train.lr")


def test_full_precision_has_nothing_to_tell(job):
    bits = dict.fromkeys(tiny().quant.model_fields_set, 32)
    assert seen(run(tiny(quant=bits, train={"epochs": 1}), job())) == []


def test_a_run_without_epochs_is_told_of_as_calibrated(job):
    found = seen(run(tiny(train={"epochs": 0}), job()))
    assert [one.epoch for one in found] == [0] * QUANTIZERS
