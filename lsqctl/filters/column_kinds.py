"""The columns that a filter of runs may name, and their kinds; the board adds its own."""

from __future__ import annotations

from collections.abc import Mapping

from lsqctl.filters.expression import ColumnKind

# What each run has before anything is ranked: `store.filter_sql` makes SQL of these.
RESULT_COLUMN_KINDS: Mapping[str, ColumnKind] = {
    "run_id": "text",
    "seed": "number",
    "model": "text",
    "arch": "text",
    "dataset": "text",
    "method": "text",
    "weight_bits": "number",
    "act_bits": "number",
    "first_last_bits": "text",
    "granularity": "text",
    "params": "number",
    "size_bytes": "number",
    "gmacs": "number",
    "gbops": "number",
    "epochs": "number",
    "device": "text",
    "torch": "text",
    "precision": "text",
    "deterministic": "text",
    "recipe_sha256": "text",
    "code_commit": "text",
    "code_dirty": "bool",
    "created_at": "time",
}

RUN_COLUMN_KINDS: Mapping[str, ColumnKind] = {
    "id": "text",
    "name": "text",
    "state": "text",
    "reason": "text",
    "message": "text",
    "note": "text",
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
