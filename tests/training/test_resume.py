"""Exact resume where it is hardest: 2 bits, a teacher, open windows, loaders, other processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from lsqctl.errors import DataError
from lsqctl.events import Checkpoint, LogMessage, Measurement, Result, Resumed
from lsqctl.training import ExecutionContext, beginning, checkpoint
from lsqctl.training.checkpoint import resume_point
from lsqctl.training.checkpoint_files import fsync_dir
from lsqctl.training.dataset_loader import open_dataset
from tests.conftest import fewer

from .attempts import assert_same_state, plain, rewritten, rows, run
from .conftest import small

ROOT = Path(__file__).parent.parent.parent
BITS = small().quant.model_fields_set
STEPS, EVALUATION = 27, 2  # batches of an epoch and of an evaluation
W2A2 = {"weight_bits": 2, "act_bits": 2}

# How often to be asked before each next stop; the names say what the next thing would have been.
CUTS = {
    "right after calibration": EVALUATION,  # the start is counted before it is quantized
    "step 2, within a window of two": 1,
    "mid-epoch, within a window": 12,
    "the last batch of the epoch": STEPS - 1 - 13,
    "the first batch of the evaluation": 1,
    "the second batch of the evaluation": 1,
    "the first batch of the next epoch": EVALUATION,
    "its second batch": 1,
    "the last batch of the last evaluation": STEPS - 1 + 1,
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """The checkpoint of a full-precision run: first weights, and the teacher."""
    folder = tmp_path_factory.mktemp("parent")
    recipe = small(quant=dict.fromkeys(BITS, 32), train={"epochs": 2, "lr": 0.1})
    facts = run(recipe, ExecutionContext(run_dir=folder, data_dir=folder))
    return [one for one in facts if isinstance(one, Checkpoint)][-1].directory


def child():
    """W2A2 from the parent, taught by it, augmented, with windows of two steps."""
    return small(
        model={"weights": {"run": "parent"}},
        data={"batch_size": 12, "pad": 1},
        quant=W2A2,
        distill={"teacher": {"run": "parent"}},
        train={"epochs": 2, "lr": 0.02},
    )


@pytest.fixture(scope="module")
def inputs(parent):
    return {"model.weights": parent, "distill.teacher": parent}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(child(), ExecutionContext(run_dir=folder, data_dir=folder, inputs=inputs))


def test_a_distilled_two_bit_run_cut_at_every_named_place_in_turn_is_the_whole_run(
    whole, inputs, job
):
    folder, uninterrupted = whole
    found, steps = [], []
    for asked in CUTS.values():
        facts = run(child(), job(inputs=inputs), stop_after=asked)
        steps.append(facts[-1].step)
        found += facts
    found += run(child(), job(inputs=inputs))
    assert steps == [0, 1, 13, 26, 27, 27, 27, 28, 54]
    assert rows(found) == rows(uninterrupted)
    assert plain(found[-1]) == plain(uninterrupted[-1])
    assert found[-1].deterministic == "bitwise"
    assert_same_state(folder, job().run_dir)


def test_clamps_before_a_cut_are_counted_after_it(job):
    recipe = small(
        quant={**W2A2, "step_lr_scale": 100}, data={"batch_size": 12}, train={"epochs": 1}
    )
    facts = run(recipe, job("whole"))
    (clamped,) = [one.value for one in rows(facts) if one.name == "clamped_steps"]
    assert clamped > 5
    found = [fact for asked in (9, 9, None) for fact in run(recipe, job("cut"), stop_after=asked)]
    assert rows(found) == rows(facts)
    assert_same_state(job("whole").run_dir, job("cut").run_dir)


@pytest.mark.slow
def test_a_stop_that_comes_while_a_checkpoint_is_written_changes_nothing(
    whole, inputs, job, monkeypatch
):
    stop, written = threading.Event(), []

    def stop_while_writing(folder):
        written.append(folder)
        if len(written) % 6 == 0:
            stop.set()
        fsync_dir(folder)

    monkeypatch.setattr(checkpoint, "fsync_dir", stop_while_writing)
    found, attempts = [], 0
    while not found or not isinstance(found[-1], Result):
        stop.clear()
        attempts += 1
        found += run(child(), job(inputs=inputs, checkpoint_seconds=0.0, stop=stop.is_set))
    assert attempts > 5
    assert rows(found) == rows(whole[1])
    assert plain(found[-1]) == plain(whole[1][-1])
    assert_same_state(whole[0], job().run_dir)


SCRIPT = """
import pickle, sys
from pathlib import Path
from lsqctl.training import ExecutionContext as Context
from tests.training.attempts import run
from tests.training.small_world import declared
from tests.training.test_resume import child
parent, folder, asked = sys.argv[1:]
inputs = {"model.weights": Path(parent), "distill.teacher": Path(parent)}
with declared():
    facts = run(child(), Context(Path(folder), Path(folder), inputs=inputs), stop_after=int(asked))
