"""Distillation: the paper's sum of two losses, the teacher frozen."""

import torch
from torch.nn import functional as F

from lsqctl.recipe import DistillSection
from lsqctl.training.distill import freeze, soft_loss, total_loss

STUDENT, TEACHER = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(7)


def test_the_soft_loss_is_the_mean_divergence_times_the_squared_temperature():
    p = (TEACHER / 3).softmax(1)
    q = (STUDENT / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum() / len(STUDENT)
    torch.testing.assert_close(soft_loss(STUDENT, TEACHER, 3.0), expected)


def test_a_student_that_equals_its_teacher_has_no_soft_loss():
    torch.testing.assert_close(soft_loss(TEACHER, TEACHER, 2.0), torch.tensor(0.0))


def test_the_two_losses_are_weighed_as_the_recipe_says():
    distill = DistillSection(teacher="t", hard_weight=0.3, soft_weight=0.7, temperature=2.0)
    hard = F.cross_entropy(STUDENT, LABELS, label_smoothing=0.1)
    both = total_loss(STUDENT, LABELS, label_smoothing=0.1, distill=distill, teacher_logits=TEACHER)
    torch.testing.assert_close(both, 0.3 * hard + 0.7 * soft_loss(STUDENT, TEACHER, 2.0))
    torch.testing.assert_close(total_loss(STUDENT, LABELS, label_smoothing=0.1), hard)


def test_a_frozen_teacher_neither_learns_nor_drops_out():
    teacher = freeze(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()))
    assert not teacher.training
    assert not any(one.requires_grad for one in teacher.parameters())
