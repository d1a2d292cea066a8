"""`explain` answers for every code, and for every reason that a run may end for."""

import json

import pytest

from lsqctl.recipe_file.error_codes import CODES, END_REASONS
from lsqctl.run import EndReason


def test_there_is_a_word_on_every_reason():
    assert list(END_REASONS) == [*EndReason]
    assert not set(END_REASONS) & {name.lower() for name in CODES}


@pytest.mark.parametrize("reason", EndReason)
def test_it_says_what_a_reason_means_and_what_to_do(here, reason):
    text = here("explain", reason.upper()).stdout
    assert text.startswith(f"{reason}: {END_REASONS[reason].title}\n\n")
    assert "    lsqctl " in text


def test_an_old_word_gets_the_nearest(here):
    assert "did you mean `worker_lost`?" in here("explain", "worker lost", code=3).stderr
    assert "known: R001" in here("explain", "xyz", code=3).stderr


def test_json_has_codes_and_reasons(here):
    codes = json.loads(here("explain", "--json").stdout)["codes"]
    assert [entry["code"] for entry in codes] == [*CODES, *END_REASONS]


def test_a_key_where_a_recipe_should_stand_says_how_a_key_is_set(here):
    error = here("submit", "digits/resnet8-lsq", "train.epochs=3", code=3).stderr
    assert "`train.epochs=3` is no recipe; a key is changed by `--set train.epochs=3`" in error
