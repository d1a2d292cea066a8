"""Wherever a process is killed, fails or sleeps, each run ends once, and to the bit as undisturbed.

CI deals the actions round-robin, one to each failpoint, and lets one run meet many of them.  With
LSQCTL_TEST_FULL set (``make test-full``) each failpoint meets each action, alone.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from lsqctl.failpoint import FAILPOINTS as ALL_FAILPOINTS
from lsqctl.run import EndReason, RunState
from lsqctl.store import Store
from lsqctl.training.checkpoint import verify_checkpoint
from tests.conftest import FULL, TINY, CommandLine, fewer, wait_for
from tests.worker.long_run import final_hashes, reproducible, store_of, submitted

# five steps an epoch and an evaluation of three batches
FOUR = TINY.replace("epochs: 2", "epochs: 4")
SLEEP = "sleep:2.5"  # two and a half leases
ACTIONS = ("kill", "raise", SLEEP)
# met elsewhere: tests/cluster/, tests/worker/test_halving.py, tests/services/test_transfer.py
ELSEWHERE = ("cluster", "rung", "import")
FAILPOINTS = [name for name in ALL_FAILPOINTS if not name.startswith(ELSEWHERE)]
WORKER = [name for name in FAILPOINTS if name.startswith(("claim", "worker", "reap", "end"))]
SUBMIT = [name for name in FAILPOINTS if name.startswith("submit")]
CELLS = [(name, action) for name in FAILPOINTS for action in ACTIONS]
CHILD = [name for name in FAILPOINTS if name not in (*WORKER, *SUBMIT)]
# at the second checkpoint there is something to lose; step 7 is in the second epoch
NTH = {name: 2 for name in FAILPOINTS if name.startswith("checkpoint")} | {
    "checkpoint.between-renames": 1,
    "checkpoint.begin": 1,  # the second is the one that between-renames needs
    "train.step": 7,
}
# what must have happened for a failpoint to be reached: a run that is asked to stop while it
# evaluates saves the same step twice, and is put back
BEFORE = dict.fromkeys(
    ("checkpoint.between-renames", "worker.before-release", "end.before-commit"),
    "evaluate.batch:term",
)


@dataclass(frozen=True)
class End:
    """What an undisturbed run leaves."""

    model: str
    metrics: list[tuple[str, str, int, float]]
    results: list[tuple[Any, ...]]


def end_of(cli: CommandLine, store: Store, run_id: str) -> End:
    counts = [
        (e.selection, e.headline, e.n_correct, e.step, e.hits)
        for e in store.results.evaluations(run_id)
    ]
    return End(final_hashes(cli, run_id)["model.pt"], reproducible(store, run_id), counts)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cli = CommandLine(tmp_path_factory.mktemp("whole"))
    run_id = submitted(cli, FOUR)
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        end = end_of(cli, store, run_id)
    assert len(end.results) == 2
    return end


def spec(name: str, action: str) -> str:
    return f"{name}:{action}:{NTH.get(name, 1)}"


def armed(cli: CommandLine, *specs: str) -> dict[str, str]:
    """Return the environment in which each of these happens once in the folder's history."""
    once = cli.folder / "once"
    once.mkdir(exist_ok=True)
    return {"LSQCTL_FAILPOINT": ",".join(specs), "LSQCTL_FAILPOINT_ONCE": str(once)}


def fired(cli: CommandLine) -> set[str]:
    return {path.name for path in (cli.folder / "once").iterdir()}


def work(cli: CommandLine, *specs: str, code: int | None = 0) -> None:
    cli("worker", "--until-empty", "--slots", "2", code=code, **armed(cli, *specs))


def assert_whole(cli: CommandLine, undisturbed: End) -> None:
    """Every run has one honest result, and nothing is left over."""
    with store_of(cli) as store:
        runs = store.runs.list()
        assert {run.state for run in runs} == {RunState.SUCCEEDED}
        assert len(store.results.board_rows()) == len(runs)
        assert store.maintenance.check() == []
        for run in runs:
            assert end_of(cli, store, run.id) == undisturbed
            folder = cli.folder / ".lsqctl" / "runs" / run.id
            known = {one.directory: one.sha256 for one in store.checkpoints.list(run.id)}
            kept = {str(one): verify_checkpoint(one) for one in folder.glob("ckpt*")}
            assert kept == known


