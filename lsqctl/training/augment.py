"""Random crop after zero padding, and mirroring, for a whole batch on its device.

Pure in (seed, epoch, index of the image): batch size, order and worker count do not matter.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lsqctl.training.counter import Stream, below, draw


def crop_and_flip(
    pixels: Tensor, index: NDArray[np.int64], *, seed: int, epoch: int, pad: int, flip: bool
) -> Tensor:
    """Return the batch ``(B, C, H, W)`` cropped at random places and mirrored, same shape.

    ``index`` holds the place of each image in its dataset. Each image is padded by ``pad`` black
    pixels on every side first; with ``flip``, half of the images are mirrored.
    """
    if not pad and not flip:
        return pixels
    height, width = pixels.shape[-2:]
    top = _places(Stream.CROP_Y, index, (seed, epoch), 2 * pad + 1)
    left = _places(Stream.CROP_X, index, (seed, epoch), 2 * pad + 1)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    if flip:
        mirrored = below(2, draw(seed, epoch, Stream.FLIP, index)) == 1
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    return _gather(F.pad(pixels, (pad, pad, pad, pad)), rows, columns)


def _places(
    stream: Stream, index: NDArray[np.int64], key: tuple[int, int], limit: int
) -> NDArray[np.int64]:
    return below(limit, draw(*key, stream, index))


def _gather(padded: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Return ``out[b, c, i, j] = padded[b, c, rows[b, i], columns[b, j]]``."""
    batch = torch.arange(len(rows), device=padded.device)[:, None, None]
    r = torch.from_numpy(rows).to(padded.device)[:, :, None]
    c = torch.from_numpy(np.ascontiguousarray(columns)).to(padded.device)[:, None, :]
    return padded.permute(0, 2, 3, 1)[batch, r, c].permute(0, 3, 1, 2).contiguous()
