"""What training does when numbers, memory or a helper process fail: by name, and with a reason."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from lsqctl.atomic_write import stale_temporaries
from lsqctl.datasets import DATASETS
from lsqctl.errors import DataError, Diverged
from lsqctl.events import Checkpoint, LogMessage, Metric
from lsqctl.quant.surgery import quantizers
from lsqctl.recipe import DataSection
from lsqctl.training import finetune, image_folder
from lsqctl.training.checkpoint import resume_point
from lsqctl.training.dataset_loader import open_dataset
from lsqctl.training.optimizer_step import build_optimizer
from tests.training.attempts import run
from tests.training.conftest import tiny
from tests.training.test_datasets import image_folder as make_image_folder

FAULT_AT = 8  # the second epoch's second step


def damaged(monkeypatch, damage):
    """Let ``damage(model)`` happen just before the optimizer's step FAULT_AT."""
    from lsqctl.training import session

    def build(model, recipe):
        optimizer = build_optimizer(model, recipe)
        steps = iter(range(1, 1000))

        def before(*_):
            if next(steps) == FAULT_AT:
                damage(model)

        optimizer.register_step_pre_hook(before)
        return optimizer

    monkeypatch.setattr(session, "build_optimizer", build)


def nan_in_a_gradient(model):
    dict(model.named_parameters())["layer2.0.conv1.weight"].grad[0] = float("nan")


def nan_in_a_step_size(model):
    next(iter(quantizers(model).values())).step_size.data.fill_(float("nan"))


def inf_in_a_weight(model):
    next(iter(model.parameters())).data.flatten()[0] = float("inf")


@pytest.mark.parametrize("damage", [nan_in_a_gradient, nan_in_a_step_size, inf_in_a_weight])
def test_what_is_not_finite_stops_the_run_within_a_step_and_names_the_layer(
    monkeypatch, job, damage
):
    damaged(monkeypatch, damage)
    facts = []
    with pytest.raises(Diverged, match=r"epoch 2, step 9 \(first in layer \w+") as error:
        facts.extend(finetune(tiny(), job()))
    assert "the last checkpoint is finite" in str(error.value)
    saved = [one.step for one in facts if isinstance(one, Checkpoint)]
    snapshot, complaints = resume_point(job().run_dir)
    assert (snapshot.step, complaints) == (saved[-1], [])
    assert snapshot.step < FAULT_AT
    assert all(torch.isfinite(one).all() for one in snapshot.model.values())


def test_a_step_size_that_falls_to_zero_is_put_back_counted_and_the_run_goes_on(monkeypatch, job):
    def zero(model):
        next(iter(quantizers(model).values())).step_size.data.fill_(-1.0)

    damaged(monkeypatch, zero)
    facts = list(finetune(tiny(), job()))
    clamped = {
        one.step: one.value
        for one in facts
        if isinstance(one, Metric) and one.name == "clamped_steps"
    }
    assert sum(clamped.values()) >= 1


def test_a_run_no_better_than_guessing_is_called_suspect_in_a_note_and_in_its_result(job):
    facts = list(finetune(tiny(train={"epochs": 1, "lr": 1e-9}, quant=FLOAT), job()))
    (note,) = [one for one in facts if isinstance(one, LogMessage) and "suspect" in one.text]
    assert "no better than guessing among 10 classes" in note.text
    assert "suspect" in facts[-1].notes
    good = list(finetune(tiny(train={"epochs": 2, "lr": 0.1}, quant=FLOAT), job("good")))
    assert "suspect" not in facts_text(good)


FLOAT = dict.fromkeys(tiny().quant.model_fields_set, 32)


def facts_text(facts):
    return " ".join([one.text for one in facts if isinstance(one, LogMessage)] + [facts[-1].notes])


def batches(folder, *, workers):
    data = DataSection(name="imagefolder", resize=24, crop=16)
    found = open_dataset(data, folder, num_workers=workers)
    return found.train.eval_batches([[0, 1], [2, 3], [4, 5]])


def loading(folder):
    """Return batches of which the first was taken, and the process that decodes them."""
    make_image_folder(folder)
    before = set(psutil.Process().children())
    iterator = batches(folder, workers=1)
    next(iterator)
    (loader,) = set(psutil.Process().children()) - before
    return iterator, loader


def slow_images(monkeypatch, seconds):
    read = image_folder._DecodedImages.__getitem__

    def slowly(self, item):
        time.sleep(seconds)
        return read(self, item)

    monkeypatch.setattr(image_folder._DecodedImages, "__getitem__", slowly)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loader_process_that_is_killed_is_a_fault_of_the_machine_that_names_its_pid(
    tmp_path, monkeypatch
):
    slow_images(monkeypatch, 0.5)
    iterator, loader = loading(tmp_path)
    loader.kill()
    with pytest.raises(OSError, match=rf"decodes images ended or hangs: .*{loader.pid}"):
        list(iterator)


