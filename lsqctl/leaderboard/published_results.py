"""Published results: the bundled ones, a workspace's own, and those of Papers With Code rows."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from importlib.resources import files

from lsqctl.datasets import DATASETS
from lsqctl.errors import DataError
from lsqctl.leaderboard.pwc_archive import ARCHIVE_LICENCE, ArchiveTable
from lsqctl.quant.spec import check_bits
from lsqctl.run import JsonObject
from lsqctl.text import did_you_mean

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

    @property
    def key(self) -> tuple[str, str]:
        """Its dataset and model, which tell it from every other row of its source."""
        return self.dataset, self.model

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
    entries = document.get("result", [])
    if document.keys() - {"result"} or not isinstance(entries, list):
        raise DataError(f"{source_name}: only [[result]] entries may stand here")
    results = [
        _parse_entry(entry, f"{source_name}: entry {n}") for n, entry in enumerate(entries, 1)
    ]
    _check_distinct(results, source_name)
    return results


def _parse_entry(entry: object, location: str) -> PublishedResult:
    if not isinstance(entry, Mapping):
        raise DataError(f"{location}: must be a table of keys")
    location += f" ({entry.get('model', 'without a model')})"
    _check_keys(entry, PublishedResult, location)
    values: JsonObject = dict(entry)
    try:
        return PublishedResult(**values)
    except ValueError as error:
        raise DataError(f"{location}: {error}") from error


def _check_keys(
    values: Mapping[str, object], result_class: type[PublishedResult] | type[PwcRow], location: str
) -> None:
    """Raise DataError for a key that the class does not have, and for one that is missing."""
    field_names = [field.name for field in fields(result_class)]
    for key in sorted(values.keys() - set(field_names)):
        raise DataError(f"{location}: unknown key `{key}`{did_you_mean(key, field_names)}")
    required = [field.name for field in fields(result_class) if field.default is MISSING]
    if missing := [name for name in required if name not in values]:
        raise DataError(f"{location}: {', '.join(missing)} missing")


def _check_distinct(results: list[PublishedResult], source_name: str) -> None:
    seen: set[tuple[str, str]] = set()
    for number, result in enumerate(results, 1):
        if result.key in seen:
            raise DataError(
                f"{source_name}: entry {number} ({result.model}): this model stands twice for "
                f"{result.dataset}; give each row a name of its own"
            )
        seen.add(result.key)


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


_NUMBER = re.compile(r"[~≈]?\s*([+-]?[0-9]+(?:[.,][0-9]+)?)\s*%?\s*(?:(?:±|\+/-|\().*)?")
_BITS_IN_NAME = re.compile(r"(?<![A-Za-z0-9])W([0-9]{1,2})A([0-9]{1,2})(?![0-9])", re.IGNORECASE)
_TOP1_NAMES = ("top1accuracy", "accuracytop1", "top1", "top1acc", "accuracy", "percentagecorrect")
_TOP5_NAMES = ("top5accuracy", "accuracytop5", "top5", "top5acc")
_WEIGHT_BITS_NAMES = ("weightbits", "weightsbits", "weightbitwidth")
_ACT_BITS_NAMES = ("activationbits", "activationsbits", "actbits", "activationbitwidth")


@dataclass(frozen=True, slots=True)
class PwcRow:
    """A row of a Papers With Code table; ``metrics`` are (name, text) in the table's order."""

    task: str
    dataset: str
    model: str
    metrics: tuple[tuple[str, str], ...]
    licence: str
    paper_title: str = ""
    paper_url: str = ""
    paper_date: str = ""
    model_url: str = ""


def pwc_rows(table: ArchiveTable) -> list[PwcRow]:
    """Return the rows of an archive's table, each once, metrics in the table's order."""
    rows = (
        PwcRow(
            _to_text(table.task),
            _to_text(table.dataset),
            _to_text(row["model_name"]),
            _ordered_metrics(row["metrics"], table.metrics),
            ARCHIVE_LICENCE,
            paper_title=_to_text(row.get("paper_title")),
            paper_url=_to_text(row.get("paper_url")),
            paper_date=_to_text(row.get("paper_date")),
            model_url=_first_url(row.get("model_links")) or _first_url(row.get("code_links")),
        )
        for row in table.rows
    )
    return list(dict.fromkeys(rows))


def dataset_key(dataset: str) -> str:
    """Return a dataset's name as recipes spell it: ``ImageNet`` is ``imagenet``.

    >>> dataset_key("CIFAR-10"), dataset_key("Fashion-MNIST"), dataset_key("SVHN")
    ('cifar10', 'fashion_mnist', 'svhn')
    """
    folded = _fold(dataset)
    return _datasets_by_spelling().get(folded, folded) or dataset


@cache
def _datasets_by_spelling() -> Mapping[str, str]:
    """Return the name of each dataset by its name and its title, folded."""
    spellings = (
        (name, spelling) for name, info in DATASETS.items() for spelling in (name, info.title)
    )
    return {_fold(spelling): name for name, spelling in spellings}


