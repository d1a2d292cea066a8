"""Laws of the failpoints themselves: in one table, used in the code, harmless unless asked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lsqctl import failpoint as module
from lsqctl.errors import UsageError
from lsqctl.failpoint import FAILPOINTS, failpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def armed(monkeypatch):
    """Arm this process for one test."""

    def arm(spec: str, once: Path | None = None) -> None:
        module.armed_failpoints.cache_clear()
        monkeypatch.setenv("LSQCTL_FAILPOINT", spec)
        if once:
            monkeypatch.setenv("LSQCTL_FAILPOINT_ONCE", str(once))

    yield arm
    monkeypatch.undo()
    module.armed_failpoints.cache_clear()


def test_every_failpoint_of_the_table_stands_in_the_code_once():
    sources = [path.read_text() for path in (ROOT / "lsqctl").rglob("*.py")]
    used = Counter(name for text in sources for name in re.findall(r'failpoint\("(.+?)"\)', text))
    assert used == dict.fromkeys(FAILPOINTS, 1)
    assert len(FAILPOINTS) >= 12


def test_the_document_names_each_of_them():
    text = (ROOT / "docs" / "chaos.md").read_text()
    assert [
        row for n, what in FAILPOINTS.items() if (row := f"| `{n}` | {what} |") not in text
    ] == []


def test_quant_knows_no_failpoint():
    assert not [
        p for p in (ROOT / "lsqctl" / "quant").rglob("*.py") if "failpoint" in p.read_text()
    ]


def test_a_failpoint_that_nobody_named_does_nothing(armed):
    armed("train.step:raise")
    for name in FAILPOINTS:
        if name != "train.step":
            failpoint(name)


def test_it_fires_at_the_nth_time_and_once_in_a_process(armed):
    armed("train.step:raise:3")
    failpoint("train.step")
    failpoint("train.step")
    with pytest.raises(OSError, match=r"failpoint train\.step"):
        failpoint("train.step")
    failpoint("train.step")


def test_a_folder_makes_it_fire_once_over_all_processes(tmp_path):
    code = "from lsqctl.failpoint import failpoint; failpoint('train.step')"
    spec = {"LSQCTL_FAILPOINT": "train.step:kill", "LSQCTL_FAILPOINT_ONCE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ends = [subprocess.run(command, env=spec, check=False, cwd=ROOT).returncode for _ in range(2)]
    assert ends == [-9, 0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train.stp:kill", "did you mean `train.step`"),
        *((f"train.step{rest}", "is not NAME:kill") for rest in ("", ":kil", ":kill:0", ":sleep")),
        *((f"train.step{rest}", "is not NAME:kill") for rest in (":sleep:-1", ":raise:1:2")),
    ],
)
def test_a_misspelt_one_is_refused_in_one_clear_line(armed, spec, message):
    armed(f"evaluate.batch:raise,{spec}")
    with pytest.raises(UsageError, match=message):
        failpoint("child.started")


def test_the_command_line_refuses_it_before_it_does_anything(cli):
    done = cli("submit", "digits/resnet8-fp32", code=2, LSQCTL_FAILPOINT="train.stp:kill")
    assert "did you mean `train.step`" in done.stderr
    assert not (cli.folder / ".lsqctl").exists()
