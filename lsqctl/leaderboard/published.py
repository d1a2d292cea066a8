"""One row of a published table, kept as it was written; and the reference that it amounts to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lsqctl.leaderboard.archive import LICENCE, ArchiveTable
from lsqctl.leaderboard.references import Reference

N_TOTAL = {"imagenet": 50_000, "cifar10": 10_000, "cifar100": 10_000, "mnist": 10_000}
"""Images of the evaluation split that tables of these datasets report on."""

_NUMBER = re.compile(r"[~≈]?\s*([+-]?[0-9]+(?:[.,][0-9]+)?)\s*%?\s*(?:(?:±|\+/-|\().*)?")
_BITS_IN_NAME = re.compile(r"(?<![A-Za-z0-9])W([0-9]{1,2})A([0-9]{1,2})(?![0-9])", re.IGNORECASE)
_TOP1 = ("top1accuracy", "accuracytop1", "top1", "top1acc", "accuracy", "percentagecorrect")
_TOP5 = ("top5accuracy", "accuracytop5", "top5", "top5acc")
_WEIGHT_BITS = ("weightbits", "weightsbits", "weightbitwidth")
_ACT_BITS = ("activationbits", "activationsbits", "actbits", "activationbitwidth")


@dataclass(frozen=True, slots=True)
class PublishedRow:
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


def published_rows(table: ArchiveTable) -> list[PublishedRow]:
    """Return the rows of an archive's table, each once, metrics in the table's order."""
    rows = (
        PublishedRow(
            _text(table.task),
            _text(table.dataset),
            _text(row["model_name"]),
            _metrics(row["metrics"], table.metrics),
            LICENCE,
            paper_title=_text(row.get("paper_title")),
            paper_url=_text(row.get("paper_url")),
            paper_date=_text(row.get("paper_date")),
            model_url=_first_url(row.get("model_links")) or _first_url(row.get("code_links")),
        )
        for row in table.rows
    )
    return list(dict.fromkeys(rows))


def dataset_key(name: str) -> str:
    """Return a dataset's name as recipes spell it: ``ImageNet`` is ``imagenet``.

    >>> dataset_key("CIFAR-10")
    'cifar10'
    """
    return re.sub(r"[^a-z0-9]+", "", name.lower()) or name


def clean_number(text: str) -> float | None:
    """Return the number that a metric's text means, or None: ``77.34%``, ``71.1 ± 0.2``, ``76,7``.

    >>> clean_number("77.34%"), clean_number("n/a")
    (77.34, None)
    """
    found = _NUMBER.fullmatch(text.strip().replace("−", "-"))
    return float(found[1].replace(",", ".")) if found else None


def as_reference(row: PublishedRow) -> Reference | str:
    """Return the row of the board that a published row amounts to, or why there is none.

    A board's row needs a Top-1 in percent and the bits of weights and activations: from its
    metrics, else from a ``W4A4`` in the model's name.
    """
    top1 = _value(row, _TOP1)
    if top1 is None:
        return "it has no Top-1 accuracy that is a number"
    if not 1 < top1 <= 100:
        return f"its Top-1 of {top1:g} is no percentage from 1 to 100"
    bits = _bits(row)
    if bits is None:
        return "its bits are not told"
    key = dataset_key(row.dataset)
    top5 = _value(row, _TOP5)
    try:
        return Reference(
            dataset=key,
            model=row.model,
            arch="",
            method="",
            weight_bits=bits[0],
            act_bits=bits[1],
            top1=top1,
            top5=top5 if top5 is not None and top1 <= top5 <= 100 else None,
            n_total=N_TOTAL.get(key),
            source_kind="page",
            source_url=row.paper_url or row.model_url or "Papers With Code archive",
            quote=", ".join(f"{name} {text}" for name, text in row.metrics),
            page=f"pwc: {row.task}",
            notes=f"Papers With Code archive, {row.licence}",
        )
    except ValueError as error:
        return f"its {error}"


def _value(row: PublishedRow, names: Sequence[str]) -> float | None:
    found = {re.sub(r"[^a-z0-9]+", "", name.lower()): text for name, text in row.metrics}
    return next((clean_number(found[name]) for name in names if name in found), None)


def _bits(row: PublishedRow) -> tuple[int, int] | None:
    found = _value(row, _WEIGHT_BITS), _value(row, _ACT_BITS)
    if None not in found and all(bits == int(bits) for bits in found if bits is not None):
        return int(found[0] or 0), int(found[1] or 0)
    named = _BITS_IN_NAME.search(row.model)
    return (int(named[1]), int(named[2])) if named else None


def _metrics(values: Mapping[str, Any], order: Sequence[str]) -> tuple[tuple[str, str], ...]:
    names = [*(name for name in order if name in values), *sorted(values.keys() - set(order))]
    return tuple((_text(name), _text(values[name])) for name in names if _text(values[name]))


def _text(value: object) -> str:
    """Return any value as text that UTF-8 can hold: half a surrogate pair becomes ``?``."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _first_url(links: object) -> str:
    first = links[0] if isinstance(links, list) and links else None
    return _text(first.get("url")) if isinstance(first, Mapping) else ""
