"""The main job, as a newcomer starts it: `make demo`. CI runs it apart from the others."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_demo_trains_the_sweep_and_writes_the_board(tmp_path):
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("needs the environment that `make` sets up")
    board = tmp_path / "leaderboard.csv"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LSQCTL_")}
    done = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path / 'demo'}", f"BOARD={board}"],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with board.open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert float(rows["digits/resnet8-fp32"]["top1_mean"]) >= 98
    for bits in ("w8a8", "w4a4", "w3a3", "w2a2", "w3a4"):
        row = rows[f"digits/resnet8-lsq-{bits}"]
        assert [row["weight_bits"], row["act_bits"]] == [bits[1], bits[3]]
        assert float(row["top1_mean"]) > 96
        assert len(row["checkpoint_sha256"]) == 64
    published = [row for row in rows.values() if row["origin"] != "local"]
    assert [row["top1_mean"] for row in published] == ["77.878", "77.34", "76.7"]
    assert "ADLIK-MO-ResNet50-W4A4" in done.stdout
    check = "540 images, 2,419,200 codes: equal to the integer reference in every code"
    assert check in done.stdout + done.stderr
    assert (tmp_path / "demo" / "deployed" / "model.onnxruntime.onnx").exists()
