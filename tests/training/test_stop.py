"""`train.stop`: the training ends when a metric no longer improves, in one go or resumed."""

import math

import pytest

from lsqctl.errors import RecipeError
from lsqctl.events import LogMessage, Metric, Result
from lsqctl.recipe import Recipe
from lsqctl.training.train_state import TrainState

from ..recipe_file.conftest import MINIMAL, Folder
from .attempts import assert_same_state, rows, run
from .conftest import tiny


def test_the_best_value_restarts_the_patience_and_nan_never_does():
    state = TrainState("hash")
    stale = []
    for value in (10.0, 12.0, 12.5, math.nan, 12.9, 13.6):
        state.record_for_stop(value, larger_is_better=True, min_delta=1.0)
        stale.append(state.stale_epochs)
    assert stale == [0, 0, 1, 2, 3, 0]
    state = TrainState("hash")
    for value in (math.nan, 2.0, 1.0, 1.5):
        state.record_for_stop(value, larger_is_better=False, min_delta=0.0)
    assert (state.stop_best, state.stale_epochs) == (1.0, 1)


def impatient() -> Recipe:
    """A recipe of nine epochs that cannot improve by 50 percent points twice."""
    stop = {"metric": "top1", "patience": 2, "min_delta": 50.0}
    return tiny(train={"epochs": 9, "lr": 0.05, "stop": stop})


def test_a_run_stops_after_its_patience_and_says_so_and_resumed_it_stops_at_the_same_epoch(job):
    whole = run(impatient(), job("whole"))
    result = whole[-1]
    assert isinstance(result, Result)
    evaluated = [
        e for e in whole if isinstance(e, Metric) and e.name == "top1" and e.split == "test"
    ]
    assert result.epochs == len(evaluated) == 3
    assert "stopped after epoch 3 of 9: top1 on the evaluation split had not improved" in (
        result.notes
    )
    assert any("stopped after epoch 3" in e.text for e in whole if isinstance(e, LogMessage))

    cut = []
    while not (cut and isinstance(cut[-1], Result)):
        cut += run(impatient(), job("cut"), stop_after=11)
    assert rows(cut) == rows(whole)
    assert_same_state(job("whole").run_dir, job("cut").run_dir)


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("{metric: top1}", "needs `patience`"),
        ("{patience: 0}", "must be at least 1 epoch, got 0"),
        ("{patience: 3, metrik: top1}", "did you mean `metric`?"),
        ("{patience: 3, metric: top7}", "one of: top1 or loss"),
        ("5", "must be a section of keys"),
        ("{patience: 3}, bn_freeze_epochs: 2", "is not known beforehand"),
    ],
)
def test_a_wrong_stop_is_said_with_its_place(tmp_path, monkeypatch, stop, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        Folder(tmp_path).load(f"{MINIMAL}train: {{epochs: 9, stop: {stop}}}\n")
    (diagnostic,) = caught.value.diagnostics
    assert said in "\n".join((diagnostic.message, *diagnostic.hints))
    assert diagnostic.position.line == 3
