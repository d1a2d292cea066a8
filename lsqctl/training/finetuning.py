"""The main path of one run: data, model, weights, epochs of training and evaluation, result.

``finetune`` yields events as they happen and keeps no books: the caller records, and stops
a run through ``context.stop`` or by ceasing to iterate. No queue, no database, no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from lsqctl.datasets.data_digest import same_data
from lsqctl.errors import DataError, Preempted
from lsqctl.events import (
    Checkpoint,
    Compiled,
    KernelUse,
    LogMessage,
    Measurement,
    Metric,
    Paused,
    Progress,
    Result,
    Resumed,
    TrainingEvent,
    TrainingStarted,
)
from lsqctl.failpoint import failpoint
from lsqctl.quant.integer_network import no_integers_on
from lsqctl.recipe import Recipe
from lsqctl.training.beginning import (
    build_on_device,
    check_integer_layers,
    check_same_environment,
    extended_start,
    initial_step_sizes,
    initial_train_state,
    kernel_use,
    load_initial_weights,
    load_teacher,
    network_packages,
    open_pipeline,
    quantize_model,
    shared_resume_point,
)
from lsqctl.training.checkpoint import CheckpointContent
from lsqctl.training.compilation import (
    decide_compile,
    decide_kernel,
    eager_where_needed,
    eager_where_unsafe,
    eager_where_viewed,
    lay_out_for,
)
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.evaluation import (
    EvalCounts,
    EvalShare,
    as_evaluated,
    bn_statistics,
    decide_evaluation,
    evaluate,
    evaluation_autocast,
    freeze_bn,
    reestimate_bn,
)
from lsqctl.training.optimizer_step import (
    train_step,
)
from lsqctl.training.precision import (
    autocast,
    decide_precision,
    in_precision,
    is_imitated,
    precision_notes,
)
from lsqctl.training.quantizer_stats import (
    epoch_stats,
    initial_stats,
    sample_size,
    start_oscillations,
    update_oscillations,
)
from lsqctl.training.run_result import (
    build_result,
    chance_level_warnings,
    clamp_warnings,
    stop_notes,
)
from lsqctl.training.runtime import ExecutionContext, setup_torch
from lsqctl.training.session import (
    TrainingSession,
    build_session,
    restore_state,
)
from lsqctl.training.teacher_view import cached_logits, load_teacher_view
from lsqctl.training.train_state import EvalRecord, TrainState

_COMPILED = "compile", "channels_last", "precision"


def finetune(recipe: Recipe, context: ExecutionContext) -> Iterator[TrainingEvent]:
    """Train as the recipe says, from the newest good checkpoint in ``context.run_dir``, or from
    the last one of the run that it extends.

    The first event is Resumed, the last one Result, or Paused. Stopped and resumed anywhere, a run
    yields the same metrics (but ``seconds``) and tensors as in one go, to the bit on a CPU.

    Raises:
        Preempted: asked to stop; the state is saved and its Checkpoint was yielded (before
            calibration there is nothing to save yet).
        Diverged: a loss, weight or step size is NaN or infinite; the last checkpoint is finite.
        DataError: data or weights are missing, damaged or do not fit.
        CannotCompile: the context demands it, and it does not work here or for this recipe.
        OSError: a checkpoint could not be written; the one before it is intact.
        RankFailed: of several ranks one has gone, or computes other bits.

    Of several ranks each calls this; the events of rank 0 are those of the run.
    """
    context = eager_where_needed(recipe, context)
    device = setup_torch(context, recipe.seed)
    checkpoint, resume_notes = shared_resume_point(context)
    yield Resumed(checkpoint.step if checkpoint else None)
    start = checkpoint or extended_start(recipe, context)
    pipeline = open_pipeline(recipe, context, device)
    model = build_on_device(recipe.model.name, pipeline)
    context = eager_where_viewed(recipe, eager_where_unsafe(context, model), pipeline, model)
    train_state, environment_notes = _open_train_state(
        start, recipe, context, pipeline=pipeline, model=model
    )
    check_same_environment(train_state, context)
    teacher = load_teacher(recipe, context, pipeline, train_state) if recipe.distill else None
    lay_out_for(pipeline, model, teacher)
    if not start:
        parent_steps = load_initial_weights(model, recipe, context, pipeline, train_state)
    recipe = in_precision(recipe, train_state.environment["precision"])
    compiled, channels_last, precision = (train_state.environment[name] for name in _COMPILED)
    yield Compiled(compiled, channels_last, precision, is_imitated(recipe, device))
    notes = (*resume_notes, *environment_notes, *precision_notes(recipe, device))
    notes += (*pipeline.dataset.notes, train_state.new_head)
    yield from map(LogMessage, filter(None, notes))
    model = quantize_model(model, recipe, pipeline.input_shape, train_state.environment["kernel"])
    if not start:
        yield from map(LogMessage, initial_step_sizes(model, recipe, pipeline, parent_steps))
        check_integer_layers(model, recipe)
        train_state.environment["evaluation"] = decide_evaluation(
            recipe.train.evaluation, model, device, pipeline.input_shape
        )
    session = build_session(
        model, teacher, recipe, context, pipeline=pipeline, train_state=train_state
    )
    yield from _begin(session, checkpoint, start)
    yield from train_epochs(session)
    yield from _end(session)


def _end(session: TrainingSession) -> Iterator[LogMessage | Paused | Result]:
    if session.paused:
        yield Paused(session.train_state.epoch)
        return
    yield from map(LogMessage, (*stop_notes(session), *chance_level_warnings(session)))
    yield build_result(session)


def train_epochs(session: TrainingSession) -> Iterator[TrainingEvent]:
    """Train, evaluate and save, epoch by epoch, until all are done, or as many as were to be."""
    try:
        while not session.done and not session.paused:
            yield from train_epoch(session)
            yield from evaluate_epoch(session)
            yield from session.save()
    except Preempted:
        yield from session.save()
        raise


def _begin(
    session: TrainingSession,
    checkpoint: CheckpointContent | None,
    start: CheckpointContent | None,
) -> Iterator[LogMessage | KernelUse | Measurement | Checkpoint | TrainingStarted]:
    """Take over what the run goes on from; of a run that begins, save that first."""
    if start:
        session.restore(start, own=start is checkpoint)
        yield from _evaluate_here(session)
    yield kernel_use(session.model, session.train_state)
    if not start:  # right after calibration
        yield from initial_stats(session)
    if not checkpoint:
        yield from session.save()
        failpoint("train.calibrated")
    yield TrainingStarted(session.train_state.step)


def _evaluate_here(session: TrainingSession) -> Iterator[LogMessage]:
    """Let a run of integers be evaluated as trained from here on, where they are others here."""
    train_state, pipeline = session.train_state, session.pipeline
    if train_state.environment["evaluation"] == "integer" and (
        reason := no_integers_on(pipeline.device, session.model, pipeline.input_shape)
    ):
        train_state.environment["evaluation"] = "trained"
        train_state.deterministic = "statistical"
        yield LogMessage(f"evaluated as it is trained from here on, for {reason}")


def _open_train_state(
    start: CheckpointContent | None,
    recipe: Recipe,
    context: ExecutionContext,
    *,
    pipeline: DataPipeline,
    model: nn.Module,
) -> tuple[TrainState, Sequence[str]]:
    """Return where the run goes on, or begins, and what to say of the environment.

    Raises DataError where what it goes on from was trained on other images.
    """
    if start:
        if same_data(start.state["data"], digest := pipeline.dataset.digest) is False:
            raise DataError(
                f"{recipe.data.label} in {context.data_dir} is not what step {start.step} was "
                f"trained on: its digest is {digest}, it was {start.state['data']}; restore it, or "
                "submit it again"
            )
        return restore_state(start, recipe, context, network_packages(model, recipe, pipeline))
    train_state = initial_train_state(recipe, context)
    train_state.environment |= network_packages(model, recipe, pipeline)
    notes = decide_compile(
        train_state, recipe=recipe, context=context, pipeline=pipeline, model=model
    )
    precision = decide_precision(recipe, pipeline.device)
    compiled = bool(train_state.environment["compile"])
    recipe = in_precision(recipe, precision)
    kernel = decide_kernel(recipe, context, pipeline, compiled=compiled)
    train_state.environment |= {"precision": precision, "kernel": kernel}
    return train_state, notes


_METRICS_PER_EPOCH = 10  # train metrics in an epoch


def train_epoch(
    session: TrainingSession,
) -> Iterator[Measurement | Progress | Checkpoint | LogMessage]:
    """Train what is left of the current epoch; nothing when its evaluation is pending."""
    train_state, pipeline = session.train_state, session.pipeline
    if train_state.evaluation_pending:
        return
    session.model.train()
    if train_state.epoch >= session.recipe.train.epochs - session.recipe.train.bn_freeze_epochs:
        freeze_bn(session.model)
    start_oscillations(session)
    yield from map(LogMessage, load_teacher_view(session))
    window = max(1, pipeline.steps_per_epoch // _METRICS_PER_EPOCH)
    epoch, start = train_state.epoch, train_state.batch
    batches = pipeline.train_batches(epoch, start=start, part=session.own_part)
    for indices, (images, labels) in zip(
        pipeline.batch_indices(epoch, start=start), batches, strict=True
    ):
        session.check_stop()
        started = time.monotonic()
        logits = cached_logits(session, session.own_part(indices))
        train_step(session, images, labels, logits, session.share_of(len(indices)))
        failpoint("train.step")
        update_oscillations(session)
        epoch_ended = train_state.batch == pipeline.steps_per_epoch
        if train_state.batch % window == 0 or epoch_ended:
            yield from _window_metrics(session)
        train_state.epoch_seconds += time.monotonic() - started
        if session.save_due and not epoch_ended:
            yield from session.save()
    yield from _epoch_metrics(session)
    if session.context.world.size > 1:  # another rank may have computed some of what is measured
        sample = indices[: sample_size(pipeline.input_shape)]
        (images,) = pipeline.view_batches(pipeline.view_of(epoch), [sample])
    yield from epoch_stats(session, images)
    yield from map(LogMessage, clamp_warnings(train_state))
    train_state.clamped = {}
    train_state.epoch += 1
    train_state.batch, train_state.evaluation_pending = 0, True


def evaluate_epoch(session: TrainingSession) -> Iterator[Metric | Progress]:
    """Evaluate each variant on the evaluation split and record the counts."""
    train_state, counts = session.train_state, evaluate_variants(session)
    train_state.record_eval(
        {
            variant: EvalRecord.from_counts(variant_counts, train_state.step)
            for variant, variant_counts in counts.items()
        },
        selected_by=session.recipe.train.headline_variant,
    )
    train_state.evaluation_pending = False
    watch_stop_metric(session, counts)
    split = session.pipeline.dataset.eval_split
    for variant, variant_counts in counts.items():
        prefix = "" if variant == "raw" else f"{variant}_"
        yield Metric(f"{prefix}loss", split, train_state.step, variant_counts.loss)
        yield Metric(f"{prefix}top1", split, train_state.step, variant_counts.top1)
        if variant_counts.top5 is not None:
            yield Metric(f"{prefix}top5", split, train_state.step, variant_counts.top5)
    yield session.progress


def watch_stop_metric(session: TrainingSession, counts: Mapping[str, EvalCounts]) -> None:
    """Count an epoch for ``train.stop``; its counts are part of the state, and so of a resume."""
    stop, variant = session.recipe.train.stop, session.recipe.train.headline_variant
    if stop is None:
        return
    value = counts[variant].top1 if stop.metric == "top1" else counts[variant].loss
    session.train_state.record_for_stop(
        value, larger_is_better=stop.metric == "top1", min_delta=stop.min_delta
    )


def evaluate_variants(session: TrainingSession) -> dict[str, EvalCounts]:
    """Return the counts of each variant on the evaluation split.

    ``raw`` and ``ema`` after each epoch, for each may be the best one; ``bn``, which costs a pass
    over training images besides, once the training is over.
    """
    pipeline, train = session.pipeline, session.recipe.train
    share = EvalShare(pipeline.eval_indices(), session.context.world)
    arithmetic = session.train_state.environment["evaluation"]
    models = {"raw": session.model}
    if session.ema is not None:
        models["ema"] = session.ema.model
    if train.bn_reestimate_images and session.trained:
        sample = pipeline.reestimation_batches(train.bn_reestimate_images)
        with autocast(train.precision, pipeline.device):
            models["bn"] = reestimate_bn(session.model, _with_stop_check(sample, session))
        session.bn_statistics = bn_statistics(models["bn"])
    with evaluation_autocast(arithmetic, train.precision, pipeline.device):
        return {
            variant: evaluate(
                as_evaluated(model, arithmetic, pipeline.input_shape),
                pipeline.eval_batches(share.batches),
                before_batch=session.check_stop,
                share=share,
            )
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
    for name, value in session.methods.metrics().items():
        yield Metric(name, "train", step, value)
    if session.recipe.train.clip_norm is not None:
        yield Metric("clipped_gradients", "train", step, train_state.clipped)
    if session.recipe.train.precision == "fp16":
        yield Metric("skipped_steps", "train", step, train_state.skipped)
    train_state.skipped_before += train_state.skipped
    train_state.clipped = train_state.skipped = 0
    yield Metric("seconds", "train", step, seconds)
