"""One optimizer step: learning rate, loss with a teacher, pieces, clipping, loss scale.

``data.batch_size`` images make a step, in however many pieces: the gradient is
that of the mean loss of the whole batch. Loss scaling is that of mixed precision training
(Micikevicius et al., ICLR 2018), by torch's own GradScaler.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.quant import param_groups
from lsqctl.recipe import DistillSection, Recipe, TrainSection
from lsqctl.training.pieces import Share
from lsqctl.training.precision import autocast
from lsqctl.training.reduction import sum_pieces

if TYPE_CHECKING:
    from lsqctl.training.session import TrainingSession


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD over the model's parameters; each group remembers its ``initial_lr``."""
    train, quant = recipe.train, recipe.quant
    groups = param_groups(
        model,
        lr=train.lr,
        weight_decay=train.weight_decay,
        step_weight_decay=quant.step_weight_decay,
        step_lr_scale=quant.step_lr_scale,
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)


def lr_factor(
    train: TrainSection, step: int, steps_per_epoch: int, *, start_epoch: int = 0
) -> float:
    """Return the learning rate of a step over its first value.

    A linear warm-up, then half a cosine that is 1 at its first step and 0 after the last one
    (Loshchilov and Hutter 2017, without restarts), or constant. ``step`` counts from the end of
    ``start_epoch``, to which another run had trained.
    """
    warmup = train.warmup_epochs * steps_per_epoch
    total = (train.epochs - start_epoch) * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if train.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1.0, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its first learning rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


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


MIN_LOSS_SCALE = 2.0**-14  # fp16's smallest normal number: no scale below it helps


class OptimizerStepper:
    """Takes the optimizer's steps: scales the loss at fp16, clips, counts.

    A step whose gradients overflow is left out, hooks of the optimizer included, and the scale
    halved. Clipping is by the L2 norm over the gradients of all parameters, step sizes too, after
    they are scaled back.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        train: TrainSection,
        device: torch.device,
    ) -> None:
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self._optimizer = optimizer
        self._clip_norm = train.clip_norm
        self._steps_taken = 0
        self._clipped: Tensor | None = None
        optimizer.register_step_post_hook(self._count_taken)

    @property
    def loss_scale_exhausted(self) -> bool:
        """Whether the loss scale has fallen so low that nothing can be learned (waits for it)."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> bool:
        """Take a step; return whether it was taken, not left out."""
        steps_before = self._steps_taken
        if self._clip_norm is not None:
            self.scaler.unscale_(self._optimizer)
            self._clip(self._clip_norm)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return self._steps_taken > steps_before

    def pop_clipped(self) -> int:
        """Return how many steps were clipped since the last call (waits for the device)."""
        clipped, self._clipped = self._clipped, None
        return 0 if clipped is None else int(clipped)

    def state_dict(self) -> dict[str, object]:
        """Return the loss scale and how long it has held; empty but for fp16."""
        state: dict[str, object] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load what ``state_dict`` returned."""
        if state:
            self.scaler.load_state_dict(state)

    def _clip(self, max_norm: float) -> None:
        groups = self._optimizer.param_groups
        parameters = [
            parameter
            for group in groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        clipped = ((norm > max_norm) & norm.isfinite()).long()
        self._clipped = clipped if self._clipped is None else self._clipped + clipped

    def _count_taken(self, *_: object) -> None:
        self._steps_taken += 1


def train_step(
    session: TrainingSession,
    images: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None = None,
    share: Share | None = None,
) -> None:
    """Take one optimizer step and advance the training state past its batch.

    ``images`` are those of this rank's ``share`` of the batch, by default all of it.
    ``teacher_logits`` (B, K) are cached ones; without, a teacher is asked.

    On a CPU a loss that is not finite raises Diverged before it reaches the weights; on a GPU,
    where reading it would make it wait, at the next train metric or checkpoint.
    """
    train, train_state, optimizer = session.recipe.train, session.train_state, session.optimizer
    steps_per_epoch = session.pipeline.steps_per_epoch
    steps_done = train_state.step - train_state.start_step
    factor = lr_factor(train, steps_done, steps_per_epoch, start_epoch=train_state.start_epoch)
    set_lr(optimizer, factor)
    n_epochs = train.epochs - train_state.start_epoch
    session.methods.set_progress(steps_done / max(1, n_epochs * steps_per_epoch))
    optimizer.zero_grad(set_to_none=True)
    share = share or session.share_of(len(labels))
    loss, n_correct = _add_gradients(session, images, labels, teacher_logits, share)
    train_state.step += 1
    train_state.batch += 1
    session.pending_losses.append((train_state.step, loss, n_correct, share.n_images))
    if images.device.type == "cpu":
        session.flush_losses()
    if not session.stepper.step():
        train_state.skipped += 1
    elif session.ema is not None:
        session.ema.update(train_state.step)


def _add_gradients(
    session: TrainingSession,
    images: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    share: Share,
) -> tuple[Tensor, Tensor]:
    """Give the parameters the gradient of the batch's mean loss; return that, and the right ones.

    Each piece passes through the network by itself, and weighs by its images.
    """
    columns = (images, labels, *([] if teacher_logits is None else [teacher_logits]))
    split = [torch.split(column, share.own_sizes) for column in columns]
    pieces = dict(zip(share.own, zip(*split, strict=True), strict=True))

    def compute(piece: int) -> tuple[Tensor, Tensor]:
        piece_images, piece_labels, *taught = pieces[piece]
        loss, n_correct = _forward(session, piece_images, piece_labels, *taught)
        if len(piece_labels) < share.n_images:
            loss = loss * (len(piece_labels) / share.n_images)
        session.stepper.backward(loss)
        return loss.detach(), n_correct

    losses, correct = sum_pieces(session.model, share, session.context.world, compute)
    return losses.sum(), correct.sum()


def _forward(
    session: TrainingSession, images: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over some images, and how many of them are right."""
    train = session.recipe.train
    with autocast(train.precision, images.device):
        logits = session.model_forward(images)
        if teacher_logits is None:
            teacher_logits = _teacher_logits(session, images)
    loss = total_loss(
        logits,
        labels,
        label_smoothing=train.label_smoothing,
        distill=session.recipe.distill,
        teacher_logits=teacher_logits,
    )
    distill = session.recipe.distill
    if session.features is not None and distill is not None and distill.features is not None:
        loss = loss + distill.features * session.features.loss()
    return loss, (logits.detach().argmax(1) == labels).sum()


@torch.no_grad()
def _teacher_logits(session: TrainingSession, images: Tensor) -> Tensor | None:
    return None if session.teacher_forward is None else session.teacher_forward(images)
