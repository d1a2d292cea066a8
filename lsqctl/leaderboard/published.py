"""One row of a published table, kept as it was written; and the reference that it amounts to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lsqctl.leaderboard.archive import ARCHIVE_LICENCE, ArchiveTable
from lsqctl.leaderboard.references import PublishedResult

EVAL_IMAGES = {"imagenet": 50_000, "cifar10": 10_000, "cifar100": 10_000, "mnist": 10_000}
"""Images of the evaluation split that tables of these datasets report on."""

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

    >>> dataset_key("CIFAR-10")
    'cifar10'
    """
    return re.sub(r"[^a-z0-9]+", "", dataset.lower()) or dataset


def parse_number(text: str) -> float | None:
    """Return the number that a metric's text means, or None: ``77.34%``, ``71.1 ± 0.2``, ``76,7``.

    >>> clean_number("77.34%"), clean_number("n/a")
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
            n_total=EVAL_IMAGES.get(key),
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
    values: Mapping[str, Any], metric_names: Sequence[str]
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
