"""What a run begins with: data, network, first weights, step sizes, teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lsqctl.datasets.data_digest import same_data
from lsqctl.errors import DataError, RankFailed, UnfitKey, UsageError
from lsqctl.events import (
    KernelUse,
)
from lsqctl.models import input_channels
from lsqctl.models.factory import build_model, build_on_meta, package_of
from lsqctl.models.heads import classifier_name, example_of
from lsqctl.quant import calibrate, prepare, quantized_layers, quantizers
from lsqctl.quant.spec import Kernel
from lsqctl.recipe import Recipe
from lsqctl.run import EXTENSION_ROLE
from lsqctl.training.checkpoint import (
    CheckpointContent,
    read_checkpoint,
    read_state,
    resume_point,
)
from lsqctl.training.checkpoint_files import checkpoint_dir
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.training.evaluation import (
    EvalShare,
    evaluate,
)
from lsqctl.training.optimizer_step import (
    freeze_teacher,
)
from lsqctl.training.ranks import from_first, ranks_that_differ
from lsqctl.training.runtime import (
    ExecutionContext,
    check_own_stop,
    check_stop,
    determinism_level,
    execution_environment,
)
from lsqctl.training.session import (
    recipe_hash,
)
from lsqctl.training.train_state import EvalRecord, TrainState
from lsqctl.training.weights import load_step_sizes, load_weights, weights_digest


def shared_resume_point(
    context: ExecutionContext,
) -> tuple[CheckpointContent | None, list[str]]:
    """Return what ``resume_point`` returns to rank 0; the others read the same checkpoint."""
    world, notes = context.world, list[str]()
    content: CheckpointContent | None = None
    if world.rank == 0:
        content, notes = resume_point(
            context.run_dir, context.recorded_checkpoints, context.with_lease
        )
    step = from_first(world, str(content.step) if content else "")
    if world.rank > 0 and step:
        content = read_checkpoint(checkpoint_dir(context.run_dir, int(step)))
    return content, notes


def check_same_environment(train_state: TrainState, context: ExecutionContext) -> None:
    """Raise RankFailed where ranks would not compute alike: one compiles, another cannot."""
    text = json.dumps(train_state.environment, sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    if differ := ranks_that_differ(context.world, digest):
        raise RankFailed(f"rank {differ[0]} would not compute as rank 0 does ({text})")


_KEPT_BY_EXTENSION: tuple[str, ...] = (
    *("epoch", "step", "train_seconds", "skipped_before", "fp32"),
    *("input_digests", "environment", "deterministic", "new_head", "teacher_views"),
)


def extended_start(recipe: Recipe, context: ExecutionContext) -> CheckpointContent | None:
    """Return the last checkpoint of the run that a recipe extends, as this run's own beginning.

    Steps, optimizer, averages, random states and what was counted before quantization are kept; of
    results there are none yet. None for a recipe that extends no run. Raises DataError where the
    checkpoint is damaged, or is not the end of a training.
    """
    if recipe.extension is None:
        return None
    folder = Path(context.inputs[EXTENSION_ROLE])
    content = read_checkpoint(folder)
    before = TrainState.from_state(content.state["cursor"])
    if before.batch or before.evaluation_pending or before.epoch >= recipe.train.epochs:
        raise DataError(
            f"{folder} is at epoch {before.epoch}, batch {before.batch}: no end of a training that "
            f"{recipe.train.epochs} epochs in all would extend"
        )
    start = TrainState(
        recipe_hash=recipe_hash(recipe),
        start_epoch=before.epoch,
        start_step=before.step,
        **{name: getattr(before, name) for name in _KEPT_BY_EXTENSION},
    )
    return replace(content, state=content.state | {"cursor": start.to_state()}, best_step=None)


def open_pipeline(recipe: Recipe, context: ExecutionContext, device: torch.device) -> DataPipeline:
    """Return the batches of the recipe's dataset, with the channels that its network takes.

    Raises Preempted when asked to stop while a folder's images are hashed.
    """
    dataset = open_dataset(
        recipe.data,
        context.data_dir,
        num_workers=context.threads - 1,
        check_stop=partial(check_own_stop, context),
    )
    channels = input_channels(recipe.model.name, dataset.channels)
    return DataPipeline(dataset, recipe, device, channels=channels)


def build_on_device(name: str, pipeline: DataPipeline) -> nn.Module:
    """Return the network with random weights, on the device."""
    return build_model(name, **pipeline.model_args).to(pipeline.device)


def network_packages(model: nn.Module, recipe: Recipe, pipeline: DataPipeline) -> dict[str, str]:
    """Return the version of each package that builds the run's network or its teacher."""
    networks = [model]
    if recipe.distill is not None:
        teacher = recipe.network_of("distill.teacher")
        with torch.random.fork_rng(devices=[]):  # whoever asks changes no number of the training
            networks.append(build_on_meta(teacher, **pipeline.model_args))
    names = (package_of(network).partition(" ") for network in networks)
    return {package: version for package, _, version in names if package}


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
        share = EvalShare(pipeline.eval_indices(), context.world)
        counts = evaluate(
            model,
            pipeline.eval_batches(share.batches),
            before_batch=lambda: check_stop(context),
            share=share,
        )
        train_state.fp32 = EvalRecord.from_counts(counts, 0)
    return parent_steps


