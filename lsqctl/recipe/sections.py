"""The sections of a recipe: the type, default, bounds, unit and meaning of each key."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_files import Decoder
from lsqctl.discovery import NAME_PATTERN, is_plugin_name
from lsqctl.errors import LsqctlError
from lsqctl.models import MODELS, TIMM_PATTERN, TIMM_PREFIX
from lsqctl.quant.spec import BIT_WIDTHS


class Section(BaseModel):
    """A group of keys: strict types, no unknown key, no NaN, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def unit_schema(name: str) -> JsonDict:
    """Return what a key's schema says of its unit."""
    return {"unit": name}


def _check_bits(value: int) -> int:
    if value not in BIT_WIDTHS:
        raise PydanticCustomError("out_of_range", "must be 2..8, or 32 for not quantized")
    return value


def _check_registered(value: str, find: Callable[[str], object]) -> str:
    """Return a name that a registry finds; of a plugin's, say why it cannot be used."""
    try:
        find(value)
    except LsqctlError as error:
        if is_plugin_name(value):
            raise PydanticCustomError("plugin", "{reason}", {"reason": str(error)}) from None
        raise PydanticCustomError("choice", "is not one of the choices") from None
    return value


def _check_model_name(value: str) -> str:
    if value.startswith(TIMM_PREFIX):
        if not re.fullmatch(TIMM_PATTERN, value):
            raise PydanticCustomError(
                "timm_name",
                "must be timm/NAME, of letters, digits and `_`; without a tag, for weights are a "
                "file",
            )
        return value
    return _check_registered(value, MODELS.find)


Bits = Annotated[
    int,
    AfterValidator(_check_bits),
    Field(json_schema_extra={"unit": "bits", "choices": list(BIT_WIDTHS)}),
]
ModelName = Annotated[
    str,
    AfterValidator(_check_model_name),
    Field(
        json_schema_extra={
            "choices": sorted(MODELS),
            "or_pattern": f"^{NAME_PATTERN}$",  # a plugin's, or timm's
            "registry": MODELS.noun,
        }
    ),
]
DatasetName = Annotated[str, AfterValidator(partial(_check_registered, find=DATASETS.find))]


class RunRef(Section):
    """The trained weights of another run, named by its recipe; this run waits for it."""

    run: str = Field(min_length=1, description="name of the recipe whose weights are taken")


WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".th")

Weights = RunRef | Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ModelSection(Section):
    """The network and where its first weights come from."""

    name: ModelName = Field(
        description="network: one of lsqctl's own, a torchvision classifier (`lsqctl recipe "
        "schema` has their names), timm/NAME with the extra `timm`, or PLUGIN/NAME "
        "(docs/plugins.md)"
    )
    weights: Weights | None = Field(
        None,
        description=f"first weights: a file ({', '.join(WEIGHT_SUFFIXES)}) looked up beside the "
        "recipe and in the data folder, a torchvision weights name, or {run: NAME}; "
        "null starts from random ones",
    )
    head: Literal["match", "new"] = Field(
        "match",
        description="the classifier of model.weights: it must match the classes of the data, or is "
        "replaced by a new one, of random weights, where they differ",
    )


