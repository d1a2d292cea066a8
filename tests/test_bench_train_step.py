"""bench/train_step.py on the smallest network: every peer takes steps, and its ratio is printed."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.bench_scripts import imported

pytestmark = pytest.mark.slow  # it compiles; the suite has minutes to keep to


@pytest.fixture(scope="module")
def bench():
    with imported("train_step") as module:
        yield module


@pytest.fixture(autouse=True)
def _one_thread_and_no_trace(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


def test_every_peer_takes_the_same_steps_and_is_compared_with_full_precision(bench, capsys):
    bench.main(
        "--nets digits --modes eager evaluation --layouts channels-last --precisions fp32 bf16 "
        "--rounds 2 --threads 1 --clock cpu".split()
    )
    told = capsys.readouterr().out
    assert "the data path takes" in told
    for title in itertools.product(("fp32", "bf16"), ("eager", "evaluation")):
        lines = told.split(f"digits {' '.join(title)} channels-last\n")[1].splitlines()[:6]
        assert "1.00 x" in next(one for one in lines if one.startswith("full precision"))
        for peer in ("lsqctl ", "lsqctl float", "plain LSQ", "torch's kernel"):
            assert " ms " in next(one for one in lines if one.startswith(peer)), lines


def test_all_variants_start_from_the_same_values(bench):
    images = torch.randn(8, 1, 8, 8)
    outputs = {}
    for peer in ("full precision", "lsqctl", "lsqctl float", "plain LSQ", "torch's kernel"):
        variant = bench.Variant(peer, bench.NETS["digits"], "eager", "fp32", images)
        outputs[peer] = variant.model.eval()(images)
    for peer in ("lsqctl float", "plain LSQ"):
        torch.testing.assert_close(outputs[peer], outputs["lsqctl"])
    torch.testing.assert_close(outputs["torch's kernel"], outputs["lsqctl"], rtol=0.1, atol=0.2)
    assert not torch.allclose(outputs["full precision"], outputs["lsqctl"])


def test_processor_time_of_several_threads_is_refused(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--clock", "cpu", "--threads", "2"])
    assert "--clock cpu needs --threads 1" in capsys.readouterr().err
