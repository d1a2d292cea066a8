"""How long commands take to start, beside what Python and its libraries cost by themselves.

    python bench/startup.py [--repeat N] [--plugins]

Each command runs N times in turn with the others (so that a busy moment hits all alike), in a
workspace of 1,000 runs; the median is printed in seconds, and as a ratio to a bare
``python -c pass``.
Goals: ``lsqctl --help`` within 0.25 s, ``runs ls`` within 0.5 s.

With ``--plugins``, what a plugin adds to both: none, examples/plugin installed beside lsqctl, and a
trusted file in the workspace, in turn. The ratio is to none in the same turn, its median over all
turns: of seconds, and of the CPU seconds that a start took, which other work on the machine moves
less. Goal: within 1.03.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

RUNS = 1000
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "plugin"


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


def seconds(command: list[str], folder: Path, **environment: str) -> float:
    """Return how long one start takes."""
    env = os.environ | environment
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """Return what all processes that this one has started and waited for took of the CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plugin_settings(folder: Path) -> dict[str, dict[str, str]]:
    """Lay plugins out below a folder and return, by name, what switches each of them on."""
    site, trusting = folder / "site", folder / "trusting"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (folder / "nothing").mkdir()
    shutil.copytree(folder / ".lsqctl", trusting)
    (trusting / "plugins").mkdir(mode=0o700)
    shutil.copy(EXAMPLE / "stripes" / "nets.py", trusting / "plugins" / "nets.py")
    home = {"XDG_CONFIG_HOME": str(folder / "config")}
    trust = [sys.executable, "-m", "lsqctl", "plugins", "trust", "nets.py"]
    trusted = {"LSQCTL_HOME": str(trusting), **home}
    seconds(trust, folder, **trusted)
    path = os.environ.get("PYTHONPATH", "")
    none = {"PYTHONPATH": os.pathsep.join([str(folder / "nothing"), path]), **home}
    installed = {"PYTHONPATH": os.pathsep.join([str(site), path]), **home}
    return {
        "no plugin": none,
        "installed": installed,
        "trusted file": none | trusted,
    }


def measure_plugins(folder: Path, repeat: int) -> None:
    """Measure what plugins add and print a table."""
    found = plugin_settings(folder)
    cases = [(what, name) for what in ("lsqctl --help", "lsqctl runs ls") for name in found]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {case: [] for case in cases}
    for turn in range(repeat + 1):
        for what, name in cases if turn % 2 else cases[::-1]:
            before = cpu_seconds()
            taken = seconds(commands()[what], folder, **found[name])
            if turn:  # the first start compiles
                times[what, name].append((taken, cpu_seconds() - before))
    print(f"{repeat} starts each, median; {os.cpu_count()} cores, {RUNS} runs in the workspace")
    for (what, name), taken_by_all in times.items():
        turns = list(zip(taken_by_all, times[what, "no plugin"], strict=True))
        columns = []
        for i, unit in enumerate(("s", "CPU s")):
            median = statistics.median(taken[i] for taken in taken_by_all)
            ratio = statistics.median(taken[i] / plain[i] for taken, plain in turns)
            columns.append(f"{median:6.3f} {unit}   {ratio:5.3f} x without")
        print(f"{what:16} {name:14} {'   '.join(columns)}")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--plugins", action="store_true")
    options = parser.parse_args()
    repeat = options.repeat
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    times: dict[str, list[float]] = {name: [] for name in commands()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder)
        if options.plugins:
            measure_plugins(folder, repeat)
            return
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
