"""Whether to compile is decided once and kept; what is compiled computes the same bits again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lsqctl.errors import CannotCompile, Preempted
from lsqctl.events import Compiled, LogMessage, Metric, Result
from lsqctl.quant import (
    QuantSpec,
    calibrate,
    lsq_codes,
    lsq_fake_quantize,
    prepare,
    quantized_layers,
)
from lsqctl.quant.torch_faults import views_may_copy
from lsqctl.settings import child_environment
from lsqctl.training import compilation
from lsqctl.training.beginning import build_on_device, initial_train_state, open_pipeline
from lsqctl.training.evaluation import evaluate
from lsqctl.training.runtime import setup_torch
from tests.training.attempts import assert_same_state, plain, rewritten, rows, run
from tests.training.conftest import small, tiny


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Compile into a folder of the test's own, and leave no compiled function behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    yield
    torch._dynamo.reset()


def decided(job, epochs):
    recipe = tiny(train={"epochs": epochs})
    feed = open_pipeline(recipe, job, setup_torch(job, 0))
    cursor = initial_train_state(recipe, job)
    told = compilation.decide_compile(
        cursor, recipe=recipe, context=job, pipeline=feed, model=build_on_device("resnet8", feed)
    )
    return cursor.environment["compile"], told


class Viewed(nn.Module):
    """A network that flattens by ``view``, which torch refuses where channels lie last."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(96, 5)

    def forward(self, x):
        return self.head(self.conv(self.first(x).relu()).relu().view(len(x), -1))


@pytest.mark.parametrize("kernel", ["float", "integer"])
def test_a_network_that_flattens_by_view_is_trained_with_its_channels_last(kernel):
    images = torch.randn(4, 3, 8, 8)
    model = prepare(Viewed(), QuantSpec(kernel=kernel))
    calibrate(model, [images])
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        model(images.contiguous(memory_format=torch.channels_last))
    labels = torch.zeros(4, dtype=torch.int64)
    assert math.isfinite(evaluate(model, [(images, labels)]).loss)  # kernels lay out images, too
    unordered = compilation.eager_forward(model)(images)
    last_batch = compilation.compile_forward(model, batch_size=len(images) + 1)(images)
    assert torch.equal(last_batch, unordered)  # which is smaller, and not compiled
    logits = compilation.eager_forward(model, channels_last=True)(images)
    torch.testing.assert_close(unordered, logits)
    logits.sum().backward()
    grads = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    for layer in quantized_layers(model).values():
        layer.kernel = "float"
    expected = model(images)
    expected.sum().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for found, one in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(found, one.grad, rtol=1e-3, atol=1e-3)


def test_the_calls_of_torch_are_looked_at_only_where_channels_lie_last():
    """Looking at them makes a step of a small network a tenth slower."""
    model = prepare(Viewed(), QuantSpec())
    assert not isinstance(views_may_copy(model), TorchFunctionMode)
    assert isinstance(views_may_copy(model, channels_last=True), TorchFunctionMode)
    integers = prepare(Viewed(), QuantSpec(kernel="integer"))
    assert isinstance(views_may_copy(integers), TorchFunctionMode)


def test_a_short_run_is_not_worth_compiling_nor_one_that_was_told_off(job):
    assert decided(job(), 30) == (False, [])
    assert decided(job(compile="off"), 30_000) == (False, [])


WITHOUT_A_COMPILER = """
import json, sys
from pathlib import Path
from lsqctl.errors import CannotCompile, Preempted
from lsqctl.training import ExecutionContext
from tests.training.attempts import run
from tests.training.conftest import small, tiny
from tests.training.test_compilation import decided
folder = Path(sys.argv[1])
job = ExecutionContext(run_dir=folder, data_dir=folder)
auto = decided(job, 30_000)
import torch
torch._dynamo.reset()
try:
    run(tiny(), ExecutionContext(run_dir=folder, data_dir=folder, compile="on"))
except CannotCompile as error:
    print(json.dumps([*auto, str(error), len(list(folder.glob("ckpt-*")))]))
"""


