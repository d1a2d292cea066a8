"""One optimizer step: a batch in pieces, its gradients clipped, left out where fp16 overflowed.

``data.batch_size`` images make a step, however many pieces they are computed in: the gradient is
that of the mean loss of the whole batch. Loss scaling is that of mixed precision training
(Micikevicius et al., ICLR 2018), by torch's own GradScaler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lsqctl.recipe import TrainSection
from lsqctl.training.distill import total_loss
from lsqctl.training.optim import lr_factor, set_lr
from lsqctl.training.runtime import autocast

if TYPE_CHECKING:
    from lsqctl.training.session import Session

SMALLEST_SCALE = 2.0**-14  # fp16's smallest normal number: no scale below it has ever helped


class Stepper:
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
        self._taken = 0
        self._clipped: Tensor | None = None
        optimizer.register_step_post_hook(self._count_taken)

    @property
    def too_small(self) -> bool:
        """Whether the loss scale has fallen so low that nothing can be learned (waits for it)."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> bool:
        """Take a step; return whether it was taken, not left out."""
        before = self._taken
        if self._clip_norm is not None:
            self.scaler.unscale_(self._optimizer)
            self._clip(self._clip_norm)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return self._taken > before

    def take_clipped(self) -> int:
        """Return how many steps were clipped since it was last asked (waits for the device)."""
        clipped, self._clipped = self._clipped, None
        return 0 if clipped is None else int(clipped)

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale and how long it has held; empty but for fp16."""
        state: dict[str, Any] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` returned."""
        if state:
            self.scaler.load_state_dict(state)

    def _clip(self, limit: float) -> None:
        groups = self._optimizer.param_groups
        parameters = [one for group in groups for one in group["params"] if one.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        clipped = ((norm > limit) & norm.isfinite()).long()
        self._clipped = clipped if self._clipped is None else self._clipped + clipped

    def _count_taken(self, *_: object) -> None:
        self._taken += 1


def train_step(session: Session, images: Tensor, labels: Tensor) -> None:
    """Take one optimizer step and move the cursor past its batch.

    On a CPU a loss that is not finite raises Diverged before it reaches the weights; on a GPU,
    where looking would make it wait, at the next train metric or checkpoint.
    """
    train, cursor, optimizer = session.recipe.train, session.cursor, session.optimizer
    set_lr(optimizer, lr_factor(train, cursor.step, session.feed.steps_per_epoch))
    optimizer.zero_grad(set_to_none=True)
    losses, right = [], []
    for some_images, some_labels in pieces(images, labels, train.accumulate):
        loss, hits = _forward(session, some_images, some_labels)
        if len(some_labels) < len(labels):
            loss = loss * (len(some_labels) / len(labels))
        session.stepper.backward(loss)
        losses.append(loss.detach())
        right.append(hits)
    cursor.step += 1
    cursor.batch += 1
    session.pending.append((cursor.step, _sum(losses), _sum(right), len(labels)))
    if images.device.type == "cpu":
        session.collect()
    if not session.stepper.step():
        cursor.skipped += 1
    elif session.average is not None:
        session.average.update(cursor.step)


def pieces(images: Tensor, labels: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a batch in ``count`` pieces, of ``piece_sizes``."""
    sizes = piece_sizes(len(labels), count)
    yield from zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True)


def piece_sizes(images: int, count: int) -> list[int]:
    """Return the sizes of a batch's pieces, the larger first: they differ by one at most.

    Fewer pieces where one would be a single image, for batch norm needs two.
    """
    count = max(1, min(count, images // 2))
    size, larger = divmod(images, count)
    return [size + 1] * larger + [size] * (count - larger)


def _forward(session: Session, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss over some images, and how many of them are right."""
    train = session.recipe.train
    with autocast(train.precision, images.device):
        logits = session.network(images)
        teacher_logits = _taught(session, images)
    loss = total_loss(
        logits,
        labels,
        label_smoothing=train.label_smoothing,
        distill=session.recipe.distill,
        teacher_logits=teacher_logits,
    )
    return loss, (logits.detach().argmax(1) == labels).sum()


@torch.no_grad()
def _taught(session: Session, images: Tensor) -> Tensor | None:
    return None if session.tutor is None else session.tutor(images)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
