"""What keys say about each other: defaults that follow, and values that conflict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lsqctl.datasets import DATASETS
from lsqctl.quant.methods import FREEZABLE_BITS, OFF
from lsqctl.quant.methods import conflicts as method_conflicts
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe.quant_section import QuantSection
from lsqctl.recipe.recipe import Recipe
from lsqctl.recipe.sections import DataSection
from lsqctl.recipe.train_section import TrainSection


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """Keys that are each fine but do not fit together. ``key`` is dotted; ``other_key`` too.

    ``glob`` says which of ``quant.overrides`` it is about.
    """

    key: str
    message: str
    hint: str
    other_key: str | None = None
    glob: str = ""


def derived_defaults(raw: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    """Return the defaults that depend on other keys: dotted key to (value, origin).

    ``raw`` is a recipe as written, possibly wrong in parts; wrong parts derive nothing.
    """
    derived: dict[str, tuple[object, str]] = {}
    dataset = _raw_section(raw, "data").get("name")
    if isinstance(dataset, str) and dataset in DATASETS:
        info, origin = DATASETS[dataset], f"default of {dataset}"
        derived |= {"data.pad": (info.pad, origin), "data.flip": (info.flip, origin)}
    quant = _raw_section(raw, "quant")
    for tensor in ("weight", "act"):
        bits = quant.get(f"{tensor}_bits", FLOAT_BITS)
        value = 8 if type(bits) is int and bits < FLOAT_BITS else FLOAT_BITS
        for layer in ("first", "last"):
            derived[f"quant.{layer}_{tensor}_bits"] = (value, f"follows quant.{tensor}_bits")
    return derived


def cross_check(recipe: Recipe) -> list[KeyConflict]:
    """Return what is wrong between keys that are each valid."""
    conflicts = _schedule_conflicts(recipe.train) + _headline_conflicts(recipe.train)
    conflicts += _data_conflicts(recipe.data)
    if 2 * recipe.train.accumulate > max(2, recipe.data.batch_size):
        conflicts.append(
            KeyConflict(
                "train.accumulate",
                f"{recipe.train.accumulate} pieces of {recipe.data.batch_size} images: batch norm "
                "needs two images in each",
                "make it at most half of data.batch_size",
                "data.batch_size",
            )
        )
    if recipe.model.head == "new" and recipe.model.weights is None:
        hint = "set model.weights, or leave `head` out"
        message = "there are no weights whose classifier could be replaced"
        conflicts.append(KeyConflict("model.head", message, hint))
    conflicts += _distill_conflicts(recipe) + _method_conflicts(recipe.quant)
    return conflicts + _per_channel_conflicts(recipe.quant)


def _distill_conflicts(recipe: Recipe) -> list[KeyConflict]:
    conflicts = []
    weights = recipe.distill and recipe.distill.hard_weight + recipe.distill.soft_weight
    if weights == 0 and not (recipe.distill and recipe.distill.features):
        conflicts.append(
            KeyConflict("distill.hard_weight", "both losses weigh 0", "give one of them a weight")
        )
    if recipe.distill and recipe.distill.cache and not recipe.data.views:
        message = "every epoch sees images of its own, so no output of the teacher is used twice"
        hint = "set data.views, 8 for example, or leave `cache` out"
        conflicts.append(KeyConflict("distill.cache", message, hint, "data.views"))
    if recipe.distill and recipe.distill.features and recipe.distill.cache:
        message = "the teacher's features are not kept: it is asked in every step all the same"
        conflicts.append(
            KeyConflict("distill.features", message, "leave one of them out", "distill.cache")
        )
    if recipe.data.flip_order == "alternating" and not recipe.data.flip:
        hint = "set data.flip, or leave `flip_order` out"
        conflicts.append(KeyConflict("data.flip_order", "no image is mirrored", hint, "data.flip"))
    if recipe.data.flip_order == "alternating" and recipe.data.views % 2:
        message = f"with {recipe.data.views} views the first follows the last, mirrored alike"
        hint = "make data.views even, or leave `flip_order` out"
        conflicts.append(KeyConflict("data.flip_order", message, hint, "data.views"))
    return conflicts


def _method_conflicts(quant: QuantSection) -> list[KeyConflict]:
    """Say which training methods exclude each other, or have nothing to act on."""
    values, spec = quant.method_values(), quant.to_spec()
    found = [
        KeyConflict(f"quant.{key}", message, hint, f"quant.{other_key}")
        for key, other_key, message, hint in method_conflicts(values)
    ]
    on = [key for key, value in values.items() if value != OFF[key]]
    fewest_bits = min(spec.bits_of("weight"))
    for key in on:
        hint = f"leave `{key}` out"
        if key == "freezing" and fewest_bits > FREEZABLE_BITS:
            message = f"no weight has {FREEZABLE_BITS} bits or fewer"
        elif key == "step_optimizer" and spec.quantized:
            weights_only = spec.bits_of("act") == {FLOAT_BITS} == {spec.residual_bits}
            if not (weights_only and "weight_steps" in on):
                continue
            message = "no step size is left that adam could train"
        elif fewest_bits == FLOAT_BITS:
            message = "nothing is quantized that it could act on"
        else:
            continue
        found.append(KeyConflict(f"quant.{key}", message, hint, "quant.weight_bits"))
    return found + _freezing_conflicts(quant)


def _freezing_conflicts(quant: QuantSection) -> list[KeyConflict]:
    first, last = quant.freezing_start, quant.freezing
    if first is None or (last is not None and first >= last):
        return []
    message = "nothing is frozen" if last is None else f"is below the {last:g} at the end"
    hint = "set quant.freezing, or leave it out" if last is None else "make it the larger one"
    return [KeyConflict("quant.freezing_start", message, hint, "quant.freezing")]


def _data_conflicts(data: DataSection) -> list[KeyConflict]:
    info, conflicts = DATASETS[data.name], []
    if info.is_image_folder and data.crop > data.resize:
        conflicts.append(
            KeyConflict(
                "data.crop",
                f"a crop of {data.crop} pixels does not fit into {data.resize}",
                "make it at most data.resize",
                "data.resize",
            )
        )
    if not info.is_image_folder:
        conflicts += _folder_key_conflicts(data)
    if info.channels == 1 and data.normalize == "imagenet":
        conflicts.append(
            KeyConflict(
                "data.normalize",
                f"`{data.name}` is grey; ImageNet's mean and deviation are for colour",
                "use `dataset`",
                "data.name",
            )
        )
    return conflicts


def _folder_key_conflicts(data: DataSection) -> list[KeyConflict]:
    """Say which keys of image folders are set for a dataset that is none."""
    conflicts = []
    if data.path is not None:
        conflicts.append(
            KeyConflict(
                "data.path",
                f"`{data.name}` is no folder of images and lies where its name says",
                "use `name: imagefolder`, or leave `path` out",
                "data.name",
            )
        )
    if data.decoder != "pil":
        conflicts.append(
            KeyConflict(
                "data.decoder",
                f"`{data.name}` is no folder of images: nothing is decoded",
                "leave `decoder` out",
                "data.name",
            )
        )
    return conflicts


def _per_channel_conflicts(quant: QuantSection) -> list[KeyConflict]:
    """Say of what per_channel is, where there are only activations that it could be meant for."""
    message = "is of weights, which are not quantized here; activations have one step size a tensor"
    conflicts = []
    weight_bits = quant.to_spec().bits_of("weight")
    if quant.per_channel and quant.to_spec().quantized and weight_bits == {FLOAT_BITS}:
        hint = "leave `per_channel` out, or quantize the weights"
        conflicts.append(KeyConflict("quant.per_channel", message, hint, "quant.weight_bits"))
    conflicts += [
        KeyConflict("quant.overrides", f"`per_channel` {message}", "leave it out", glob=glob)
        for glob, override in quant.overrides.items()
        if override.per_channel and override.weight_bits == FLOAT_BITS
    ]
    return conflicts


def _schedule_conflicts(train: TrainSection) -> list[KeyConflict]:
    conflicts = []
    too_long = {
        "warmup_epochs": f"warm-up of {train.warmup_epochs:g} epochs is longer than the training",
        "bn_freeze_epochs": f"the last {train.bn_freeze_epochs} epochs are more than there are",
    }
    for key, message in too_long.items():
        if getattr(train, key) > train.epochs:
            advice = "make it at most train.epochs"
            conflicts.append(KeyConflict(f"train.{key}", message, advice, "train.epochs"))
    for key in ("bn_freeze_epochs", "bn_reestimate_images") if train.stop else ():
        if getattr(train, key):
            message = "the last epoch, which that needs, is not known beforehand"
            conflicts.append(
                KeyConflict("train.stop", message, "leave one of them out", f"train.{key}")
            )
    if train.nesterov and train.momentum == 0:
        conflicts.append(
            KeyConflict("train.nesterov", "needs momentum", "set train.momentum", "train.momentum")
        )
    return conflicts


def _headline_conflicts(train: TrainSection) -> list[KeyConflict]:
    key, conflicts = "train.headline_variant", []
    if train.headline_variant == "ema" and (train.ema_decay is None or train.epochs == 0):
        missing_key = "train.epochs" if train.ema_decay else "train.ema_decay"
        conflicts.append(
            KeyConflict(
                key, "no averaged weights are kept", f"set {missing_key}, or use `raw`", missing_key
            )
        )
    if train.headline_variant == "bn" and not train.bn_reestimate_images:
        missing_key = "train.bn_reestimate_images"
        conflicts.append(
            KeyConflict(key, "batch norm is not estimated again", f"set {missing_key}", missing_key)
        )
    if train.headline_variant == "bn" and train.headline == "best":
        conflicts.append(
            KeyConflict(
                key,
                "batch norm is estimated again after the last epoch only",
                "use train.headline: last",
                "train.headline",
            )
        )
    return conflicts


def _raw_section(raw: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = raw.get(name)
    return section if isinstance(section, Mapping) else {}