@pytest.mark.slow
def test_without_a_compiler_auto_trains_eagerly_and_on_is_an_error_before_training(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER, str(tmp_path / "run")],
        cwd=Path(__file__).parents[2],
        env=child_environment({"CXX": "no-such-compiler"}),
        capture_output=True,
        text=True,
        check=True,
    )
    on, told, error, checkpoints = json.loads(done.stdout.splitlines()[-1])
    assert not on, "a long run, which would have repaid it"
    assert told[0].startswith("torch.compile does not work here: ")
    assert told[0].endswith("; training goes on without")
    assert "no-such-compiler" in error
    assert error.endswith("; install a C++ compiler (g++), or train with --compile off")
    assert "\n" not in error
    assert checkpoints == 0


@pytest.mark.slow
def test_a_signal_that_ends_the_compiler_is_a_stop_and_decides_nothing(job, tmp_path):
    """The compiler's stand-in says that the signal came, and ends by it as a compiler does."""
    from torch._inductor import config

    asked, compiler = tmp_path / "asked", tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\ntouch {asked}\nkill -TERM $$\n")
    compiler.chmod(0o755)
    with config.patch({"cpp.cxx": (str(compiler),)}):
        for mode in ("auto", "on"):
            torch._dynamo.reset()
            asked.unlink(missing_ok=True)
            with pytest.raises(Preempted):
                decided(job(compile=mode, stop=asked.exists), 30_000)
            assert asked.exists()


def _with_compile(value):
    def change(parts):
        cursor = parts["state"]["cursor"]
        found = {k: v for k, v in cursor["circumstances"].items() if k != "compile"}
        found |= {} if value is None else {"compile": value}
        parts["state"] = parts["state"] | {"cursor": cursor | {"circumstances": found}}

    return change


def test_a_later_attempt_told_otherwise_says_so_and_is_no_longer_bitwise(job):
    recipe = tiny(train={"epochs": 1})
    run(recipe, job(), stop_after=2)
    rewritten(_with_compile(True))(job().run_dir)
    facts = run(recipe, job(compile="off"))
    assert any("compile True → False" in one.text for one in facts if isinstance(one, LogMessage))
    assert Compiled(False) in facts
    assert facts[-1].deterministic == "statistical"


@pytest.mark.slow
def test_channels_are_laid_out_last_for_large_images_from_the_first_attempt_on(job, monkeypatch):
    recipe = tiny(train={"epochs": 1})
    monkeypatch.setattr(compilation, "_CHANNELS_LAST_MIN_SIZE", 8)
    whole = run(recipe, job("whole"))
    first = run(recipe, job("cut"), stop_after=2)
    monkeypatch.undo()  # later attempts do as the first one did
    second = run(recipe, job("cut"))
    for facts in (whole, first, second):
        assert Compiled(compiled=False, channels_last=True) in facts
    assert Compiled(compiled=False) in run(recipe, job("small"))
    assert rows(first) + rows(second) == rows(whole)
    assert plain(second[-1]) == plain(whole[-1])


def test_a_checkpoint_from_before_compiling_goes_on_eagerly_to_the_bit(job):
    recipe = tiny(train={"epochs": 1})
    run(recipe, job(), stop_after=2)
    rewritten(_with_compile(None))(job().run_dir)
    facts = run(recipe, job())
    assert not [one for one in facts if isinstance(one, LogMessage) and "elsewhere" in one.text]
    assert facts[-1].deterministic == "bitwise"


@pytest.mark.slow
def test_a_long_run_is_worth_compiling(job):
    on, told = decided(job(), 30_000)
    assert on
    assert "h of training repay" in told[0]


