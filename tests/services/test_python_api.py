"""What `import lsqctl` offers in Python says what the command line says."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

import lsqctl
from lsqctl import compare, load_board, load_model, runs, submit, wait
from lsqctl.errors import FilterError, NotFound, RecipeError, UsageError
from lsqctl.run import RunState
from tests.made_up import fill


def test_the_frame_has_the_rows_of_the_board_in_its_order(here):
    import pandas as pd

    fill(here.folder)
    frame = load_board()
    text = here("leaderboard", "--format", "csv", "--raw").stdout
    assert frame["model"].tolist() == pd.read_csv(io.StringIO(text))["model"].tolist()
    read = pd.read_csv(io.StringIO(text))
    assert frame["top1_mean"].tolist() == pytest.approx(read["top1_mean"].tolist())
    assert set(frame["origin"]) == {"local", "published"}
    assert set(load_board(include_published=False)["origin"]) == {"local"}


def test_it_is_chosen_as_on_the_command_line(here):
    fill(here.folder)
    frame = load_board(where="weight_bits <= 3", per_run=True, include_published=False)
    assert sorted(frame["weight_bits"]) == [2, 2, 2, 3, 3, 3]
    with pytest.raises(FilterError, match="`w_bit` is no column"):
        load_board(where="w_bit <= 3")


def test_without_a_workspace_it_says_so(here):
    with pytest.raises(NotFound, match="no workspace here"):
        load_board()


HEAVY = {"torch", "pandas", "sqlalchemy", "pydantic", "numpy", "yaml", "typer", "rich", "scipy"}


def test_import_lsqctl_imports_nothing_heavy_and_none_of_its_own_layers():
    code = "import lsqctl, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY
    code = "import lsqctl, sys; print(*[name for name in sys.modules if name[:6] == 'lsqctl'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lsqctl"]


def test_what_is_exported_is_listed_has_an_example_and_nothing_else_is_there():
    assert {*lsqctl.__all__} <= {*dir(lsqctl)}
    for name in lsqctl.__all__:
        assert ">>> " in getattr(lsqctl, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'sumbit'"):
        lsqctl.sumbit  # noqa: B018


def test_submit_queues_what_the_command_line_would_with_overrides_and_seeds(here):
    changes = {"train.epochs": 2, "train.lr": 1e-5, "quant.act_bits": 3}
    queued = submit("digits/resnet8-w4a4", set=changes, seeds=[3, 4])
    listed = json.loads(here("runs", "ls", "--json").stdout)["runs"]
    assert {run.id for run in queued} == {row["id"] for row in listed}
    ours = [run for run in queued if run.seed]
    assert [(run.seed, run.epochs) for run in ours] == [(3, 2), (4, 2)]
    recipe = json.loads(here("runs", "show", ours[0].id, "--json").stdout)["recipe"]
    assert (recipe["train"]["lr"], recipe["quant"]["act_bits"]) == (1e-5, 3)
    again = submit("digits/resnet8-w4a4", set=changes, seeds=[3, 4])
    assert [run.id for run in again] == [run.id for run in ours]


def test_a_mistake_in_a_recipe_queues_nothing_and_makes_no_workspace(here):
    with pytest.raises(RecipeError, match=r"train\.epoch"):
        submit("digits/resnet8-w4a4", set={"train.epoch": 2})
    assert [*here.folder.iterdir()] == []


def test_wait_takes_what_submit_returns_names_and_sweeps(here):
    queued = submit("digits/resnet8-fp32", held=True)
    assert [status.id for status in wait(queued, timeout=0).pending] == [queued[0].id]
    assert wait("@last", queued[0], timeout=0) == wait(queued, timeout=0)
    swept = submit("digits/resnet8-lsq")
    pending = wait(sweep="digits/resnet8-lsq", timeout=0).pending
    assert {status.id for status in pending} <= {run.id for run in swept}
    here("runs", "cancel", queued[0].id)
    assert [status.state for status in wait(queued).failed] == [RunState.CANCELLED]
    with pytest.raises(UsageError, match="name runs to wait for"):
        wait()


def test_runs_are_those_of_runs_ls_and_rows_of_a_data_frame(here):
    import pandas as pd

    fill(here.folder)
    listed = json.loads(here("runs", "ls", "--where", "top1 < 90", "--json").stdout)["runs"]
    found = runs(where="top1 < 90")
    assert [run.id for run in found] == [row["id"] for row in listed]
    assert pd.DataFrame(found)["name"].tolist() == [run.name for run in found]
    assert [run.state for run in runs(states=["failed"])] == [RunState.FAILED]
    assert runs(limit=1) == runs()[:1]
    with pytest.raises(NotFound, match="no sweep `none`"):
        runs(sweep="none")


def test_compare_answers_as_the_command_line_does(here):
    fill(here.folder)
    sides = ("digits/resnet8-w4a4", "digits/resnet8-w2a2")
    compared = compare(*sides)
    assert compared.verdict == "better"
    assert compared.answer in here("compare", *sides).stdout.replace("\n", " ")
    with pytest.raises(NotFound, match="failed: it has no result to compare"):
        compare(sides[0], runs(name=sides[1])[0])


def test_a_model_without_a_checkpoint_is_said(here):
    (queued,) = submit("digits/resnet8-fp32")
    with pytest.raises(NotFound, match="has no checkpoint yet"):
        load_model(queued)