def dealt(names: list[str], group: int) -> list[str]:
    """Return each third failpoint with an action, all of them dealt over the three groups."""
    mine = [(index, name) for index, name in enumerate(names) if index % 3 == group]
    return [spec(name, ACTIONS[(index // 3 + group) % 3]) for index, name in mine]


@pytest.mark.parametrize("group", fewer(range(3), 1))
def test_a_run_ends_as_undisturbed_whatever_meets_its_child(cli, undisturbed, group):
    specs = dealt(CHILD, group)
    names = {one.partition(":")[0] for one in specs}
    before = {BEFORE[name] for name in names if name in BEFORE}
    submitted(cli, FOUR)
    work(cli, *specs, *before)
    assert fired(cli) >= names
    assert_whole(cli, undisturbed)


def test_a_run_ends_as_undisturbed_whatever_meets_its_workers(cli, undisturbed):
    """One worker after another; each leaves it to the next to find what it held."""
    submitted(cli, FOUR)
    kill = -9
    work(cli, "claim.before-commit:raise", "worker.claimed:kill", code=kill)
    work(
        cli,
        f"reap.before-expire:{SLEEP}",
        "worker.launched:raise",
        "worker.after-renew:kill:2",
        code=kill,
    )
    work(cli, "evaluate.batch:term", "worker.before-release:kill", code=kill)
    work(
        cli,
        f"worker.before-renew:{SLEEP}",
        "train.step:raise",
        "end.before-commit:raise",
        "worker.child-ended:raise",
        f"worker.end-stored:{SLEEP}",
    )
    assert fired(cli) >= set(WORKER)
    assert_whole(cli, undisturbed)


@pytest.mark.slow
def test_a_worker_and_a_child_that_slept_past_the_lease_change_nothing(cli, undisturbed):
    """The child was about to save, and wakes first: it renames nothing and removes nothing."""
    run_id = submitted(cli, FOUR)
    late = armed(cli, "checkpoint.begin:sleep:5:2", "worker.before-renew:sleep:12:3")
    worker = cli.start("worker", "--until-empty", "--slots", "2", **late)
    wait_for(lambda: len(fired(cli)) == 2)
    zombie = psutil.Process(worker.pid)
    zombie.suspend()
    children = zombie.children(recursive=True)
    for child in children:
        child.suspend()
    work(cli)
    for child in children:
        child.resume()
    log = cli.folder / ".lsqctl" / "runs" / run_id / "attempt-1.log"
    wait_for(lambda: "has lost its lease" in log.read_text())
    zombie.resume()
    assert worker.wait(60) == 0
    with store_of(cli) as store:
        reasons = [one.reason for one in store.runs.detail(run_id).attempts]
    assert reasons == [EndReason.WORKER_LOST, EndReason.COMPLETED]
    assert_whole(cli, undisturbed)


def test_what_meets_a_submission_leaves_all_of_it_or_nothing(cli):
    cli.write("mine.yaml", FOUR)
    many = ("submit", "mine.yaml", "--seed", "0", "--seed", "1", "-q")
    for action, code in (("kill", -9), ("raise", 1)):
        cli(*many, code=code, **armed(cli, f"submit.before-commit:{action}"))
        with store_of(cli) as store:
            assert store.runs.list() == []
        (cli.folder / "once" / "submit.before-commit").unlink()
    cli(*many, code=-9, **armed(cli, "submit.after-commit:kill"))
    with store_of(cli) as store:
        stored = {run.id for run in store.runs.list()}
    assert len(stored) == 2
    assert set(cli(*many).stdout.split()) == stored  # again: the same runs, none doubled


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="make test-full runs the whole matrix")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "action"), CELLS if FULL else CELLS[:1])
def test_each_failpoint_meets_each_action(cli, undisturbed, name, action):
    fault = armed(cli, spec(name, action), *filter(None, [BEFORE.get(name)]))
    cli.write("mine.yaml", FOUR)
    cli("submit", "mine.yaml", code=None, **fault)
    cli("submit", "mine.yaml")
    if name == "reap.before-expire":
        work(cli, "worker.claimed:kill", code=-9)
    worker = cli.start("worker", "--until-empty", "--slots", "2", **fault)
    wait_for(lambda: name in fired(cli) or worker.poll() is not None, 120)
    work(cli)  # finishes what the first leaves, and takes over what it sleeps on
    try:
        assert worker.wait(120) in (0, -9)
    except subprocess.TimeoutExpired:
        pytest.fail("the worker does not end")
    assert name in fired(cli)
    assert_whole(cli, undisturbed)
