"""Trackers hear of every number and never fail a run; hooks are told of its end, and ended."""

from __future__ import annotations

import http.server
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from lsqctl.discovery import use_workspace
from lsqctl.errors import LsqctlError, NotFound, UsageError
from lsqctl.events import Metric, Resumed
from lsqctl.run import EndReason, Run, RunDetail, RunState
from lsqctl.settings import Settings
from lsqctl.store import open_store
from lsqctl.testing import tracker_laws
from lsqctl.trackers import TRACKERS, Number, TrackedRun
from lsqctl.trackers.tensorboard import TensorBoard
from lsqctl.training.checkpoint_files import temporary_dir
from lsqctl.trust import trust
from lsqctl.worker.on_end import EndHooks
from lsqctl.worker.tracking import Tracking
from lsqctl.worker.workspace_file import OnEnd, read_workspace_file
from tests.conftest import wait_for
from tests.store.samples import identity, lapse, new, submit, take

RUN = Run(
    id="23456789",
    name="mine",
    state=RunState.SUCCEEDED,
    seed=1,
    recipe_sha256="",
    run_sha256="",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    reason=EndReason.COMPLETED,
    attempt=1,
    top1=91.25,
)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the real TensorBoard reads in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def tracked(folder: Path, attempt: int = 1, resumed: int | None = None) -> TrackedRun:
    return TrackedRun("23456789", "mine", 0, attempt, {}, folder, resumed)


def test_tensorboard_reads_each_number_and_of_a_step_measured_twice_the_later(tmp_path):
    first = TensorBoard(tracked(tmp_path))
    values = [0.5, math.inf, -1e300, 2.0]
    first.log([Number("test/top1", 300 * step, value, 1e9) for step, value in enumerate(values)])
    second = TensorBoard(tracked(tmp_path, attempt=2, resumed=300))
    second.log([Number("test/top1", 600, 7.0, 1e9), Number("test/é", 600, math.nan, 1e9)])
    second.close()
    first.close()
    found = scalars(tmp_path / "tensorboard")
    assert found["test/top1"] == [(0, 0.5), (300, math.inf), (600, 7.0)]
    ((step, value),) = found["test/é"]
    assert step == 600
    assert math.isnan(value)


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_what_is_shipped_keeps_the_laws_of_trackers(name):
    for law in tracker_laws(name):
        law()


