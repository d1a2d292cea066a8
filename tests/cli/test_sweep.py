"""Laws of sweeps, chains of parents and steering, on the real command line and a real worker."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from sqlalchemy import delete
from typer.main import get_command

from lsqctl.cli.app import app, build_command
from lsqctl.errors import LsqctlError, NotFound, UsageError
from lsqctl.models.factory import build_model
from lsqctl.run import EndReason, Run, RunState
from lsqctl.store import Store, open_store
from lsqctl.store.tables import runs
from tests.conftest import TINY, CommandLine
from tests.services.test_submit import make_images, one_pixel

SWEEP = TINY.replace("epochs: 2", "epochs: 1") + "sweep: {grid: {train.lr: [0.1, 0.2, 0.3]}}\n"
LADDER = ("fp", "w4", "w3", "w2")


def store_of(cli: CommandLine) -> Store:
    return open_store(f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}", lease_seconds=1)


def by_name(cli: CommandLine) -> dict[str, Run]:
    """Every run as it stands, by its name."""
    with store_of(cli) as store:
        return {run.name: run for run in store.runs.list()}


def counts(cli: CommandLine, *name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(cli("sweep", "status", *name, "--json").stdout)["counts"]
    return found


def rung(name: str) -> str:
    """The recipe of one rung: from the rung above, at its bits."""
    text = TINY.replace("epochs: 2", "epochs: 1")
    if name == "fp":
        return text
    above = LADDER[LADDER.index(name) - 1]
    bits = f"quant: {{weight_bits: {name[1]}, act_bits: {name[1]}}}\n"
    return text.replace("resnet8", f"resnet8, weights: {{run: {above}}}") + bits


def test_a_chain_is_queued_by_its_last_recipe_falls_and_rises_as_one_and_hands_weights_down(cli):
    for name in LADDER:
        cli.write(f"{name}.yaml", rung(name))
    cli("submit", "w2.yaml")
    assert {name: run.state.value for name, run in by_name(cli).items()} == {
        "fp": "queued",
        "w4": "waiting",
        "w3": "waiting",
        "w2": "waiting",
    }
    cli("runs", "cancel", "w4")
    fallen = by_name(cli)
    assert fallen["fp"].state is RunState.QUEUED
    for name in ("w3", "w2"):
        assert (fallen[name].state, fallen[name].reason) == (RunState.CANCELLED, EndReason.PARENT)
    cli("runs", "retry", "w4")
    stored = {name: json.loads(cli("runs", "show", name, "--json").stdout) for name in LADDER}
    for name in LADDER:  # what was submitted runs, whatever becomes of the files
        cli.write(f"{name}.yaml", rung(name).replace("lr: 0.1", "lr: 0.7"))
    (cli.folder / "w3.yaml").write_text("not: a recipe\n")
    cli("worker", "--until-empty")
    ended = {name: json.loads(cli("runs", "show", name, "--json").stdout) for name in LADDER}
    with store_of(cli) as store:
        rows = {row.name: row for row in store.results.board_rows()}
    for above, name in pairwise(LADDER):
        assert ended[name]["recipe"] == stored[name]["recipe"]
        assert ended[name]["recipe"]["train"]["lr"] == 0.1
        parent, last = ended[above]["run"]["id"], ended[above]["checkpoints"][0]
        (attempt,) = ended[name]["attempts"]
        told = f"run {parent}, checkpoint {last['sha256']}"
        assert attempt["environment"]["inputs"] == {"model.weights": told}
        folder = Path(ended[name]["checkpoints"][0]["directory"])
        state = json.loads((folder / "state.json").read_text())
        assert state["cursor"]["digests"] == {"model.weights": last["sha256"]}
        assert rows[name].fp32_n_correct == rows["fp"].n_correct, "compared with where it began"
    for name in LADDER:
        cli.write(f"{name}.yaml", rung(name))
    done = json.loads(cli("submit", "w2.yaml", "--set", "quant.act_bits=3", "--json").stdout)
    assert [one["outcome"] for one in done["runs"]] == ["queued"], "finished parents are reused"


def test_weights_and_images_replaced_after_submit_fail_their_runs_in_one_line(cli):
    weights = cli.folder / "w.pth"
    torch.save(build_model("resnet8", num_classes=10, in_channels=1).state_dict(), weights)
    make_images(cli.folder / "data", "cat", "dog")
    cli.write("mine.yaml", TINY.replace("resnet8", "resnet8, weights: w.pth"))
    cli.write("images.yaml", TINY.replace("digits", "imagefolder"))
    cli("submit", "mine.yaml", "images.yaml", "--data-dir", "data")
    weights.write_text("second")
    (cli.folder / "data" / "imagefolder" / "val" / "dog" / "a.png").write_bytes(one_pixel("b"))
    cli("worker", "--until-empty")
    runs = by_name(cli)
    for name, what in (("mine", "w.pth has"), ("images", f"imagefolder in {cli.folder}/data has")):
        run = runs[name]
        assert (run.state, run.reason) == (RunState.FAILED, EndReason.DATA)
        assert f"{what} changed since the run was submitted" in run.message
        assert "\n" not in run.message


@pytest.mark.slow
def test_a_sweep_that_fails_fast_is_told_resumed_and_begins_from_scratch_when_asked(cli):
    cli.write("s.yaml", SWEEP.replace("[0.1,", "[1000.0,").replace("epochs: 1", "epochs: 2"))
    cli("submit", "s.yaml", "--fail-fast")
    cli("worker", "--until-empty")
    assert counts(cli) == {"failed": 1, "cancelled": 2}
    done = cli("sweep", "status")
    assert "s: 1 failed, 2 cancelled" in done.stderr
    assert "first failure: s-lr1000.0 (" in done.stderr
    assert "diverged: " in done.stderr
    assert "next: lsqctl sweep resume s" in done.stderr
    ended = by_name(cli)
    assert ended["s-lr0.2"].message == "sweep s: 1 cell failed (--max-failures 1)"
    folder = cli.folder / ".lsqctl" / "runs" / ended["s-lr1000.0"].id
    assert list(folder.glob("ckpt-*"))
    before = by_name(cli)
    told = cli("sweep", "resume", "s", "--dry-run", "--from-scratch")
    assert "3 cells would be requeued" in told.stderr
    assert list(folder.glob("ckpt-*"))
    assert by_name(cli) == before
    ids = cli("sweep", "resume", "--from-scratch", "--max-failures", "0", "-q").stdout.split()
    assert sorted(ids) == sorted(run.id for run in ended.values())
    assert not list(folder.glob("ckpt*"))
    assert counts(cli, "s") == {"queued": 3}
    cli("sweep", "resume", "s", "--failed", "--from-checkpoint")
    assert counts(cli, "s") == {"queued": 3}


def test_submitting_an_edited_grid_adds_only_what_is_new(cli):
    cli.write("s.yaml", SWEEP)
    cli("submit", "s.yaml")
    ids = set(cli("sweep", "status", "-q").stdout.split())
    cli.write("s.yaml", SWEEP.replace("[0.1, 0.2, 0.3]", "[0.1, 0.3, 0.4], train.epochs: [1, 2]"))
    done = json.loads(cli("submit", "s.yaml", "--json").stdout)["runs"]
    assert [one["outcome"] for one in done].count("exists") == 2
    assert [one["outcome"] for one in done].count("queued") == 4
    status = json.loads(cli("sweep", "status", "s", "--json").stdout)
    labels = {one["cell"] for one in status["cells"]}
    assert len(labels) == len(status["cells"]) == 7, "the cell that was dropped stays"
    assert {"lr0.1-epochs1", "lr0.2", "lr0.4-epochs2"} < labels
    assert ids < {one["run"]["id"] for one in status["cells"]}


@pytest.mark.slow
def test_a_removed_cell_is_missing_until_it_is_resumed(cli):
    cli.write("s.yaml", SWEEP)
    cli("submit", "s.yaml", "--priority", "3")
    first = cli("sweep", "status", "-q").stdout.split()[0]
    with store_of(cli) as store:
        store._database.write(lambda db: db.execute(delete(runs).where(runs.c.id == first)))
    assert counts(cli) == {"queued": 2, "missing": 1}
    assert "s\t3\t2 queued, 1 missing" in cli("sweep", "ls").stdout
    cli("runs", "cancel", "@last")
    (cli.folder / "s.yaml").unlink()
    done = json.loads(cli("sweep", "resume", "--missing", "--json").stdout)
    assert [(one["name"], one["outcome"]) for one in done["runs"]] == [("s-lr0.1", "queued")]
    assert counts(cli) == {"queued": 2, "cancelled": 1}
    assert by_name(cli)["s-lr0.1"].priority == 3


def test_a_worker_leaves_held_runs_says_so_and_ends(cli):
    cli.write("p.yaml", TINY)
    cli.write("c.yaml", TINY.replace("resnet8", "resnet8, weights: {run: p}"))
    cli("submit", "c.yaml", "--hold")
    assert "queued (held)" in cli("runs", "ls").stdout
    cli("runs", "release", "c")
    done = cli("worker", "--until-empty")
    assert "1 held, 1 waiting for them" in done.stderr
    assert "lsqctl runs release" in done.stderr
    assert {run.state for run in by_name(cli).values()} == {RunState.QUEUED, RunState.WAITING}


def test_a_sweep_is_held_released_and_hurried_as_a_whole_and_finished_cells_are_left(cli):
    cli.write("s.yaml", SWEEP)
    cli("submit", "s.yaml")
    cli("runs", "cancel", "@last")
    assert len(cli("runs", "hold", "--sweep", "s", "-q").stdout.split()) == 2
    assert counts(cli) == {"held": 2, "cancelled": 1}
    cli("runs", "priority", "--sweep", "s", "-5")
    cli("runs", "priority", "s-lr0.2", "7")
    assert {name: run.priority for name, run in by_name(cli).items()} == {
        "s-lr0.1": -5,
        "s-lr0.2": 7,
        "s-lr0.3": 0,
    }
    cli("runs", "release", "--sweep", "s")
    assert counts(cli) == {"queued": 2, "cancelled": 1}
    before = by_name(cli)
    assert "has finished" in cli("runs", "hold", "@last~1", "@last", code=1).stderr
    assert by_name(cli) == before, "all or nothing"


# references: every command that takes RUN, or a sweep's NAME


def commands(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(commands(get_command(app)))
WITH_RUN = [
    p
    for p, c in COMMANDS.items()
    if any(one.metavar == "RUN" and one.param_type_name == "argument" for one in c.params)
]
WITH_SWEEP = [("sweep", "status"), ("sweep", "resume")] + [
    (*p, "--sweep") for p, c in COMMANDS.items() if any("--sweep" in one.opts for one in c.params)
]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Thirty runs of one sweep: more than there are first characters of an id."""
    cli = CommandLine(tmp_path_factory.mktemp("many"))
    cli.write("tiny.yaml", TINY)
    seeds = [word for seed in range(30) for word in ("--seed", str(seed))]
    cli("submit", "tiny.yaml", *seeds)
    return cli


