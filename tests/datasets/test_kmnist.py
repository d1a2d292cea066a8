"""Kuzushiji-MNIST: read from its four files, each held to its published md5."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

from lsqctl.datasets.idx_files import _FILES
from lsqctl.datasets.kmnist import Kmnist
from lsqctl.errors import DataError
from lsqctl.recipe import DataSection
from lsqctl.training.dataset_loader import open_dataset

PUBLISHED = Kmnist.md5s


def idx_file(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a data folder with a small set in the place of the published one."""
    draw = np.random.default_rng(0)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    md5s = []
    for name, count in zip(_FILES, (20, 20, 10, 10), strict=True):
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        data = idx_file(pixels if "images" in name else np.arange(count, dtype=np.uint8) % 10)
        (raw / f"{name}.gz").write_bytes(data)
        md5s.append(hashlib.md5(data).hexdigest())
    monkeypatch.setattr(Kmnist, "md5s", tuple(md5s))
    return tmp_path


def test_it_is_read_normalized_and_called_verified(folder):
    dataset = open_dataset(DataSection(name="kmnist"), folder)
    assert (len(dataset.train), len(dataset.evaluation), dataset.eval_split) == (20, 10, "test")
    pixels, labels = next(dataset.train.eval_batches([np.array([3, 14])]))
    assert (pixels.shape, labels.tolist()) == ((2, 1, 28, 28), [3, 4])
    assert (dataset.num_classes, dataset.mean, dataset.std) == (10, (0.1918,), (0.3483,))
    assert dataset.notes == ("kmnist: md5 verified",)


def test_other_bytes_than_the_published_ones_are_refused(folder, monkeypatch):
    monkeypatch.setattr(Kmnist, "md5s", PUBLISHED)
    with pytest.raises(
        DataError, match=rf"{_FILES[0]}\.gz is damaged or partial: .*{PUBLISHED[0]}"
    ):
        open_dataset(DataSection(name="kmnist"), folder)
