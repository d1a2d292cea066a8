"""Kuzushiji-MNIST: read from its four files, each held to its published md5."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest
from torchvision.datasets import KMNIST

from lsqctl.errors import DataError
from lsqctl.recipe import DataSection
from lsqctl.training.dataset_loader import open_dataset

PUBLISHED = [md5 for _, md5 in KMNIST.resources]


def idx_file(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a data folder with a small set in the place of the published one."""
    draw = np.random.default_rng(0)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for (name, _), count in zip(KMNIST.resources, (20, 20, 10, 10), strict=True):
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        data = idx_file(pixels if "images" in name else np.arange(count, dtype=np.uint8) % 10)
        (raw / name).write_bytes(data)
        resources.append((name, hashlib.md5(data).hexdigest()))
    monkeypatch.setattr(KMNIST, "resources", resources)
    return tmp_path


def test_it_is_read_normalized_and_called_verified(folder):
    dataset = open_dataset(DataSection(name="kmnist"), folder)
    assert (len(dataset.train), len(dataset.evaluation), dataset.eval_split) == (20, 10, "test")
    pixels, labels = next(dataset.train.eval_batches([np.array([3, 14])]))
    assert (pixels.shape, labels.tolist()) == ((2, 1, 28, 28), [3, 4])
    assert (dataset.num_classes, dataset.mean, dataset.std) == (10, (0.1918,), (0.3483,))
    assert dataset.notes == ("kmnist: md5 verified",)


def test_other_bytes_than_the_published_ones_are_refused(folder, monkeypatch):
    names = [name for name, _ in KMNIST.resources]
    monkeypatch.setattr(KMNIST, "resources", list(zip(names, PUBLISHED, strict=True)))
    with pytest.raises(DataError, match=rf"{names[0]} is damaged or partial: .*{PUBLISHED[0]}"):
        open_dataset(DataSection(name="kmnist"), folder)