@pytest.mark.slow
def test_a_compiled_quantizer_finds_the_codes_of_the_eager_one_in_fp32_and_bf16():
    wide, step = torch.randn(20_000), torch.tensor(0.0173)
    narrow = wide.bfloat16()

    @torch.compile(dynamic=False)
    def both(a, b):
        with torch.autocast("cpu", torch.bfloat16):
            return lsq_fake_quantize(a, step, -128, 127), lsq_codes(b, step, -128, 127)

    value, codes = both(wide, narrow)
    assert torch.equal(value, lsq_fake_quantize(wide, step, -128, 127))
    assert torch.equal(codes, lsq_codes(narrow, step, -128, 127))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_goes_on_in_later_attempts_to_the_bit(job, precision):
    recipe = tiny(train={"precision": precision})
    torch._dynamo.reset()
    whole = run(recipe, job("whole", compile="on"))
    found = []
    for asked in (2, 4, None):
        torch._dynamo.reset()  # each attempt compiles for itself, or takes it from the cache
        found += run(recipe, job("cut", compile="on" if not found else "auto"), stop_after=asked)
    assert Compiled(True) in found
    assert rows(found) == rows(whole)
    assert plain(found[-1]) == plain(whole[-1])
    assert found[-1].deterministic == "bitwise"
    assert_same_state(job("whole").run_dir, job("cut").run_dir)
    eager = run(recipe, replace(job("eager"), compile="off"))
    assert rows(eager) != rows(whole), "nothing was compiled"


def test_a_worker_that_cannot_compile_says_so_before_it_takes_a_run(cli):
    done = cli("worker", "--until-empty", "--compile", "on", code=2, CXX="no-such-compiler")
    assert "no-such-compiler is not found" in done.stderr
    done = cli("worker", "--until-empty", code=2, LSQCTL_COMPILE="perhaps")
    assert "LSQCTL_COMPILE must be auto, on or off, got 'perhaps'" in done.stderr
    assert not (cli.folder / ".lsqctl").exists()


def test_where_others_could_plant_compiled_code_auto_trains_eagerly_and_on_is_an_error(
    job, tmp_path
):
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(0o777)
    enabled, notes = decided(job(), 30_000)
    assert not enabled
    assert "writable by everyone" in notes[0]
    with pytest.raises(CannotCompile, match="writable by everyone"):
        decided(job(compile="on"), 30)


def test_a_view_that_a_compiled_step_would_refuse_is_not_compiled(job):
    recipe = tiny(quant={"kernel": "integer"})
    pipeline = open_pipeline(recipe, job(), torch.device("cpu"))
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))
    viewed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(), Rows(), nn.Linear(144, 10))

    def taken(model, how="auto", **quant):
        context = replace(job(), compile=how)
        return compilation.eager_where_viewed(
            tiny(quant=quant or {"kernel": "integer"}), context, pipeline, model
        ).compile

    before = torch.random.get_rng_state()
    assert [taken(flat), taken(viewed), taken(viewed, kernel="float")] == ["auto", "off", "auto"]
    assert [taken(flat, "on"), taken(viewed, "off")] == ["on", "off"]
    with pytest.raises(CannotCompile, match="write flatten or reshape there"):
        taken(viewed, "on")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert viewed.training


class Rows(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], -1)


@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_network_that_flattens_by_view_is_trained_on_images_of_one_channel(job, compiled):
    """Their channel lies first and last, which torch takes for last."""
    recipe = small(model={"name": "small_viewing_net"}, train={"epochs": 1})
    facts = run(recipe, job(compile=compiled))
    assert [one.split for one in facts if isinstance(one, Metric) and one.name == "top1"]
    assert isinstance(facts[-1], Result)


def test_a_step_that_would_damage_memory_when_compiled_is_not_compiled(job):
    """Torch's fault of lsqctl.quant.torch_faults, which a compiler's own layout would meet."""

    def taken(how, channels):
        context = replace(job(), compile=how)
        model = nn.Sequential(nn.Conv2d(channels, 16, 1, stride=2))
        return compilation.eager_where_unsafe(context, model).compile

    assert [taken("auto", 8), taken("auto", 16)] == ["off", "auto"]
    assert taken("on", 16) == "on"
    with pytest.raises(CannotCompile, match=r"layer 0 .* whose channels are last"):
        taken("on", 8)
