"""The main path of one run: data, model, weights, epochs of training and evaluation, result.

``finetune`` yields events as they happen and keeps no books: the caller records, and stops
a run through ``context.stop`` or by ceasing to iterate. No queue, no database, no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lsqctl.errors import DataError, Preempted
from lsqctl.events import (
    Checkpoint,
    Compiled,
    KernelUse,
    LogMessage,
    Measurement,
    Metric,
    Progress,
    Resumed,
    TrainingEvent,
)
from lsqctl.failpoint import failpoint
from lsqctl.models import input_channels
from lsqctl.models.factory import build_model
from lsqctl.models.heads import classifier_name
from lsqctl.quant import calibrate, prepare, quantized_layers
from lsqctl.quant.spec import Kernel
from lsqctl.recipe import Recipe
from lsqctl.training.checkpoint import CheckpointContent, read_state, resume_point
from lsqctl.training.compilation import decide_compile, decide_kernel
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.training.evaluation import (
    EvalCounts,
    bn_statistics,
    evaluate,
    freeze_bn,
    reestimate_bn,
)
from lsqctl.training.optimizer_step import (
    freeze_teacher,
    train_step,
)
from lsqctl.training.quantizer_stats import (
    epoch_stats,
    initial_stats,
    start_oscillations,
    update_oscillations,
)
from lsqctl.training.run_result import build_result, chance_level_warnings
from lsqctl.training.runtime import (
    ExecutionContext,
    autocast,
    determinism_level,
    execution_environment,
    setup_torch,
)
from lsqctl.training.session import (
    TrainingSession,
    build_session,
    check_stop,
    extended_start,
    recipe_hash,
    restore_state,
)
from lsqctl.training.train_state import EvalRecord, TrainState
from lsqctl.training.weights import load_step_sizes, load_weights, weights_digest


def finetune(recipe: Recipe, context: ExecutionContext) -> Iterator[TrainingEvent]:
    """Train as the recipe says, from the newest good checkpoint in ``context.run_dir``, or from
    the last one of the run that it extends.

    The first event is Resumed, the last one Result. Stopped and resumed anywhere, a run yields the
    same metrics (but ``seconds``) and tensors as in one go, to the bit on a CPU.

    Raises:
        Preempted: asked to stop; the state is saved and its Checkpoint was yielded (before
            calibration there is nothing to save yet).
        Diverged: a loss, weight or step size is NaN or infinite; the last checkpoint is finite.
        DataError: data or weights are missing, damaged or do not fit.
        OSError: a checkpoint could not be written; the one before it is intact.
    """
    device = setup_torch(context, recipe.seed)
    checkpoint, resume_notes = resume_point(
        context.run_dir, context.recorded_checkpoints, context.with_lease
    )
    yield Resumed(checkpoint.step if checkpoint else None)
    start = checkpoint or extended_start(recipe, context)
    pipeline = open_pipeline(recipe, context, device)
    model = build_on_device(recipe.model.name, pipeline)
    train_state, environment_notes = _open_train_state(
        start, recipe, context, pipeline=pipeline, model=model
    )
    teacher = load_teacher(recipe, context, pipeline, train_state) if recipe.distill else None
    if not start:
        parent_steps = load_initial_weights(model, recipe, context, pipeline, train_state)
    yield Compiled(*(train_state.environment[name] for name in ("compile", "channels_last")))
    notes = (*resume_notes, *environment_notes, *pipeline.dataset.notes, train_state.new_head)
    yield from map(LogMessage, filter(None, notes))
    model = quantize_model(model, recipe, train_state.environment["kernel"])
    if not start:
        yield from map(LogMessage, initial_step_sizes(model, recipe, pipeline, parent_steps))
    session = build_session(
        model, teacher, recipe, context, pipeline=pipeline, train_state=train_state
    )
    yield from _begin(session, checkpoint, start)
    try:
        while not session.done:
            yield from train_epoch(session)
            yield from evaluate_epoch(session)
            yield from session.save()
    except Preempted:
        yield from session.save()
        raise
    yield from map(LogMessage, chance_level_warnings(session))
    yield build_result(session)


def _begin(
    session: TrainingSession,
    checkpoint: CheckpointContent | None,
    start: CheckpointContent | None,
) -> Iterator[KernelUse | Measurement | Checkpoint]:
    """Take over what the run goes on from; of a run that begins, save that first."""
    if start:
        session.restore(start, own=start is checkpoint)
    yield kernel_use(session.model, session.train_state)
    if not start:  # right after calibration
        yield from initial_stats(session)
    if not checkpoint:
        yield from session.save()
        failpoint("train.calibrated")


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
        if start.state["data"] != (digest := pipeline.dataset.digest):
            raise DataError(
                f"the images of {recipe.data.label} are not those of step {start.step}: their "
                f"digest is {digest}, it was {start.state['data']}; restore them"
            )
        return restore_state(start, recipe, context)
    train_state = initial_train_state(recipe, context)
    train_state.environment["kernel"] = decide_kernel(recipe, context, pipeline)
    notes = decide_compile(
        train_state, recipe=recipe, context=context, pipeline=pipeline, model=model
    )
    return train_state, notes


def open_pipeline(recipe: Recipe, context: ExecutionContext, device: torch.device) -> DataPipeline:
    """Return the batches of the recipe's dataset, with the channels that its network takes."""
    dataset = open_dataset(recipe.data, context.data_dir, num_workers=context.threads - 1)
    channels = input_channels(recipe.model.name, dataset.channels)
    return DataPipeline(dataset, recipe, device, channels=channels)


