"""What kinds of values a recipe's keys take: bit widths, names of networks and datasets."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe.catalog import DATASETS, MODEL_NAMES, TIMM_PATTERN, TIMM_PREFIX


class Section(BaseModel):
    """A group of keys: strict types, no unknown key, no NaN, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def unit_schema(name: str) -> dict[str, Any]:
    """Return what a key's schema says of its unit."""
    return {"unit": name}


def _check_bits(value: int) -> int:
    if not (2 <= value <= 8 or value == FLOAT_BITS):
        raise PydanticCustomError("out_of_range", "must be 2..8, or 32 for not quantized")
    return value


def _one_of(choices: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in choices:
            raise PydanticCustomError("choice", "is not one of the choices")
        return value

    return AfterValidator(check)


def _check_model_name(value: str) -> str:
    if value.startswith(TIMM_PREFIX):
        if not re.fullmatch(TIMM_PATTERN, value):
            raise PydanticCustomError(
                "timm_name",
                "must be timm/NAME, of letters, digits and `_`; without a tag, for weights are a "
                "file",
            )
    elif value not in MODEL_NAMES:
        raise PydanticCustomError("choice", "is not one of the choices")
    return value


BIT_WIDTHS = (2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
Bits = Annotated[
    int,
    AfterValidator(_check_bits),
    Field(json_schema_extra={"unit": "bits", "choices": list(BIT_WIDTHS)}),
]
ModelName = Annotated[
    str,
    AfterValidator(_check_model_name),
    Field(json_schema_extra={"choices": list(MODEL_NAMES), "or_pattern": f"^{TIMM_PATTERN}$"}),
]
DatasetName = Annotated[str, _one_of(DATASETS)]