def test_a_signal_to_stop_reaches_the_loader_process_too_and_the_run_is_saved(
    job, tmp_path, monkeypatch
):
    make_image_folder(tmp_path / "data")
    asked = tmp_path / "asked"
    read = image_folder._DecodedImages.__getitem__

    def until_asked(self, item):
        if item[1] == 1:  # the second epoch: signals reach the trainer and its loader
            asked.touch()
            subprocess.run(["kill", "-TERM", str(os.getpid())], check=True)
        return read(self, item)

    monkeypatch.setattr(image_folder._DecodedImages, "__getitem__", until_asked)
    data = {"name": "imagefolder", "batch_size": 3, "eval_batch_size": 4, "resize": 24, "crop": 16}
    data |= {"pad": 0}
    recipe, context = tiny(data=data, quant=FLOAT), job(threads=2, stop=asked.exists)
    facts = run(recipe, context)
    assert isinstance(facts[-1], Checkpoint)
    assert resume_point(context.run_dir)[0].step == 2
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_loader_process_ends_when_its_parent_says_so_and_not_when_another_does(
    tmp_path, monkeypatch
):
    slow_images(monkeypatch, 0.2)
    iterator, loader = loading(tmp_path)
    subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)
    next(iterator)
    assert loader.is_running()
    loader.terminate()
    loader.wait(30)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loader_process_that_hangs_is_given_up(tmp_path, monkeypatch):
    make_image_folder(tmp_path)
    slow_images(monkeypatch, 60)
    monkeypatch.setattr(image_folder, "_WORKER_TIMEOUT_SECONDS", 1)
    with pytest.raises(OSError, match="ended or hangs: DataLoader timed out after 1 seconds"):
        next(batches(tmp_path, workers=1))


def test_a_broken_image_is_named_alike_from_a_loader_process(tmp_path):
    make_image_folder(tmp_path)
    for path in tmp_path.glob("imagefolder/train/*/0.png"):
        path.write_bytes(b"not an image")
    told = []
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^/.*/0\.png does not open") as error:
            list(batches(tmp_path, workers=workers))
        told.append(str(error.value))
    assert told[0] == told[1]


SMALL_SHM = """
import sys
import numpy as np
from pathlib import Path
from PIL import Image
from lsqctl.recipe import DataSection
from lsqctl.training.dataset_loader import open_dataset
root = Path(sys.argv[1])
found = open_dataset(DataSection(name="imagefolder", resize=224, crop=224), root, num_workers=2)
try:
    list(found.train.eval_batches([np.arange(6).repeat(8)]))
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None,
    reason="NOT TESTED: a small /dev/shm (needs root: unshare and mount)",
)
def test_a_shared_memory_that_is_too_small_is_named_with_its_size_and_the_fix():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # not in what is mounted over
        make_image_folder(Path(folder))
        told = with_small_shared_memory(folder)
    assert "/dev/shm is too small (1.05 MB) for 2 decoding processes" in told
    assert "--ipc=host" in told
    assert "--slots" in told


def with_small_shared_memory(folder: str) -> str:
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    command = f'{mount} && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", command, "sh", sys.executable, "-c", SMALL_SHM]
    done = subprocess.run([*words, folder], capture_output=True, text=True, check=True)
    return done.stdout


class HalfServer(http.server.BaseHTTPRequestHandler):
    """Sends half of what it promised, then nothing more."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4000000")
        self.end_headers()
        self.wfile.write(bytes(2_000_000))
        self.wfile.flush()
        time.sleep(30)

    def log_message(self, *_):
        pass


FETCH = """
import sys
from pathlib import Path
from torchvision.datasets import CIFAR10, MNIST
CIFAR10.url = sys.argv[1] + "cifar-10-python.tar.gz"
MNIST.mirrors = [sys.argv[1]]
from lsqctl.datasets.fetch import fetch_dataset
fetch_dataset(sys.argv[2], Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_that_is_killed_leaves_no_half_dataset(tmp_path, name):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HalfServer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    process = subprocess.Popen([sys.executable, "-c", FETCH, address, name, tmp_path])
    while not any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.shutdown()
    server.server_close()
    assert not any((tmp_path / place).exists() for place in DATASETS[name].paths)
    with pytest.raises(DataError, match=r"no .* data in"):
        open_dataset(DataSection(name=name), tmp_path)
    left = [*tmp_path.iterdir()]
    assert len(left) == 1
    assert stale_temporaries(tmp_path, 0) == left
    subprocess.run([sys.executable, "-c", FETCH, address, name, tmp_path], check=False)
    assert [*tmp_path.iterdir()] == left  # another machine may be at work on it
    for path in (*left, *left[0].rglob("*")):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    subprocess.run([sys.executable, "-c", FETCH, address, name, tmp_path], check=False)
    assert [*tmp_path.iterdir()] == []


def test_torch_says_it_is_out_of_memory_in_a_way_that_is_understood():
    from lsqctl.run import EndReason
    from lsqctl.worker.reasons import annotate_oom, end_reason_of, error_message

    with pytest.raises(RuntimeError) as error, annotate_oom(tiny(), "cpu"):
        torch.empty(2**52)
    assert end_reason_of(error.value) is EndReason.OOM
    told = error_message(error.value, EndReason.OOM)
    assert "data.batch_size is 240" in told
    assert "peak memory" in told
    assert "\n" not in told
    assert end_reason_of(RuntimeError("shapes do not fit")) is EndReason.CODE
    assert end_reason_of(torch.OutOfMemoryError("CUDA out of memory.")) is EndReason.OOM
