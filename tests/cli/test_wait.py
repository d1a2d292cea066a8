"""Laws of `wait`: its exit codes are what a script decides by."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import StoreError
from lsqctl.run import EndReason
from lsqctl.services.wait import wait
from lsqctl.store import Store, open_store
from lsqctl.text import parse_duration
from tests.conftest import TINY, CommandLine
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.store.samples import identity, result, take
from tests.worker.test_faults_of_the_database import control


@pytest.fixture
def queued(cli: CommandLine) -> CommandLine:
    """Three cells of a sweep in the queue, and nobody who works."""
    cli.write("tiny.yaml", TINY + "sweep: {grid: {seed: [0, 1, 2]}}\n")
    cli("submit", "tiny.yaml")
    return cli


def store_of(cli: CommandLine) -> Store:
    store = open_store(f"sqlite:///{cli.folder / '.lsqctl' / 'lsqctl.db'}")
    store.workers.register(identity("w1"))
    return store


def test_looking_once_exits_with_8_and_a_time_out_with_6(queued):
    assert (
        "3 of 3 have not ended"
        in queued("wait", "--sweep", "tiny", "--timeout", "0", code=8).stderr
    )
    done = queued("wait", "@last", "--timeout", "0.2s", code=6)
    assert "1 queued" in done.stderr
    found = json.loads(queued("wait", "@last", "--timeout", "0", "--json", code=8).stdout)
    assert [one["state"] for one in found["pending"]] == ["queued"]


def test_it_ends_with_0_when_all_succeeded_and_not_before(queued):
    waiting = queued.start("wait", "--sweep", "tiny", "--timeout", "60s")
    with store_of(queued) as store:
        for _ in range(3):
            assert waiting.poll() is None
            store.queue.finish(take(store).lease, result())
    assert waiting.wait(60) == 0
    queued("wait", "@last", "@last~1", "--timeout", "0")


def test_a_failure_exits_with_5_and_names_run_and_reason(queued):
    with store_of(queued) as store:
        failed = take(store)
        store.queue.fail(failed.lease, EndReason.OOM, "CUDA out of memory")
        early = queued("wait", "--sweep", "tiny", "--fail-fast", code=5)
        for _ in range(2):
            store.queue.finish(take(store).lease, result())
    done = queued("wait", "--sweep", "tiny", code=5)
    for told in (early.stderr, done.stderr):
        assert f"({failed.run.id}) failed: oom: CUDA out of memory" in told
    assert "2 still pending" in early.stderr


def test_a_run_that_is_put_back_by_back_off_is_pending(queued):
    with store_of(queued) as store:
        claim = take(store)
        store.queue.fail(claim.lease, EndReason.INFRA, "disk full")
    queued("wait", claim.run.id, "--timeout", "0", code=8)


def test_a_cancelled_and_a_removed_run_have_not_succeeded(queued):
    queued("runs", "cancel", "@last")
    assert "cancelled" in queued("wait", "@last", code=5).stderr
    run_id = queued("runs", "ls", "-q").stdout.split()[1]
    waiting = queued.start("wait", run_id, "--timeout", "60s")
    queued("wait", run_id, "--timeout", "1s", code=6)  # by now the other one knows its id, too
    queued("runs", "rm", run_id, "--yes")
    assert waiting.wait(60) == 5
    assert "was removed" in waiting.stdout.read()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["wait"], 2, "--sweep"),
        (["wait", "@last", "--timeout", "soon"], 2, "90s, 10m"),
        (["wait", "nothing"], 3, "nothing"),
        (["wait", "--sweep", "tny"], 3, "tiny"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(queued, words, code, told):
    assert told in queued(*words, code=code).stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90s", 90), ("10m", 600), ("2h", 7200), ("30", 30), ("30d", 2_592_000)),
        *(("1h30m", 5400), ("0", 0), ("1.5H", 5400), (" 2 m ", 120)),
    ],
)
def test_time_spans_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1w", "1h30", "1e9", "inf", "nan", "9999999d", "1,5h"]
)
def test_what_is_no_time_span_is_refused_in_plain_words(text):
    with pytest.raises(ValueError, match=r"must be (a time such as 90s|ten years)"):
        parse_duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_time_span_or_a_plain_refusal(text):
    with contextlib.suppress(ValueError):
        assert 0 <= parse_duration(text) <= 3650 * 86_400


@given(st.integers(0, 900), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_units_add_up(days, hours, minutes, seconds):
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@pytest.mark.parametrize("words", ["0", "0m", "soon"])
def test_a_time_limit_is_above_zero_and_said_so_in_one_line(cli, words):
    done = cli("submit", "digits/resnet8-fp32", "--time-limit", words, code=2)
    assert "must be" in done.stderr


def test_a_database_that_is_away_for_a_moment_is_asked_again(queued, monkeypatch):
    with store_of(queued) as store:
        claim = take(store)
        seen, said, answers = [], [], iter(["first", "away", "away", "later"])

        def statuses(ids, ask=store.runs.statuses):
            if (answer := next(answers)) == "away":
                raise StoreError("the database is locked")
            seen.append(answer)
            if answer == "later":
                store.queue.fail(claim.lease, EndReason.CODE, "ended")
            return ask(ids)

        monkeypatch.setattr(store.runs, "statuses", statuses)
        monkeypatch.setattr("lsqctl.services.wait.POLL_SECONDS", 0.01)
        found = wait(store, [claim.run.id], timeout=3600, notify=said.append)
    assert (seen, len(found.failed)) == (["first", "later"], 1)
    assert said == [
        "the database is locked; going on as soon as the database answers",
        "the database answers again",
    ]


def test_a_server_that_is_stopped_is_said_once_and_so_is_its_return(
    cli,
    postgresql_url,  # noqa: F811
):
    cli.environment |= {"LSQCTL_DB": postgresql_url}
    cli.write("tiny.yaml", TINY)
    first, second = cli("submit", "tiny.yaml", "--seed", "0", "--seed", "1", "-q").stdout.split()
    waiting = cli.start("wait", first, second)
    assert waiting.stdout is not None
    assert "store: " in waiting.stdout.readline()
    cli("runs", "cancel", first)
    assert "cancelled" in waiting.stdout.readline()
    control(postgresql_url, "-m", "immediate", "stop")
    try:
        assert "going on as soon as the database answers" in waiting.stdout.readline()
        time.sleep(2)
    finally:
        control(postgresql_url, "start")
    assert waiting.stdout.readline() == "the database answers again\n"
    cli("runs", "cancel", second)
    assert "cancelled" in waiting.stdout.readline()
    assert waiting.wait(60) == 5


def test_what_was_cancelled_is_told_though_the_next_run_cannot_be(queued):
    with store_of(queued) as store:
        done = take(store)
        store.queue.finish(done.lease, result())
        waiting = next(run.id for run in store.runs.list() if run.id != done.run.id)
    told = queued("runs", "cancel", waiting, done.run.id, code=1).stderr
    assert f"{waiting}  tiny  cancelled" in told
    assert "succeeded" in told.splitlines()[-1]


def test_a_dry_run_tells_what_is_there_already_and_what_would_be_tried_again(queued):
    with store_of(queued) as store:
        failed = take(store)
        store.queue.fail(failed.lease, EndReason.CODE, "no")
    dry = ("submit", "tiny.yaml", "--dry-run")
    told = queued(*dry)
    assert "1 run would be queued, 2 are there already; nothing was" in told.stderr
    assert f"{failed.run.id} (tiny, failed), again" in told.stdout
    assert "3 runs would be queued; nothing was" in queued(*dry, "--if-exists", "rerun").stderr
    assert "exists already as run" in queued(*dry, "--if-exists", "error", code=2).stderr
    rows = json.loads(queued(*dry, "--json").stdout)["runs"]
    assert sorted(row["existing"]["state"] for row in rows) == ["failed", "queued", "queued"]
    queued("submit", "tiny.yaml")
    with store_of(queued) as store:
        assert store.runs.detail(failed.run.id).run.state.value == "queued"
