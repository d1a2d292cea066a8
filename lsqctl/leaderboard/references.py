"""Published rows to compare with: each number with its source and the words it was read from."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from typing import Any

from lsqctl.errors import DataError, did_you_mean
from lsqctl.quant.spec import check_bits

SOURCE_KINDS = ("paper", "readme", "page")
PWC_PAGE = "pwc-lsq"
"""The rows of the LSQ paper's page on Papers With Code."""
ABLATIONS_PAGE = "lsq-ablations"
"""The rows of the paper's ablations: not what its recipe reaches."""

_OPTIONAL_NUMBERS = ("top5", "fp32_top1")


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One published result, as printed; ``top1``, ``top5`` and ``fp32_top1`` in percent.

    ``n_total`` images were evaluated (None: not known, so no interval). ``source_kind`` is paper,
    readme or page; ``source_url`` a URL or a file. ``quote`` is what the number was read from.
    ``page`` names a set of rows that can be shown alone. ``arch`` and ``method`` may be empty:
    not told.
    """

    dataset: str
    model: str
    arch: str
    method: str
    weight_bits: int
    act_bits: int
    top1: float
    source_kind: str
    source_url: str
    quote: str
    top5: float | None = None
    fp32_top1: float | None = None
    n_total: int | None = None
    page: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("dataset", "model", "source_kind", "source_url", "quote"):
            _check_text(name, getattr(self, name), may_be_empty=False)
        for name in ("arch", "method", "page", "notes"):
            _check_text(name, getattr(self, name), may_be_empty=True)
        for name in ("weight_bits", "act_bits"):
            check_bits(getattr(self, name), name)
        _check_percent("top1", self.top1)
        for name in _OPTIONAL_NUMBERS:
            if getattr(self, name) is not None:
                _check_percent(name, getattr(self, name))
        if self.n_total is not None and (type(self.n_total) is not int or self.n_total < 1):
            raise ValueError(f"n_total must be a whole number of images, got {self.n_total!r}")
        if self.source_kind not in SOURCE_KINDS:
            raise ValueError(
                f"source_kind must be one of {', '.join(SOURCE_KINDS)}, got {self.source_kind!r}"
            )


def load_bundled_results(
    text: str | None = None, *, source_name: str = "published_results.toml"
) -> list[PublishedResult]:
    """Return the published results of a TOML text, or those that ship with lsqctl.

    Raises DataError, naming the file, the entry and the field.
    """
    if text is None:
        text = files("lsqctl.leaderboard").joinpath("published_results.toml").read_text("utf-8")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{source_name}: not TOML: {error}") from error
    entries = document.get("reference", [])
    if document.keys() - {"reference"} or not isinstance(entries, list):
        raise DataError(f"{source_name}: only [[reference]] entries may stand here")
    results = [
        _parse_entry(entry, f"{source_name}: entry {n}") for n, entry in enumerate(entries, 1)
    ]
    _check_distinct(results, source_name)
    return results


def _parse_entry(entry: object, location: str) -> PublishedResult:
    if not isinstance(entry, Mapping):
        raise DataError(f"{location}: must be a table of keys")
    location += f" ({entry.get('model', 'without a model')})"
    field_names = [field.name for field in fields(PublishedResult)]
    for key in sorted(entry.keys() - set(field_names)):
        raise DataError(f"{location}: unknown key `{key}`{did_you_mean(key, field_names)}")
    required = [field.name for field in fields(PublishedResult) if field.default is MISSING]
    if missing := [name for name in required if name not in entry]:
        raise DataError(f"{location}: {', '.join(missing)} missing")
    values: dict[str, Any] = dict(entry)
    try:
        return PublishedResult(**values)
    except ValueError as error:
        raise DataError(f"{location}: {error}") from error


def _check_distinct(results: list[PublishedResult], source_name: str) -> None:
    seen: set[tuple[str, str]] = set()
    for number, result in enumerate(results, 1):
        key = (result.dataset, result.model)
        if key in seen:
            raise DataError(
                f"{source_name}: entry {number} ({result.model}): this model stands twice for "
                f"{result.dataset}; give each row a name of its own"
            )
        seen.add(key)


def _check_text(name: str, value: object, *, may_be_empty: bool) -> None:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(
            f"{name} must be {'text' if may_be_empty else 'a text, not empty'}, got {value!r}"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} must be text that UTF-8 can hold, got {value!r}")


def _check_percent(name: str, value: object) -> None:
    if type(value) not in (int, float) or not math.isfinite(float(str(value))):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not 0 <= float(str(value)) <= 100:
        raise ValueError(f"{name} must be 0..100 percent, got {value!r}")
