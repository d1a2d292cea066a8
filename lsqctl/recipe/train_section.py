"""The keys under `train`: the optimizer, its schedule, its arithmetic, and which result counts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lsqctl.recipe.sections import Section, unit_schema


class StopSection(Section):
    """When the training ends before its last epoch: a metric that no longer improves."""

    metric: Literal["top1", "loss"] = Field(
        "top1", description="what must improve: Top-1 or mean loss of the evaluation split"
    )
    patience: int = Field(
        ge=1,
        le=100_000,
        description="so many epochs in a row without improvement end the training",
        json_schema_extra=unit_schema("epochs"),
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="what counts as an improvement is more than this, in percent points or nats",
        json_schema_extra=unit_schema("1"),
    )


class TrainSection(Section):
    """The optimizer and its schedule."""

    epochs: int = Field(
        90,
        ge=0,
        le=100_000,
        description="passes over the training images; 0 evaluates and trains nothing",
        json_schema_extra=unit_schema("epochs"),
    )
    lr: float = Field(
        0.01,
        gt=0,
        le=1000,
        description="first learning rate of SGD",
        json_schema_extra=unit_schema("1"),
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="momentum of SGD", json_schema_extra=unit_schema("1")
    )
    nesterov: bool = Field(False, description="Nesterov's form of momentum")
    weight_decay: float = Field(
        1e-4,
        ge=0,
        le=1,
        description="weight decay of convolution and linear weights; never of biases and norms",
        json_schema_extra=unit_schema("1"),
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate a step: half a cosine down to 0, or constant"
    )
    warmup_epochs: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="linear warm-up of the learning rate",
        json_schema_extra=unit_schema("epochs"),
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weight of the uniform distribution in the targets",
        json_schema_extra=unit_schema("1"),
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=65536,
        description="pieces in which the images of a step pass through the network, their "
        "gradients added up: less memory, the same mean loss (batch norm, and N_F by numel, see "
        "one piece)",
        json_schema_extra=unit_schema("pieces"),
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="largest L2 norm of a step's gradients, all parameters and step sizes taken "
        "together; null does not clip",
        json_schema_extra=unit_schema("1"),
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep averaged weights, step sizes and running statistics too, counted every "
        "epoch as variant ema; after step n the decay is at most (1 + n) / (10 + n); null keeps "
        "none",
        json_schema_extra=unit_schema("1"),
    )
    bn_freeze_epochs: int = Field(
        0,
        ge=0,
        le=100_000,
        description="last epochs in which batch norm normalizes by its running statistics and "
        "leaves them as they are (gain and bias still learn)",
        json_schema_extra=unit_schema("epochs"),
    )
    bn_reestimate_images: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="training images, shuffled and not augmented, that estimate the running "
        "statistics again after training, counted as variant bn; 0 does not",
        json_schema_extra=unit_schema("images"),
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="arithmetic of layers: fp32, or bf16 or fp16 autocast (quantizers stay in "
        "fp32; fp16 scales the loss and leaves out steps that overflow); auto is bf16 where the "
        "device multiplies it, else fp32, decided at the first attempt",
    )
    evaluation: Literal["auto", "integer", "trained"] = Field(
        "auto",
        description="arithmetic in which a quantized network is evaluated: `integer`, that of its "
        "deployed file, to the last bit; `trained`, that of the training; auto is the first where "
        "that is possible: on a CPU, with layers that have an integer form",
    )
    stop: StopSection | None = Field(
        None,
        description="ends the training once `metric` (top1 or loss of the evaluation split, of "
        "headline_variant) has not improved by more than `min_delta` for `patience` epochs, as "
        "{metric: top1, patience: 5}; the schedule stays that of all epochs; null never does",
    )
    headline: Literal["last", "best"] = Field(
        "last",
        description="the result that counts: last epoch, or best (which is selected on the "
        "test set and says so)",
    )
    headline_variant: Literal["raw", "ema", "bn"] = Field(
        "raw",
        description="the weights that count: as trained, averaged (ema_decay), or with batch norm "
        "estimated again (bn_reestimate_images); all are kept. The best epoch is the best of ema "
        "where that counts, else of raw",
    )
