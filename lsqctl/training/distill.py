"""The loss on labels, and on a frozen teacher's softened outputs.

Hinton et al. 2015; LSQ's knowledge distillation weighs both equally at T = 1 (section 3.7).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.recipe import DistillSection


def freeze_teacher(teacher: nn.Module) -> nn.Module:
    """Return the teacher in evaluation mode, its parameters without gradients."""
    return teacher.eval().requires_grad_(False)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher || student) of logits ``(B, K)``, averaged over the batch."""
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=1),
        F.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def total_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float,
    distill: DistillSection | None = None,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Return ``hard_weight`` · CE + ``soft_weight`` · T² KL, or CE alone without a teacher."""
    ce_loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    if distill is None or teacher_logits is None:
        return ce_loss
    kd_loss = distillation_loss(logits, teacher_logits, distill.temperature)
    return distill.hard_weight * ce_loss + distill.soft_weight * kd_loss
