"""A run computes in the precision that its first attempt decided, in all of its attempts."""

from __future__ import annotations

import pytest
import torch

from lsqctl.events import Compiled, LogMessage
from lsqctl.training.restore import reevaluate

from .attempts import plain, rows, run
from .conftest import small


@pytest.fixture
def native(monkeypatch):
    """What says whether this processor multiplies bf16."""

    def set_native(*, value: bool) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: value)

    return set_native


def recipe_in(precision, **train):
    return small(train={"epochs": 1, "precision": precision} | train)


def decided(facts):
    return next(one for one in facts if isinstance(one, Compiled)).precision


def imitation_notes(facts):
    texts = [one.text for one in facts if isinstance(one, LogMessage)]
    return [text for text in texts if "imitation" in text]


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_trains_in_bf16_where_the_processor_has_it_and_says_which(
    job, native, has_bf16, expected
):
    native(value=has_bf16)
    facts = run(recipe_in("auto"), job("auto"))
    explicit = run(recipe_in(expected), job("explicit"))
    assert decided(facts) == decided(explicit) == expected
    assert rows(facts) == rows(explicit)
    assert facts[-1].precision == expected
    assert imitation_notes(facts) == []


def test_where_bf16_is_imitated_a_run_says_so_and_does_it(job, native):
    native(value=False)
    facts = run(recipe_in("bf16"), job())
    (note,) = imitation_notes(facts)
    assert note.endswith("many times as long as fp32: train.precision: auto or fp32")
    assert decided(facts) == "bf16"
    assert next(one.imitated for one in facts if isinstance(one, Compiled))


def test_what_the_first_attempt_decided_is_kept_where_another_would_be(job, native):
    native(value=True)
    recipe = recipe_in("auto", evaluation="trained")
    whole = run(recipe, job("whole"))
    first = run(recipe, job("cut"), stop_after=2)
    native(value=False)
    second = run(recipe, job("cut"))
    assert decided(second) == "bf16"
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    stored, digest = whole[-1].evaluations[0], whole[-1].data_digest
    directory = job("whole").run_dir / stored.checkpoint
    assert reevaluate(recipe, directory, job("whole"), data_digest=digest).loss == stored.loss
