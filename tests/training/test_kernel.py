"""What layers compute with is decided once, kept by every attempt, and used to measure again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lsqctl.errors import UsageError
from lsqctl.events import KernelUse, LogMessage
from lsqctl.quant import integer, quantized_layers
from lsqctl.recipe import fingerprint
from lsqctl.training import compilation
from lsqctl.training.beginning import open_pipeline
from lsqctl.training.restore import reevaluate, restore_model
from lsqctl.training.runtime import setup_torch
from tests.training.attempts import plain, rewritten, rows, run
from tests.training.conftest import tiny

pytestmark = pytest.mark.skipif(
    not integer.is_available(), reason="torch has no integer kernel here"
)
INTEGERS = {"kernel": "integer"}


def decided(recipe, job, *, compiled=False):
    pipeline = open_pipeline(recipe, job, setup_torch(job, 0))
    return compilation.decide_kernel(recipe, job, pipeline, compiled=compiled)


def test_auto_takes_integers_for_images_large_enough_on_a_cpu(job, monkeypatch):
    assert decided(tiny(), job()) == "float"
    assert decided(tiny(quant=INTEGERS), job()) == "integer"
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    assert decided(tiny(), job()) == "integer"
    assert decided(tiny(quant={"kernel": "float"}), job()) == "float"
    pipeline = open_pipeline(tiny(), job(), torch.device("cpu"))
    on_gpu = replace(job(), device="cuda:0")
    assert compilation.decide_kernel(tiny(), on_gpu, pipeline, compiled=False) == "float"


@pytest.mark.parametrize(
    ("precision", "compiled", "native", "expected"),
    [
        ("bf16", True, True, "float"),
        ("bf16", True, False, "integer"),
        ("bf16", False, True, "integer"),
        ("fp32", True, True, "integer"),
    ],
)
def test_auto_takes_floats_where_a_compiled_step_multiplies_bf16_itself(
    job, monkeypatch, precision, compiled, native, expected
):
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    train = {"precision": precision}
    assert decided(tiny(train=train), job(), compiled=compiled) == expected
    told = decided(tiny(train=train, quant=INTEGERS), job(), compiled=compiled)
    assert told == "integer"


def test_integers_that_cannot_be_had_are_refused_with_the_reason_and_what_to_do(job, monkeypatch):
    recipe = tiny(quant=INTEGERS)
    pipeline = open_pipeline(recipe, job(), torch.device("cpu"))
    on_gpu = replace(job(), device="cuda:0")
    with pytest.raises(UsageError, match="no integer kernel for cuda:0; train on a CPU"):
        compilation.decide_kernel(recipe, on_gpu, pipeline, compiled=False)
    monkeypatch.setattr(integer, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch has no integer kernel for this processor; train"):
        compilation.decide_kernel(recipe, job(), pipeline, compiled=False)


def test_a_recipe_that_names_no_kernel_has_the_hash_it_had_before_there_were_any():
    def digest(recipe):
        return fingerprint(recipe, {}, with_seed=True)

    assert digest(tiny(quant={"kernel": "auto"})) == digest(tiny())
    assert digest(tiny()).startswith("3a198a0957529879")
    assert digest(tiny(quant=INTEGERS)) != digest(tiny())


@pytest.mark.slow
def test_later_attempts_keep_the_kernel_of_the_first_one_to_the_bit(job, monkeypatch):
    recipe = tiny(train={"epochs": 1})
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    whole = run(recipe, job("whole"))
    first = run(recipe, job("cut"), stop_after=2)
    monkeypatch.undo()  # a later attempt would decide otherwise
    second = run(recipe, job("cut"))
    for facts in (whole, first, second):
        assert KernelUse("integer", {}, "integer") in facts
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert second[-1].deterministic == "bitwise"


def test_an_attempt_elsewhere_keeps_the_kernel_and_so_does_the_one_after_it(job, monkeypatch):
    recipe = tiny(train={"epochs": 1})
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    run(recipe, job(), stop_after=2)
    monkeypatch.undo()
    for stop_after in (1, None):
        facts = run(recipe, job(threads=2), stop_after)
        assert KernelUse("integer", {}, "integer") in facts
    assert facts[-1].deterministic == "statistical"


def test_a_checkpoint_from_before_kernels_goes_on_in_floats_to_the_bit(job, monkeypatch):
    recipe = tiny(train={"epochs": 1})
    run(recipe, job(), stop_after=2)

    def forget(parts):
        cursor = parts["state"]["cursor"]
        newer = ("kernel", "evaluation", "precision")
        kept = {key: value for key, value in cursor["circumstances"].items() if key not in newer}
        parts["state"] = parts["state"] | {"cursor": cursor | {"circumstances": kept}}

    rewritten(forget)(job().run_dir)
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    facts = run(recipe, job())
    assert KernelUse("float", {}, "trained") in facts
    assert not [one for one in facts if isinstance(one, LogMessage) and "elsewhere" in one.text]
    assert facts[-1].deterministic == "bitwise"


def test_what_was_trained_in_integers_is_measured_in_integers_again(job, monkeypatch):
    recipe = tiny(train={"epochs": 1})
    monkeypatch.setattr(compilation, "_INTEGER_MIN_SIZE", 8)
    result = run(recipe, job())[-1]
    monkeypatch.undo()
    stored = result.evaluations[0]
    directory = job().run_dir / stored.checkpoint
    model = restore_model(recipe, directory)
    assert {layer.kernel for layer in quantized_layers(model).values()} == {"integer"}
    again = reevaluate(recipe, directory, job(), data_digest=result.data_digest)
    assert (again.n_correct, again.hits) == (stored.n_correct, stored.hits)


def test_a_layer_that_stays_float_is_recorded_with_its_reason(job):
    overrides = {"linear": {"weight_bits": 32}}
    recipe = tiny(train={"epochs": 1}, quant=INTEGERS | {"overrides": overrides})
    facts = run(recipe, job())
    assert KernelUse("integer", {"linear": "its weight has 32 bits"}, "integer") in facts