class DataSection(Section):
    """The images, their batches and their augmentation."""

    name: DatasetName = Field(
        description="dataset: `lsqctl data ls` has them; or PLUGIN/NAME (docs/plugins.md)",
        json_schema_extra={
            "choices": list(DATASETS),
            "or_pattern": f"^{NAME_PATTERN}$",
            "registry": DATASETS.noun,
        },
    )
    path: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="folder of the images, with `train` and `val`, or the file that `lsqctl data "
        "pack` made of it, or a list of files or folders (docs/data-layouts.md): in the data "
        "folder, or an absolute path; null is the folder that bears the dataset's name (image "
        "folders)",
    )
    limit_train: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="train on so many images, drawn once and for all seeds alike: a quick look, "
        "which the board marks as partial; null takes all",
        json_schema_extra=unit_schema("images"),
    )
    limit_eval: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="evaluate so many images, as above",
        json_schema_extra=unit_schema("images"),
    )
    batch_size: int = Field(
        128,
        ge=1,
        le=65536,
        description="images a training step, whatever train.accumulate is",
        json_schema_extra=unit_schema("images"),
    )
    eval_batch_size: int = Field(
        250,
        ge=1,
        le=65536,
        description="images an evaluation step; never changes a count",
        json_schema_extra=unit_schema("images"),
    )
    normalize: Literal["dataset", "imagenet", "none"] = Field(
        "dataset",
        description="mean and deviation the pixels are normalized by: the dataset's own, "
        "ImageNet's, or none (0..1)",
    )
    pad: int = Field(
        0,
        ge=0,
        le=64,
        description="random crop after zero padding by so much on each side (sets in memory)",
        json_schema_extra=unit_schema("pixels"),
    )
    flip: bool = Field(False, description="mirror every second training image, at random")
    flip_order: Literal["random", "alternating"] = Field(
        "random",
        description="alternating mirrors in each epoch what it did not in the one before "
        "(2404.00498); random draws anew",
    )
    views: int = Field(
        0,
        ge=0,
        le=9999,
        description="so many augmented views of each image, the same for every seed: epoch e sees "
        "view e mod views; 0 gives every epoch one of its own, drawn by the seed",
        json_schema_extra=unit_schema("views"),
    )
    resize: int = Field(
        256,
        ge=1,
        le=4096,
        description="resize before the crop (image folders)",
        json_schema_extra=unit_schema("pixels"),
    )
    resize_mode: Literal["shorter", "square"] = Field(
        "shorter", description="resize the shorter side, or both sides, to data.resize"
    )
    crop: int = Field(
        224,
        ge=1,
        le=4096,
        description="side of the crop: random in training, central in evaluation (image folders)",
        json_schema_extra=unit_schema("pixels"),
    )
    train_crop: Literal["random", "random_resized"] = Field(
        "random", description="training crop: a random place (the paper), or a random size as well"
    )
    interpolation: Literal["bilinear", "bicubic", "nearest"] = Field(
        "bilinear", description="how images are resized (with antialiasing)"
    )
    decoder: Decoder = Field(
        "pil",
        description="what decodes image files: Pillow, or the faster torchcodec, an extra, whose "
        "pixels differ (image folders)",
    )

    @property
    def label(self) -> str:
        """What the board calls the images: the dataset, or the folder that ``path`` names."""
        folder = PurePath(self.path or "").name
        return f"{self.name}-{folder}" if folder in DATASETS else folder or self.name

    @property
    def partial(self) -> bool:
        """Whether a part of the images is trained on or evaluated."""
        return self.limit_train is not None or self.limit_eval is not None

    @property
    def augmentation(self) -> dict[str, object]:
        """The keys that decide, beside mean and deviation, what the training images look like.

        Only those that this kind of dataset reads, and of these what is not as by default.
        """
        of_files = {"resize", "resize_mode", "crop", "train_crop", "interpolation", "decoder"}
        read = of_files if DATASETS[self.name].is_image_folder else {"pad"}
        return self.model_dump(
            include={"limit_train", "flip", "flip_order"} | read, exclude_defaults=True
        )

    @property
    def image_size(self) -> int:
        """Pixels a side of what the network is given."""
        dataset = DATASETS[self.name]
        return self.crop if dataset.is_image_folder else dataset.image_size


class ExtensionSection(Section):
    """The finished run that this one goes on from, with its weights, optimizer and averages."""

    run: str = Field(
        min_length=1,
        max_length=64,
        description="id of the finished run: its epochs are the first ones of train.epochs, and "
        "the schedule begins anew after them (`lsqctl runs extend` writes this)",
    )


class DistillSection(Section):
    """A teacher whose softened outputs join the loss."""

    teacher: Weights = Field(
        description="the teacher's weights: a file, a torchvision weights name, or {run: NAME}"
    )
    teacher_model: ModelName | None = Field(
        None, description="the teacher's network; null is the student's own, in full precision"
    )
    hard_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the loss on the labels",
        json_schema_extra=unit_schema("1"),
    )
    soft_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the loss on the teacher",
        json_schema_extra=unit_schema("1"),
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="divides both nets' outputs",
        json_schema_extra=unit_schema("1"),
    )
    features: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="weight of the mean squared difference to the teacher of what enters the last "
        "layer, both on the student's grid (2307.10638, which takes 0.5); null leaves it out",
        json_schema_extra=unit_schema("1"),
    )
    cache: bool = Field(
        False,
        description="compute the teacher's outputs once for each of data.views and keep them, in "
        "fp16, in the data folder, for every run with the same teacher and images",
    )
