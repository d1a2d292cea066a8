"""The board as evaluation tables of Papers With Code's archive (the sota-extractor format)."""

from __future__ import annotations

from lsqctl.datasets import dataset_title
from lsqctl.leaderboard.board import Board, Table
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.formats.json_text import json_text
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.schema import Entry

PWC_METRICS = ("Top-1 Accuracy (%)", "Top-5 Accuracy (%)", "Weight bits", "Activation bits")


@board_format(
    "pwc-json",
    columns=False,
    deviations=False,
    description="evaluation tables of the Papers With Code archive (sota-extractor)",
)
def write(board: Board, _: OutputOptions) -> str:
    """Return the evaluation tables of Papers With Code's archive (the sota-extractor format).

    One task, Quantization; a dataset each; metrics as texts. A row's ``paper_url`` is where a
    published row was read, and empty for local runs. Runs on a part of the images are left out.
    """
    task = {
        "task": "Quantization",
        "categories": [],
        "description": "",
        "source_link": None,
        "synonyms": [],
        "subtasks": [],
        "datasets": [_pwc_dataset(table) for table in board.tables if not table.partial],
    }
    return json_text([task])


def _pwc_dataset(table: Table) -> dict[str, object]:
    return {
        "dataset": dataset_title(table.dataset),
        "description": "",
        "dataset_links": [],
        "dataset_citations": [],
        "subdatasets": [],
        "sota": {"metrics": list(PWC_METRICS), "rows": [_pwc_row(entry) for entry in table.rows]},
    }


def _pwc_row(entry: Entry) -> dict[str, object]:
    values = (entry.top1_mean, entry.top5_mean, entry.weight_bits, entry.act_bits)
    metrics = {
        name: str(value)
        for name, value in zip(PWC_METRICS, values, strict=True)
        if value is not None
    }
    return {
        "model_name": entry.model,
        "paper_title": "",
        "paper_url": entry.source_url or "",
        "paper_date": None,
        "code_links": [],
        "model_links": [],
        "metrics": metrics,
        "uses_additional_data": False,
    }
