"""The board as Hugging Face's model cards hold it; JSON, which YAML readers accept too.

A card can hold it between its ``---``. Runs on a part of the images are no result of a dataset, and
are left out.
"""

from __future__ import annotations

from lsqctl.datasets import DATASETS, dataset_title
from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.formats import board_format
from lsqctl.leaderboard.formats.json_text import json_text
from lsqctl.leaderboard.output import OutputOptions
from lsqctl.leaderboard.schema import Entry
from lsqctl.leaderboard.table_view import half_width_text
from lsqctl.text import pluralize


@board_format(
    "hf-model-index",
    columns=False,
    deviations=False,
    description="`model-index` of a Hugging Face model card: local rows, accuracies as fractions",
)
def write_model_index(board: Board, _: OutputOptions) -> str:
    """Return the ``model-index`` of a Hugging Face model card for the local rows.

    Accuracies are fractions, the mean over seeds. Published rows are no models of ours.
    """
    local_entries = [one for one in board.entries if one.is_local and not one.partial]
    return json_text({"model-index": [_hf_model(entry) for entry in local_entries]})


@board_format(
    "hf-eval-results",
    columns=False,
    deviations=False,
    description="entries of `.eval_results/*.yaml`: local rows of datasets that the Hub has",
)
def write_eval_results(board: Board, _: OutputOptions) -> str:
    """Return local rows as entries of ``.eval_results/*.yaml``; percentages, the mean over seeds.

    Raises UsageError when no local row is of a dataset that the Hub has a name for.
    """
    whole_entries = [one for one in board.entries if one.is_local and not one.partial]
    local_entries = [entry for entry in whole_entries if _hub_id(entry)]
    if not local_entries:
        on_hub = ", ".join(name for name, info in DATASETS.items() if info.hub_id)
        raise UsageError(
            f"hf-eval-results knows the Hub's names of {on_hub} only, and no local row is of all "
            "images of these; hf-model-index takes any dataset"
        )
    return json_text([_hf_eval_result(entry) for entry in local_entries])


def _hub_id(entry: Entry) -> str:
    info = DATASETS.get(entry.dataset)
    return info.hub_id if info else ""


def _hf_model(entry: Entry) -> dict[str, object]:
    metrics = [("Top-1 accuracy", entry.top1_mean), ("Top-5 accuracy", entry.top5_mean)]
    dataset = {
        "type": _hub_id(entry) or entry.dataset,
        "name": dataset_title(entry.dataset),
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
        "dataset": {"id": _hub_id(entry), "task_id": "default"},
        "value": entry.top1_mean,
        **({"date": entry.created_at} if entry.created_at else {}),
        "notes": f"{entry.model}: W{entry.weight_bits}A{entry.act_bits}, Top-1 in percent, "
        f"mean of {pluralize(n_seeds, 'seed')}{spread}",
    }
