"""bench/gpu.py where there is no GPU: it says so, and each of its parts works on the CPU."""

from __future__ import annotations

import re
import subprocess
import time
import venv
from pathlib import Path

import pytest
import torch

from tests.bench_scripts import imported

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bench():
    with imported("gpu") as module:
        yield module


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(bench, capsys, tmp_path):
    bench.main(["--write", str(tmp_path / "gpu.md")])
    assert "no GPU: torch" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_without_torch_one_line_says_what_installs_it(tmp_path):
    venv.create(tmp_path / "bare", symlinks=True)
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", ROOT / "bench" / "gpu.py", "--write", "gpu.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("torch, numpy, pydantic, psutil not installed for ")
    assert done.stderr.count("\n") == 1
    (target,) = re.findall("`make (.*)` installs", done.stderr)
    assert f"\n{target}: " in (ROOT / "Makefile").read_text()


def test_the_page_in_the_repository_is_what_it_writes_or_says_that_nothing_was_measured(bench):
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert text.startswith(bench.PAGE)
    rest = text.removeprefix(bench.PAGE)
    assert rest == bench.NOT_MEASURED or rest.startswith("Measured at commit ")


def test_a_page_has_what_every_part_said(bench, tmp_path):
    given = bench.Given("cpu", 10.0, tmp_path)
    text = bench.page(given, {name: f"said by {name}" for name in bench.PARTS})
    for name, part in bench.PARTS.items():
        assert f"\n## {part.title}\n\n```\nsaid by {name}\n```\n" in text


def test_all_parts_but_the_last_leave_it_time_within_ten_minutes(bench):
    *first, last = bench.PARTS.values()
    assert last.lines is bench.cifar10
    assert sum(part.seconds for part in first) <= 470


def test_a_part_that_takes_too_long_is_stopped_and_that_is_said(bench, tmp_path):
    given = bench.Given("cpu", 10.0, tmp_path)
    told = bench.run_part("steps", given, 0.5)
    assert "stopped: it took more than 0 s" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tests", "resume", "compile", "steps", "cifar10"])
def test_each_part_works_on_the_cpu(bench, tmp_path, name, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(bench, "COMPILE", "off")
    monkeypatch.setattr(bench, "NETWORK", "resnet8")
    images = 32 if name == "cifar10" else 96  # in bf16, which processors may have to imitate
    limits = {"limit_train": images, "limit_eval": 50, "batch_size": 16}
    monkeypatch.setattr(bench, "LIMITS", limits)
    started = time.monotonic()
    lines = list(bench.PARTS[name].lines(bench.Given("cpu", 90.0, tmp_path)))
    expected = {
        "tests": " passed",
        "resume": "differ from the run in one go: none, to the last bit",
        "compile": "bf16 compiled  loss by epoch",
        "steps": "full precision",
        "cifar10": "Top-1 after the last epoch",
    }
    assert any(expected[name] in line for line in lines), (lines, time.monotonic() - started)
