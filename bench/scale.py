"""How long looking takes with 10,000 runs, 1,000,000 metric points and 1,000 published rows.

    python bench/scale.py [--repeat N] [--keep FOLDER]

The workspace is built first: one run goes through the real Store, and SQL copies its rows.  500
recipes of 20 seeds each: 9,000 succeeded, 10 run, 190 failed, 800 wait their turn; 100 points a
run.  Then each command runs N times in turn with the others; best, median, and the CPU time of the
best are printed, in seconds of the whole process, and the largest peak of memory (never below this
script's own).  Goals: `runs ls` within 0.5 s, `leaderboard` within 1 s, `--html` within 5 s, and
none above 500 MB.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lsqctl.events import Evaluation, Metric, Result
from lsqctl.leaderboard.published_results import (
    PublishedResult,
    WorkspaceResults,
    dump_workspace_results,
)
from lsqctl.run import NewRun, WorkerIdentity
from lsqctl.store import Store, open_store

RUNS, POINTS, SEEDS, PUBLISHED_RESULTS = 10_000, 100, 20, 1_000
RECIPE = {
    "data": {"name": "digits"},
    "model": {"name": "resnet8"},
    "quant": {"weight_bits": 4, "act_bits": 4},
}
STATE = """CASE WHEN n.i % 1000 = 0 THEN 'running' WHEN n.i % 50 = 1 THEN 'failed'
 WHEN n.i % 25 IN (2, 3) THEN 'queued' ELSE 'succeeded' END"""


def first_run(store: Store) -> None:
    """One run that was claimed, measured and finished, and one that is queued."""
    store.workers.register(WorkerIdentity("w1", "w1", "host", 1, 1.0, "", 1, "cpu"))
    new = [
        NewRun(f"digits/{seed}", RECIPE, "r", f"r:{seed}", seed, {"code_commit": "abc"}, epochs=5)
        for seed in (0, 1)
    ]
    store.queue.enqueue(new)
    claim = store.queue.claim("w1")
    assert claim is not None
    points = [Metric("top1", "test", 1, 90.0), Metric("loss", "train", 1, 0.5)]
    store.metrics.log(claim.lease, points)
    last = Evaluation("raw", "last", True, 500, 530, 540, bytes(68), 100)
    store.queue.finish(
        claim.lease,
        Result(
            evaluations=(last,),
            dataset="digits",
            split="test",
            arch="resnet8",
            method="lsq",
            weight_bits=4,
            act_bits=4,
            first_last_bits="8/8",
            granularity="tensor",
            params=78_000,
            size_bytes=39_000,
            naive_bytes=312_000,
            epochs=5,
            macs=12_000_000,
            bops=10**13,
            train_seconds=1.5,
            peak_mem_bytes=2**33,
            device="cpu",
            torch="2",
            precision="fp32",
            deterministic="bitwise",
            data_digest="d",
            preprocessing="p",
        ),
    )


def copies(db: sqlite3.Connection, table: str, changes: dict[str, str], where: str = "1") -> None:
    """Insert a copy of the table's first row for each number, some columns changed."""
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    wanted = ", ".join(changes.get(name, f"t.{name}") for name in names)
    db.execute(
        f"INSERT INTO {table} SELECT {wanted} FROM n, (SELECT * FROM {table} LIMIT 1) t "
        f"WHERE {where}"
    )


