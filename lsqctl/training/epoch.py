"""Train one epoch, and evaluate it: generators of metrics that may be cut at every batch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from lsqctl.facts import Checkpoint, Measured, Metric, Progress
from lsqctl.failpoint import failpoint
from lsqctl.training.cursor import Tally
from lsqctl.training.distill import total_loss
from lsqctl.training.evaluate import Counts, evaluate
from lsqctl.training.optim import lr_factor, set_lr
from lsqctl.training.runtime import autocast
from lsqctl.training.session import Session
from lsqctl.training.telemetry import epoch_stats, watch

_WINDOWS = 10  # train metrics in an epoch


def train_epoch(session: Session) -> Iterator[Measured | Progress | Checkpoint]:
    """Train what is left of the cursor's epoch; nothing when its evaluation is pending."""
    cursor, feed = session.cursor, session.feed
    if cursor.evaluation_pending:
        return
    session.model.train()
    watch(session)
    window = max(1, feed.steps_per_epoch // _WINDOWS)
    for images, labels in feed.training(cursor.epoch, start=cursor.batch):
        session.check_stop()
        began = time.monotonic()
        train_step(session, images, labels)
        failpoint("train.step")
        watch(session)
        ended = cursor.batch == feed.steps_per_epoch
        if cursor.batch % window == 0 or ended:
            yield from _window_metrics(session)
        cursor.epoch_seconds += time.monotonic() - began
        due = time.monotonic() - session.saved_at >= session.job.checkpoint_seconds
        if due and not ended:
            yield from session.save()
    yield from _epoch_metrics(session)
    yield from epoch_stats(session, images)
    cursor.clamped = {}
    cursor.epoch, cursor.batch, cursor.evaluation_pending = cursor.epoch + 1, 0, True


def evaluate_epoch(session: Session) -> Iterator[Metric | Progress]:
    """Count the evaluation split and keep the tally; the best is the first of equals."""
    counts = counted(session)
    cursor = session.cursor
    cursor.last = Tally.of(counts, cursor.step)
    if cursor.best is None or counts.n_correct > cursor.best.n_correct:
        cursor.best = cursor.last
    cursor.evaluation_pending = False
    yield Metric("loss", "val", cursor.step, counts.loss)
    yield Metric("top1", "val", cursor.step, counts.top1)
    if counts.top5 is not None:
        yield Metric("top5", "val", cursor.step, counts.top5)
    yield session.progress


def counted(session: Session) -> Counts:
    """Return the counts of the session's model on the evaluation split."""
    with autocast(session.recipe.train.precision, session.feed.device):
        return evaluate(session.model, session.feed.evaluation(), before_batch=session.check_stop)


def train_step(session: Session, images: Tensor, labels: Tensor) -> None:
    """Take one optimizer step and move the cursor past its batch.

    On a CPU a loss that is not finite raises Diverged before it reaches the weights; on a GPU,
    where looking would make it wait, at the next train metric or checkpoint.
    """
    recipe, cursor, optimizer = session.recipe, session.cursor, session.optimizer
    set_lr(optimizer, lr_factor(recipe.train, cursor.step, session.feed.steps_per_epoch))
    with autocast(recipe.train.precision, images.device):
        logits = session.network(images)
        teacher_logits = _taught(session, images)
    loss = total_loss(
        logits,
        labels,
        label_smoothing=recipe.train.label_smoothing,
        distill=recipe.distill,
        teacher_logits=teacher_logits,
    )
    right = (logits.detach().argmax(1) == labels).sum()
    cursor.step += 1
    cursor.batch += 1
    session.pending.append((cursor.step, loss.detach(), right, len(labels)))
    if images.device.type == "cpu":
        session.collect()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _taught(session: Session, images: Tensor) -> Tensor | None:
    return None if session.tutor is None else session.tutor(images)


def _window_metrics(session: Session) -> Iterator[Metric | Progress]:
    """Close the window: its mean loss, and its sums added to the epoch's."""
    session.collect()
    cursor = session.cursor
    steps, cursor.window = cursor.window, []
    total, right, images = cursor.sums
    for loss, correct, count in steps:
        total, right, images = total + loss * count, right + correct, images + count
    cursor.sums = (total, right, images)
    yield Metric("loss", "train", cursor.step, sum(loss for loss, _, _ in steps) / len(steps))
    yield session.progress


def _epoch_metrics(session: Session) -> Iterator[Metric]:
    """Close the epoch; ``seconds`` alone is not reproducible."""
    cursor, step = session.cursor, session.cursor.step
    loss, right, images = cursor.sums
    seconds = cursor.epoch_seconds
    cursor.sums, cursor.epoch_seconds = (0.0, 0, 0), 0.0
    cursor.train_seconds += seconds
    yield Metric("epoch_loss", "train", step, loss / images)
    yield Metric("top1", "train", step, 100 * right / images)
    yield Metric("lr", "train", step, session.optimizer.param_groups[0]["lr"])
    if session.positive is not None:
        session.count_clamped()
        yield Metric("clamped_steps", "train", step, sum(cursor.clamped.values()))
    yield Metric("seconds", "train", step, seconds)
