"""What keys say about each other: defaults that follow, and values that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe.catalog import DATASETS
from lsqctl.recipe.quant_section import QuantSection
from lsqctl.recipe.train_section import TrainSection
from lsqctl.recipe.whole import Recipe


@dataclass(frozen=True, slots=True)
class Problem:
    """Keys that are each fine but do not fit together. ``key`` is dotted; ``other`` too.

    ``glob`` says which of ``quant.overrides`` it is about.
    """

    key: str
    label: str
    help: str
    other: str | None = None
    glob: str = ""


def derived_defaults(raw: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return the defaults that depend on other keys: dotted key to (value, origin).

    ``raw`` is a recipe as written, possibly wrong in places; wrong places derive nothing.
    """
    derived: dict[str, tuple[Any, str]] = {}
    dataset = _part(raw, "data").get("name")
    if isinstance(dataset, str) and dataset in DATASETS:
        for key, value in DATASETS[dataset].defaults.items():
            derived[f"data.{key}"] = (value, f"default of {dataset}")
    quant = _part(raw, "quant")
    for kind in ("weight", "act"):
        bits = quant.get(f"{kind}_bits", FLOAT_BITS)
        value = 8 if type(bits) is int and bits < FLOAT_BITS else FLOAT_BITS
        for place in ("first", "last"):
            derived[f"quant.{place}_{kind}_bits"] = (value, f"follows quant.{kind}_bits")
    return derived


def check_together(recipe: Recipe) -> list[Problem]:
    """Return what is wrong between keys that are each valid."""
    problems = _of_the_schedule(recipe.train) + _of_the_headline(recipe.train)
    if 2 * recipe.train.accumulate > max(2, recipe.data.batch_size):
        problems.append(
            Problem(
                "train.accumulate",
                f"{recipe.train.accumulate} pieces of {recipe.data.batch_size} images: batch norm "
                "needs two images in each",
                "make it at most half of data.batch_size",
                "data.batch_size",
            )
        )
    if DATASETS[recipe.data.name].folder and recipe.data.crop > recipe.data.resize:
        problems.append(
            Problem(
                "data.crop",
                f"a crop of {recipe.data.crop} pixels does not fit into {recipe.data.resize}",
                "make it at most data.resize",
                "data.resize",
            )
        )
    if DATASETS[recipe.data.name].channels == 1 and recipe.data.normalize == "imagenet":
        problems.append(
            Problem(
                "data.normalize",
                f"`{recipe.data.name}` is grey; ImageNet's mean and deviation are for colour",
                "use `dataset`",
                "data.name",
            )
        )
    if recipe.distill and recipe.distill.hard_weight + recipe.distill.soft_weight == 0:
        problems.append(
            Problem("distill.hard_weight", "both losses weigh 0", "give one of them a weight")
        )
    return problems + _per_channel(recipe.quant)


def _per_channel(quant: QuantSection) -> list[Problem]:
    """Say of what per_channel is, where there are only activations that it could be meant for."""
    label = "is of weights, which are not quantized here; activations have one step size a tensor"
    problems = []
    weights = quant.spec().bits_of("weight")
    if quant.per_channel and quant.spec().quantized and weights == {FLOAT_BITS}:
        help_ = "leave `per_channel` out, or quantize the weights"
        problems.append(Problem("quant.per_channel", label, help_, "quant.weight_bits"))
    problems += [
        Problem("quant.overrides", f"`per_channel` {label}", "leave it out", glob=glob)
        for glob, one in quant.overrides.items()
        if one.per_channel and one.weight_bits == FLOAT_BITS
    ]
    return problems


def _of_the_schedule(train: TrainSection) -> list[Problem]:
    problems = []
    if train.warmup_epochs > train.epochs:
        problems.append(
            Problem(
                "train.warmup_epochs",
                f"warm-up of {train.warmup_epochs:g} epochs is longer than the training",
                "make it at most train.epochs",
                "train.epochs",
            )
        )
    if train.bn_freeze_epochs > train.epochs:
        problems.append(
            Problem(
                "train.bn_freeze_epochs",
                f"the last {train.bn_freeze_epochs} epochs are more than there are",
                "make it at most train.epochs",
                "train.epochs",
            )
        )
    if train.nesterov and train.momentum == 0:
        problems.append(
            Problem("train.nesterov", "needs momentum", "set train.momentum", "train.momentum")
        )
    return problems


def _of_the_headline(train: TrainSection) -> list[Problem]:
    key, problems = "train.headline_variant", []
    if train.headline_variant == "ema" and (train.ema_decay is None or train.epochs == 0):
        lacking = "train.epochs" if train.ema_decay else "train.ema_decay"
        problems.append(
            Problem(key, "no averaged weights are kept", f"set {lacking}, or use `raw`", lacking)
        )
    if train.headline_variant == "bn" and not train.bn_reestimate_images:
        lacking = "train.bn_reestimate_images"
        problems.append(
            Problem(key, "batch norm is not estimated again", f"set {lacking}", lacking)
        )
    if train.headline_variant == "bn" and train.headline == "best":
        problems.append(
            Problem(
                key,
                "batch norm is estimated again after the last epoch only",
                "use train.headline: last",
                "train.headline",
            )
        )
    return problems


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = raw.get(name)
    return part if isinstance(part, Mapping) else {}
