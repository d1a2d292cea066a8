"""Order and draws are pure functions of (seed, epoch, index)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.training.counter_rng import Stream, bits, permutation, randint, uniform

seeds = st.integers(0, 2**31 - 1)
epochs = st.integers(0, 10_000)


@given(seeds, epochs, st.integers(1, 3000))
def test_an_order_is_a_permutation(seed, epoch, count):
    assert sorted(permutation(seed, epoch, count)) == list(range(count))


@given(seeds, epochs, st.lists(st.integers(0, 10**7), min_size=1, max_size=50))
def test_a_draw_does_not_depend_on_the_other_indices(seed, epoch, index):
    together = bits(seed, epoch, Stream.FLIP, np.array(index))
    alone = [bits(seed, epoch, Stream.FLIP, np.array([one]))[0] for one in index]
    assert together.tolist() == [int(one) for one in alone]


@given(seeds, epochs)
def test_seed_epoch_and_stream_each_change_the_order(seed, epoch):
    base = permutation(seed, epoch, 64).tolist()
    assert base != permutation(seed + 1, epoch, 64).tolist()
    assert base != permutation(seed, epoch + 1, 64).tolist()
    assert base != permutation(seed, epoch, 64, stream=Stream.CALIBRATION).tolist()


@given(seeds, st.integers(1, 500))
def test_below_stays_below_and_fraction_within_zero_and_one(seed, limit):
    numbers = bits(seed, 0, Stream.CROP_X, np.arange(200))
    assert randint(limit, numbers).min() >= 0
    assert randint(limit, numbers).max() < limit
    assert 0 <= uniform(numbers).min() <= uniform(numbers).max() < 1


def test_draws_are_even():
    counts = np.bincount(randint(10, bits(7, 3, Stream.CROP_Y, np.arange(100_000))), minlength=10)
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 27.9  # one in a thousand


def test_the_order_of_today_is_the_order_of_tomorrow():
    # A change here breaks every half-trained run: it needs a new HASH_SCHEMA.
    assert permutation(0, 0, 8).tolist() == [1, 5, 2, 4, 7, 6, 0, 3]
    assert permutation(1, 5, 8).tolist() == [3, 5, 1, 0, 6, 4, 2, 7]
