"""The quant section: bits, overrides by layer, and how the steps of LSQ begin and learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from lsqctl.quant.spec import FLOAT_BITS, SIGN_TO_SIGNED, LayerOverride, QuantSpec
from lsqctl.recipe.sections import Bits, Section, unit_schema


class OverrideSection(Section):
    """What the layers of one glob have instead of the settings of the quant section."""

    weight_bits: Bits | None = Field(None, description="bits of the weights")
    act_bits: Bits | None = Field(None, description="bits of the activations that enter the layer")
    per_channel: bool | None = Field(None, description="a step for each output channel")
    narrow_range: bool | None = Field(None, description="drop the lowest signed code")
    act_signed: Literal["auto", "signed", "unsigned"] | None = Field(
        None, description="sign of the activations"
    )
    act_offset: Literal["none", "learned"] | None = Field(
        None, description="a learned offset of the activations"
    )
    init: Literal["paper", "mse", "lsq_plus", "percentile"] | None = Field(
        None, description="first step size"
    )
    percentile: Annotated[float, Field(gt=50, le=100)] | None = Field(
        None, description="used by init: percentile", json_schema_extra=unit_schema("% of |v|")
    )

    @model_validator(mode="after")
    def _require_a_key(self) -> OverrideSection:
        if not self.model_dump():
            raise PydanticCustomError(
                "says_nothing", "changes nothing: give it a key, or leave it out"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: Callable[[object], dict[str, object]]) -> dict[str, object]:
        return {key: value for key, value in serialize(self).items() if value is not None}


def _from_pairs(value: object) -> object:
    """Return a mapping of the pairs that JSON has in its place."""
    if isinstance(value, list) and all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        return {pair[0]: pair[1] for pair in value}
    return value


def _to_pairs(overrides: dict[str, OverrideSection]) -> list[tuple[str, object]]:
    """Return pairs: a JSON object's keys may be sorted, and the order matters."""
    return [(glob, override.model_dump(mode="json")) for glob, override in overrides.items()]


Overrides = Annotated[
    dict[str, OverrideSection],
    BeforeValidator(_from_pairs),
    PlainSerializer(_to_pairs, when_used="json"),
]


class QuantSection(Section):
    """Bits, and how the steps of LSQ begin and learn."""

    weight_bits: Bits = Field(FLOAT_BITS, description="bits of weights; 32 is not quantized")
    act_bits: Bits = Field(
        FLOAT_BITS, description="bits of the activations that enter a layer; 32 is not quantized"
    )
    first_weight_bits: Bits = Field(
        FLOAT_BITS,
        description="the first layer's weight bits; left out, 8 if quant.weight_bits is below 32",
    )
    first_act_bits: Bits = Field(
        FLOAT_BITS,
        description="bits of the network's input; left out, 8 if quant.act_bits is below 32",
    )
    last_weight_bits: Bits = Field(
        FLOAT_BITS,
        description="the last layer's weight bits; left out, 8 if quant.weight_bits is below 32",
    )
    last_act_bits: Bits = Field(
        FLOAT_BITS,
        description="the last layer's input bits; left out, 8 if quant.act_bits is below 32",
    )
    per_channel: bool = Field(
        False, description="a step for each output channel of a weight; activations have one"
    )
    narrow_range: bool = Field(False, description="drop the lowest signed code: a symmetric grid")
    act_signed: Literal["auto", "signed", "unsigned"] = Field(
        "auto", description="sign of activations; auto looks at the calibration batch, per layer"
    )
    act_offset: Literal["none", "learned"] = Field(
        "none",
        description="learned moves the grid of activations by a learned offset (LSQ+), with "
        "act_signed: auto only where the calibration batch is negative somewhere",
    )
    init: Literal["paper", "mse", "lsq_plus", "percentile"] = Field(
        "paper",
        description="first step size: 2<|v|>/sqrt(Q_P), least squared error, LSQ+'s three "
        "deviations, or a percentile",
    )
    percentile: float = Field(
        99.9,
        gt=50,
        le=100,
        description="used by init: percentile",
        json_schema_extra=unit_schema("% of |v|"),
    )
    n_features: Literal["per_sample", "numel", "channels"] = Field(
        "per_sample", description="the reading of N_F in the gradient scale 1/sqrt(N_F Q_P)"
    )
    calibration_images: int = Field(
        512,
        ge=1,
        le=65536,
        description="training images, shuffled, that give activation steps their first value",
        json_schema_extra=unit_schema("images"),
    )
    step_weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight decay of the step sizes",
        json_schema_extra=unit_schema("1"),
    )
    step_lr_scale: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="learning rate of the step sizes over train.lr",
        json_schema_extra=unit_schema("ratio"),
    )

    residual_bits: Bits = Field(
        FLOAT_BITS,
        description="bits of both inputs of residual additions; 32 leaves them alone, as the paper",
    )
    overrides: Overrides = Field(
        {},
        description="other settings for layers by a glob on their names (`*` spans dots), the "
        "first and last layer included; of two that match a layer, the later one wins: "
        '{"layer1.*": {weight_bits: 8}}',
    )

    def to_spec(self) -> QuantSpec:
        """Return the same settings as the quantization library takes them."""
        shared = QuantSpec.__dataclass_fields__.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared - {"act_signed", "overrides"}}
        overrides = {
            glob: LayerOverride(**dict(override)) for glob, override in self.overrides.items()
        }
        return QuantSpec(**values, act_signed=SIGN_TO_SIGNED[self.act_signed], overrides=overrides)