def fill(path: Path) -> None:
    """Bring the database to its full size."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA journal_mode=MEMORY")
        db.execute(
            "CREATE TEMP TABLE n AS WITH RECURSIVE c(i) AS "
            f"(SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {RUNS - 2}) SELECT i FROM c"
        )
        run_id, group = "printf('%08d', n.i)", f"n.i / {SEEDS}"
        copies(
            db,
            "runs",
            {
                "seq": "n.i + 10",
                "id": run_id,
                "name": f"printf('digits/model-%d', {group})",
                "recipe_sha256": f"printf('r%d', {group})",
                "run_sha256": "printf('s%d', n.i)",
                "seed": f"n.i % {SEEDS}",
                "state": STATE,
                "lease_until": f"CASE WHEN {STATE} = 'running' THEN '9999-12-31T00:00:00.000' END",
                "worker_id": f"CASE WHEN {STATE} = 'running' THEN 'w1' END",
                "message": f"CASE WHEN {STATE} = 'failed' THEN 'CUDA out of memory' ELSE '' END",
                "reason": f"CASE {STATE} WHEN 'failed' THEN 'oom' WHEN 'succeeded' "
                "THEN 'completed' END",
                "finished_at": f"CASE WHEN {STATE} IN ('failed', 'succeeded') "
                "THEN t.finished_at END",
                "step": "60",
                "total_steps": "100",
            },
        )
        counted = {"run_id": run_id, "n_correct": f"480 + ({group}) % 50 + n.i % 5"}
        copies(db, "results", counted, f"{STATE} = 'succeeded'")
        copies(db, "metric_summaries", {"run_id": run_id, "name": "'top1'", "split": "'test'"})
        copies(db, "attempts", {"run_id": run_id}, f"{STATE} IN ('running', 'failed', 'succeeded')")
        copies(db, "events", {"id": "n.i + 100", "run_id": run_id})
        db.execute(
            "INSERT INTO metric_points WITH RECURSIVE c(i) AS "
            f"(SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {POINTS // 2}) "
            "SELECT r.id, s.name, s.split, c.i, 90.0 + c.i % 7, 'number', '' FROM runs r, c, "
            "(SELECT 'top1' AS name, 'test' AS split UNION ALL SELECT 'loss', 'train') s "
            "WHERE r.seq > 2"
        )


def published_result(number: int) -> PublishedResult:
    """Return one published row of many, on the runs' dataset."""
    bits, top1 = 2 + number % 7, 85 + number % 140 / 10
    return PublishedResult(
        *("digits", f"published-{number}", "resnet8", "LSQ", bits, bits, top1),
        *("paper", f"https://example.org/{number}", f"{top1} in a table"),
        n_total=540,
    )


def build(folder: Path) -> Path:
    """Make the workspace in an empty folder and return its database."""
    path = folder / ".lsqctl" / "lsqctl.db"
    with open_store(f"sqlite:///{path}") as store:
        first_run(store)
    fill(path)
    added = WorkspaceResults(tuple(map(published_result, range(PUBLISHED_RESULTS))))
    path.with_name("references.jsonl").write_text(dump_workspace_results(added), encoding="utf-8")
    return path


def commands() -> dict[str, list[str]]:
    """Return what is measured, by name."""
    python = [sys.executable]
    ours = [*python, "-m", "lsqctl"]
    return {
        "python -c pass": [*python, "-c", "pass"],
        "import sqlalchemy": [*python, "-c", "import sqlalchemy"],
        "runs ls": [*ours, "runs", "ls"],
        "runs ls --limit 10000": [*ours, "runs", "ls", "--limit", "10000"],
        "runs show": [*ours, "runs", "show", "00000001"],
        "leaderboard": [*ours, "leaderboard"],
        "leaderboard --where": [*ours, "leaderboard", "--where", "weight_bits <= 4 and rank <= 50"],
        "leaderboard --pivot": [*ours, "leaderboard", "--pivot", "arch,bits"],
        "leaderboard -o b.tex": [*ours, "leaderboard", "-o", "b.tex", "--force"],
        "leaderboard --html": [*ours, "leaderboard", "--html", "b.html", "--force"],
        "... --per-run --html": [
            *(*ours, "leaderboard", "--per-run", "--html", "board.html", "--force")
        ],
        "watch --once": [*ours, "watch", "--once"],
        "wait RUN --timeout 0": [*ours, "wait", "00000004", "--timeout", "0"],
        "runs gc (dry run)": [*ours, "runs", "gc"],
        "doctor": [*ours, "doctor"],
    }


@dataclass(frozen=True, slots=True, order=True)
class Taken:
    """What one process took: seconds on the wall and of CPU, and its peak of memory in MB."""

    wall: float
    cpu: float
    peak: float


def measure(command: list[str], folder: Path) -> Taken:
    """Run one process to its end and return what it took."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with tempfile.TemporaryFile("w+") as told:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=told, env=environment
        )
        _, _, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = 0  # wait4 has taken it
        told.seek(0)
        assert "Traceback" not in (text := told.read()), text
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)


def main() -> None:
    """Build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="build here, or use what is here already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        path = folder / ".lsqctl" / "lsqctl.db"
        if not path.exists():
            build(folder)
        times: dict[str, list[Taken]] = {name: [] for name in commands()}
        for _ in range(given.repeat):
            for what, command in commands().items():
                times[what].append(measure(command, folder))
        size = path.stat().st_size / 1e6
    print(
        f"{RUNS:,} runs, {RUNS * POINTS:,} points, {PUBLISHED_RESULTS:,} published rows, "
        f"{size:.0f} MB;"
    )
    print(f"{given.repeat} starts each{'':14}  best   median    CPU  peak MB")
    for what, taken in times.items():
        best, median = min(taken), statistics.median(one.wall for one in taken)
        peak = max(one.peak for one in taken)
        print(f"{what:26} {best.wall:6.3f} {median:8.3f} {best.cpu:6.3f} {peak:8.0f}")


if __name__ == "__main__":
    main()
