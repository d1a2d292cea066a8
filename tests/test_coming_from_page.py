"""docs/coming-from.md tells the truth: each command in its tables runs, or has its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.conftest import TINY
from tests.made_up import fill

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "coming-from.md").read_text("utf-8")
COMMANDS = list(dict.fromkeys(re.findall(r"`lsqctl ([^`]+)`", PAGE)))
# These train, serve, or need what was trained: their options are looked up in their help.
BY_HELP = (
    "worker",
    "serve",
    "cluster work",
    "sweep search",
    "runs extend",
    "deploy",
    "db merge",
    "plot",
)
SWEEP = "sweep: {random: {train.lr: loguniform(1e-3, 1e-1)}, runs: 2}\n"


def queues(command: str) -> bool:
    return command.startswith("submit") and "--dry-run" not in command


def test_every_command_of_the_page_runs(here):
    fill(here.folder)
    here("runs", "rm", "@last", "--yes")  # a failed one
    for run_id in here("runs", "ls", "-q").stdout.split():
        folder = here.folder / ".lsqctl" / "runs" / run_id
        folder.mkdir(parents=True)
        (folder / "attempt-1.log").write_text("epoch 1/1\n")
    (here.folder / "mine.yaml").write_text(TINY)
    (here.folder / "sweep.yaml").write_text(TINY + SWEEP)
    assert len(COMMANDS) > 40
    for command in sorted(COMMANDS, key=queues):  # what is queued would be @last
        if not command.startswith(BY_HELP):
            here(*shlex.split(command))


def test_what_trains_or_serves_has_the_options_shown(here):
    for command in COMMANDS:
        if command.startswith(BY_HELP):
            (name,) = [name for name in BY_HELP if command.startswith(name)]
            named = {"deploy": "deploy run"}.get(name, name).split()
            told = here(*named, "--help").stdout
            for option in re.findall(r"--[a-z-]+", command):
                assert option in told, command