def refused(many: CommandLine, *words: str) -> LsqctlError:
    """The error that a command ends in; what it is worth in exit codes is its class's."""
    home = str(many.folder / ".lsqctl")
    with pytest.raises(LsqctlError) as error:
        build_command(*words[:2])(args=["--home", home, *words])
    assert "\n" not in str(error.value)
    return error.value


def with_run(path: tuple[str, ...], ref: str) -> list[str]:
    """A command's words, its RUN being ``ref`` and all else that it must have being 1."""
    words = list(path)
    for one in COMMANDS[path].params:
        if one.param_type_name == "option" and one.required:
            words += [one.opts[0], "1"]
        if one.param_type_name == "argument" and (one.required or one.metavar in {"RUN", "N"}):
            words.append(ref if one.metavar == "RUN" else "1")
    return words


@pytest.mark.parametrize("path", WITH_RUN, ids=" ".join)
def test_an_unknown_run_is_not_found_and_a_prefix_of_several_is_refused(many, path):
    assert len(WITH_RUN) >= 8
    with store_of(many) as store:
        ids = [run.id for run in store.runs.list()]
    shared = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    assert isinstance(refused(many, *with_run(path, "zzzzzzzz")), NotFound)
    assert isinstance(refused(many, *with_run(path, "@last~99")), NotFound)
    assert "did you mean `tiny`" in str(refused(many, *with_run(path, "tinny")))
    ambiguous = refused(many, *with_run(path, shared))
    assert isinstance(ambiguous, UsageError)
    assert "write more of it" in str(ambiguous)


@pytest.mark.parametrize("words", WITH_SWEEP, ids=" ".join)
def test_an_unknown_sweep_is_not_found_and_the_nearest_is_named(many, words):
    needed = {"priority": "1", "gpus": "1", "ablation": "seed"}  # what else a command must have
    more = [needed[one] for one in words if one in needed]
    error = refused(many, *words, "tinny", *more)
    assert isinstance(error, NotFound)
    assert "did you mean `tiny`" in str(error)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs", "hold"], "--sweep NAME"),
        (["runs", "hold", "@last", "--sweep", "tiny"], "not both"),
        (["runs", "priority", "@last", "--jsno", "3"], "--jsno"),
        (["runs", "priority"], "which priority"),
        (["submit", "digits/resnet8-fp32", "--fail-fast"], "for a sweep"),
        (
            ["submit", "digits/resnet8-lsq", "--dry-run", "--fail-fast", "--max-failures", "3"],
            "one",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_together_is_refused(many, words, told):
    error = refused(many, *words)
    assert isinstance(error, UsageError)
    assert told in str(error)