def _fold(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def parse_number(text: str) -> float | None:
    """Return the number that a metric's text means, or None: ``77.34%``, ``71.1 ± 0.2``, ``76,7``.

    >>> parse_number("77.34%"), parse_number("n/a")
    (77.34, None)
    """
    match = _NUMBER.fullmatch(text.strip().replace("−", "-"))
    return float(match[1].replace(",", ".")) if match else None


def to_published_result(row: PwcRow) -> PublishedResult | str:
    """Return the row of the board that a published row amounts to, or why there is none.

    A board's row needs a Top-1 in percent and the bits of weights and activations: from its
    metrics, else from a ``W4A4`` in the model's name.
    """
    top1 = _metric_value(row, _TOP1_NAMES)
    if top1 is None:
        return "it has no Top-1 accuracy that is a number"
    if not 1 < top1 <= 100:
        return f"its Top-1 of {top1:g} is no percentage from 1 to 100"
    bits = _bit_widths(row)
    if bits is None:
        return "its bits are not told"
    key = dataset_key(row.dataset)
    top5 = _metric_value(row, _TOP5_NAMES)
    try:
        return PublishedResult(
            dataset=key,
            model=row.model,
            arch="",
            method="",
            weight_bits=bits[0],
            act_bits=bits[1],
            top1=top1,
            top5=top5 if top5 is not None and top1 <= top5 <= 100 else None,
            n_total=DATASETS[key].eval_images if key in DATASETS else None,
            source_kind="page",
            source_url=row.paper_url or row.model_url or "Papers With Code archive",
            quote=", ".join(f"{name} {text}" for name, text in row.metrics),
            page=f"pwc: {row.task}",
            notes=f"Papers With Code archive, {row.licence}",
        )
    except ValueError as error:
        return f"its {error}"


def _metric_value(row: PwcRow, names: Sequence[str]) -> float | None:
    texts = {re.sub(r"[^a-z0-9]+", "", name.lower()): text for name, text in row.metrics}
    return next((parse_number(texts[name]) for name in names if name in texts), None)


def _bit_widths(row: PwcRow) -> tuple[int, int] | None:
    values = _metric_value(row, _WEIGHT_BITS_NAMES), _metric_value(row, _ACT_BITS_NAMES)
    if None not in values and all(bits == int(bits) for bits in values if bits is not None):
        return int(values[0] or 0), int(values[1] or 0)
    match = _BITS_IN_NAME.search(row.model)
    return (int(match[1]), int(match[2])) if match else None


def _ordered_metrics(
    values: Mapping[str, object], metric_names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    names = [
        *(name for name in metric_names if name in values),
        *sorted(values.keys() - set(metric_names)),
    ]
    return tuple(
        (_to_text(name), _to_text(values[name])) for name in names if _to_text(values[name])
    )


def _to_text(value: object) -> str:
    """Return any value as text that UTF-8 can hold: half a surrogate pair becomes ``?``."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _first_url(links: object) -> str:
    first = links[0] if isinstance(links, list) and links else None
    return _to_text(first.get("url")) if isinstance(first, Mapping) else ""


KIND_RESULT, KIND_PWC = "row", "pwc"
_CLASSES: dict[str, type[PublishedResult] | type[PwcRow]] = {
    KIND_RESULT: PublishedResult,
    KIND_PWC: PwcRow,
}


@dataclass(frozen=True, slots=True)
class WorkspaceResults:
    """What a workspace has besides the bundled rows, in the order in which it came."""

    published: tuple[PublishedResult, ...] = ()
    pwc_rows: tuple[PwcRow, ...] = ()

    def merged_with(self, bundled: Iterable[PublishedResult]) -> list[PublishedResult]:
        """Return the published results of a board: no result twice, the bundled ones first."""
        by_key = {_result_key(result): result for result in bundled}
        for result in (*self.published, *map(to_published_result, self.pwc_rows)):
            if isinstance(result, PublishedResult):
                by_key.setdefault(_result_key(result), result)
        return list(by_key.values())


def dump_workspace_results(results: WorkspaceResults) -> str:
    """Return the text of the file."""
    lines = [
        *({"kind": KIND_RESULT, **_non_default_fields(result)} for result in results.published),
        *({"kind": KIND_PWC, **_non_default_fields(result)} for result in results.pwc_rows),
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def parse_workspace_results(text: str, *, source_name: str) -> WorkspaceResults:
    """Return what the text of the file holds.  Raises DataError, naming the line."""
    published, rows = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028
        if not line.strip():
            continue
        result = _parse_line(line, f"{source_name}:{number}")
        if isinstance(result, PublishedResult):
            published.append(result)
        else:
            rows.append(result)
    return WorkspaceResults(tuple(published), tuple(rows))


def _result_key(result: PublishedResult) -> tuple[object, ...]:
    return result.dataset, result.model, result.weight_bits, result.act_bits, result.top1


def _non_default_fields(result: PublishedResult | PwcRow) -> JsonObject:
    defaults = {field.name: field.default for field in fields(result)}
    return {name: value for name, value in asdict(result).items() if value != defaults[name]}


def _parse_line(line: str, location: str) -> PublishedResult | PwcRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: not JSON: {error}") from None
    kind = values.pop("kind", None) if isinstance(values, dict) else None
    if kind not in _CLASSES:
        raise DataError(f'{location}: not a published row: `"kind": "row"` or `"pwc"` is missing')
    result_class = _CLASSES[kind]
    _check_keys(values, result_class, location)
    try:
        return PublishedResult(**values) if result_class is PublishedResult else _to_pwc_row(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location}: {error}") from None


def _to_pwc_row(values: JsonObject) -> PwcRow:
    metrics = tuple((str(name), str(text)) for name, text in values["metrics"])
    texts = {name: str(text) for name, text in values.items() if name != "metrics"}
    return PwcRow(**texts, metrics=metrics)
