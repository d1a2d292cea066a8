"""The board as a data frame says what the command line says."""

from __future__ import annotations

import io

import pytest

from lsqctl.errors import FilterError, NotFound
from lsqctl.services import load_board
from tests.made_up import fill


def test_the_frame_has_the_rows_of_the_board_in_its_order(here):
    import pandas as pd

    fill(here.folder)
    frame = load_board()
    text = here("leaderboard", "--format", "csv", "--raw").stdout
    assert frame["model"].tolist() == pd.read_csv(io.StringIO(text))["model"].tolist()
    read = pd.read_csv(io.StringIO(text))
    assert frame["top1_mean"].tolist() == pytest.approx(read["top1_mean"].tolist())
    assert set(frame["origin"]) == {"local", "published"}
    assert set(load_board(include_published=False)["origin"]) == {"local"}


def test_it_is_chosen_as_on_the_command_line(here):
    fill(here.folder)
    frame = load_board(where="weight_bits <= 3", per_run=True, include_published=False)
    assert sorted(frame["weight_bits"]) == [2, 2, 2, 3, 3, 3]
    with pytest.raises(FilterError, match="`w_bit` is no column"):
        load_board(where="w_bit <= 3")


def test_without_a_workspace_it_says_so(here):
    with pytest.raises(NotFound, match="no workspace here"):
        load_board()
