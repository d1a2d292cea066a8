"""The result of a finished run, for the board: counts, cost, and how it was computed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from lsqctl.events import Evaluation, Result
from lsqctl.quant import FLOAT_BITS, ModelCost, model_cost, quantized_layers, unquantized_layers
from lsqctl.quant.cost import OTHER_LAYER
from lsqctl.recipe import QuantSection, Recipe
from lsqctl.training.checkpoint_files import checkpoint_dir
from lsqctl.training.runtime import execution_environment, peak_memory_bytes
from lsqctl.training.session import TrainingSession
from lsqctl.training.train_state import TrainState


def build_result(session: TrainingSession) -> Result:
    """Return the result of a session that is done."""
    recipe, pipeline, train_state = session.recipe, session.pipeline, session.train_state
    cost = model_cost(session.model, pipeline.input_shape)
    return Result(
        evaluations=build_evaluations(recipe, session.context.run_dir, train_state),
        dataset=recipe.data.label,
        split=pipeline.dataset.eval_split,
        arch=recipe.model.name,
        method=method_name(recipe),
        weight_bits=recipe.quant.weight_bits,
        act_bits=recipe.quant.act_bits,
        first_last_bits=first_last_bits(cost),
        granularity=weight_granularity(session.model),
        params=cost.params,
        size_bytes=cost.size_bytes,
        naive_bytes=cost.naive_bytes,
        macs=cost.macs,
        bops=cost.bops,
        epochs=train_state.epoch,
        train_seconds=train_state.train_seconds,
        peak_mem_bytes=peak_memory_bytes(pipeline.device),
        device=str(execution_environment(session.context, session.recipe)["device"]),
        torch=torch.__version__,
        precision=recipe.train.precision,
        deterministic=train_state.deterministic,
        data_digest=pipeline.dataset.digest,
        preprocessing=pipeline.dataset.preprocessing,
        fp32_n_correct=train_state.fp32.n_correct if train_state.fp32 else None,
        fp32_n_total=train_state.fp32.n_total if train_state.fp32 else None,
        notes="; ".join(result_notes(session)),
    )


def build_evaluations(
    recipe: Recipe, run_dir: Path, train_state: TrainState
) -> tuple[Evaluation, ...]:
    """Return a row for each variant and selection that was counted; one is the headline.

    After training the best epoch has rows beside the last one's.
    """
    train = recipe.train
    headline_selection = train.headline if train.epochs else "last"
    records = {
        ("raw", "last"): train_state.last,
        ("raw", "best"): train_state.best if train.epochs else None,
        ("ema", "last"): train_state.ema_last,
        ("ema", "best"): train_state.ema_best,
        ("bn", "last"): train_state.bn_last,
    }
    return tuple(
        Evaluation(
            variant=variant,
            selection=selection,
            headline=(variant, selection) == (train.headline_variant, headline_selection),
            n_correct=record.n_correct,
            n_correct_top5=record.n_correct_top5,
            n_total=record.n_total,
            hits=record.decoded_hits,
            loss=record.loss,
            step=record.step,
            checkpoint=str(checkpoint_dir(run_dir, record.step)),
        )
        for (variant, selection), record in records.items()
        if record
    )


def method_name(recipe: Recipe) -> str:
    """Return ``fp32`` or ``lsq``; ``+offset`` is LSQ+'s, ``+kd`` says that a teacher took part."""
    quant = recipe.quant
    offsets = (quant.act_offset, *(override.act_offset for override in quant.overrides.values()))
    learned_offset = "learned" in offsets
    name = "lsq" + ("+offset" if learned_offset else "") if quant.to_spec().quantized else "fp32"
    return name + ("+kd" if recipe.distill else "")


def first_last_bits(cost: ModelCost) -> str:
    """Return e.g. ``w8a8``, or ``w8a8/w8a32`` where the last layer differs; nothing of no layer."""
    layers = [
        f"w{layer.weight_bits}a{layer.act_bits}"
        for layer in cost.layers
        if layer.name != OTHER_LAYER
    ]
    return "/".join(dict.fromkeys((*layers[:1], *layers[-1:])))


