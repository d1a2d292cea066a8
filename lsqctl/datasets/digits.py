"""The handwritten digits that scikit-learn carries: 1,797 images of 8x8, read without importing it.

A fixed, stratified split that no seed changes: 1,257 for training, 540 for evaluation.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsqctl.datasets import dataset
from lsqctl.datasets.in_memory import PUBLISHED, ArraySplits, InMemoryDataset
from lsqctl.errors import DataError

_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
_TEST_IMAGES = 540


@dataset(
    "digits",
    title="Optical Recognition of Handwritten Digits",
    classes=10,
    channels=1,
    image_size=8,
    mean=(0.3053,),
    std=(0.3761,),
    pad=1,
    flip=False,
    eval_images=540,
    labels="0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
)
class Digits(InMemoryDataset):
    """Installed with scikit-learn: nothing to fetch, no path in the data folder."""

    def read(self, data_dir: Path) -> ArraySplits:
        """Return what ``read_digits`` does."""
        return read_digits()

    def identify(self, data_dir: Path) -> str:
        """Return the identity of scikit-learn's file, which is not parsed for it."""
        sha256 = hashlib.sha256(_csv_path().read_bytes()).hexdigest()
        return PUBLISHED if sha256 == _SHA256 else f"sha256:{sha256}"


def read_digits() -> ArraySplits:
    """Return (pixels (N, 1, 8, 8), labels (N)) for training and test, and a note on the source.

    Pixels of 0..16 are scaled to 0..255.
    """
    path = _csv_path()
    data = path.read_bytes()
    table = np.loadtxt(gzip.decompress(data).decode().splitlines(), delimiter=",", dtype=np.int64)
    if table.shape != (1797, 65) or table.min() < 0 or table[:, :64].max() > 16:
        raise DataError(f"{path} does not hold the 1,797 digits; install scikit-learn again")
    pixels = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, 64]
    test_mask = _test_mask(labels)
    is_known_edition = hashlib.sha256(data).hexdigest() == _SHA256
    source = "scikit-learn's digits, " + (
        "sha256 verified" if is_known_edition else "an unknown edition"
    )
    return (pixels[~test_mask], labels[~test_mask]), (pixels[test_mask], labels[test_mask]), source


def _test_mask(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which images are the test set: evenly spread over each class, in file order."""
    by_class = np.argsort(labels, kind="stable")
    quota = np.arange(len(labels) + 1) * _TEST_IMAGES // len(labels)
    mask = np.zeros(len(labels), dtype=bool)
    mask[by_class] = np.diff(quota) == 1
    return mask


def _csv_path() -> Path:
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        "the digits come with scikit-learn, which is not installed: `pip install scikit-learn`"
    )
