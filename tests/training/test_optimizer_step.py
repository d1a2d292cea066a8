"""A step's gradient is that of the whole batch's mean loss, clipped as one vector, or left out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lsqctl.errors import Diverged
from lsqctl.events import Metric
from lsqctl.models.factory import build_model
from lsqctl.training import finetune, optimizer_step
from lsqctl.training.evaluation import freeze_bn
from lsqctl.training.optimizer_step import OptimizerStepper, train_step
from lsqctl.training.pieces import deal

from .conftest import session_of, small, tiny
from .small_world import EVAL_IMAGES

FLOAT = dict.fromkeys(tiny().quant.model_fields_set, 32)


@given(st.integers(1, 40), st.integers(1, 50))
def test_pieces_are_the_batch_in_order_alike_in_size_and_never_a_single_image(images, count):
    share = deal(images, count)
    sizes, found = share.sizes, share.own
    assert (share.n_images, share.images) == (images, slice(0, images))
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, images)
    assert len(found) == max(1, min(count, images // 2))


@pytest.mark.parametrize("bits", [FLOAT, tiny().quant.model_dump()], ids=["fp32", "w4a4"])
def test_the_gradient_of_a_batch_in_pieces_is_that_of_the_batch_at_once(job, tmp_path, bits):
    """Batch norm aside, which sees one piece; smoothing and a teacher take part, 22 is no multiple
    of 4.
    """
    torch.manual_seed(5)
    teacher = tmp_path / "teacher.pt"
    torch.save(build_model("resnet8", num_classes=10, in_channels=1).state_dict(), teacher)
    images, labels = torch.randn(22, 1, 8, 8), torch.arange(22) % 10
    gradients, losses = [], []
    for accumulate in (1, 4):
        recipe = tiny(
            quant=bits,
            train={"accumulate": accumulate, "label_smoothing": 0.1},
            distill={"teacher": "teacher.pt", "temperature": 2.0},
        )
        session = session_of(recipe, job(inputs={"distill.teacher": teacher}))
        freeze_bn(session.model)
        train_step(session, images, labels)
        gradients.append({name: one.grad for name, one in session.model.named_parameters()})
        losses += session.train_state.window
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    assert losses[1] == (pytest.approx(losses[0][0], rel=1e-6), losses[0][1], 22)


def test_clipping_scales_all_gradients_step_sizes_too_to_one_norm_and_is_counted(job):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    free, loose, tight = (
        session_of(tiny(train={"clip_norm": limit}), job()) for limit in (None, 1e6, 0.01)
    )
    for session in (free, loose, tight):
        train_step(session, images, labels)
    norms = [_norm(session.model) for session in (free, loose, tight)]
    assert norms[0] == norms[1] > 0.1
    assert norms[2] == pytest.approx(0.01, rel=1e-3)
    step_sizes = [k for k, _ in free.model.named_parameters() if k.endswith("step_size")]
    ratio = 0.01 / norms[0]
    for name in step_sizes:
        found, whole = (s.model.get_parameter(name).grad for s in (tight, free))
        torch.testing.assert_close(found, whole * ratio, rtol=1e-3, atol=1e-9)
    assert [s.stepper.pop_clipped() for s in (free, loose, tight, tight)] == [0, 0, 1, 0]


def _norm(model: nn.Module) -> float:
    return float(torch.cat([one.grad.flatten() for one in model.parameters()]).norm())


def stepper(**train):
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    return (
        weight,
        optimizer,
        OptimizerStepper(optimizer, tiny(train=train).train, torch.device("cpu")),
    )


def test_a_step_that_overflows_fp16_is_left_out_with_its_hooks_and_the_scale_is_halved():
    weight, optimizer, found = stepper(precision="fp16")
    hooks = []
    optimizer.register_step_post_hook(lambda *_: hooks.append("clamp"))
    taken, scales = [], []
    for _ in range(2):
        optimizer.zero_grad()
        found.backward((weight * 1e34).sum())  # times 2^16 is beyond fp32, times 2^15 within
        taken.append(found.step())
        scales.append(found.state_dict()["scale"])
    assert taken == [False, True]
    assert scales == [2.0**15, 2.0**15]
    assert hooks == ["clamp"]
    assert weight.item() == pytest.approx(-1e34)


def test_gradients_are_scaled_back_before_they_are_clipped():
    weight, _, found = stepper(precision="fp16", clip_norm=0.5)
    found.backward((weight * 3).sum())
    assert found.step()
    assert weight.item() == pytest.approx(1.5, rel=1e-5)
    assert found.pop_clipped() == 1


@pytest.mark.slow
def test_a_skipped_step_is_counted_reported_and_moves_neither_weights_nor_their_average(
    job, monkeypatch
):
    begin = OptimizerStepper.__init__

    def from_a_scale_that_overflows(self, *args):
        begin(self, *args)
        self.load_state_dict(self.state_dict() | {"scale": 2.0**127})

    monkeypatch.setattr(OptimizerStepper, "__init__", from_a_scale_that_overflows)
    recipe = tiny(train={"epochs": 1, "precision": "fp16", "ema_decay": 0.9})
    session = session_of(recipe, job())
    before = {name: one.clone() for name, one in session.model.named_parameters()}
    train_step(session, torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
    assert (session.train_state.step, session.train_state.skipped) == (1, 1)
    for model in (session.model, session.ema.model):
        assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())
    facts = list(finetune(recipe, job()))
    (skipped,) = [
        one.value for one in facts if isinstance(one, Metric) and one.name == "skipped_steps"
    ]
    assert 0 < skipped <= 6
    assert f"fp16 overflowed in {skipped} of 6 steps" in facts[-1].notes


def test_a_loss_scale_that_no_longer_helps_ends_the_run_as_diverged(job, monkeypatch):
    monkeypatch.setattr(optimizer_step, "MIN_LOSS_SCALE", 2.0**17)
    with pytest.raises(Diverged, match="overflow fp16 at any loss scale in epoch 1"):
        list(finetune(tiny(train={"precision": "fp16"}), job()))


def test_fp16_trains_on_a_cpu(job):
    recipe = small(train={"epochs": 4, "lr": 0.2, "precision": "fp16"}, data={"batch_size": 16})
    facts = list(finetune(recipe, job()))
    assert facts[-1].evaluations[0].n_correct > 0.3 * EVAL_IMAGES  # by chance a tenth
    assert facts[-1].precision == "fp16"