BAD_TRACKERS = {
    "raises": "def log(self, numbers): raise ValueError('no\\nmore')",
    "exits": "def log(self, numbers): raise SystemExit(3)",
    "is_no_tracker": "def other(self): ...",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LSQCTL_PLUGINS", raising=False)
    home = tmp_path / ".lsqctl"
    (home / "plugins").mkdir(parents=True)
    use_workspace(home)
    yield home
    use_workspace(None)


@pytest.mark.parametrize("kind", BAD_TRACKERS)
def test_a_plugins_tracker_that_fails_is_switched_off_and_said_and_the_others_go_on(
    workspace, tmp_path, capfd, kind
):
    file = workspace / "plugins" / "mine.py"
    file.write_text(
        "from lsqctl.plugins import tracker\n"
        "@tracker('bad', description='fails')\nclass Bad:\n"
        f"    def __init__(self, run): ...\n    {BAD_TRACKERS[kind]}\n    def close(self): ...\n"
    )
    trust(file)
    detail = RunDetail(RUN, {}, {}, {}, ())
    with Tracking(["mine/bad", "mine/none", "tensorboard"], detail, tmp_path) as tracking:
        tracking.record(Resumed(None))
        for step in range(3):
            tracking.record(Metric("top1", "test", step, float(step)))
    said = capfd.readouterr().out
    assert said.count("the tracker mine/bad is switched off") == 1
    assert (
        "the tracker mine/none is switched off: the plugin `mine` declares no tracker `none`"
        in said
    )
    assert said.count("\n") == 2
    assert scalars(tmp_path / "tensorboard") == {"test/top1": [(0, 0.0), (1, 1.0), (2, 2.0)]}


class Watched:
    """Hooks, and what they said."""

    def __init__(self, on_end: OnEnd) -> None:
        self.said: list[str] = []
        self.hooks = EndHooks(on_end, notify=self.said.append)

    def end(self, run: Run, folder: Path) -> None:
        self.hooks.ended(run, folder)
        self.hooks.close()


def test_a_command_is_told_of_a_run_that_ended_and_of_no_other(tmp_path):
    script = f'cat > {tmp_path}/got; echo "$0" > {tmp_path}/word'
    watched = Watched(OnEnd(("sh", "-c", script, "{name}: {state} {nothing}")))
    watched.end(replace(RUN, state=RunState.QUEUED), tmp_path)
    assert not (tmp_path / "got").exists()
    watched.end(RUN, tmp_path)
    told = json.loads((tmp_path / "got").read_text())
    assert told["text"] == "mine seed 1 succeeded, Top-1 91.25 %"
    assert (tmp_path / "word").read_text() == "mine: succeeded {nothing}\n"
    assert watched.said == []


@pytest.fixture
def lost(tmp_path):
    """A store with a run that was cancelled while it ran, and whose worker is no more."""
    with open_store(f"sqlite:///{tmp_path}/home/lsqctl.db", lease_seconds=0.2) as store:
        store.workers.register(identity("w1"))
        submit(store, new("mine"))
        run_id = take(store).run.id
        store.runs.cancel(run_id)
        lapse(store, run_id)
        yield store


def test_the_hooks_are_told_of_a_run_whose_worker_was_lost_for_good(lost, tmp_path):
    watched = Watched(OnEnd(("sh", "-c", f"cat > {tmp_path}/got")))
    settings = Settings(tmp_path / "home", lost.url, tmp_path)
    (run,) = lost.runs.list()
    half_written = temporary_dir(settings.run_dir(run.id), "00ff")
    half_written.mkdir(parents=True)
    watched.hooks.reap(lost, settings)  # which has now seen the lease, and sees no renewal
    time.sleep(0.3)
    watched.hooks.reap(lost, settings)
    watched.hooks.close()
    assert json.loads((tmp_path / "got").read_text())["state"] == "cancelled"
    (said,) = watched.said
    assert "its worker was lost; now cancelled" in said
    assert not half_written.exists()


def test_a_hook_that_reads_nothing_of_a_long_message_holds_up_no_worker(tmp_path):
    watched = Watched(OnEnd(("sleep", "60"), timeout_seconds=1.0))
    watched.hooks.ended(replace(RUN, message="\N{BUG}" * 4000), tmp_path)
    watched.hooks.close()
    assert "took longer than 1 s" in watched.said[0]


def test_a_hook_that_hangs_is_ended_with_all_that_it_started_and_one_that_fails_is_said(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    watched = Watched(OnEnd(("sh", "-c", script), timeout_seconds=1.0))
    watched.end(RUN, tmp_path)
    assert watched.said == ["on_end command of 23456789 took longer than 1 s and was ended"]
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    failing = Watched(OnEnd(("sh", "-c", "echo why; exit 3")))
    failing.end(RUN, tmp_path)
    assert "failed with exit code 3; see on_end.log" in failing.said[0]
    assert (tmp_path / "on_end.log").read_text() == "why\n"
    missing = Watched(OnEnd(("no-such-program",)))
    missing.end(RUN, tmp_path)
    assert "did not start" in missing.said[0]


def test_a_webhook_is_sent_the_run_and_one_that_is_refused_is_said_without_its_url(tmp_path):
    got: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204 if self.path == "/good" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    good, bad = Watched(OnEnd(webhook=f"{url}/good")), Watched(OnEnd(webhook=f"{url}/secret"))
    good.end(RUN, tmp_path)
    bad.end(RUN, tmp_path)
    server.shutdown()
    server.server_close()
    assert [json.loads(body)["id"] for body in got] == [RUN.id] * 2
    assert good.said == []
    assert "webhook of 23456789 failed with exit code 1" in bad.said[0]
    assert "secret" not in bad.said[0] + (tmp_path / "on_end.log").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tracker = []", "did you mean `trackers`?"),
        ("trackers = 'tensorboard'", 'as ["tensorboard"]'),
        ("trackers = ['tensorbord']", "did you mean `tensorboard`?"),
        ("on_end = 3", "must be a table"),
        ("[on_end]\ncomand = ['x']", "did you mean `command`?"),
        ("[on_end]\ncommand = 'rm -rf x'", "must be a list of words"),
        ("[on_end]\nwebhook = 'file:///etc/passwd'", "begins with https://"),
        ("[on_end]\ntimeout = 'soon'", "`on_end.timeout`"),
        ("x = [", "Invalid"),
    ],
)
def test_a_wrong_workspace_file_is_said_in_one_line_with_the_file(tmp_path, text, said):
    (tmp_path / "workspace.toml").write_text(text)
    with pytest.raises((UsageError, NotFound)) as caught:
        read_workspace_file(tmp_path)
    assert isinstance(caught.value, LsqctlError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workspace_file_is_read_whole_and_none_is_empty(tmp_path):
    assert read_workspace_file(tmp_path).trackers == ()
    text = "trackers = ['tensorboard']\n[on_end]\ncommand = ['say', '{name}']\ntimeout = '2m'\n"
    (tmp_path / "workspace.toml").write_text(text)
    found = read_workspace_file(tmp_path)
    assert found.trackers == ("tensorboard",)
    assert found.on_end == OnEnd(("say", "{name}"), "", 120.0)


def test_the_page_lists_every_tracker_and_its_own_keeps_the_laws(workspace):
    page = (Path(__file__).parents[2] / "docs/tracking.md").read_text()
    rows = "".join(f"| {name} | {info.description} |\n" for name, info in TRACKERS.items())
    assert f"| tracker | what it does |\n|---|---|\n{rows}\n" in page
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    file = workspace / "plugins" / "mine.py"
    file.write_text(block)
    trust(file)
    for law in tracker_laws("mine/lines"):
        law()
    tables = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (workspace / "workspace.toml").write_text("".join(tables))
    found = read_workspace_file(workspace)
    assert found.on_end.webhook.startswith("https://")
    assert found.trackers == ("tensorboard",)
