"""The groups of keys of a recipe: each with type, default, bounds, unit and meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lsqctl.recipe.catalog import DATASETS
from lsqctl.recipe.fields import DatasetName, ModelName, Section, unit_schema


class RunRef(Section):
    """The trained weights of another run, named by its recipe; this run waits for it."""

    run: str = Field(min_length=1, description="name of the recipe whose weights are taken")


Weights = RunRef | Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ModelSection(Section):
    """The network and where its first weights come from."""

    name: ModelName = Field(
        description="network: a torchvision classifier, resnet8, cifar_resnet20/32/44/56/110, "
        "preact_resnet18/34/50/101/152, squeezenext23_2x, or timm/NAME with the extra `timm`"
    )
    weights: Weights | None = Field(
        None,
        description="first weights: a file (.safetensors, .pth, .pt, .th) looked up beside the "
        "recipe and in the data folder, a torchvision weights name, or {run: NAME}; "
        "null starts from random ones",
    )


class DataSection(Section):
    """The images, their batches and their augmentation."""

    name: DatasetName = Field(description="dataset", json_schema_extra={"choices": list(DATASETS)})
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

    @property
    def image_size(self) -> int:
        """Pixels a side of what the network is given."""
        dataset = DATASETS[self.name]
        return self.crop if dataset.is_image_folder else dataset.size


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
