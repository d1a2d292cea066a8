"""The main path of one run: data, model, weights, steps, epochs, result.

``finetune`` yields events as they happen and keeps no books: the caller records, and stops
a run through ``context.stop`` or by ceasing to iterate. No queue, no database, no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from lsqctl.errors import DataError, Preempted
from lsqctl.facts import Compiled, TrainingEvent, LogMessage, Resumed
from lsqctl.failpoint import failpoint
from lsqctl.quant import Oscillations, calibrate, keep_positive, prepare
from lsqctl.recipe import Recipe
from lsqctl.training.average import ModelEma
from lsqctl.training.batchnorm import batchnorms
from lsqctl.training.checkpoint import read_state
from lsqctl.training.compiled import Forward, channels_last_forward, compile_forward, decide_compile
from lsqctl.training.cursor import TrainState, EvalRecord
from lsqctl.training.datasets import open_dataset
from lsqctl.training.distill import freeze_teacher
from lsqctl.training.epoch import evaluate_epoch, train_epoch
from lsqctl.training.evaluate import evaluate
from lsqctl.training.feed import DataPipeline
from lsqctl.training.models import build_model, input_channels
from lsqctl.training.models.weights import weights_digest, load_weights
from lsqctl.training.optim import build_optimizer
from lsqctl.training.outcome import build_result, chance_level_warnings
from lsqctl.training.resume_point import resume_point
from lsqctl.training.runtime import ExecutionContext, execution_environment, determinism_level, setup_torch
from lsqctl.training.session import TrainingSession, check_stop, recipe_hash, restore_state
from lsqctl.training.step import OptimizerStepper, microbatch_sizes
from lsqctl.training.telemetry import initial_stats


def finetune(recipe: Recipe, context: ExecutionContext) -> Iterator[TrainingEvent]:
    """Train as the recipe says, from the newest good checkpoint in ``context.run_dir``.

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
    checkpoint, resume_notes = resume_point(context.run_dir, context.recorded_checkpoints, context.with_lease)
    yield Resumed(checkpoint.step if checkpoint else None)
    pipeline = open_pipeline(recipe, context, device)
    model = build_on_device(recipe.model.name, pipeline)
    if checkpoint:
        train_state, environment_notes = restore_state(checkpoint, recipe, context)
    else:
        train_state = initial_train_state(recipe, context)
        environment_notes = decide_compile(train_state, recipe=recipe, context=context, pipeline=pipeline, model=model)
    teacher = load_teacher(recipe, context, pipeline, train_state) if recipe.distill else None
    if not checkpoint:
        load_initial_weights(model, recipe, context, pipeline=pipeline, train_state=train_state)
    yield Compiled(*(train_state.environment[name] for name in ("compile", "channels_last")))
    yield from map(LogMessage, (*resume_notes, *environment_notes, *pipeline.dataset.notes))
    model = quantize_model(model, recipe, pipeline, run_calibration=checkpoint is None)
    session = build_session(model, teacher, recipe, context, pipeline=pipeline, train_state=train_state)
    if checkpoint:
        session.restore(checkpoint)
    else:  # right after calibration
        yield from initial_stats(session)
        yield from session.save()
        failpoint("train.calibrated")
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
        environment=dict(execution_environment(context)),
        deterministic=determinism_level(context),
    )


def load_initial_weights(model: nn.Module, recipe: Recipe, context: ExecutionContext, *, pipeline: DataPipeline, train_state: TrainState) -> None:
    """Load the first weights and, before they are quantized, count what they get right.

    The weights of a quantized parent are no full-precision network any more: what its own start
    got right is taken over, so that a chain is compared with where it began.
    """
    if recipe.model.weights is None:
        return
    source = context.inputs["model.weights"]
    load_weights(model, source, model_name=recipe.model.name)
    if recipe.quant.spec().quantized:
        train_state.fp32 = parent_fp32_eval(source, pipeline)
    if recipe.quant.spec().quantized and train_state.fp32 is None:
        counts = evaluate(model, pipeline.eval_batches(), before_batch=lambda: check_stop(context))
        train_state.fp32 = EvalRecord.from_counts(counts, 0)


def parent_fp32_eval(source: str | Path, pipeline: DataPipeline) -> EvalRecord | None:
    """Return what a parent's full-precision start got right, if that was on the same images."""
    if not isinstance(source, Path) or not source.is_dir():
        return None
    state = read_state(source)
    same_images = state.get("data") == pipeline.dataset.digest
    return TrainState.from_state(state["cursor"]).fp32 if same_images else None


def quantize_model(model: nn.Module, recipe: Recipe, pipeline: DataPipeline, *, run_calibration: bool) -> nn.Module:
    """Swap the layers and, unless a checkpoint brings the step sizes, calibrate them."""
    spec = recipe.quant.spec()
    if not spec.quantized:
        return model
    try:
        model = prepare(model, spec)
        if run_calibration:
            calibrate(model, pipeline.calibration_batches(recipe.quant.calibration_images))
    except ValueError as error:
        raise DataError(f"{recipe.model.name} cannot be quantized: {error}") from None
    return model


def build_session(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    context: ExecutionContext,
    *,
    pipeline: DataPipeline,
    train_state: TrainState,
) -> TrainingSession:
    """Return the session: optimizer, clamp of step sizes, EMA, compiled forward passes."""
    train, optimizer = recipe.train, build_optimizer(model, recipe)
    if train.bn_reestimate_images and not batchnorms(model):
        raise DataError(f"train.bn_reestimate_images: {recipe.model.name} has no batch norm")
    quantized = recipe.quant.spec().quantized
    model_forward: Forward = model
    teacher_forward: Forward | None = teacher
    if train_state.environment.get("compile"):
        batch_size = min(recipe.data.batch_size, len(pipeline.dataset.train))
        microbatch_size = microbatch_sizes(batch_size, train.accumulate)[0]
        model_forward = compile_forward(model, batch_size=microbatch_size)
        teacher_forward = compile_forward(teacher, batch_size=microbatch_size) if teacher else None
    elif train_state.environment.get("channels_last"):
        model_forward, teacher_forward = channels_last_forward(model), channels_last_forward(teacher) if teacher else None
    use_ema = train.ema_decay is not None and train.epochs > 0
    return TrainingSession(
        *(recipe, context, pipeline, model, teacher, optimizer),
        step_clamp=keep_positive(optimizer, model) if quantized else None,
        train_state=train_state,
        model_forward=model_forward,
        teacher_forward=teacher_forward,
        stepper=OptimizerStepper(optimizer, train, pipeline.device),
        ema=ModelEma(model, train.ema_decay or 0.0) if use_ema else None,
        oscillations=Oscillations(model) if quantized else None,
    )


def load_teacher(recipe: Recipe, context: ExecutionContext, pipeline: DataPipeline, train_state: TrainState) -> nn.Module:
    """Return the frozen teacher; raises DataError when its bytes are not those of the start."""
    assert recipe.distill is not None
    source = context.inputs["distill.teacher"]
    if weights_digest(source) != train_state.input_digests["distill.teacher"]:
        raise DataError(f"the teacher {source} has changed since the run began")
    name = recipe.network_of("distill.teacher")
    teacher = build_on_device(name, pipeline)
    load_weights(teacher, source, model_name=name, key="distill.teacher")
    return freeze_teacher(teacher)
