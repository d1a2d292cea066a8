"""Averaged weights follow the trained ones by the formula, steps and running statistics too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsqctl.quant import QuantSpec, calibrate, prepare
from lsqctl.training.evaluation import ModelEma
from lsqctl.training.train_state import EvalRecord, TrainState


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)]
    model = prepare(nn.Sequential(*layers), QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, torch.randn(8, 1, 8, 8))
    return model


def test_every_tensor_is_the_moving_average_with_the_smaller_of_both_decays():
    model = net()
    average = ModelEma(model, 0.5)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(1, 13):
        model(torch.randn(4, 1, 8, 8))  # moves the running statistics
        with torch.no_grad():
            for one in model.parameters():
                one.mul_(1 + 0.1 * torch.rand(()))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        assert (decay < 0.5) == (step < 8)
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
            else:
                expected[key] = value.clone()
    found = average.model.state_dict()
    torch.testing.assert_close(found, expected)
    assert any(key.endswith("step_size") for key in found)
    assert found["1.num_batches_tracked"] == 12
    assert not torch.equal(found["1.running_mean"], model.state_dict()["1.running_mean"])


def test_the_average_is_evaluated_never_trained_and_shares_no_tensor():
    model = net()
    average = ModelEma(model, 0.9).model
    assert not average.training
    assert not any(one.requires_grad for one in average.parameters())
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in average.parameters()
    }


def tally(right, step):
    return EvalRecord(right, None, 100, "", step)


@pytest.mark.parametrize(("judge", "best"), [("raw", 1), ("ema", 2), ("bn", 1)])
def test_the_best_epoch_is_one_for_all_variants_and_the_first_of_equals(judge, best):
    cursor = TrainState("hash")
    for step, raw, ema in ((1, 60, 50), (2, 58, 61), (3, 60, 61)):
        tallies = {"raw": tally(raw, step), "ema": tally(ema, step)}
        if step == 3:
            tallies["bn"] = tally(99, step)
        cursor.record_eval(tallies, selected_by=judge)
    assert (cursor.best.step, cursor.ema_best.step) == (best, best)
    assert (cursor.last.step, cursor.ema_last.step, cursor.bn_last.step) == (3, 3, 3)


def test_what_older_checkpoints_say_of_a_run_is_still_understood():
    state = TrainState("hash", last=tally(1, 2)).to_state()
    for name in ("ema_last", "ema_best", "bn_last", "clipped", "skipped", "skipped_before"):
        del state[name]
    assert TrainState.from_state(state) == TrainState("hash", last=tally(1, 2))
