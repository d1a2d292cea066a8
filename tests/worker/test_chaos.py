"""bench/chaos.py on a few seeds, and the proof that its checks can fail."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench_scripts import imported
from tests.conftest import FULL, WARM


@pytest.fixture(scope="module")
def chaos():
    with imported("chaos") as module:
        if not FULL:
            module.Workspace.starter = WARM
        yield module


@pytest.fixture(scope="module")
def peace(chaos, tmp_path_factory):
    """An undisturbed workspace, the ids that were acknowledged, and how its runs ended."""
    space = chaos.Workspace(tmp_path_factory.mktemp("peace"), lease=1.0)
    _, ids = space("submit", "children.yaml", "-q")
    space("worker", "--until-empty", "--slots", "2")
    with space.store() as store:
        ends = {run.name: chaos.end_of(space, store, run) for run in store.runs.list()}
    return space, set(ids), ends


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_a_disturbed_workspace_ends_as_an_undisturbed_one(chaos, peace, seed):
    *_, expected = peace
    report = chaos.one_seed(seed, chaos.options_of(["--seconds", "4"]), expected)
    assert report.violations == [], report.line()
    assert report.runs == 4
    assert report.faults.total() > 0


def test_peace_violates_nothing_and_each_damage_is_seen(chaos, peace, tmp_path):
    space, ids, expected = peace
    assert chaos.violations(space, ids, expected) == []
    assert "acknowledged" in str(chaos.violations(space, {*ids, "lost"}, expected))
    for name, other in (("weights", "0"), ("metrics", ()), ("results", ())):
        changed = expected | {"base": replace(expected["base"], **{name: other})}
        assert f"its {name} are not those" in str(chaos.violations(space, ids, changed))
    with space.store() as store:
        last = Path(store.checkpoints.list(min(ids))[0].directory)
    (half := last.with_name("ckpt.tmp.1")).mkdir()
    assert str(half) in str(chaos.violations(space, ids, expected))
    half.rmdir()
    shutil.copytree(last, orphan := last.with_name("ckpt-99999999"))
    assert str(orphan) in str(chaos.violations(space, ids, expected))
