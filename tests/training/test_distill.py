"""Distillation: the paper's sum of two losses, the teacher frozen."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lsqctl.models.factory import build_model
from lsqctl.recipe import DistillSection
from lsqctl.training.optimizer_step import distillation_loss, freeze_teacher, total_loss, train_step

from .conftest import session_of, tiny

STUDENT, TEACHER = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(7)


def test_the_soft_loss_is_the_mean_divergence_times_the_squared_temperature():
    p = (TEACHER / 3).softmax(1)
    q = (STUDENT / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum() / len(STUDENT)
    torch.testing.assert_close(distillation_loss(STUDENT, TEACHER, 3.0), expected)


def test_a_student_that_equals_its_teacher_has_no_soft_loss():
    torch.testing.assert_close(distillation_loss(TEACHER, TEACHER, 2.0), torch.tensor(0.0))


def test_the_two_losses_are_weighed_as_the_recipe_says():
    distill = DistillSection(teacher="t", hard_weight=0.3, soft_weight=0.7, temperature=2.0)
    hard = F.cross_entropy(STUDENT, LABELS, label_smoothing=0.1)
    both = total_loss(STUDENT, LABELS, label_smoothing=0.1, distill=distill, teacher_logits=TEACHER)
    torch.testing.assert_close(both, 0.3 * hard + 0.7 * distillation_loss(STUDENT, TEACHER, 2.0))
    torch.testing.assert_close(total_loss(STUDENT, LABELS, label_smoothing=0.1), hard)


def test_a_frozen_teacher_neither_learns_nor_drops_out():
    teacher = freeze_teacher(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()))
    assert not teacher.training
    assert not any(one.requires_grad for one in teacher.parameters())


PAPER = {"teacher": "teacher.pt"}
ADLIK = PAPER | {
    "hard_weight": 0.3,
    "soft_weight": 0.7,
    "temperature": 1.0,
    "teacher_model": "cifar_resnet20",
}


@pytest.mark.parametrize(("form", "hard", "soft"), [(PAPER, 1, 1), (ADLIK, 0.3, 0.7)])
def test_the_teacher_judges_the_very_images_that_the_student_sees_and_stays_as_it_is(
    job, tmp_path, form, hard, soft
):
    """Both public forms: the paper's, and ADLIK's with another net as the teacher."""
    name = form.get("teacher_model", "resnet8")
    teacher = build_model(name, num_classes=10, in_channels=1)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    recipe = tiny(distill=form, data={"batch_size": 32, "pad": 1})
    session = session_of(recipe, job(inputs={"distill.teacher": tmp_path / "teacher.pt"}))
    seen = {}
    for who, net in (("student", session.model), ("teacher", session.teacher)):
        net.register_forward_hook(
            lambda net, args, out, who=who: seen.update({who: (net.training, args[0], out)})
        )
    images, labels = next(iter(session.pipeline.train_batches(0)))
    session.model.train()
    train_step(session, images, labels)
    assert [seen[who][0] for who in ("student", "teacher")] == [True, False]
    assert torch.equal(seen["student"][1], seen["teacher"][1])
    student, told = (seen[who][2].detach() for who in ("student", "teacher"))
    p, q = told.softmax(1), student.softmax(1)
    expected = hard * F.cross_entropy(student, labels)
    expected += soft * (p * (p.log() - q.log())).sum(1).mean()
    assert session.train_state.window[0][0] == pytest.approx(float(expected), rel=1e-4)
    unchanged = session.teacher.state_dict()
    assert all(torch.equal(unchanged[key], one) for key, one in teacher.state_dict().items())
