"""Tiny recipes and jobs: the digits, the smallest net, an epoch or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lsqctl.recipe import Recipe
from lsqctl.training.beginning import (
    build_on_device,
    initial_step_sizes,
    initial_train_state,
    load_teacher,
    open_pipeline,
    quantize_model,
)
from lsqctl.training.runtime import ExecutionContext, setup_torch
from lsqctl.training.session import TrainingSession, build_session

from .small_world import declared

W4A4 = {
    "weight_bits": 4,
    "act_bits": 4,
    "first_weight_bits": 8,
    "first_act_bits": 8,
    "last_weight_bits": 8,
    "last_act_bits": 8,
}


def tiny(**changes: Any) -> Recipe:
    """Return a recipe of six steps an epoch, changed by section."""
    data = {"name": "digits", "batch_size": 240, "eval_batch_size": 270, "pad": 1}
    return _recipe("resnet8", data, changes)


def small(**changes: Any) -> Recipe:
    """Return the like in as many steps for the small network: a third of the work."""
    data = {"name": "few_digits", "batch_size": 60, "eval_batch_size": 68, "pad": 1}
    with declared():  # a module may ask before it has fixtures
        return _recipe("small_resnet", data, changes)


def _recipe(model: str, data: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    values: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "data": data,
        "quant": dict(W4A4),
        "train": {"epochs": 2, "lr": 0.05},
    }
    seed = changes.pop("seed", 0)
    for section, keys in changes.items():
        values[section] = values.get(section, {}) | keys
    return Recipe.model_validate({"name": "tiny", "seed": seed, **values})


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., ExecutionContext]:
    """Return a maker of jobs, each in a folder of the test's own, named by its first argument."""

    def make(name: str = "run", **changes: Any) -> ExecutionContext:
        return ExecutionContext(run_dir=tmp_path / name, data_dir=tmp_path / "data", **changes)

    return make


@pytest.fixture(scope="module", autouse=True)
def _small_world() -> Iterator[None]:
    with declared():
        yield


@pytest.fixture(autouse=True)
def _one_thread_and_no_trace() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


def session_of(recipe: Recipe, job: ExecutionContext) -> TrainingSession:
    """Return the session of a run that begins, from random weights."""
    feed = open_pipeline(recipe, job, setup_torch(job, recipe.seed))
    cursor = initial_train_state(recipe, job)
    teacher = load_teacher(recipe, job, feed, cursor) if recipe.distill else None
    model = quantize_model(build_on_device(recipe.model.name, feed), recipe, feed.input_shape)
    initial_step_sizes(model, recipe, feed, {})
    return build_session(model, teacher, recipe, job, pipeline=feed, train_state=cursor)
