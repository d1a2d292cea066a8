"""Methods of other papers within a run: recorded, resumed to the bit, refused at submit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsqctl.recipe import cross_check, fingerprint
from lsqctl.training.data_pipeline import crop_and_flip, mirrored
from tests.conftest import fewer
from tests.training.attempts import rows, run_whole_and_cut
from tests.training.conftest import tiny

TRANSITIONS = {"weight_steps": "statistic", "transition_rate": 0.02, "dampening": 0.01}
FREEZING = {"freezing": 1e-4, "freezing_start": 1e-3}
ADAM = {"step_optimizer": "adam", "step_lr_scale": 0.01}


@pytest.mark.parametrize(
    ("quant", "metric"),
    fewer([(FREEZING, "frozen_weights"), (TRANSITIONS | ADAM, "code_changes")], 1),
)
def test_a_run_with_methods_is_resumed_to_the_bit_and_shows_what_they_did(job, quant, metric):
    recipe = tiny(quant=quant, train={"epochs": 1, "ema_decay": 0.9})
    whole = run_whole_and_cut(recipe, job, stop_after=4)
    (value,) = [row.value for row in rows(whole) if row.name == metric]
    assert 0 < value < 100


def conflict_of(**changes):
    return [(one.key, one.message, one.hint) for one in cross_check(tiny(**changes))]


def test_methods_that_exclude_each_other_or_have_nothing_to_act_on_are_refused_at_submit():
    ((key, message, hint),) = conflict_of(quant={"transition_rate": 0.01})
    assert key == "quant.transition_rate"
    assert "learned step size changes codes too" in message
    assert hint == "set weight_steps to statistic or fixed"
    floats = dict.fromkeys(("weight_bits", "first_weight_bits", "last_weight_bits"), 32)
    ((key, message, _),) = conflict_of(quant=floats | {"dampening": 0.1})
    assert (key, message) == ("quant.dampening", "nothing is quantized that it could act on")
    ((key, message, _),) = conflict_of(quant={"weight_bits": 8, "freezing": 0.1})
    assert (key, message) == ("quant.freezing", "no weight has 4 bits or fewer")
    ((key, _, hint),) = conflict_of(quant={"freezing_start": 0.1})
    assert (key, hint) == ("quant.freezing_start", "set quant.freezing, or leave it out")
    ((_, message, _),) = conflict_of(quant={"freezing_start": 0.1, "freezing": 0.2})
    assert message == "is below the 0.2 at the end"
    acts = {name.replace("weight", "act"): 32 for name in floats}
    ((key, message, _),) = conflict_of(quant=acts | ADAM | {"weight_steps": "fixed"})
    assert (key, message) == ("quant.step_optimizer", "no step size is left that adam could train")
    assert conflict_of(quant=floats | ADAM) == []
    residual = {"weight_steps": "fixed", "residual_bits": 8}  # which have step sizes of their own
    assert conflict_of(quant=acts | ADAM | residual) == []
    ((key, message, _),) = conflict_of(data={"flip_order": "alternating", "flip": False})
    assert (key, message) == ("data.flip_order", "no image is mirrored")
    alternating = {"flip_order": "alternating", "flip": True}
    ((_, message, _),) = conflict_of(data=alternating | {"views": 5})
    assert message == "with 5 views the first follows the last, mirrored alike"
    assert conflict_of(data=alternating | {"views": 4}) == []


def test_a_recipe_without_methods_has_the_hash_it_had_before_there_were_any():
    off = {"weight_steps": "learned", "step_optimizer": "sgd", "dampening": None, "freezing": None}
    named = tiny(quant=off | {"transition_rate": None}, data={"flip_order": "random", "views": 0})
    assert fingerprint(named, {}, with_seed=True) == fingerprint(tiny(), {}, with_seed=True)
    assert fingerprint(tiny(), {}, with_seed=True).startswith("3a198a0957529879")


def test_alternating_flips_show_both_sides_of_every_image_in_any_two_epochs():
    every = np.arange(1000)
    first = mirrored(every, seed=3, epoch=0, alternating=True)
    for epoch in range(1, 5):
        now = mirrored(every, seed=3, epoch=epoch, alternating=True)
        assert (now == (first ^ (epoch % 2 == 1))).all()
    assert 400 < first.sum() < 600
    assert (mirrored(every[5:9], seed=3, epoch=0, alternating=True) == first[5:9]).all()
    assert (mirrored(every, seed=4, epoch=0, alternating=True) != first).any()
    drawn = [mirrored(every, seed=3, epoch=epoch, alternating=False) for epoch in (0, 1)]
    assert 300 < (drawn[0] ^ drawn[1]).sum() < 700
    assert (drawn[0] == first).all()  # the first epoch is the random one's


def test_the_images_of_an_epoch_are_mirrored_as_alternation_says():
    images = torch.arange(8 * 4, dtype=torch.uint8).reshape(8, 1, 1, 4)
    every = np.arange(8)
    for epoch in (0, 1):
        out = crop_and_flip(images, every, seed=0, epoch=epoch, pad=0, flip=True, alternating=True)
        which = mirrored(every, seed=0, epoch=epoch, alternating=True)
        for image, got, is_mirrored in zip(images, out, which, strict=True):
            assert torch.equal(got, image.flip(-1) if is_mirrored else image)