Path(folder, "facts").write_bytes(pickle.dumps(facts))
"""


def test_a_run_goes_on_in_another_process_to_the_bit(whole, inputs, parent, job):
    import pickle

    here = job(inputs=inputs)
    words = [sys.executable, "-c", SCRIPT, str(parent), str(here.run_dir), "12"]
    subprocess.run(words, cwd=ROOT, check=True, timeout=120)
    first = pickle.loads((here.run_dir / "facts").read_bytes())
    assert first[-1].step == 10
    second = run(child(), here)
    assert rows(first) + rows(second) == rows(whole[1])
    assert plain(second[-1]) == plain(whole[1][-1])
    assert_same_state(whole[0], here.run_dir)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
def test_decoding_processes_and_cuts_change_nothing_for_a_folder_of_images(
    job, tmp_path, monkeypatch
):
    draw = np.random.default_rng(0)
    from PIL import Image

    for split, count in (("train", 12), ("val", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / "imagefolder" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = small(
        data={
            "name": "imagefolder",
            "batch_size": 5,
            "eval_batch_size": 6,
            "pad": 0,
            "resize": 18,
            "crop": 16,
            "flip": True,
            "train_crop": "random_resized",
        },
        quant=W2A2,
    )

    def decode_with(workers):
        def opened(data, data_dir, **_):
            return open_dataset(data, data_dir, num_workers=workers)

        monkeypatch.setattr(beginning, "open_dataset", opened)

    decode_with(0)
    uninterrupted = run(recipe, job("whole"))
    found = []
    for workers, asked in ((1, 2), (4, 4), (0, None)):
        decode_with(workers)
        found += run(recipe, job("cut"), stop_after=asked)
    assert [one.step for one in found if isinstance(one, Resumed)] == [None, 2, 5]
    assert rows(found) == rows(uninterrupted)
    assert plain(found[-1]) == plain(uninterrupted[-1])
    assert_same_state(job("whole").run_dir, job("cut").run_dir)


def test_an_attempt_on_other_data_than_the_first_ones_is_refused(job, monkeypatch):
    recipe = small()
    run(recipe, job(), stop_after=2)

    def others(data, data_dir, **_):
        return replace(open_dataset(data, data_dir), digest="sha256:others")

    monkeypatch.setattr(beginning, "open_dataset", others)
    with pytest.raises(DataError, match=r" in .*data is not what step \d+ was trained on"):
        run(recipe, job())


def _cursor(**changes):
    def change(parts):
        parts["state"] = parts["state"] | {"cursor": parts["state"]["cursor"] | changes}

    return change


def _flags(place, value):
    """Change one flag of the quantizers whose sign the calibration found."""

    def change(parts):
        for key in [key for key in parts["model"] if key.endswith("input_quantizer._extra_state")]:
            flags = parts["model"][key].clone()
            flags[place] = value
            parts["model"][key] = flags

    return change


def _step_sizes(parts):
    for key, one in parts["model"].items():
        if key.endswith("step_size"):
            parts["model"][key] = torch.ones_like(one)


DROPPED = {
    "position in the epoch": _cursor(batch=0),
    "optimizer step (schedule)": _cursor(step=0),
    "open window": _cursor(window=[]),
    "sums of the epoch": _cursor(sums=[0.0, 0, 0]),
    "full-precision start": _cursor(fp32=None),
    "step sizes": _step_sizes,
    "signs": _flags(1, -1),
    "momentum": lambda parts: parts["training"]["optimizer"].update(state={}),
    "codes of the weights": lambda parts: parts["training"].update(oscillations={}),
}


@pytest.mark.parametrize("change", fewer(DROPPED.values(), 4), ids=fewer(DROPPED, 4))
def test_whatever_is_dropped_from_the_state_is_seen(whole, inputs, job, change):
    first = run(child(), job(inputs=inputs), stop_after=EVALUATION + 13)
    rewritten(change)(job().run_dir)
    try:
        second = run(child(), job(inputs=inputs))
    except ZeroDivisionError:
        return  # a mean over no step
    same_rows = rows(first) + rows(second) == rows(whole[1])
    assert not (same_rows and plain(second[-1]) == plain(whole[1][-1]))


def test_dropped_calibration_flags_stop_the_run_rather_than_calibrate_anew(inputs, job):
    run(child(), job(inputs=inputs), stop_after=EVALUATION + 13)
    rewritten(_flags(0, 0))(job().run_dir)
    with pytest.raises(RuntimeError, match="no value yet"):
        run(child(), job(inputs=inputs))


def test_dropping_the_best_so_far_is_seen(job):
    recipe = small(seed=3, train={"epochs": 2, "headline": "best"}, data={"batch_size": 30})
    uninterrupted = run(recipe, job("whole"))
    last, best = uninterrupted[-1].evaluations
    assert best.step < last.step, "the first epoch has to be the better one"
    run(recipe, job(), stop_after=11 + EVALUATION)
    rewritten(_cursor(best=None))(job().run_dir)
    assert plain(run(recipe, job())[-1]) != plain(uninterrupted[-1])


@pytest.mark.parametrize(
    ("name", "other"), [("torch", "2.0.0"), ("cpu", "x86_64 NO AVX"), ("code", "0" * 16)]
)
def test_other_circumstances_are_said_and_no_longer_called_bitwise(job, name, other):
    recipe = small(train={"epochs": 1})
    run(recipe, job(), stop_after=2)

    def change(parts):
        _cursor(circumstances=parts["state"]["cursor"]["circumstances"] | {name: other})(parts)

    rewritten(change)(job().run_dir)
    facts = run(recipe, job(), stop_after=2)
    told = [
        one.text for one in facts if isinstance(one, LogMessage) and "resumed elsewhere" in one.text
    ]
    assert len(told) == 1
    assert f"{name} {other} → " in told[0]
    facts = run(recipe, job())
    assert not [one for one in facts if isinstance(one, LogMessage) and "elsewhere" in one.text]
    assert facts[-1].deterministic == "statistical"


@pytest.mark.parametrize(("stored", "told"), [("0.1.0", ["torchvision 0.1.0 → "]), (None, [])])
def test_another_version_of_what_builds_the_network_is_said(job, stored, told):
    """A checkpoint of before does not say which it was: that is no difference."""
    recipe = small(
        model={"name": "shufflenet_v2_x0_5"},
        quant={"weight_bits": 32, "act_bits": 32},
        train={"epochs": 1},
    )
    run(recipe, job(), stop_after=1)
    versions = {"torchvision": stored} if stored else {}

    def change(parts):
        kept = parts["state"]["cursor"]["circumstances"]
        assert kept.pop("torchvision") == version("torchvision")
        _cursor(circumstances=kept | versions)(parts)

    rewritten(change)(job().run_dir)
    facts = run(recipe, job(), stop_after=0)
    notes = [one.text for one in facts if isinstance(one, LogMessage) and "elsewhere" in one.text]
    assert [one for one in notes if told and told[0] in one] == notes
    assert len(notes) == len(told)


def test_the_package_of_a_teacher_counts_as_that_of_the_network(job):
    distill = {"teacher": "t.pt", "teacher_model": "shufflenet_v2_x0_5"}
    recipe = small(distill=distill)
    pipeline = beginning.open_pipeline(recipe, job(), torch.device("cpu"))
    model = beginning.build_on_device(recipe.model.name, pipeline)
    state = torch.get_rng_state()
    packages = beginning.network_packages(model, recipe, pipeline)
    assert packages == {"torchvision": version("torchvision")}
    assert torch.equal(torch.get_rng_state(), state)
    assert beginning.network_packages(model, small(), pipeline) == {}


def test_a_checkpoint_without_its_row_is_removed_and_its_steps_are_done_again(job):
    uninterrupted = run(small(), job("whole"))
    first = run(small(), job(checkpoint_seconds=0.0), stop_after=4)
    written = [one for one in first if isinstance(one, Checkpoint)]
    assert [one.step for one in written[-2:]] == [4, 4], "the stop wrote step 4 once more"
    known = frozenset(one.sha256 for one in written) - {written[-1].sha256}
    second = run(small(), job(recorded_checkpoints=known))
    assert second[0].step == 3
    assert any("never recorded" in one.text for one in second if isinstance(one, LogMessage))
    kept = [one for one in rows(first) if one.step <= 3]
    assert kept + rows(second) == rows(uninterrupted)


def test_after_damage_the_last_two_kept_are_good_ones_and_nothing_new_is_thrown_away(job):
    run(small(), job(checkpoint_seconds=0.0), stop_after=5)
    for folder in job().run_dir.glob("ckpt-*"):
        (folder / "model.pt").write_bytes(b"rot")
    facts = run(small(), job(), stop_after=3)  # all are damaged: from scratch
    assert facts[0].step is None
    assert sum(isinstance(one, LogMessage) and "damaged" in one.text for one in facts) == 2
    assert resume_point(job().run_dir)[0].step == 3
    assert sorted(path.name for path in job().run_dir.glob("ckpt-*")) == [
        "ckpt-00000000",
        "ckpt-00000003",
    ]
    second = run(small(), job())
    assert rows(facts) + rows(second) == rows(run(small(), job("whole")))
    assert not list(job().run_dir.glob("damaged-*"))


def test_the_best_of_the_checkpoint_before_the_newest_is_kept_too(tmp_path):
    from tests.training.test_checkpoint import names, write

    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4)):
        write(tmp_path, step, best=best)
    assert names(tmp_path) == ["ckpt-00000001", "ckpt-00000003", "ckpt-00000004"]
    write(tmp_path, 5, best=4)
    assert names(tmp_path) == ["ckpt-00000004", "ckpt-00000005"]


def test_metric_rows_are_cut_back_and_written_again(job):
    """The newest checkpoint is damaged: its rows go, and come again from the one before."""
    uninterrupted = run(small(), job("whole"))
    stored: dict[tuple[str, str, int], Measurement] = {}

    def take(facts):
        for fact in facts:
            if isinstance(fact, Resumed):
                kept = -1 if fact.step is None else fact.step
                for key in [key for key in stored if key[-1] > kept]:
                    del stored[key]
            for one in rows([fact]):
                stored[one.name, getattr(one, "split", ""), one.step] = one

    take(run(small(), job(checkpoint_seconds=0.0), stop_after=9))
    newest = max(job().run_dir.glob("ckpt-*"))
    (newest / "state.json").write_bytes(b"{}")
    take(run(small(), job()))
    assert sorted(stored.values(), key=repr) == sorted(rows(uninterrupted), key=repr)
