"""Features on the student's grid: golden values, exact resume, what cannot be compared refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lsqctl.errors import CannotCompile, DataError
from lsqctl.models.factory import build_model
from lsqctl.quant import LsqQuantizer
from lsqctl.quant.spec import TensorSpec
from lsqctl.recipe import Recipe, cross_check
from lsqctl.training.compilation import eager_where_needed
from lsqctl.training.feature_distillation import feature_layers, feature_loss
from lsqctl.training.optimizer_step import total_loss, train_step
from tests.training.attempts import assert_same_state, plain, rows, run
from tests.training.conftest import W4A4, session_of, tiny

FEATURES = {"teacher": "teacher.pt", "features": 0.5}


def quantizer_of(step):
    quantizer = LsqQuantizer(TensorSpec(bits=2, signed=False), batched=True)
    quantizer.calibrate(torch.ones(1, 4))
    with torch.no_grad():
        quantizer.step_size.fill_(step)
    return quantizer


def test_the_loss_and_its_gradients_are_those_worked_out_by_hand():
    """Step 0.5, codes 0..3: Q gives 0, 1.5, 0.5 of the student and 1, 1.5, 0.5 of the teacher."""
    quantizer = quantizer_of(0.5)
    student = torch.tensor([[0.2, 1.7, 0.6]], requires_grad=True)
    teacher = torch.tensor([[0.9, 5.0, 0.7]], requires_grad=True)
    loss = feature_loss(student, teacher, quantizer)
    assert loss.item() == pytest.approx(1 / 3)
    loss.backward()
    # d/df = 2 (Q(f_S) - Q(f_T)) / 3 where f is inside the grid; eq. 3: round(v) - v = -0.4
    torch.testing.assert_close(student.grad, torch.tensor([[-2 / 3, 0.0, 0.0]]))
    assert teacher.grad is None
    scale = 1 / math.sqrt(3 * 3)  # of 3 features an image, Q_P = 3
    expected = -2 / 3 * -0.4 * scale
    assert quantizer.step_size.grad.item() == pytest.approx(expected)


def test_a_teacher_beyond_the_student_s_range_leaves_no_residual():
    quantizer = quantizer_of(0.5)
    loss = feature_loss(torch.tensor([[1.5, 0.0]]), torch.tensor([[80.0, -3.0]]), quantizer)
    assert loss.item() == 0


def teacher_file(tmp_path, name="resnet8"):
    torch.manual_seed(5)
    teacher = build_model(name, num_classes=10, in_channels=1)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    return {"distill.teacher": tmp_path / "teacher.pt"}


def test_a_step_adds_the_weighed_loss_of_what_enters_both_last_layers(job, tmp_path):
    recipe = tiny(distill=FEATURES, data={"batch_size": 32})
    session = session_of(recipe, job(inputs=teacher_file(tmp_path)))
    seen = {}
    for who, net in (("student", session.model), ("teacher", session.teacher)):
        net.register_forward_hook(lambda net, args, out, who=who: seen.update({who: out.detach()}))
        net.get_submodule("linear").register_forward_pre_hook(
            lambda layer, args, who=who: seen.update({f"{who} features": args[0].detach()})
        )
    images, labels = next(iter(session.pipeline.train_batches(0)))
    session.model.train()
    step = session.model.get_submodule("linear").input_quantizer
    before = replace_step(step)
    train_step(session, images, labels)
    expected = total_loss(
        seen["student"],
        labels,
        label_smoothing=0.0,
        distill=recipe.distill,
        teacher_logits=seen["teacher"],
    ) + 0.5 * feature_loss(seen["student features"], seen["teacher features"], before)
    assert session.train_state.window[0][0] == pytest.approx(expected.item(), rel=1e-5)


def replace_step(quantizer):
    """Return a quantizer as this one is now."""
    copy = LsqQuantizer(quantizer.spec, batched=True, channel_axis=quantizer.channel_axis)
    copy.load_state_dict(quantizer.state_dict())
    return copy


@pytest.mark.slow
def test_a_run_with_features_is_resumed_to_the_bit(job, tmp_path):
    recipe = tiny(distill=FEATURES | {"soft_weight": 0.0}, train={"epochs": 1, "accumulate": 2})
    inputs = teacher_file(tmp_path)
    whole = run(recipe, job("whole", inputs=inputs))
    first = run(recipe, job("cut", inputs=inputs), stop_after=3)
    second = run(recipe, job("cut", inputs=inputs))
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert_same_state(job("whole").run_dir, job("cut").run_dir)


def of_cifar(**distill):
    return Recipe.model_validate(
        {
            "name": "f",
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10"},
            "quant": W4A4,
            "distill": {"teacher": "t.pt", "features": 0.5} | distill,
        }
    )


def test_features_that_cannot_be_compared_are_refused():
    assert feature_layers(of_cifar(teacher_model="cifar_resnet56"), 3, 10) == ("linear", "linear")
    with pytest.raises(
        DataError, match=r"cifar_resnet20 has features \(64,\) before its last layer"
    ):
        feature_layers(of_cifar(teacher_model="resnet18"), 3, 10)
    floats = of_cifar().model_copy(
        deep=True, update={"quant": tiny(quant={"last_act_bits": 32}).quant}
    )
    with pytest.raises(DataError, match=r"the input of linear, .* has 32 bits, .*last_act_bits"):
        feature_layers(floats, 3, 10)
    (conflict,) = cross_check(tiny(distill=FEATURES | {"cache": True}, data={"views": 2}))
    assert (conflict.key, conflict.hint) == ("distill.features", "leave one of them out")
    weightless = FEATURES | {"hard_weight": 0.0, "soft_weight": 0.0}
    assert cross_check(tiny(distill=weightless)) == []


def test_compiling_is_left_out_or_refused_where_it_was_demanded(job):
    recipe = tiny(distill=FEATURES)
    assert eager_where_needed(recipe, job()).compile == "off"
    assert eager_where_needed(tiny(), job()).compile == "auto"
    with pytest.raises(CannotCompile, match=r"distill\.features hears what enters the last layer"):
        eager_where_needed(recipe, replace(job(), compile="on"))


def test_submit_refuses_a_teacher_of_another_width_in_one_line(here):
    torch.save(build_model("resnet18", num_classes=10).state_dict(), here.folder / "teacher.pt")
    (here.folder / "mine.yaml").write_text(
        "model: {name: resnet8}\ndata: {name: digits}\n"
        "distill: {teacher: ./teacher.pt, teacher_model: resnet18, features: 0.5}\n"
    )
    told = here("submit", "mine.yaml", code=1).stderr
    assert "take a teacher of the same width, or leave `features` out" in told
    assert not (here.folder / ".lsqctl" / "lsqctl.db").exists()
