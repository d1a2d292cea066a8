"""Train one epoch, and evaluate it: generators of metrics that may be cut at every batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from torch import Tensor

from lsqctl.facts import Checkpoint, Measured, Metric, Progress
from lsqctl.failpoint import failpoint
from lsqctl.training.batchnorm import freeze_statistics, reestimated, statistics
from lsqctl.training.cursor import Tally
from lsqctl.training.evaluate import Counts, evaluate
from lsqctl.training.runtime import autocast
from lsqctl.training.session import Session
from lsqctl.training.step import train_step
from lsqctl.training.telemetry import begin_watch, epoch_stats, watch

_WINDOWS = 10  # train metrics in an epoch


def train_epoch(session: Session) -> Iterator[Measured | Progress | Checkpoint]:
    """Train what is left of the cursor's epoch; nothing when its evaluation is pending."""
    cursor, feed = session.cursor, session.feed
    if cursor.evaluation_pending:
        return
    session.model.train()
    if cursor.epoch >= session.recipe.train.epochs - session.recipe.train.bn_freeze_epochs:
        freeze_statistics(session.model)
    begin_watch(session)
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
    """Count the evaluation split by each variant and keep the tallies."""
    cursor, counts = session.cursor, counted(session)
    cursor.keep(
        {variant: Tally.of(one, cursor.step) for variant, one in counts.items()},
        judged_by=session.recipe.train.headline_variant,
    )
    cursor.evaluation_pending = False
    for variant, one in counts.items():
        prefix = "" if variant == "raw" else f"{variant}_"
        yield Metric(f"{prefix}loss", "val", cursor.step, one.loss)
        yield Metric(f"{prefix}top1", "val", cursor.step, one.top1)
        if one.top5 is not None:
            yield Metric(f"{prefix}top5", "val", cursor.step, one.top5)
    yield session.progress


def counted(session: Session) -> dict[str, Counts]:
    """Return the counts of each variant on the evaluation split.

    ``raw`` and ``ema`` after each epoch, for each may be the best one; ``bn``, which costs a pass
    over training images besides, once the training is over.
    """
    feed, train = session.feed, session.recipe.train
    models = {"raw": session.model}
    if session.average is not None:
        models["ema"] = session.average.model
    with autocast(train.precision, feed.device):
        if train.bn_reestimate_images and session.trained:
            sample = feed.reestimation(train.bn_reestimate_images)
            models["bn"] = reestimated(session.model, _stoppable(sample, session))
            session.statistics = statistics(models["bn"])
        return {
            variant: evaluate(model, feed.evaluation(), before_batch=session.check_stop)
            for variant, model in models.items()
        }


def _stoppable(batches: Iterable[Tensor], session: Session) -> Iterator[Tensor]:
    for batch in batches:
        session.check_stop()
        yield batch


def _window_metrics(session: Session) -> Iterator[Metric | Progress]:
    """Close the window: its mean loss, and its sums added to the epoch's."""
    session.collect()
    session.check_scale()
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
    session.count()
    if session.positive is not None:
        yield Metric("clamped_steps", "train", step, sum(cursor.clamped.values()))
    if session.recipe.train.clip_norm is not None:
        yield Metric("clipped_gradients", "train", step, cursor.clipped)
    if session.recipe.train.precision == "fp16":
        yield Metric("skipped_steps", "train", step, cursor.skipped)
    cursor.skipped_before += cursor.skipped
    cursor.clipped = cursor.skipped = 0
    yield Metric("seconds", "train", step, seconds)
