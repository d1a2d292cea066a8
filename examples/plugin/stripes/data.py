"""Stripes that lie or stand, in noise: made from a seed, so they are the same each time."""

from pathlib import Path

import numpy as np

from lsqctl.plugins import ArraySplits, InMemoryDataset, dataset


@dataset(
    "stripes", title="Stripes", classes=2, channels=1, image_size=8,
    mean=(0.35,), std=(0.2,), pad=0, flip=False,
)  # fmt: skip
class Stripes(InMemoryDataset):
    """200 images to train on, 100 to evaluate."""

    def read(self, data_dir: Path) -> ArraySplits:
        """Return pixels (N, 1, 8, 8) and labels (N) of both splits."""
        noise = np.random.default_rng(0).integers(0, 120, (300, 1, 8, 8), dtype=np.uint8)
        labels = np.arange(300, dtype=np.int64) % 2
        noise[labels == 0, :, ::2] += 60  # every second row is brighter
        noise[labels == 1, :, :, ::2] += 60  # every second column
        return (noise[:200], labels[:200]), (noise[200:], labels[200:]), "made from seed 0"
