"""Laws that hold on a GPU; without one they are skipped, or tried on the CPU (LSQCTL_TEST_FULL)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from lsqctl.events import Metric
from lsqctl.models.factory import build_model
from lsqctl.quant import QuantSpec, calibrate, lsq_codes, lsq_fake_quantize, prepare
from lsqctl.quant.integer_network import computes_alike
from lsqctl.training.beginning import build_on_device, open_pipeline
from lsqctl.training.restore import reevaluate
from lsqctl.training.runtime import setup_torch
from tests.training.attempts import assert_same_state, plain, rows, run
from tests.training.conftest import tiny

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda:0" if HAS_GPU else "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not HAS_GPU and not os.environ.get("LSQCTL_TEST_FULL"),
        reason="no GPU: LSQCTL_TEST_FULL=1 tries these on the CPU",
    ),
]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_and_gradients_are_those_of_the_cpu(bits):
    bounds = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    values = torch.randn(4096, generator=torch.Generator().manual_seed(bits))
    found = []
    for device in ("cpu", DEVICE):
        x = values.to(device).requires_grad_()
        step = torch.tensor(0.125, device=device, requires_grad=True)
        lsq_fake_quantize(x, step, *bounds).square().sum().backward()
        found.append([lsq_codes(x, step, *bounds).cpu(), x.grad.cpu(), step.grad.cpu()])
    (codes, inputs, steps), (gpu_codes, gpu_inputs, gpu_steps) = found
    assert torch.equal(codes, gpu_codes)
    torch.testing.assert_close(gpu_inputs, inputs)
    torch.testing.assert_close(gpu_steps, steps, rtol=1e-4, atol=1e-3)


def test_a_run_is_cut_and_resumed_with_the_same_metrics_to_the_bit(job):
    if HAS_GPU and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        pytest.skip("set CUBLAS_WORKSPACE_CONFIG=:4096:8, without which cuBLAS may vary")
    recipe = tiny(train={"epochs": 2, "ema_decay": 0.9})
    whole = run(recipe, replace(job("whole"), device=DEVICE, compile="off"))
    first = run(recipe, replace(job("cut"), device=DEVICE, compile="off"), stop_after=4)
    second = run(recipe, replace(job("cut"), device=DEVICE, compile="off"))
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])
    assert_same_state(job("whole").run_dir, job("cut").run_dir)


def test_what_was_begun_on_a_gpu_goes_on_on_a_cpu_and_is_called_statistical(job):
    recipe = tiny(train={"epochs": 1})
    run(recipe, replace(job(), device=DEVICE, compile="off"), stop_after=4)
    result = plain(run(recipe, job())[-1])
    assert result.deterministic == ("statistical" if HAS_GPU else "bitwise")


def losses(recipe, job):
    facts = run(recipe, job)
    return [fact.value for fact in facts if isinstance(fact, Metric) and fact.name == "epoch_loss"]


@pytest.mark.skipif(not HAS_GPU, reason="tests/training/test_compilation.py compiles on the CPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_learns_as_an_eager_one_does(job, precision):
    recipe = tiny(train={"epochs": 3, "precision": precision})
    eager = losses(recipe, replace(job("eager"), device=DEVICE, compile="off"))
    compiled = losses(recipe, replace(job("compiled"), device=DEVICE, compile="on"))
    assert eager[-1] < eager[0]
    assert compiled == pytest.approx(eager, rel=0.05)


@pytest.mark.parametrize(
    "quant",
    [
        {"freezing": 1e-4, "freezing_start": 1e-3},
        {"weight_steps": "statistic", "transition_rate": 0.02, "dampening": 0.01},
        {"step_optimizer": "adam", "step_lr_scale": 0.01},
    ],
)
def test_methods_of_other_papers_are_resumed_there_too(job, quant):
    recipe = tiny(quant=quant, train={"epochs": 1})
    run(recipe, replace(job(), device=DEVICE, compile="off"), stop_after=3)
    result = run(recipe, replace(job(), device=DEVICE, compile="off"))[-1]
    assert plain(result).evaluations[0].n_total > 0


def test_batches_are_those_of_the_cpu(job):
    recipe = tiny()
    seen = []
    for device in ("cpu", DEVICE):
        context = replace(job(), device=device)
        pipeline = open_pipeline(recipe, context, setup_torch(context, 0))
        seen.append(next(iter(pipeline.train_batches(1)))[0].cpu())
    torch.testing.assert_close(*seen)


def test_logits_of_a_quantized_network_are_those_of_the_cpu(job):
    recipe = tiny()
    pipeline = open_pipeline(recipe, job(), setup_torch(job(), 0))
    model = prepare(build_on_device("resnet8", pipeline), QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, pipeline.calibration_batches(64))
    images, _ = next(iter(pipeline.eval_batches()))
    with torch.no_grad():
        ours = model.eval()(images)
        theirs = model.to(DEVICE)(images.to(DEVICE)).cpu()
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.97  # ties between two codes


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_are_those_of_the_cpu_to_the_last_bit(name, bits):
    torch.manual_seed(bits)
    model = build_model(name, num_classes=10, in_channels=3, image_size=64)
    model = prepare(model, QuantSpec(weight_bits=bits, act_bits=bits))
    calibrate(model, [torch.randn(16, 3, 64, 64)])
    assert computes_alike(torch.device(DEVICE), model.to(DEVICE), (3, 64, 64))


def test_a_run_counts_there_what_a_cpu_does(job):
    recipe = tiny(train={"epochs": 1, "precision": "bf16", "evaluation": "integer"})
    result = run(recipe, replace(job(), device=DEVICE, compile="off"))[-1]
    stored = result.evaluations[0]
    for device in ("cpu", DEVICE):
        again = reevaluate(
            recipe,
            job().run_dir / stored.checkpoint,
            replace(job(), device=device),
            data_digest=result.data_digest,
        )
        assert again.hits == stored.hits
