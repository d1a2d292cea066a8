"""The columns that a filter of runs may name, and their kinds; the board adds its own."""

from __future__ import annotations

from collections.abc import Mapping

from lsqctl.filters.tree import Kind

# What each run has before anything is ranked: `store.filtering` makes SQL of these.
OF_RESULTS: Mapping[str, Kind] = {
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

OF_RUNS: Mapping[str, Kind] = {
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
