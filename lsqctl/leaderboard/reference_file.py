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
from lsqctl.leaderboard.published import PwcRow, to_published_result
from lsqctl.leaderboard.references import PublishedResult

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
        """Return all references of a board: no result twice, the bundled ones first."""
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


def _non_default_fields(result: PublishedResult | PwcRow) -> dict[str, Any]:
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
    field_names = [field.name for field in fields(result_class)]
    for key in sorted(values.keys() - set(field_names)):
        raise DataError(f"{location}: unknown key `{key}`{did_you_mean(key, field_names)}")
    required = [field.name for field in fields(result_class) if field.default is MISSING]
    if missing := [name for name in required if name not in values]:
        raise DataError(f"{location}: {', '.join(missing)} missing")
    try:
        return PublishedResult(**values) if result_class is PublishedResult else _to_pwc_row(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location}: {error}") from None


def _to_pwc_row(values: Mapping[str, Any]) -> PwcRow:
    metrics = tuple((str(name), str(text)) for name, text in values["metrics"])
    texts = {name: str(text) for name, text in values.items() if name != "metrics"}
    return PwcRow(**texts, metrics=metrics)
