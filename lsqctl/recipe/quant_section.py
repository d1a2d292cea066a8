"""The quant section: bits, overrides by layer, and how the steps of LSQ begin and learn.

What the quantization library declares (``lsqctl.quant.spec``) is a key here with its type, default,
bounds, unit and meaning; only what concerns training alone is declared below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field as DataclassField
from dataclasses import fields
from functools import reduce
from operator import or_
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lsqctl.quant.methods import METHODS
from lsqctl.quant.spec import (
    BIT_WIDTHS,
    FLOAT_BITS,
    LayerKeys,
    LayerOverride,
    ModelKeys,
    QuantSpec,
)
from lsqctl.recipe.sections import Bits, Section, unit_schema


def _section_of(keys: type[ModelKeys | LayerOverride]) -> type[Section]:
    """Return a section with the keys of ``keys``; of an override, each may be left out."""
    hints = get_type_hints(keys, include_extras=True)
    definitions: dict[str, Any] = {
        declared.name: _pydantic_field(hints[declared.name], declared) for declared in fields(keys)
    }
    return create_model(keys.__name__, __base__=Section, **definitions)


def _pydantic_field(hint: Any, declared: DataclassField[Any]) -> tuple[Any, Any]:
    """Return a key's type and pydantic's field, from its type hint and its declaration."""
    kind, default = _without_type_variable(hint), declared.default
    if get_origin(kind) is Annotated and get_args(kind)[1] == BIT_WIDTHS:
        kind, default = Bits, None if default is None else FLOAT_BITS
    meaning = declared.metadata
    if (meaning["above"], meaning["at_most"]) != (None, None):
        kind = Annotated[kind, Field(gt=meaning["above"], le=meaning["at_most"])]
    unit: Any = {"json_schema_extra": unit_schema(meaning["unit"])} if meaning["unit"] else {}
    field = Field(default, description=meaning["description"], **unit)
    return (kind | None if default is None else kind), field


def _without_type_variable(hint: Any) -> Any:
    if get_origin(hint) is not Union:
        return hint
    return reduce(or_, (part for part in get_args(hint) if not isinstance(part, TypeVar)))


if TYPE_CHECKING:

    class _ModelKeys(Section, ModelKeys):
        """What the line below makes, as mypy sees it."""

    class _LayerKeys(Section, LayerKeys[None]):
        """What the line below makes, as mypy sees it."""

else:
    _ModelKeys, _LayerKeys = _section_of(ModelKeys), _section_of(LayerOverride)


class OverrideSection(_LayerKeys):
    """What the layers of one glob have instead of the settings of the quant section."""

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


class QuantSection(_ModelKeys):
    """Bits, and how the steps of LSQ begin and learn."""

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
    weight_steps: Literal["learned", "statistic", "fixed"] = Field(
        "learned",
        description="step sizes of weights: learned (LSQ), in proportion to the mean |w| at every "
        "step (2302.02210), or kept at their first value",
    )
    step_optimizer: Literal["sgd", "adam"] = Field(
        "sgd",
        description="optimizer of the step sizes; adam moves each by about the learning rate a "
        "step, so set quant.step_lr_scale to 0.01 or less",
    )
    dampening: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="pull of weights to the middle of their code at the end of training, from 0 at "
        "its start (2203.11086); null does not",
        json_schema_extra=unit_schema("1"),
    )
    freezing: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="how often a weight of at most 4 bits may oscillate at the end of training "
        "before its code is frozen (2203.11086); null freezes none",
        json_schema_extra=unit_schema("changes a step"),
    )
    freezing_start: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the same at the start of training; null is quant.freezing",
        json_schema_extra=unit_schema("changes a step"),
    )
    transition_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of weights whose code is to change at a step, falling to 0 by half a "
        "cosine, in place of their learning rate (2404.19248); null has a learning rate",
        json_schema_extra=unit_schema("share"),
    )
    overrides: Overrides = Field(
        {},
        description="other settings for layers by a glob on their names (`*` spans dots), the "
        "first and last layer included; of two that match a layer, the later one wins: "
        '{"layer1.*": {weight_bits: 8}}',
    )

    def method_values(self) -> dict[str, object]:
        """Return the values of ``lsqctl.quant.methods``, by key."""
        start = self.freezing if self.freezing_start is None else self.freezing_start
        values = {key: getattr(self, key) for key in METHODS}
        return values | {"freezing": None if self.freezing is None else (start, self.freezing)}

    def to_spec(self) -> QuantSpec:
        """Return the same settings as the quantization library takes them."""
        values = {declared.name: getattr(self, declared.name) for declared in fields(ModelKeys)}
        overrides = {
            glob: LayerOverride(**dict(override)) for glob, override in self.overrides.items()
        }
        return QuantSpec(**values, overrides=overrides)
