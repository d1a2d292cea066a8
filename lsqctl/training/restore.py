"""A stored checkpoint: given back as a model ready to use on the CPU, or evaluated once more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from lsqctl.datasets.data_digest import same_data
from lsqctl.errors import DataError, UsageError
from lsqctl.models.factory import build_model
from lsqctl.models.heads import example_of
from lsqctl.quant import prepare
from lsqctl.quant.integer_network import no_integers_on
from lsqctl.recipe import Recipe
from lsqctl.run import JsonObject
from lsqctl.training.beginning import open_pipeline
from lsqctl.training.checkpoint import load_model_state, read_state, verify_checkpoint
from lsqctl.training.data_pipeline import DataPipeline
from lsqctl.training.evaluation import (
    EvalCounts,
    EvaluationArithmetic,
    as_evaluated,
    evaluate,
    evaluation_autocast,
    reestimate_bn,
)
from lsqctl.training.precision import autocast
from lsqctl.training.runtime import ExecutionContext, setup_torch
from lsqctl.training.train_state import TrainState


def restore_model(recipe: Recipe, directory: Path, variant: str | None = None) -> nn.Module:
    """Return the recipe's network with a checkpoint's weights and step sizes, in evaluation mode.

    It takes normalized images (B, C, H, W). ``variant`` is raw, ema or bn, None the recipe's
    headline. It computes with the kernel that it was trained with. Raises DataError for a damaged
    checkpoint, and for a variant that it does not hold.
    """
    model = _network(recipe, read_state(directory))
    model.load_state_dict(load_model_state(directory, variant))
    return model.eval()


def _network(recipe: Recipe, state: JsonObject) -> nn.Module:
    """Return the network that a checkpoint with these plain values was written of, untrained."""
    model = build_model(recipe.model.name, **state["network"])
    if (spec := recipe.quant.to_spec()).quantized:
        environment = TrainState.from_state(state["cursor"]).environment
        size = recipe.data.image_size
        example = example_of(model, (state["network"]["in_channels"], size, size))
        model = prepare(model, replace(spec, kernel=environment.get("kernel", "float")), example)
    return model


def verify_recorded_checkpoint(directory: Path, sha256: str) -> None:
    """Check every byte of a checkpoint against the manifest, and the manifest against ``sha256``.

    Raises DataError in one line that names the file, what was expected and what was found.
    """
    actual_sha256 = verify_checkpoint(directory)
    if actual_sha256 != sha256:
        manifest = directory / "manifest.json"
        raise DataError(
            f"{manifest} is of another checkpoint: its sha256 is {actual_sha256}, "
            "the database says "
            f"{sha256 or 'none'}"
        )


def reevaluate(
    recipe: Recipe,
    directory: Path,
    context: ExecutionContext,
    *,
    data_digest: str,
    variant: str = "raw",
) -> EvalCounts:
    """Return the counts of a checkpoint's variant on the recipe's evaluation split.

    ``bn`` is estimated again from the raw weights, by the images that the training took for it.

    Of a run that was evaluated in integers they are those of the training to the last image; of
    another on the same machine, with as many threads. Raises DataError for a dataset that is
    missing, damaged, or not the one of ``data_digest``, and UsageError on a device that computes
    integers otherwise than a CPU.
    """
    device = setup_torch(context, recipe.seed)
    pipeline = open_pipeline(recipe, context, device)
    if same_data(data_digest, actual_digest := pipeline.dataset.digest) is False:
        raise DataError(
            f"{recipe.data.name} in {context.data_dir} is not the dataset of the training: "
            "its digest "
            f"is {actual_digest}, the database says {data_digest}"
        )
    state = read_state(directory)
    environment = TrainState.from_state(state["cursor"]).environment
    arithmetic: EvaluationArithmetic = environment.get("evaluation", "trained")
    precision = environment.get("precision", recipe.train.precision)
    model = _network(recipe, state)
    model.load_state_dict(load_model_state(directory, "raw" if variant == "bn" else variant))
    model.eval()
    if arithmetic == "integer":
        _check_integers(model, pipeline)
    model = model.to(device)
    if variant == "bn":
        with autocast(precision, device):
            images = pipeline.reestimation_batches(recipe.train.bn_reestimate_images)
            model = reestimate_bn(model, images)
    with evaluation_autocast(arithmetic, precision, device):
        network = as_evaluated(model, arithmetic, pipeline.input_shape)
        return evaluate(network, pipeline.eval_batches())


def _check_integers(model: nn.Module, pipeline: DataPipeline) -> None:
    if reason := no_integers_on(pipeline.device, model, pipeline.input_shape):
        raise UsageError(f"the run was evaluated in integers, and {reason}: take --device cpu")
