"""The columns that `runs ls --where` may name, and their kinds.

Apart because the command line needs them without a database; the board's are its schema's.
"""

from __future__ import annotations

from collections.abc import Mapping

from lsqctl.filters.expression import ColumnKind

RUN_COLUMN_KINDS: Mapping[str, ColumnKind] = {
    "id": "text",
    "name": "text",
    "state": "text",
    "reason": "text",
    "message": "text",
    "note": "text",
    "user": "text",
    "origin": "text",
    "seed": "number",
    "attempt": "number",
    "priority": "number",
    "held": "bool",
    "epoch": "number",
    "epochs": "number",
    "step": "number",
    "top1": "number",
    "worker": "text",
    "recipe_sha256": "text",
    "code_commit": "text",
    "code_dirty": "bool",
    "created_at": "time",
    "started_at": "time",
    "finished_at": "time",
}