def build_on_device(name: str, pipeline: DataPipeline) -> nn.Module:
    """Return the network with random weights, on the device."""
    return build_model(name, **pipeline.model_args).to(pipeline.device)


def initial_train_state(recipe: Recipe, context: ExecutionContext) -> TrainState:
    """Return the state of a run that begins; without epochs, only an evaluation is to come."""
    return TrainState(
        recipe_hash=recipe_hash(recipe),
        evaluation_pending=recipe.train.epochs == 0,
        input_digests={key: weights_digest(source) for key, source in context.inputs.items()},
        environment=dict(execution_environment(context, recipe)),
        deterministic=determinism_level(context),
    )


def load_initial_weights(
    model: nn.Module,
    recipe: Recipe,
    context: ExecutionContext,
    pipeline: DataPipeline,
    train_state: TrainState,
) -> Mapping[str, Tensor]:
    """Load the first weights and, before they are quantized, count what they get right.

    The weights of a quantized parent are no full-precision network any more: what its own start
    got right is taken over, so that a chain is compared with where it began. Returned are the
    step sizes that it learned.
    """
    if recipe.model.weights is None:
        return {}
    source = context.inputs["model.weights"]
    head = classifier_name(model, pipeline.input_shape) if recipe.model.head == "new" else ""
    parent_steps, new_head = load_weights(model, source, model_name=recipe.model.name, head=head)
    train_state.new_head = new_head
    if new_head:  # which has learned nothing: what it gets right is no full precision to compare
        return parent_steps
    if recipe.quant.to_spec().quantized:
        train_state.fp32 = parent_fp32_eval(source, pipeline)
    if recipe.quant.to_spec().quantized and train_state.fp32 is None:
        counts = evaluate(model, pipeline.eval_batches(), before_batch=lambda: check_stop(context))
        train_state.fp32 = EvalRecord.from_counts(counts, 0)
    return parent_steps


def parent_fp32_eval(source: str | Path, pipeline: DataPipeline) -> EvalRecord | None:
    """Return what a parent's full-precision start got right, if that was on the same images."""
    if not isinstance(source, Path) or not source.is_dir():
        return None
    state = read_state(source)
    same_images = state.get("data") == pipeline.dataset.digest
    return TrainState.from_state(state["cursor"]).fp32 if same_images else None


def quantize_model(model: nn.Module, recipe: Recipe, kernel: Kernel | None = None) -> nn.Module:
    """Swap the layers, for ``kernel`` or the recipe's; their step sizes have no value yet."""
    spec = recipe.quant.to_spec()
    spec = replace(spec, kernel=kernel or spec.kernel)
    if not spec.quantized:
        return model
    try:
        return prepare(model, spec)
    except ValueError as error:
        raise DataError(f"{recipe.model.name} cannot be quantized: {error}") from None


def kernel_use(model: nn.Module, train_state: TrainState) -> KernelUse:
    """Return what the layers of a calibrated model compute with, and why some do otherwise."""
    kernel = train_state.environment["kernel"]
    layers = quantized_layers(model) if kernel == "integer" else {}
    reasons = {name: layer.float_reason() for name, layer in layers.items()}
    return KernelUse(kernel, {name: reason for name, reason in reasons.items() if reason})


def initial_step_sizes(
    model: nn.Module,
    recipe: Recipe,
    pipeline: DataPipeline,
    parent_steps: Mapping[str, Tensor],
) -> list[str]:
    """Keep the step sizes of a quantized parent where they fit, and calibrate the others.

    Returns a note on a parent's step sizes.
    """
    if not recipe.quant.to_spec().quantized:
        return []
    notes = load_step_sizes(model, parent_steps)
    try:
        calibrate(model, pipeline.calibration_batches(recipe.quant.calibration_images))
    except ValueError as error:
        raise DataError(f"{recipe.model.name} cannot be quantized: {error}") from None
    return notes


def load_teacher(
    recipe: Recipe, context: ExecutionContext, pipeline: DataPipeline, train_state: TrainState
) -> nn.Module:
    """Return the frozen teacher; raises DataError when its bytes are not those of the start."""
    assert recipe.distill is not None
    source = context.inputs["distill.teacher"]
    if weights_digest(source) != train_state.input_digests["distill.teacher"]:
        raise DataError(f"the teacher {source} has changed since the run began")
    name = recipe.network_of("distill.teacher")
    teacher = build_on_device(name, pipeline)
    load_weights(teacher, source, model_name=name, key="distill.teacher")
    return freeze_teacher(teacher)


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
    split = session.pipeline.dataset.eval_split
    for variant, variant_counts in counts.items():
        prefix = "" if variant == "raw" else f"{variant}_"
        yield Metric(f"{prefix}loss", split, train_state.step, variant_counts.loss)
        yield Metric(f"{prefix}top1", split, train_state.step, variant_counts.top1)
        if variant_counts.top5 is not None:
            yield Metric(f"{prefix}top5", split, train_state.step, variant_counts.top5)
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