def parent_fp32_eval(source: str | Path, pipeline: DataPipeline) -> EvalRecord | None:
    """Return what a parent's full-precision start got right, if that was on the same images."""
    if not isinstance(source, Path) or not source.is_dir():
        return None
    state = read_state(source)
    if same_data(state.get("data", ""), pipeline.dataset.digest) is False:
        return None
    return TrainState.from_state(state["cursor"]).fp32


def quantize_model(
    model: nn.Module,
    recipe: Recipe,
    input_shape: tuple[int, int, int],
    kernel: Kernel | None = None,
) -> nn.Module:
    """Swap the layers, for ``kernel`` or the recipe's; their step sizes have no value yet.

    ``input_shape`` is (C, H, W) of an image: what runs first and last on one has its own bits.
    """
    spec = recipe.quant.to_spec()
    spec = replace(spec, kernel=kernel or spec.kernel)
    if not spec.quantized:
        return model
    try:
        model = prepare(model, spec, example_of(model, input_shape))
    except ValueError as error:
        raise UsageError(f"{recipe.model.name} cannot be quantized: {error}") from None
    if not quantizers(model):
        raise UnfitKey(
            "quant.overrides" if spec.overrides else "quant.weight_bits",
            f"no layer of {recipe.model.name} is left with fewer than 32 bits",
            "give one layer fewer, or all bits of the quant section 32",
        )
    return model


def check_integer_layers(model: nn.Module, recipe: Recipe) -> None:
    """Raise UnfitKey where a recipe demands integers and no layer of its model can have them."""
    reasons = {name: one.float_reason() for name, one in quantized_layers(model).items()}
    if recipe.quant.kernel != "integer" or not all(reasons.values()):
        return
    first = next((f"{name}: {reason}" for name, reason in reasons.items()), "nothing is quantized")
    raise UnfitKey(
        "quant.kernel",
        f"no layer multiplies integers ({first})",
        "give one layer at least weights and inputs of 8 bits or fewer without an offset, or say "
        "auto or float",
    )


def kernel_use(model: nn.Module, train_state: TrainState) -> KernelUse:
    """Return what the layers of a calibrated model compute with, and why some do otherwise."""
    kernel = train_state.environment["kernel"]
    layers = quantized_layers(model) if kernel == "integer" else {}
    reasons = {name: layer.float_reason() for name, layer in layers.items()}
    found = {name: reason for name, reason in reasons.items() if reason}
    return KernelUse(kernel, found, train_state.environment["evaluation"])


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
    batches = pipeline.calibration_batches(recipe.quant.calibration_images)
    calibrate_model(model, recipe, batches)
    return notes


def calibrate_model(model: nn.Module, recipe: Recipe, batches: Iterable[Tensor]) -> None:
    """Calibrate a prepared model; raises UsageError for one that cannot be quantized."""
    try:
        calibrate(model, batches)
    except ValueError as error:
        raise UsageError(f"{recipe.model.name} cannot be quantized: {error}") from None


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
