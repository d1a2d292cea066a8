"""bench/deploy.py on a small network: each contender installed here answers, and is compared."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from tests.bench_scripts import imported

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # it compiles, and quantizes by other tools


@pytest.fixture(scope="module")
def bench():
    with imported("deploy") as module:
        yield module


@pytest.fixture(autouse=True)
def _threads_and_environment_stay(monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_contender_answers_and_full_precision_is_one(bench, capsys):
    names = list(bench.possible())
    assert {"exact", "portable", "onnxruntime QDQ", "torch eager", "torch compiled"} <= set(names)
    bench.main("--nets cifar_resnet20 --batches 2 --rounds 2".split())
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if "resnet20" in line
    ]
    assert [row[2] for row in rows] == names
    assert next(row for row in rows if row[2] == bench.FP32)[5] == "1.00"
    sizes = {row[2]: int(row[3].replace(",", "")) for row in rows if row[3].strip()}
    assert sizes["exact"] < sizes["onnxruntime QDQ"] < sizes[bench.FP32]


def test_contenders_compute_the_network_that_they_are_named_after(bench):
    subject = bench.calibrated("cifar_resnet20", 1)
    images = bench.random_pixels(4, 32).numpy()
    found = {name: bench.CONTENDERS[name](subject).logits(images) for name in bench.possible()}
    for name in {"torch eager", "torch compiled", "OpenVINO fp32"} & set(found):
        np.testing.assert_allclose(found[name], found[bench.FP32], atol=1e-3)
    for name in ("exact, plain", "exact, nothing proved"):
        np.testing.assert_array_equal(found[name], found["exact"])
    spread = found[bench.FP32].std()
    assert 0 < np.abs(found["onnxruntime QDQ"] - found[bench.FP32]).mean() < 0.5 * spread
    assert np.abs(found["portable"] - found["exact"]).max() < 0.1 * spread


def test_processor_time_of_several_threads_is_refused(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main("--clock cpu --threads 2".split())
    assert "--clock cpu needs --threads 1" in capsys.readouterr().err


def test_steps_on_cifar10_of_another_network_are_refused(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main("--cifar10-steps 5 --nets resnet18".split())
    assert "--cifar10-steps needs --nets cifar_resnet20" in capsys.readouterr().err
