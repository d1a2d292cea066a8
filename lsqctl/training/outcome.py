"""What a finished run puts on the board: counts, cost, and how it was computed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from lsqctl.facts import Evaluation, Result
from lsqctl.quant import NONE_BITS, ModelCost, left_layers, model_cost, quantized_layers
from lsqctl.quant.cost import OTHER
from lsqctl.recipe import QuantSection, Recipe
from lsqctl.training.cursor import Cursor
from lsqctl.training.folders import folder_of
from lsqctl.training.runtime import circumstances, peak_memory
from lsqctl.training.session import Session


def result(session: Session) -> Result:
    """Return the result of a session that is done."""
    recipe, feed, cursor = session.recipe, session.feed, session.cursor
    cost = model_cost(session.model, feed.input_shape)
    return Result(
        evaluations=evaluations(recipe, session.job.run_dir, cursor),
        dataset=recipe.data.name,
        split=feed.dataset.split,
        arch=recipe.model.name,
        method=method(recipe),
        weight_bits=recipe.quant.weight_bits,
        act_bits=recipe.quant.act_bits,
        first_last_bits=first_last_bits(cost),
        granularity=granularity(session.model),
        params=cost.params,
        size_bytes=cost.size_bytes,
        naive_bytes=cost.naive_bytes,
        macs=cost.macs,
        bops=cost.bops,
        epochs=recipe.train.epochs,
        train_seconds=cursor.train_seconds,
        peak_mem_bytes=peak_memory(feed.device),
        device=str(circumstances(session.job)["device"]),
        torch=torch.__version__,
        precision=recipe.train.precision,
        deterministic=cursor.deterministic,
        data_digest=feed.dataset.digest,
        preprocessing=feed.dataset.preprocessing,
        fp32_n_correct=cursor.fp32.n_correct if cursor.fp32 else None,
        fp32_n_total=cursor.fp32.n_total if cursor.fp32 else None,
        notes="; ".join(notes(session)),
    )


def evaluations(recipe: Recipe, run_dir: Path, cursor: Cursor) -> tuple[Evaluation, ...]:
    """Return a row for each variant and selection that was counted; one is the headline.

    After training the best epoch has rows beside the last one's.
    """
    train = recipe.train
    selected = train.headline if train.epochs else "last"
    rows = {
        ("raw", "last"): cursor.last,
        ("raw", "best"): cursor.best if train.epochs else None,
        ("ema", "last"): cursor.ema_last,
        ("ema", "best"): cursor.ema_best,
        ("bn", "last"): cursor.bn_last,
    }
    return tuple(
        Evaluation(
            variant=variant,
            selection=selection,
            headline=(variant, selection) == (train.headline_variant, selected),
            n_correct=tally.n_correct,
            n_correct_top5=tally.n_correct_top5,
            n_total=tally.n_total,
            hits=tally.hit_bytes,
            step=tally.step,
            checkpoint=str(folder_of(run_dir, tally.step)),
        )
        for (variant, selection), tally in rows.items()
        if tally
    )


def method(recipe: Recipe) -> str:
    """Return ``fp32`` or ``lsq``; ``+offset`` is LSQ+'s, ``+kd`` says that a teacher took part."""
    quant = recipe.quant
    settings = (quant.act_offset, *(one.act_offset for one in quant.overrides.values()))
    offset = "learned" in settings
    name = "lsq" + ("+offset" if offset else "") if quant.spec().quantized else "fp32"
    return name + ("+kd" if recipe.distill else "")


def first_last_bits(cost: ModelCost) -> str:
    """Return e.g. ``w8a8``, or ``w8a8/w8a32`` where the last layer differs."""
    layers = [f"w{one.weight_bits}a{one.act_bits}" for one in cost.layers if one.name != OTHER]
    return "/".join(dict.fromkeys((layers[0], layers[-1])))


def granularity(model: nn.Module) -> str:
    """Return whether weights have a step a tensor, a step a channel, or some this and some that."""
    found = [one.weight_quantizer for one in quantized_layers(model).values()]
    kinds = {one.spec.per_channel for one in found if one is not None} or {False}
    return "mixed" if len(kinds) > 1 else "per-channel" if kinds == {True} else "per-tensor"


def notes(session: Session) -> list[str]:
    """Return what a reader of the row should know besides."""
    found = list(session.feed.dataset.notes)
    if session.recipe.train.headline == "best" and session.recipe.train.epochs:
        found.append("the epoch was selected on the evaluation split")
    if session.recipe.train.headline_variant == "ema":
        found.append("counted from averaged weights (EMA)")
    if session.recipe.train.headline_variant == "bn":
        found.append("counted with batch norm statistics estimated again after training")
    if skipped := session.cursor.skipped_before:
        found.append(f"fp16 overflowed in {skipped} of {session.cursor.step} steps, left out")
    left = left_layers(session.model)
    if session.positive is not None and left:
        found.append(f"left in fp32: {', '.join(left)}")
    return [*found, *unlike_the_paper(session.recipe.quant), *suspect(session)]


def unlike_the_paper(quant: QuantSection) -> list[str]:
    """Return what the columns of bits do not tell."""
    found = []
    if quant.residual_bits != NONE_BITS:
        found.append(f"inputs of residual additions at {quant.residual_bits} bits")
    for glob, one in quant.overrides.items():
        values = ", ".join(f"{key} {value}".lower() for key, value in one.model_dump().items())
        found.append(f"{glob}: {values}")
    return found


def suspect(session: Session) -> list[str]:
    """Return a warning when training ended no better than guessing: diverged, yet finite.

    Guessing gets 1 in ``classes`` right, give or take three standard deviations.
    """
    last, classes = session.cursor.last, session.feed.dataset.classes
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
