"""What is read of datasets' files: exact sizes, fixed splits, and one line for what is damaged."""

from __future__ import annotations

import numpy as np
import pytest

from lsqctl.datasets import DATASETS
from lsqctl.datasets.digits import read_digits
from lsqctl.datasets.fetch import fetch_dataset
from lsqctl.datasets.idx_files import parse_idx
from lsqctl.datasets.image_files import IMAGE_DECODERS
from lsqctl.datasets.mnist import Mnist
from lsqctl.errors import DataError, NotFound


def test_the_digits_split_is_fixed_stratified_and_complete():
    (train, train_labels), (test, test_labels), source = read_digits()
    assert (train.shape, test.shape) == ((1257, 1, 8, 8), (540, 1, 8, 8))
    counts = np.bincount(np.concatenate([train_labels, test_labels]))
    assert np.abs(np.bincount(test_labels) - counts * 540 / 1797).max() < 1
    assert (train.min(), train.max()) == (0, 255)
    assert source.endswith("sha256 verified")
    from sklearn.datasets import load_digits

    ours = np.sort(np.concatenate([train, test]).reshape(-1, 64).sum(1, dtype=np.int64))
    theirs = np.sort(np.rint(load_digits().images.reshape(-1, 64) * 255 / 16).sum(1))
    assert (ours == theirs).all()


def test_the_digits_mean_and_deviation_are_those_of_the_training_images():
    pixels = read_digits()[0][0] / 255
    assert pixels.mean() == pytest.approx(DATASETS["digits"].mean[0], abs=5e-4)
    assert pixels.std() == pytest.approx(DATASETS["digits"].std[0], abs=5e-4)


def test_an_idx_file_is_read_and_a_cut_one_refused(tmp_path):
    data = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 2, 3)) + bytes(range(12))
    assert parse_idx(data, tmp_path)[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    for bad in (data[:-1], b"\0\0\x0d" + data[3:], b"", data[:6]):
        with pytest.raises(DataError, match="no idx file"):
            parse_idx(bad, tmp_path)


def test_what_counts_as_an_image_is_what_torchvision_takes_for_one():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert sorted(IMAGE_DECODERS) == sorted(IMG_EXTENSIONS)


def test_fetching_knows_what_needs_no_fetching_and_what_cannot_be(tmp_path):
    assert fetch_dataset("digits", tmp_path) is None
    with pytest.raises(NotFound, match="did you mean `cifar10`"):
        fetch_dataset("cifar-10", tmp_path)
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch_dataset("imagenet", tmp_path)


def test_a_download_that_fails_at_every_address_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("Error downloading x.gz:\nTried one, got:\nnothing\n")

    monkeypatch.setattr(Mnist, "download", fail)
    with pytest.raises(DataError, match=r"x\.gz: Tried one, got: nothing; fetch it where") as error:
        fetch_dataset("mnist", tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
