"""Train one epoch, and evaluate it: generators of metrics that may be cut at every batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from torch import Tensor

from lsqctl.facts import Checkpoint, Measurement, Metric, Progress
from lsqctl.failpoint import failpoint
from lsqctl.training.batchnorm import freeze_bn, reestimate_bn, bn_statistics
from lsqctl.training.cursor import EvalRecord
from lsqctl.training.evaluate import EvalCounts, evaluate
from lsqctl.training.runtime import autocast
from lsqctl.training.session import TrainingSession
from lsqctl.training.step import train_step
from lsqctl.training.telemetry import start_oscillations, epoch_stats, update_oscillations

_METRICS_PER_EPOCH = 10  # train metrics in an epoch


def train_epoch(session: TrainingSession) -> Iterator[Measurement | Progress | Checkpoint]:
    """Train what is left of the current epoch; nothing when its evaluation is pending."""
    train_state, pipeline = session.train_state, session.pipeline
    if train_state.evaluation_pending:
        return
    session.model.train()
    if train_state.epoch >= session.recipe.train.epochs - session.recipe.train.bn_freeze_epochs:
        freeze_bn(session.model)
    start_oscillations(session)
    window = max(1, pipeline.steps_per_epoch // _METRICS_PER_EPOCH)
    for images, labels in pipeline.train_batches(train_state.epoch, start=train_state.batch):
        session.check_stop()
        started = time.monotonic()
        train_step(session, images, labels)
        failpoint("train.step")
        update_oscillations(session)
        epoch_ended = train_state.batch == pipeline.steps_per_epoch
        if train_state.batch % window == 0 or epoch_ended:
            yield from _window_metrics(session)
        train_state.epoch_seconds += time.monotonic() - started
        checkpoint_due = time.monotonic() - session.saved_at >= session.context.checkpoint_seconds
        if checkpoint_due and not epoch_ended:
            yield from session.save()
    yield from _epoch_metrics(session)
    yield from epoch_stats(session, images)
    train_state.clamped = {}
    train_state.epoch, train_state.batch, train_state.evaluation_pending = train_state.epoch + 1, 0, True


def evaluate_epoch(session: TrainingSession) -> Iterator[Metric | Progress]:
    """Evaluate each variant on the evaluation split and record the counts."""
    train_state, counts = session.train_state, evaluate_variants(session)
    train_state.record_eval(
        {variant: EvalRecord.from_counts(variant_counts, train_state.step) for variant, variant_counts in counts.items()},
        selected_by=session.recipe.train.headline_variant,
    )
    train_state.evaluation_pending = False
    for variant, variant_counts in counts.items():
        prefix = "" if variant == "raw" else f"{variant}_"
        yield Metric(f"{prefix}loss", "val", train_state.step, variant_counts.loss)
        yield Metric(f"{prefix}top1", "val", train_state.step, variant_counts.top1)
        if variant_counts.top5 is not None:
            yield Metric(f"{prefix}top5", "val", train_state.step, variant_counts.top5)
    yield session.progress


def evaluate_variants(session: TrainingSession) -> dict[str, EvalCounts]:
    """Return the counts of each variant on the evaluation split.

    ``raw`` and ``ema`` after each epoch, for each may be the best one; ``bn``, which costs a pass
    over training images besides, once the training is over.
    """
    pipeline, train = session.pipeline, session.recipe.train
    models = {"raw": session.model}
    if session.ema is not None:
        models["ema"] = session.ema.model
    with autocast(train.precision, pipeline.device):
        if train.bn_reestimate_images and session.trained:
            sample = pipeline.reestimation_batches(train.bn_reestimate_images)
            models["bn"] = reestimate_bn(session.model, _with_stop_check(sample, session))
            session.bn_statistics = bn_statistics(models["bn"])
        return {
            variant: evaluate(model, pipeline.eval_batches(), before_batch=session.check_stop)
            for variant, model in models.items()
        }


def _with_stop_check(batches: Iterable[Tensor], session: TrainingSession) -> Iterator[Tensor]:
    for batch in batches:
        session.check_stop()
        yield batch


def _window_metrics(session: TrainingSession) -> Iterator[Metric | Progress]:
    """Close the window: its mean loss, and its sums added to the epoch's."""
    session.flush_losses()
    session.check_loss_scale()
    train_state = session.train_state
    steps, train_state.window = train_state.window, []
    loss_sum, n_correct, images = train_state.sums
    for loss, correct, count in steps:
        loss_sum, n_correct, images = loss_sum + loss * count, n_correct + correct, images + count
    train_state.sums = (loss_sum, n_correct, images)
    yield Metric("loss", "train", train_state.step, sum(loss for loss, _, _ in steps) / len(steps))
    yield session.progress


def _epoch_metrics(session: TrainingSession) -> Iterator[Metric]:
    """Close the epoch; ``seconds`` alone is not reproducible."""
    train_state, step = session.train_state, session.train_state.step
    loss_sum, n_correct, images = train_state.sums
    seconds = train_state.epoch_seconds
    train_state.sums, train_state.epoch_seconds = (0.0, 0, 0), 0.0
    train_state.train_seconds += seconds
    yield Metric("epoch_loss", "train", step, loss_sum / images)
    yield Metric("top1", "train", step, 100 * n_correct / images)
    yield Metric("lr", "train", step, session.optimizer.param_groups[0]["lr"])
    session.update_step_counts()
    if session.step_clamp is not None:
        yield Metric("clamped_steps", "train", step, sum(train_state.clamped.values()))
    if session.recipe.train.clip_norm is not None:
        yield Metric("clipped_gradients", "train", step, train_state.clipped)
    if session.recipe.train.precision == "fp16":
        yield Metric("skipped_steps", "train", step, train_state.skipped)
    train_state.skipped_before += train_state.skipped
    train_state.clipped = train_state.skipped = 0
    yield Metric("seconds", "train", step, seconds)
