"""What hangs does not keep a run for ever: a fork server that is stopped, a child that is deaf."""

from __future__ import annotations

import signal

import psutil
import pytest
from sqlalchemy import update

from lsqctl.run import EndReason, RunState
from lsqctl.settings import Settings
from lsqctl.store import open_store
from lsqctl.store.tables import runs
from lsqctl.worker.child import SAVE_GRACE_SECONDS, SERVER_TIMEOUT_SECONDS
from lsqctl.worker.identity import this_worker
from lsqctl.worker.launchers import ForkServerLauncher
from lsqctl.worker.slots import SlotAllocator, make_slots
from lsqctl.worker.supervisor import Supervisor
from tests.conftest import wait_for
from tests.store.samples import Clock, lapse, new, submit
from tests.worker.test_dead_workers import Silent
from tests.worker.test_fork_server import Started, parent_of
from tests.worker.test_late_children import LEASE, Scene, scene  # noqa: F401 (a fixture)


@pytest.fixture
def hung(tmp_path):
    """A supervisor whose one run was asked of a fork server that is stopped."""
    home = tmp_path / "home"
    url = f"sqlite:///{home}/lsqctl.db"
    settings = Settings(home, url, tmp_path, lease_seconds=LEASE, warm=True)
    me, slots, clock = this_worker(None, 1, "cpu"), SlotAllocator(make_slots((), 1)), Clock()
    with open_store(url, lease_seconds=LEASE) as store:
        store.workers.register(me)
        (run_id,) = submit(store, new("a"))
        supervisor = Supervisor(
            store, settings, identity=me, slots=slots, observer=Silent(), clock=clock
        )
        supervisor._launcher.start()
        parent_of(supervisor._launcher).send_signal(signal.SIGSTOP)
        supervisor.tick()
        yield Scene(store, supervisor, clock, run_id, home / "lsqctl.db", tmp_path)
        supervisor._shutdown()


def reasons(scene):  # noqa: F811
    detail = scene.store.runs.detail(scene.run_id)
    return detail.run.state, [(entry.reason, entry.message) for entry in detail.attempts]


def test_a_run_that_a_hung_fork_server_never_starts_is_tried_again_with_another(hung):
    server = parent_of(hung.supervisor._launcher)
    hung.tick_at(SERVER_TIMEOUT_SECONDS)
    assert server.is_running()
    late = hung.child
    hung.tick_at(SERVER_TIMEOUT_SECONDS + 1)
    wait_for(lambda: late.exit_code() is not None)
    assert not server.is_running()
    hung.supervisor._finalize_ended()
    state, ((reason, message),) = reasons(hung)
    assert (state, reason) == (RunState.QUEUED, EndReason.INFRA)
    assert message == "the fork server ended: it gave no sign of life for 120 s"


def test_one_sigterm_ends_a_worker_whose_fork_server_hangs(hung):
    hung.supervisor._on_signal(signal.SIGTERM, None)
    hung.tick_at(SERVER_TIMEOUT_SECONDS)
    assert not hung.supervisor._is_finished()
    hung.tick_at(SAVE_GRACE_SECONDS + LEASE)
    wait_for(lambda: hung.supervisor._finalize_ended() or hung.supervisor._is_finished())
    assert reasons(hung) == (RunState.QUEUED, [(EndReason.PREEMPTED, "")])


def test_one_sigterm_ends_a_worker_whose_child_does_not_listen(scene):  # noqa: F811
    scene.supervisor._on_signal(signal.SIGTERM, None)
    scene.tick_at(SAVE_GRACE_SECONDS + LEASE - 1)
    assert not scene.supervisor._is_finished()
    scene.tick_at(SAVE_GRACE_SECONDS + LEASE)
    wait_for(lambda: scene.supervisor._finalize_ended() or scene.supervisor._is_finished())
    assert reasons(scene) == (RunState.QUEUED, [(EndReason.PREEMPTED, "")])


def test_one_sigterm_ends_a_worker_that_cannot_reach_its_database(scene):  # noqa: F811
    with scene.locked():
        scene.supervisor._on_signal(signal.SIGTERM, None)
        late = scene.child
        scene.tick_at(SAVE_GRACE_SECONDS + LEASE)
        wait_for(lambda: late.exit_code() is not None)
        scene.supervisor.tick()
        assert scene.supervisor._is_finished()


@pytest.mark.slow
def test_a_child_that_ended_under_a_stopped_fork_server_is_known_to_wait_for_it(tmp_path):
    launcher = ForkServerLauncher(threads=1)
    child = Started(launcher, tmp_path / "log")
    wait_for(lambda: child.process.poll() is None and child.process.pid is not None, 150)
    assert not child.process.awaits_server()
    server = parent_of(launcher)
    server.send_signal(signal.SIGSTOP)
    psutil.Process(child.process.pid).kill()
    wait_for(child.process.awaits_server)
    assert child.process.poll() is None
    launcher.abandon("it hung")
    assert child.code() == -signal.SIGKILL
    assert child.process.exit_cause == "the fork server ended: it hung"


def test_a_run_that_was_taken_over_and_removed_ends_its_child_and_not_its_worker(scene):  # noqa: F811
    lapse(scene.store, scene.run_id, seconds=LEASE)
    scene.store._database.write(
        lambda db: db.execute(update(runs).values(state="failed", fence=None, lease_until=None))
    )
    scene.store.trash.remove([scene.run_id], force=True)
    late = scene.child
    scene.tick_at(LEASE)
    wait_for(lambda: late.exit_code() is not None)
    scene.supervisor.tick()
    assert not scene.supervisor._children
    assert scene.supervisor._exit_code is None
