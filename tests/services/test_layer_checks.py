"""What a network's layers cannot do is refused at submit, by the functions that a worker calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lsqctl.errors import UnfitKey
from lsqctl.quant import integer
from lsqctl.recipe_file import load
from lsqctl.services.layer_checks import check_layers
from lsqctl.services.queue_checks import pending_problems
from lsqctl.services.submit import plan_submit
from lsqctl.settings import Settings
from lsqctl.store import open_store
from lsqctl.training.finetuning import finetune
from lsqctl.training.runtime import ExecutionContext

W4A4 = "model: {name: resnet8}\ndata: {name: digits}\nquant:\n  weight_bits: 4\n  act_bits: 4\n"
NO_FEW_BITS = "no weight of the model is quantized to at most 4 bits"
UNFIT = [
    ("freezing: 0.1", "{weight_bits: 8}", NO_FEW_BITS),
    ("dampening: 0.1", "{weight_bits: 32}", "no weight of the model is quantized to at most 8"),
    ("weight_steps: fixed", "{weight_bits: 32}", "no weight of the model is quantized"),
    (
        "step_optimizer: adam\n  weight_steps: fixed",
        "{act_bits: 32}",
        "no step size of the model is trained",
    ),
    ("kernel: integer", "{act_bits: 32}", "(conv1: its input has 32 bits)"),
    ("kernel: integer", "{weight_bits: 32}", "(conv1: its weight has 32 bits)"),
    (
        "kernel: integer",
        "{act_signed: signed, act_offset: learned}",
        "(conv1: its input has a learned offset)",
    ),
    ("overrides: ", "{weight_bits: 32, act_bits: 32}", "no layer of resnet8 is left with fewer"),
]
FIT = [
    "kernel: auto\ntrain: {evaluation: integer}",
    "freezing: 0.1\n  overrides: {'*': {weight_bits: 8}, 'layer1.*': {weight_bits: 4}}",
    "dampening: 0.1\n  overrides: {'*': {weight_bits: 32}, linear: {weight_bits: 8}}",
    "kernel: integer\n  overrides: {'*': {act_bits: 32}, linear: {act_bits: 8}}",
    "kernel: integer\n  act_offset: learned",  # which may turn out not to be needed
    "kernel: auto\n  overrides: {'*': {act_bits: 32}}",
    "weight_steps: fixed\n  step_optimizer: adam\n  residual_bits: 8\n"
    "  overrides: {'*': {act_bits: 32}}",
]


@pytest.fixture
def told(tmp_path: Path):
    def tell(keys: str):
        path = tmp_path / "x.yaml"
        path.write_text(f"{W4A4}  {keys}\n")
        loaded = load(path)
        return loaded.cells[0].recipe, check_layers([loaded])

    return tell


@pytest.mark.parametrize(("first", "overrides", "reason"), UNFIT)
def test_a_key_that_fits_no_layer_is_refused_at_submit_as_at_the_worker(
    told, tmp_path, first, overrides, reason
):
    name = first.partition(":")[0]
    every_layer = f"{{'*': {overrides}}}"
    keys = f"{first}\n  overrides: {every_layer}" if name != "overrides" else first + every_layer
    recipe, (diagnostic,) = told(keys)
    assert (diagnostic.code, diagnostic.title) == ("R105", f"`quant.{name}` does not fit")
    assert diagnostic.position is not None
    assert diagnostic.position.line == 6
    assert reason in diagnostic.message
    assert diagnostic.hints[0].startswith(("leave ", "give one layer "))
    if name == "kernel" and not integer.is_available():
        return
    with pytest.raises(UnfitKey) as refused:
        list(finetune(recipe, ExecutionContext(tmp_path / "run", tmp_path, compile="off")))
    assert (refused.value.key, refused.value.reason) == (f"quant.{name}", diagnostic.message)


@pytest.mark.parametrize("keys", FIT)
def test_a_key_that_fits_one_layer_at_least_passes(told, keys):
    assert told(keys)[1] == []


@pytest.mark.parametrize("bits", ["weight_bits", "act_bits"])
def test_integers_need_bits_of_both_operands_without_any_override_too(tmp_path, bits):
    path = tmp_path / "x.yaml"
    path.write_text(
        f"model: {{name: resnet8}}\ndata: {{name: digits}}\nquant: {{{bits}: 8, kernel: integer}}\n"
    )
    (diagnostic,) = check_layers([load(path)])
    assert "no layer multiplies integers (conv1: its " in diagnostic.message


def test_an_evaluation_in_integers_that_no_layer_can_have_is_refused_as_at_the_worker(
    told, tmp_path
):
    recipe, (diagnostic,) = told("overrides: {'*': {act_bits: 32}}\ntrain: {evaluation: integer}")
    assert diagnostic.title == "`train.evaluation` does not fit"
    assert "no layer of it has both its weight and its input quantized" in diagnostic.message
    with pytest.raises(UnfitKey) as refused:
        list(finetune(recipe, ExecutionContext(tmp_path / "run", tmp_path, compile="off")))
    assert (refused.value.key, refused.value.reason) == ("train.evaluation", diagnostic.message)


def test_one_cell_of_a_sweep_that_does_not_fit_is_named(told):
    _, (diagnostic,) = told(
        "freezing: 0.1\nsweep:\n  grid: {quant.overrides: [{}, {'*': {weight_bits: 8}}]}"
    )
    assert diagnostic.cell == "cell -w8"


def test_doctor_names_a_queued_run_whose_keys_fit_no_layer(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"{W4A4}  kernel: integer\n")
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'lsqctl.db'}", tmp_path / "data")
    (run,) = plan_submit([str(path)], settings=settings, store=None).runs
    overrides = [("*", {"act_bits": 32})]
    recipe = run.recipe | {"quant": run.recipe["quant"] | {"overrides": overrides}}
    with open_store(settings.db_url) as store:
        store.queue.enqueue([replace(run, recipe=recipe)])
        ((problem, _),) = pending_problems(store, settings)
    assert problem.startswith("quant.kernel: no layer multiplies integers (conv1: its input has 32")
