"""Rows for other boards: Papers With Code's evaluation tables, and Hugging Face's model cards.

All three are JSON, which YAML readers accept too, so a model card can hold it between its ``---``.
"""

from __future__ import annotations

from collections.abc import Mapping

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board, Table
from lsqctl.leaderboard.csv_json import json_text
from lsqctl.leaderboard.pwc_view import DATASET_TITLES
from lsqctl.leaderboard.schema import Entry
from lsqctl.leaderboard.table_view import half_width_text
from lsqctl.text import pluralize

_DATASET_TITLES: Mapping[str, str] = {
    **DATASET_TITLES,
    "digits": "Optical Recognition of Handwritten Digits",
}
_HUB: Mapping[str, str] = {
    "imagenet": "ILSVRC/imagenet-1k",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
PWC_METRICS = ("Top-1 Accuracy (%)", "Top-5 Accuracy (%)", "Weight bits", "Activation bits")


def to_pwc_json(board: Board) -> str:
    """Return the evaluation tables of Papers With Code's archive (the sota-extractor format).

    One task, Quantization; a dataset each; metrics as texts. A row's ``paper_url`` is where a
    published row was read, and empty for local runs.
    """
    task = {
        "task": "Quantization",
        "categories": [],
        "description": "",
        "source_link": None,
        "synonyms": [],
        "subtasks": [],
        "datasets": [_pwc_dataset(table) for table in board.tables],
    }
    return json_text([task])


def to_hf_model_index(board: Board) -> str:
    """Return the ``model-index`` of a Hugging Face model card for the local rows.

    Accuracies are fractions, the mean over seeds. Published rows are no models of ours.
    """
    local_entries = [entry for entry in board.entries if entry.is_local]
    return json_text({"model-index": [_hf_model(entry) for entry in local_entries]})


def to_hf_eval_results(board: Board) -> str:
    """Return local rows as entries of ``.eval_results/*.yaml``; percentages, the mean over seeds.

    Raises UsageError when no local row is of a dataset that the Hub has a name for.
    """
    local_entries = [entry for entry in board.entries if entry.is_local and entry.dataset in _HUB]
    if not local_entries:
        raise UsageError(f"hf-eval-results knows the Hub's names of {', '.join(_HUB)} only, and no "
                         "local row is of these; hf-model-index takes any dataset")  # fmt: skip
    return json_text([_hf_eval_result(entry) for entry in local_entries])


def _pwc_dataset(table: Table) -> dict[str, object]:
    return {
        "dataset": _DATASET_TITLES.get(table.dataset, table.dataset),
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


def _hf_model(entry: Entry) -> dict[str, object]:
    metrics = [("Top-1 accuracy", entry.top1_mean), ("Top-5 accuracy", entry.top5_mean)]
    dataset = {
        "type": _HUB.get(entry.dataset, entry.dataset),
        "name": _DATASET_TITLES.get(entry.dataset, entry.dataset),
        **({"split": entry.split} if entry.split else {}),
    }
    result = {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": dataset,
        "metrics": [
            {"type": "accuracy", "name": name, "value": round(value / 100, 12)}
            for name, value in metrics
            if value is not None
        ],
    }
    return {"name": entry.model, "results": [result]}


def _hf_eval_result(entry: Entry) -> dict[str, object]:
    n_seeds, half_text = entry.n_seeds or 1, half_width_text(entry)
    spread = f", ±{half_text}" if half_text else ""
    return {
        "dataset": {"id": _HUB[entry.dataset], "task_id": "default"},
        "value": entry.top1_mean,
        **({"date": entry.created_at} if entry.created_at else {}),
        "notes": f"{entry.model}: W{entry.weight_bits}A{entry.act_bits}, Top-1 in percent, "
        f"mean of {pluralize(n_seeds, 'seed')}{spread}",
    }
