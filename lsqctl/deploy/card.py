"""What a folder says of its model: README.md as a model card, config.json in timm's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from lsqctl.datasets import DATASETS
from lsqctl.deploy.forms import FORMS
from lsqctl.run import JsonObject
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.deploy.tracing import Pixels

_REFERENCE = "the integer reference"
_MEANINGS = {
    **{info.file_in(hub=hub): info.description for info in FORMS.values() for hub in (True, False)},
    ".npz": "images (bytes, or fp32 where the model takes those) and the reference's logits",
    "config.json": "architecture and preprocessing, in timm's layout",
}


@dataclass(frozen=True, slots=True)
class Card:
    """Where a model comes from; what is not known stays empty.

    ``details`` are lines of the card (board row, recipe, …); they go into the ONNX file's metadata.
    ``interpolation`` and ``crop_pct`` are of the evaluation's resize; ``labels`` name the classes.
    """

    title: str = "A quantized network"
    architecture: str = ""
    dataset: str = ""
    details: Mapping[str, str] | None = None
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    labels: tuple[str, ...] = ()

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
    if len(card.labels) == n_classes:
        config["label_names"] = list(card.labels)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def readme(card: Card, report: JsonObject, sizes: Mapping[str, int]) -> bytes:
    """Return README.md: what it is, what was checked, and the lines that run it."""
    head = {"library_name": "onnx", "pipeline_tag": "image-classification"}
    if index := _model_index(card, report):
        head["model-index"] = json.dumps([index], ensure_ascii=False)  # which is YAML, too
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
        *(
            f"| `{name}` | {size} | {_meaning(name, report)} |"
            for name, size in sorted(sizes.items())
        ),
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


def _model_index(card: Card, report: JsonObject) -> JsonObject:
    """Return what the Hub shows of a model: the first form's own right answers.

    Nothing without any, and of a part of a known test set: its readers take it for the whole.
    """
    measured = [entry for entry in report["forms"].values() if entry.get("labelled")]
    info = DATASETS.get(card.dataset)
    whole = info and info.eval_images
    if not (measured and card.dataset) or (whole and measured[0]["labelled"] < whole):
        return {}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": (info and info.hub_id) or card.dataset, "name": card.dataset},
        "metrics": [
            {
                "type": "accuracy",
                "name": f"Top-1 accuracy of {measured[0]['file']}",
                "value": round(measured[0]["right"] / measured[0]["labelled"], 12),
            }
        ],
    }
    return {"name": card.title, "results": [result]}


def _meaning(name: str, report: JsonObject) -> str:
    if not report["integer_layers"] and name.endswith(".onnx"):
        return "the network in FP32: no layer of it is quantized"
    return next((text for end, text in _MEANINGS.items() if name.endswith(end)), "")


def check_lines(report: JsonObject) -> list[str]:
    """Return what a check has found, in sentences."""
    n_integer, floats = len(report["integer_layers"]), report["float_layers"]
    lines = [f"{pluralize(n_integer, 'layer')} computed in integers ({report['arithmetic']})."]
    if not n_integer:
        lines = ["No layer is quantized: everything is FP32."]
    elif report["float_operations"]:
        lines.append(
            f"In fp32, as each runtime sees fit: {', '.join(report['float_operations'])}. Every "
            "integer layer is exact for the values that reach it; those may differ in last bits."
        )
    lines += [f"In float: `{name}`, {reason}." for name, reason in floats.items()]
    if n_integer:
        lines += ["", *_edge_lines(report["edges"])]
    lines += [
        f"Settled: bias {move['channel']} of `{move['layer']}` moved by {move['by']:.1g} of a "
        f"step; its margin to a tie was {move['margin_before']:.1g}, is {move['margin_after']:.1g}."
        for move in report["settled"]
    ]
    for name, form in report["forms"].items():
        lines += ["", *_form_lines(name, form, _REFERENCE if n_integer else "the network in torch")]
    if n_integer:
        lines += [*_clipping_lines(report), "", _fake_quantized_line(report["fake_quantized"])]
    for name, reason in report["left_out"].items():
        lines += ["", f"{name} was left out: {reason}."]
    return lines


def _clipping_lines(report: JsonObject) -> list[str]:
    """Return which layers a runtime may compute otherwise on processors without VNNI."""
    clipped = [f"`{one['name']}`" for one in report["integer_layers"] if one["openvino_may_clip"]]
    if not clipped or not any(form["form"] == "portable" for form in report["forms"].values()):
        return []
    return [
        "",
        f"Two products of {', '.join(clipped)} may pass 16 bits: OpenVINO clips them on processors "
        "without VNNI or AMX. Weights of 7 bits pass none.",
    ]


def _edge_lines(edges: Sequence[JsonObject]) -> list[str]:
    """Return how many edges are proved for every input, and how close the closest one is."""
    sums = [edge for edge in edges if edge["summands"]]
    finite = [edge for edge in edges if edge["finite"]]
    proved = [edge for edge in finite if edge["proved"]]
    if not finite and not sums:
        return ["No layer alone gives the codes of another: nothing is proved for every input."]
    n_accumulators = sum(edge["accumulators"] for edge in proved)
    lines = [
        f"Of {pluralize(len(edges), 'edge')} {len(finite)} are given by one layer alone; "
        f"{len(proved)} of these are proved for every input ({n_accumulators:,} accumulators)."
    ]
    if sums:
        n_proved = sum(edge["proved"] for edge in sums)
        n_pairs = sum(edge["accumulators"] for edge in sums)
        are_sums = "is a sum" if len(sums) == 1 else "are sums"
        lines.append(
            f"{pluralize(len(sums), 'edge')} more {are_sums} of two codes; {n_proved} of these are "
            f"proved for every pair ({n_pairs:,} pairs)."
        )
    known = [edge for edge in edges if edge["margin"] is not None]
    if known:
        least = min(known, key=itemgetter("margin"))
        lines.append(
            f"The smallest margin to a tie is {least['margin']:.2g} of a step: "
            f"`{least['codes']}`, channel {least['margin_channel']}."
        )
    return lines


def _form_lines(name: str, form: JsonObject, reference: str) -> list[str]:
    sizes = _size_lines(form)
    if "not_run" in form:
        return [f"{name} ({form['runtime']}) was not compared: {form['not_run']}.", *sizes]
    images = pluralize(form["images"], "image")
    codes = f", {form['codes']:,} codes" if form["codes"] else ""
    if not form["codes_differing"] and not form["logits_differing"]:
        every_code = "every code and " if form["codes"] else ""
        found = f"equal to {reference} in {every_code}every bit of the logits"
    else:
        found = _difference(form, reference)
    lines = [f"{name} ({form['runtime']}), {images}{codes}: {found}."]
    if form["labelled"]:
        lines.append(f"Right: {form['right']} of {form['labelled']}.")
    lines += [
        f"First difference: image {one['image']}, `{one['edge']}` at {tuple(one['index'])}: "
        f"expected code {one['expected']}, found {one['found']}."
        for one in form["first_differences"]
    ]
    return [*lines, *sizes]


def _difference(form: JsonObject, reference: str = _REFERENCE) -> str:
    predictions = _differing(form["predictions_differing"], "prediction")
    if not form["codes"]:
        logits = _differing(form["logits_differing"], "logit")
        return f"{logits} from {reference} in a bit; {predictions}"
    codes = _differing(form["codes_differing"], "code")
    images = pluralize(form["images_differing"], "image")
    return f"{codes} from {reference}, in {images}; {predictions}"


def _differing(count: int, thing: str) -> str:
    return f"{pluralize(count, thing)} {'differs' if count == 1 else 'differ'}"


def _fake_quantized_line(trained: JsonObject) -> str:
    """Return how far the network that was trained, whose fp32 sums round, is from the reference."""
    counted = f"{pluralize(trained['images'], 'image')}, {trained['codes']:,} codes"
    start = f"The network as it was trained (fake-quantized in fp32), {counted}:"
    if not trained["codes_differing"]:
        return f"{start} no code differs from the integer reference."
    furthest = f"{trained['furthest_from_tie']:.1g}"
    return (
        f"{start} {_difference(trained)}. "
        f"They begin at {pluralize(trained['beginnings'], 'value')} that lay within {furthest} of "
        "a step of a tie between two codes, where sums in another order round to either; "
        "the others follow."
    )


def _size_lines(form: JsonObject) -> list[str]:
    if "flash_bytes" not in form:
        return []
    return [f"Flash {form['flash_bytes']:,} bytes, RAM {form['ram_bytes']:,} bytes (-Os)."]


def _snippet(report: JsonObject) -> list[str]:
    entries = {entry["form"]: entry for entry in report["forms"].values()}
    lines: list[str] = []
    for name, entry in entries.items():
        in_float = name == "exact" and report["float_operations"]  # no bits are promised
        usage = FORMS["portable" if in_float else name].usage
        code = usage.format(file=entry["file"]).splitlines()
        lines += [f"{name}:", "", "```python", *code, "```", ""]
    return lines[:-1]
