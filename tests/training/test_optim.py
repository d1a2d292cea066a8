"""The learning rate is a pure function of the step."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lsqctl.models.factory import build_model
from lsqctl.training.optimizer_step import build_optimizer, lr_factor, set_lr

from .conftest import tiny


@given(st.integers(1, 50), st.integers(1, 40))
def test_the_cosine_begins_at_one_falls_and_ends_at_zero(epochs, steps):
    train = tiny(train={"epochs": epochs}).train
    factors = [lr_factor(train, step, steps) for step in range(epochs * steps + 1)]
    assert factors[0] == 1
    assert all(a > b for a, b in pairwise(factors))
    assert math.isclose(factors[-1], 0, abs_tol=1e-12)


def test_half_way_the_cosine_is_half():
    assert math.isclose(lr_factor(tiny(train={"epochs": 10}).train, 50, 10), 0.5)


def test_warm_up_rises_in_equal_steps_and_reaches_one():
    train = tiny(train={"epochs": 10, "warmup_epochs": 2.0, "schedule": "constant"}).train
    assert [lr_factor(train, step, 2) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_every_group_follows_its_own_first_rate():
    optimizer = build_optimizer(build_model("resnet8", num_classes=10), tiny())
    first = [group["lr"] for group in optimizer.param_groups]
    set_lr(optimizer, 0.5)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25 * lr for lr in first]
