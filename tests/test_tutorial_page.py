"""docs/tutorial.md tells the truth: its pictures are drawn, its commands run, in this order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsqctl.models.factory import build_model
from tests.conftest import CommandLine

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
# These ask, and so run at once; the others need what was trained before them.
QUESTIONS = ("data ls", "recipe check", "submit")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = re.findall(r"^\$ lsqctl (.*)$", "".join(blocks("console")), re.MULTILINE)


def lay_out(folder: Path) -> None:
    """Write what the page shows, and weights of the wanted form in place of the published ones."""
    (folder / "draw.py").write_text(blocks("python")[0])
    for name, text in zip(("fp32", "w4a4"), blocks("yaml"), strict=True):
        (folder / f"shapes-{name}.yaml").write_text(text)
    weights = folder / ".lsqctl" / "data" / "cifar-resnet" / "resnet20-12fca82f.th"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = build_model("cifar_resnet20", num_classes=10, in_channels=3, image_size=32)
    torch.save({"state_dict": network.state_dict()}, weights)
    (folder / ".lsqctl").chmod(0o700)
    subprocess.run([sys.executable, "draw.py"], cwd=folder, check=True)


def test_its_pictures_are_found_and_its_recipes_accepted(here):
    lay_out(here.folder)
    assert len(COMMANDS) == 21
    told = {
        command: here(*shlex.split(command))
        for command in COMMANDS
        if command.startswith(QUESTIONS)
    }
    assert "shapes\t4\t140\t60\t" in told["data ls"].stdout
    plan = told["submit shapes-w4a4.yaml --dry-run"]
    assert "a new classifier `linear`: 4 classes, not 10" in plan.stderr
    assert plan.stdout.count("shapes-") == 3  # two runs, and the name of the parent


def test_what_needs_a_trained_run_has_the_options_shown(here):
    for command in COMMANDS:
        if not command.startswith(QUESTIONS):
            words = command.replace("deploy @last", "deploy run").partition(" -")[0].split()
            named = [word for word in words if not word.startswith(("@", "shapes-", "shipped"))]
            told = here(*named, "--help").stdout
            for option in re.findall(r"--?[a-z-]+(?= |$)", command):
                assert option in told, command


@pytest.mark.slow
@pytest.mark.timeout(900)  # twenty processes, some of which train
def test_every_command_runs_in_order(tmp_path):
    lay_out(tmp_path)
    for path in tmp_path.glob("shapes-*.yaml"):  # the same way with less training
        path.write_text(path.read_text().replace("epochs: 12", "epochs: 2"))
    line = CommandLine(tmp_path)
    told = {command: line(*shlex.split(command)) for command in COMMANDS}
    board = told["leaderboard --dataset shapes"].stdout
    assert "shapes-w4a4" in board
    assert "part of the images" in board
    assert "shapes-fp32" in told["compare shapes-w4a4 shapes-fp32"].stdout
    assert (tmp_path / "shipped" / "model.onnxruntime.onnx").is_file()
    for name in ("curves.svg", "board.html"):
        assert (tmp_path / name).stat().st_size > 1000


def test_its_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 2
    assert all(0 < (ROOT / "docs" / name).stat().st_size < 100_000 for name in pictures)
