"""The published rows that a workspace adds to the bundled ones: a file of one JSON object a line.

A line is a reference as a person gave it (``kind`` row), or a row of an archive as it was written
(``kind`` pwc), which the board shows where it amounts to a reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from lsqctl.errors import DataError, did_you_mean
from lsqctl.leaderboard.published import PublishedRow, as_reference
from lsqctl.leaderboard.references import Reference

ROW, PWC = "row", "pwc"
_KINDS: dict[str, type[Reference] | type[PublishedRow]] = {ROW: Reference, PWC: PublishedRow}


@dataclass(frozen=True, slots=True)
class Added:
    """What a workspace has besides the bundled rows, in the order in which it came."""

    references: tuple[Reference, ...] = ()
    rows: tuple[PublishedRow, ...] = ()

    def shown(self, bundled: Iterable[Reference]) -> list[Reference]:
        """Return all references of a board: no result twice, the bundled ones first."""
        found = {_result(one): one for one in bundled}
        for one in (*self.references, *map(as_reference, self.rows)):
            if isinstance(one, Reference):
                found.setdefault(_result(one), one)
        return list(found.values())


def dump_added(added: Added) -> str:
    """Return the text of the file."""
    lines = [
        *({"kind": ROW, **_told(one)} for one in added.references),
        *({"kind": PWC, **_told(one)} for one in added.rows),
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def load_added(text: str, *, where: str) -> Added:
    """Return what the text of the file holds.  Raises DataError, naming the line."""
    references, rows = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028
        if not line.strip():
            continue
        one = _parse(line, f"{where}:{number}")
        if isinstance(one, Reference):
            references.append(one)
        else:
            rows.append(one)
    return Added(tuple(references), tuple(rows))


def _result(one: Reference) -> tuple[object, ...]:
    return one.dataset, one.model, one.weight_bits, one.act_bits, one.top1


def _told(one: Reference | PublishedRow) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(one)}
    return {name: value for name, value in asdict(one).items() if value != defaults[name]}


def _parse(line: str, where: str) -> Reference | PublishedRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    kind = values.pop("kind", None) if isinstance(values, dict) else None
    if kind not in _KINDS:
        raise DataError(f'{where}: not a published row: `"kind": "row"` or `"pwc"` is missing')
    made = _KINDS[kind]
    known = [field.name for field in fields(made)]
    for key in sorted(values.keys() - set(known)):
        raise DataError(f"{where}: unknown key `{key}`{did_you_mean(key, known)}")
    needed = [field.name for field in fields(made) if field.default is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise DataError(f"{where}: {', '.join(missing)} missing")
    try:
        return Reference(**values) if made is Reference else _row(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from None


def _row(values: Mapping[str, Any]) -> PublishedRow:
    metrics = tuple((str(name), str(text)) for name, text in values["metrics"])
    texts = {name: str(text) for name, text in values.items() if name != "metrics"}
    return PublishedRow(**texts, metrics=metrics)
