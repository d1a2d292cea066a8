"""What a folder says of its model: README.md as a model card, config.json in timm's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from lsqctl.run import JsonObject
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.deploy.tracing import Pixels

_MEANINGS = {
    ".onnx": "integers in ONNX: every quantized layer is a product of codes",
    ".npz": "images (bytes, or fp32 where the model takes those) and the reference's logits",
    "config.json": "architecture and preprocessing, in timm's layout",
}


@dataclass(frozen=True, slots=True)
class Card:
    """Where a model comes from; what is not known stays empty.

    ``details`` are lines of the card (board row, recipe, …); they go into the ONNX file's metadata.
    ``interpolation`` and ``crop_pct`` are of the evaluation's resize.
    """

    title: str = "A quantized network"
    architecture: str = ""
    details: Mapping[str, str] | None = None
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    def metadata(self) -> dict[str, str]:
        """Return the ``metadata_props`` of the ONNX file."""
        known = {"title": self.title, "architecture": self.architecture, **(self.details or {})}
        return {key: value for key, value in known.items() if value}


def config_json(
    card: Card, input_shape: tuple[int, ...], n_classes: int, pixels: Pixels | None
) -> bytes:
    """Return ``config.json`` as timm reads it; mean and std are those of the graph itself."""
    channels = pixels.channels if pixels else input_shape[1]
    normalization = {"mean": pixels.mean, "std": pixels.std} if pixels else {}
    config: JsonObject = {
        "architecture": card.architecture,
        "num_classes": n_classes,
        "pretrained_cfg": {
            "input_size": [channels, *input_shape[2:]],
            "num_classes": n_classes,
            "interpolation": card.interpolation,
            "crop_pct": card.crop_pct,
            "fixed_input_size": True,
            **normalization,
        },
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def readme(card: Card, report: JsonObject, sizes: Mapping[str, int]) -> bytes:
    """Return README.md: what it is, what was checked, and the lines that run it."""
    head = {"library_name": "onnx", "pipeline_tag": "image-classification"}
    parts = [
        "---",
        *(f"{key}: {value}" for key, value in head.items()),
        "---",
        f"# {card.title}",
        "",
        *(f"- {key}: {value}" for key, value in (card.details or {}).items() if value),
        "",
        "| file | bytes | what |",
        "|---|---:|---|",
        *(f"| `{name}` | {size} | {_meaning(name)} |" for name, size in sorted(sizes.items())),
        "",
        "## Checked",
        "",
        *check_lines(report),
        "",
        "## Run it",
        "",
        *_snippet(report),
    ]
    return ("\n".join(parts) + "\n").encode()


def _meaning(name: str) -> str:
    return next((text for end, text in _MEANINGS.items() if name.endswith(end)), "")


def check_lines(report: JsonObject) -> list[str]:
    """Return what a check has found, in sentences."""
    n_integer, floats = len(report["integer_layers"]), report["float_layers"]
    lines = [f"{pluralize(n_integer, 'layer')} computed in integers ({report['arithmetic']})."]
    if not n_integer:
        lines = ["No layer is quantized: everything is FP32."]
    lines += [f"In float: `{name}`, {reason}." for name, reason in floats.items()]
    lines += ["", *_edge_lines(report["edges"])]
    lines += [
        f"Settled: bias {move['channel']} of `{move['layer']}` moved by {move['by']:.1g} of a "
        f"step; its margin to a tie was {move['margin_before']:.1g}, is {move['margin_after']:.1g}."
        for move in report["settled"]
    ]
    for name, form in report["forms"].items():
        lines += ["", *_form_lines(name, form)]
    return lines


def _edge_lines(edges: Sequence[JsonObject]) -> list[str]:
    """Return how many edges are proved for every input, and how close the closest one is."""
    finite = [edge for edge in edges if edge["finite"]]
    proved = [edge for edge in finite if edge["proved"]]
    if not finite:
        return ["No layer alone gives the codes of another: nothing is proved for every input."]
    n_accumulators = sum(edge["accumulators"] for edge in proved)
    lines = [
        f"Of {pluralize(len(edges), 'edge')} {len(finite)} are given by one layer alone; "
        f"{len(proved)} of these are proved for every input ({n_accumulators:,} accumulators)."
    ]
    known = [edge for edge in edges if edge["margin"] is not None]
    if known:
        least = min(known, key=itemgetter("margin"))
        lines.append(
            f"The smallest margin to a tie is {least['margin']:.2g} of a step: "
            f"`{least['codes']}`, channel {least['margin_channel']}."
        )
    return lines


def _form_lines(name: str, form: JsonObject) -> list[str]:
    images, codes = pluralize(form["images"], "image"), f"{form['codes']:,} codes"
    if not form["codes_differing"] and not form["logits_differing"]:
        found = "equal to the integer reference in every code and every bit of the logits"
    else:
        found = (
            f"{form['codes_differing']:,} codes differ from the integer reference, in "
            f"{pluralize(form['images_differing'], 'image')}; "
            f"{pluralize(form['predictions_differing'], 'prediction')} differ"
        )
    lines = [f"{name} ({form['runtime']}), {images}, {codes}: {found}."]
    if form["labelled"]:
        lines.append(f"Right: {form['right']} of {form['labelled']}.")
    lines += [
        f"First difference: image {one['image']}, `{one['edge']}` at {tuple(one['index'])}: "
        f"expected code {one['expected']}, found {one['found']}."
        for one in form["first_differences"]
    ]
    return lines


def _snippet(report: JsonObject) -> list[str]:
    file = report["forms"]["exact"]["file"]
    return [
        "With onnxruntime and numpy alone:",
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "",
        'expected = np.load("expected.npz")',
        f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        'logits = session.run(["logits"], {"images": expected["images"]})[0]',
        'print((logits == expected["logits"]).all(), logits.argmax(1))',
        "```",
    ]
