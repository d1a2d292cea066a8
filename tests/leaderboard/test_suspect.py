"""What looks too good, or no better than guessing, is flagged, and the notes say why."""

import pytest

from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.table_view import board_view

from .rows import published_result, row

START = {"fp32_n_correct": 9_000, "fp32_n_total": 10_000}
PAPER = published_result("R8 LSQ W4A4", 90.0, n_total=10_000)


def entry(*rows, papers=()):
    (table,) = rank(rows, baselines=papers).tables
    return table.rows[0]


def big(n_correct, seed=0, **changes):
    return row(seed=seed, n_correct=n_correct, n_total=10_000, method="lsq", **changes)


@pytest.mark.parametrize(
    ("n_correct", "suspect"),
    # one deviation of the difference at 90 % of 10,000 is 0.42 points, so three are 1.25
    [(9_100, False), (9_120, False), (9_130, True), (8_000, False)],
)
def test_more_than_three_deviations_above_its_own_start_is_suspect(n_correct, suspect):
    e = entry(big(n_correct, **START))
    assert e.suspect is suspect
    assert ("above its full-precision start" in (e.notes or "")) is suspect


@pytest.mark.parametrize(("n_correct", "suspect"), [(9_100, False), (9_130, True)])
def test_more_than_three_deviations_above_the_papers_row_is_suspect(n_correct, suspect):
    e = entry(big(n_correct), papers=[PAPER])
    assert e.suspect is suspect
    assert ("deviations above R8 LSQ W4A4 of the paper" in (e.notes or "")) is suspect


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "other"},
        {"weight_bits": 3},
        {"dataset": "cifar10"},
        {"method": "PACT"},
        {"source_kind": "readme"},
        {"page": "lsq-ablations"},
        {"n_total": None},
    ],
    ids=str,
)
def test_a_row_is_held_against_the_papers_row_of_the_same_experiment_alone(change):
    paper = published_result(**{"model": "p", "top1": 50.0, "n_total": 10_000, **change})
    assert entry(big(9_900), papers=[paper]).suspect is False


def test_of_several_papers_the_best_one_is_the_yardstick():
    better = published_result("better", 91.0, n_total=10_000)
    assert entry(big(9_130), papers=[better, PAPER]).suspect is False


def test_seeds_that_scatter_widen_what_is_allowed():
    steady = [big(n, seed, **START) for seed, n in enumerate([9_200, 9_201, 9_199])]
    wild = [big(n, seed, **START) for seed, n in enumerate([9_900, 9_000, 8_700])]
    assert (entry(*steady).suspect, entry(*wild).suspect) == (True, False)


@pytest.mark.parametrize(("mean", "suspect"), [(9_160, False), (9_240, True)])
def test_of_several_seeds_the_deviation_of_their_mean_counts(mean, suspect):
    """They scatter by one point, so their mean by half of one: three times 0.58 is allowed."""
    seeds = [big(mean + off, seed, **START) for seed, off in enumerate([-87, -87, 87, 87])]
    assert entry(*seeds).suspect is suspect


def test_what_training_found_no_better_than_guessing_is_suspect():
    e = entry(big(1_000, notes="left in fp32: x; suspect: 1000 of 10000 right is no better"))
    assert e.suspect is True
    assert e.notes == "left in fp32: x; suspect: 1000 of 10000 right is no better"


def test_full_precision_is_not_held_against_its_own_start():
    e = entry(big(9_900, weight_bits=32, act_bits=32, **START))
    assert e.suspect is False


def test_a_perfect_score_over_a_perfect_start_is_no_division_by_zero():
    assert entry(row(n_correct=540, fp32_n_correct=540, fp32_n_total=540)).suspect is False


def test_the_board_says_suspect_beside_the_row_and_published_rows_are_not_judged():
    (table,) = board_view(rank([big(9_900, **START)], [published_result()]))
    assert [line[-1].text for line in table.rows] == ["local, suspect", "paper"]
    assert [line[-1].highlight for line in table.rows] == ["bad", ""]
    assert rank([], [published_result()]).entries[0].suspect is None


def test_the_last_and_the_best_epoch_stand_beside_each_other():
    e = entry(
        row(seed=0, n_correct=486, n_correct_last=486, n_correct_best=540),
        row(seed=1, n_correct=513, n_correct_last=513, n_correct_best=540),
    )
    assert (e.top1_mean, e.top1_last_epoch, e.top1_best_epoch) == (92.5, 92.5, 100.0)
    assert e.selected_on_test is False
    assert entry(row(seed=0, n_correct_best=540), row(seed=1)).top1_best_epoch is None
