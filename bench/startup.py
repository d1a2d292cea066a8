"""How long commands take to start, beside what Python and its libraries cost by themselves.

    python bench/startup.py [--repeat N]

Each command runs N times in turn with the others (so that a busy moment hits all alike), in a
workspace of 1,000 runs; the median is printed in seconds, and as a ratio to a bare
``python -c pass``.
Goals: ``lsqctl --help`` within 0.25 s, ``runs ls`` within 0.5 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 1000


def commands() -> dict[str, list[str]]:
    """Return what is measured, by name; the peers are what the same work would import."""
    python = [sys.executable]
    ours = [*python, "-m", "lsqctl"]
    return {
        "python -c pass": [*python, "-c", "pass"],
        "import typer": [*python, "-c", "import typer"],
        "import sqlalchemy": [*python, "-c", "import sqlalchemy"],
        "import torch": [*python, "-c", "import torch"],
        "lsqctl --help": [*ours, "--help"],
        "lsqctl runs ls": [*ours, "runs", "ls"],
        "lsqctl recipe ls": [*ours, "recipe", "ls"],
        "lsqctl submit (dry run)": [*ours, "submit", "digits/resnet8-lsq", "--dry-run"],
        "lsqctl leaderboard": [*ours, "leaderboard"],
    }


def fill(folder: Path) -> None:
    """Queue many runs, through the real command line."""
    seeds = [word for seed in range(RUNS) for word in ("--seed", str(seed))]
    command = [sys.executable, "-m", "lsqctl", "submit", "digits/resnet8-fp32", *seeds]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def seconds(command: list[str], folder: Path) -> float:
    """Return how long one start takes."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=11)
    repeat = parser.parse_args().repeat
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    times: dict[str, list[float]] = {name: [] for name in commands()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder)
        for _ in range(repeat):
            for what, command in commands().items():
                times[what].append(seconds(command, folder))
    base = statistics.median(times["python -c pass"])
    print(f"{repeat} starts each, median; {os.cpu_count()} cores, {RUNS} runs in the workspace")
    for what, taken in times.items():
        median = statistics.median(taken)
        print(f"{what:26} {median:6.3f} s   {median / base:6.1f} x python")


if __name__ == "__main__":
    main()
