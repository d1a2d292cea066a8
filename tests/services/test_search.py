"""A search by Optuna's samplers: it asks, the queue is worked, it is told, and it goes on later."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lsqctl.errors import NotFound, UsageError
from lsqctl.run import EndReason
from lsqctl.services import search as api
from lsqctl.services.search import SearchOptions, search
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings, sqlite_url
from lsqctl.store import Store
from tests.store.samples import evaluation, identity, result

pytest.importorskip("optuna", reason="the extra optuna is not installed")
SPACE = """\
model: {name: resnet8}
data: {name: digits}
sweep:
  random:
    train.lr: loguniform(1e-4, 1.0)
    train.epochs: integer(3, 5)
    train.schedule: [cosine, constant]
  runs: 5
"""


def top1_of(recipe: dict[str, dict[str, float]]) -> int:
    """Right answers of 1,000: best at a rate of 0.03."""
    return int(1000 - 100 * abs(math.log10(recipe["train"]["lr"]) - math.log10(0.03)))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "POLL_SECONDS", 0.02)
    (tmp_path / "s.yaml").write_text(SPACE)
    home = tmp_path / ".lsqctl"
    return Settings(home, sqlite_url(home / "lsqctl.db"), tmp_path / "data")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_workspace(settings, create=True) as opened:
        yield opened


@pytest.fixture
def worked(settings: Settings, store: Store) -> Iterator[None]:
    """The queue, worked beside the test by one that knows the answers; at epoch 4 it fails."""
    over = threading.Event()

    def work() -> None:
        with open_workspace(settings) as queue:
            queue.workers.register(identity("w1"))
            while not over.wait(0.01):
                claim = queue.queue.claim("w1")
                if claim is None:
                    continue
                recipe = queue.runs.detail(claim.run.id).recipe
                if recipe["train"]["epochs"] == 4:
                    queue.queue.fail(claim.lease, EndReason.DIVERGED, "NaN")
                    continue
                counted = evaluation(n_correct=top1_of(recipe), n_correct_top5=None, n_total=1000)
                queue.queue.finish(claim.lease, replace(result(), evaluations=(counted,)))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_sampler_is_told_what_its_values_came_to_and_comes_near_the_best(
    store: Store, settings: Settings, worked: None
) -> None:
    found = search("s.yaml", store, settings, SearchOptions(trials=24, parallel=2))
    assert len(found) == len(store.sweeps.cells("s")) == 24
    for trial in found:
        recipe = store.runs.detail(trial.run_ids[0]).recipe
        assert recipe["train"]["lr"] == trial.values["train.lr"]
        failed = trial.values["train.epochs"] == 4
        assert trial.mean == (None if failed else pytest.approx(top1_of(recipe) / 10))
    best = max(trial.mean or 0 for trial in found)
    drawn = max(trial.mean or 0 for trial in found[:5])
    assert best >= max(drawn, 95)


def test_a_search_that_is_begun_again_goes_on_from_what_the_sweep_has(
    store: Store, settings: Settings, worked: None
) -> None:
    assert len(search("s.yaml", store, settings, SearchOptions(trials=3))) == 3
    assert search("s.yaml", store, settings, SearchOptions(trials=3)) == []
    assert len(search("s.yaml", store, settings, SearchOptions(trials=5))) == 2
    assert len(store.sweeps.cells("s")) == 5


def test_what_cannot_be_searched_is_said_in_one_line(store: Store, settings: Settings) -> None:
    with pytest.raises(NotFound, match="did you mean `tpe`"):
        search("s.yaml", store, settings, SearchOptions(trials=3, sampler="tep"))
    with pytest.raises(UsageError, match="has nothing to search"):
        search("digits/resnet8-fp32", store, settings, SearchOptions(trials=3))
    assert store.runs.list() == []
