"""Cropping and mirroring: pure, batch-size free, and nothing but pixels of the padded image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lsqctl.training.data_pipeline import crop_and_flip

IMAGES = torch.arange(24 * 2 * 5 * 6, dtype=torch.int64).remainder(251).to(torch.uint8)
IMAGES = IMAGES.reshape(24, 2, 5, 6)
EVERY = np.arange(24)


def augment(index, *, seed=0, epoch=0, pad=2, flip=True):
    places = np.asarray(index)
    return crop_and_flip(IMAGES[places], places, seed=seed, epoch=epoch, pad=pad, flip=flip)


@given(st.integers(0, 9), st.integers(0, 9), st.permutations(range(24)), st.integers(1, 23))
def test_an_image_is_augmented_alike_in_any_batch_and_place(seed, epoch, places, cut):
    whole = augment(EVERY, seed=seed, epoch=epoch)
    parts = [augment(part, seed=seed, epoch=epoch) for part in (places[:cut], places[cut:])]
    assert torch.equal(torch.cat(parts), whole[places])


@given(st.integers(0, 99), st.integers(0, 3), st.booleans())
def test_every_result_is_a_crop_of_the_padded_image_or_its_mirror(seed, pad, flip):
    out = augment(EVERY, seed=seed, pad=pad, flip=flip)
    padded = F.pad(IMAGES, (pad, pad, pad, pad))
    for image, source in zip(out, padded, strict=True):
        crops = [
            source[:, top : top + 5, left : left + 6]
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
        ]
        allowed = crops + [crop.flip(-1) for crop in crops] * flip
        assert any(torch.equal(image, one) for one in allowed)


def test_without_padding_and_mirroring_nothing_happens():
    assert torch.equal(augment(EVERY, pad=0, flip=False), IMAGES)


def test_another_epoch_augments_otherwise_and_about_half_are_mirrored():
    assert not torch.equal(augment(EVERY, epoch=0), augment(EVERY, epoch=1))
    many = np.arange(4000)
    row = torch.tensor([0, 1], dtype=torch.uint8).expand(4000, 1, 1, 2)
    out = crop_and_flip(row, many, seed=0, epoch=0, pad=0, flip=True)
    assert 0.45 < (out[:, 0, 0, 0] == 1).float().mean() < 0.55


@pytest.mark.parametrize("pad", [1, 2, 4])
def test_every_offset_of_the_crop_occurs(pad):
    """The one bright pixel, in the middle, lands wherever the crop may put it."""
    side, many = 2 * pad + 1, np.arange(4000)
    dot = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    dot[..., pad, pad] = 1
    pixels = dot.expand(len(many), -1, -1, -1)
    out = crop_and_flip(pixels, many, seed=0, epoch=0, pad=pad, flip=False)
    assert (out.sum((1, 2, 3)) == 1).all()
    assert {tuple(place) for place in out.nonzero()[:, 2:].tolist()} == {
        (row, column) for row in range(side) for column in range(side)
    }