def weight_granularity(model: nn.Module) -> str:
    """Return whether weights have a step a tensor, a step a channel, or some this and some that."""
    quantizers = [quantizer.weight_quantizer for quantizer in quantized_layers(model).values()]
    kinds = {quantizer.spec.per_channel for quantizer in quantizers if quantizer is not None} or {
        False
    }
    return "mixed" if len(kinds) > 1 else "per-channel" if kinds == {True} else "per-tensor"


def result_notes(session: TrainingSession) -> list[str]:
    """Return the notes beside the row, for its reader."""
    lines = list(session.pipeline.dataset.notes)
    if session.train_state.new_head:
        lines.append(session.train_state.new_head)
    lines += stop_notes(session)
    if session.recipe.extension is not None:
        lines.append(
            f"goes on from run {session.recipe.extension.run} after "
            f"epoch {session.train_state.start_epoch}"
        )
    if session.recipe.train.headline == "best" and session.recipe.train.epochs:
        lines.append("the epoch was selected on the evaluation split")
    if session.recipe.train.headline_variant == "ema":
        lines.append("counted from averaged weights (EMA)")
    if session.recipe.train.headline_variant == "bn":
        lines.append("counted with batch norm statistics estimated again after training")
    if skipped := session.train_state.skipped_before:
        lines.append(f"fp16 overflowed in {skipped} of {session.train_state.step} steps, left out")
    unquantized = unquantized_layers(session.model)
    if session.step_clamp is not None and unquantized:
        lines.append(f"left in fp32: {', '.join(unquantized)}")
    return [*lines, *paper_deviations(session.recipe.quant), *chance_level_warnings(session)]


def stop_notes(session: TrainingSession) -> list[str]:
    """Return what ended the training early, and that it looked at the evaluation split."""
    stop, epoch = session.recipe.train.stop, session.train_state.epoch
    if stop is None or not session.stopped_early:
        return []
    return [
        f"stopped after epoch {epoch} of {session.recipe.train.epochs}: {stop.metric} on the "
        f"evaluation split had not improved for {stop.patience} epochs"
    ]


def paper_deviations(quant: QuantSection) -> list[str]:
    """Return how the bits deviate from the paper where the columns of bits do not say so."""
    lines = []
    if quant.residual_bits != FLOAT_BITS:
        lines.append(f"inputs of residual additions at {quant.residual_bits} bits")
    for glob, override in quant.overrides.items():
        values = ", ".join(f"{key} {value}".lower() for key, value in override.model_dump().items())
        lines.append(f"{glob}: {values}")
    return lines


def chance_level_warnings(session: TrainingSession) -> list[str]:
    """Return a warning when training ended no better than guessing: diverged, yet finite.

    Guessing gets 1 in ``classes`` right, give or take three standard deviations.
    """
    last, classes = session.train_state.last, session.pipeline.dataset.num_classes
    if not session.recipe.train.epochs or last is None:
        return []
    expected = last.n_total / classes
    limit = expected + 3 * math.sqrt(expected * (1 - 1 / classes))
    if last.n_correct > limit:
        return []
    return [
        f"suspect: {last.n_correct} of {last.n_total} right is no better than guessing among "
        f"{classes} classes; it may have diverged: lower train.lr"
    ]


def clamp_warnings(train_state: TrainState) -> list[str]:
    """Return a warning where step sizes fell to their floor in the epoch that ends.

    There every value is clipped, and the next gradient may throw the step as far the other way.
    """
    names = list(filter(None, train_state.clamped))  # an older checkpoint has a sum without a name
    if not names:
        return []
    which = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return [
        f"suspect: epoch {train_state.epoch + 1}: the step size of {which} fell to its floor, and "
        "what the layer has learned may be lost: lower quant.step_lr_scale or train.lr"
    ]
