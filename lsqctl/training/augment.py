"""Random crop after zero padding, and mirroring, for a whole batch on its device.

Pure in (seed, epoch, index of the image): batch size, order and worker count do not matter.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lsqctl.training.counter import Stream, randint, bits


def crop_and_flip(
    pixels: Tensor, indices: NDArray[np.int64], *, seed: int, epoch: int, pad: int, flip: bool
) -> Tensor:
    """Return the batch ``(B, C, H, W)`` cropped at random offsets and mirrored, same shape.

    ``indices`` are those of the images in their dataset. Each image is padded by ``pad`` black
    pixels on every side first; with ``flip``, half of the images are mirrored.
    """
    if not pad and not flip:
        return pixels
    height, width = pixels.shape[-2:]
    top = _offsets(Stream.CROP_Y, indices, (seed, epoch), 2 * pad + 1)
    left = _offsets(Stream.CROP_X, indices, (seed, epoch), 2 * pad + 1)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    if flip:
        mirrored = randint(2, bits(seed, epoch, Stream.FLIP, indices)) == 1
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    return _gather(F.pad(pixels, (pad, pad, pad, pad)), rows, columns)


def _offsets(
    stream: Stream, indices: NDArray[np.int64], key: tuple[int, int], n_offsets: int
) -> NDArray[np.int64]:
    return randint(n_offsets, bits(*key, stream, indices))


def _gather(padded: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Return ``out[b, c, i, j] = padded[b, c, rows[b, i], columns[b, j]]``."""
    batch = torch.arange(len(rows), device=padded.device)[:, None, None]
    r = torch.from_numpy(rows).to(padded.device)[:, :, None]
    c = torch.from_numpy(np.ascontiguousarray(columns)).to(padded.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[batch, r, c].permute(0, 3, 1, 2).contiguous()
