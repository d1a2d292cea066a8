"""Is A better than B?  What is paired, which test decides, and what cannot be compared."""

from datetime import UTC, datetime, timedelta

import pytest

from lsqctl.errors import UsageError
from lsqctl.events import PerImageResult
from lsqctl.leaderboard.comparison import ComparisonSide, compare, format_p
from lsqctl.text import format_signed

TOTAL = 400
START = datetime(2026, 1, 1, tzinfo=UTC)


def scored(right, *, name="a", seed=0, **changes):
    """A run that gets the images right whose numbers are given."""
    bits = sum(1 << (TOTAL - 1 - image) for image in set(right))
    values = {
        "run_id": f"{name}{seed}",
        "name": name,
        "seed": seed,
        "recipe_sha256": name,
        "created_at": START + timedelta(seconds=seed),
        "dataset": "digits",
        "split": "test",
        "data_digest": "sha256:" + "1" * 32 + "2" * 32,
        "preprocessing": "none",
        "selection": "last",
        "n_correct": len(set(right)),
        "n_total": TOTAL,
        "epochs": 9,
        "hits": bits.to_bytes(TOTAL // 8, "big"),
    }
    return PerImageResult(**{**values, **changes})


def side(label, *runs, **changes):
    return ComparisonSide(label, tuple(runs), **changes)


def seeds(name, counts, start=0, **changes):
    return [
        scored(range(start, count), name=name, seed=seed, **changes)
        for seed, count in enumerate(counts)
    ]


def test_two_runs_are_compared_image_by_image_in_one_sentence():
    found = compare(side("A", scored(range(380))), side("B", scored(range(10, 370), name="b")))
    assert found.answer == (
        "yes: A is better than B: +5.00 points of Top-1 (95.00 against 90.00 %), 95 % interval "
        "+2.79 to +7.16, by McNemar's exact test on the same 400 images, p = 1.9e-06"
    )
    (row,) = found.rows
    assert (row.only_first, row.only_second, row.difference) == (20, 0, 5.0)
    assert any("recipes need three seeds" in text for text in found.notes)


def test_the_answer_turns_around_with_the_sides():
    a, b = side("A", scored(range(380))), side("B", scored(range(350), name="b"))
    there, back = compare(a, b), compare(b, a)
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert back.answer.startswith("no: B is worse than A: −7.50 points")
    assert (there.difference, there.low, there.high) == pytest.approx(
        (-back.difference, -back.high, -back.low)
    )


def test_a_difference_of_one_image_cannot_be_told():
    found = compare(side("A", scored(range(380))), side("B", scored(range(379), name="b")))
    assert found.answer.startswith("it cannot be told whether A or B is better: +0.25 points")
    assert found.verdict == "undecided"


def test_seeds_that_match_are_paired_whatever_their_order():
    a, b = seeds("a", [380, 384, 381]), seeds("b", [370, 375, 371])
    found = compare(side("A", *a[::-1]), side("B", *b))
    assert found.paired
    assert [(row.seed, row.difference) for row in found.rows] == [(0, 2.5), (1, 2.25), (2, 2.5)]
    assert {one.name.split(" over")[0] for one in found.tests} == {
        "McNemar's test",
        "a paired t-test",
    }
    assert found.verdict == "better"


def test_seeds_that_agree_by_luck_do_not_make_the_test_set_larger():
    """One image in each of three seeds: a t-test alone would be certain of it."""
    found = compare(side("A", *seeds("a", [380] * 3)), side("B", *seeds("b", [379] * 3)))
    assert found.tests[1].p == 0
    assert found.test.startswith("McNemar's")
    assert found.verdict == "undecided"


def test_many_images_do_not_make_up_for_seeds_that_disagree():
    a, b = seeds("a", [390, 390, 330]), seeds("b", [340, 340, 345])
    found = compare(side("A", *a), side("B", *b))
    by_images, by_seeds = found.tests
    assert by_images.p < 0.05 <= by_seeds.p
    assert (found.test, found.verdict) == ("a paired t-test over 3 seeds", "undecided")


def test_seeds_that_do_not_match_get_welchs_test():
    a = seeds("a", [380, 382, 381])
    b = [scored(range(n), name="b", seed=seed) for seed, n in ((7, 350), (8, 352))]
    found = compare(side("A", *a), side("B", *b))
    assert not found.paired
    assert "Welch's t-test over 3 and 2 runs" in {one.name for one in found.tests}
    assert [(row.first_run, row.second_run) for row in found.rows] == [
        *(("a0", None), ("a1", None), ("a2", None)),
        *((None, "b7"), (None, "b8")),
    ]
    assert found.verdict == "better"


def test_a_seed_without_a_counterpart_is_left_out_and_said():
    found = compare(side("A", *seeds("a", [380, 381, 100])), side("B", *seeds("b", [360, 361])))
    assert found.first.n == 2
    assert found.first.top1_mean == pytest.approx(95.125)
    assert "1 of 3 runs of A have no counterpart" in found.notes


def test_a_run_is_compared_with_its_own_seed_of_a_recipe():
    (run,) = [scored(range(380), seed=1)]
    found = compare(side("A", run), side("B", *seeds("b", [100, 370, 100])))
    assert [(row.first_run, row.second_run) for row in found.rows] == [("a1", "b1")]


@pytest.mark.parametrize("turned", [False, True])
def test_every_seed_stands_against_a_network_that_was_not_trained(turned):
    a = seeds("a", [380, 382, 384])
    start = side("start", scored(range(370), name="start", seed=7, epochs=0))
    found = compare(*[side("A", *a), start][:: -1 if turned else 1])
    of_a, of_start = ("second", "first") if turned else ("first", "second")
    assert [getattr(row, f"{of_a}_run") for row in found.rows] == ["a0", "a1", "a2"]
    assert {getattr(row, f"{of_start}_run") for row in found.rows} == {"start7"}
    assert (getattr(found, of_a).n, getattr(found, of_start).n) == (3, 1)
    assert getattr(found, of_start).top1_std is None
    assert found.difference == pytest.approx(-3.0 if turned else 3.0)
    assert found.verdict == ("worse" if turned else "better")
    assert {one.name for one in found.tests} == {
        "a paired t-test over 3 seeds",
        "McNemar's test over 3 runs a side on the same 400 images",
    }
    assert found.notes == ("start was evaluated as it came: each run stands against it",)


def test_a_trained_run_stands_for_its_own_seed_alone():
    trained = side("B", scored(range(370), name="b", seed=1))
    found = compare(side("A", *seeds("a", [380, 382, 384])), trained)
    assert [row.first_run for row in found.rows] == ["a1"]
    assert "2 of 3 runs of A have no counterpart" in found.notes


def test_a_run_against_other_seeds_is_compared_by_images_alone():
    found = compare(side("A", scored(range(380), seed=9)), side("B", *seeds("b", [340, 341])))
    assert [one.name for one in found.tests] == [
        "McNemar's test over 1 and 2 runs a side on the same 400 images"
    ]


def test_cells_of_sweeps_are_paired_by_cell_and_seed():
    def sweep(name, base):
        return [
            scored(range(base + n), name=f"{name}-{cell}", seed=seed, cell=cell)
            for n, (cell, seed) in enumerate([("w2", 0), ("w4", 0), ("w2", 1), ("w4", 1)])
        ]

    found = compare(side("A", *sweep("a", 380)), side("B", *sweep("b", 350)[::-1]))
    assert [(row.cell, row.seed) for row in found.rows] == [
        *(("w2", 0), ("w2", 1), ("w4", 0), ("w4", 1))
    ]
    assert found.verdict == "better"


def test_a_sweep_of_several_recipes_is_not_averaged_against_one():
    several = [scored(range(300), seed=0, cell="w2"), scored(range(300), seed=0, cell="w4")]
    with pytest.raises(UsageError, match=r"A has w2, w4; B has one cell; name one recipe"):
        compare(side("A", *several), side("B", *seeds("b", [1, 2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "cifar10"}, r"400 test images of digits \(run a0\), and 400 test images of c"),
        ({"n_total": 392, "hits": b"\0" * 49}, "392 test images"),
        ({"data_digest": "sha256:" + "1" * 32 + "3" * 32}, "a0 and b0 have different digests"),
    ],
)
def test_what_was_not_evaluated_on_the_same_images_is_refused(change, message):
    with pytest.raises(UsageError, match=f"A and B were not evaluated on the same .*{message}"):
        compare(side("A", scored(range(9))), side("B", scored(range(9), name="b", **change)))


OLD, NEW = ("listing-sha256:" + "1" * 32 + "2" * 32 + more for more in ("", "a" * 32))
PACKED = "listing-sha256:" + "8" * 32 + "9" * 32 + "a" * 32
BY_NAMES = "that the images are the same is told by their names and sizes, not by their bytes"


@pytest.mark.parametrize(
    ("digests", "notes"),
    [
        ((OLD, OLD), {BY_NAMES}),
        ((OLD, NEW), {BY_NAMES}),
        ((NEW, NEW), set()),
        ((NEW, PACKED), {"the training images differ, or only one side's are packed"}),
    ],
)
def test_images_are_told_by_their_bytes_where_those_are_recorded_else_it_is_said(digests, notes):
    sides = (
        side(name, scored(range(9), name=name, data_digest=digest))
        for name, digest in zip("AB", digests, strict=True)
    )
    said = {note for note in compare(*sides).notes if "image" in note}
    assert {note for note in said if "right" not in note and "chosen" not in note} == notes


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        ((NEW, NEW[:-32] + "b" * 32), "A0 and B0 have different digests$"),
        (
            (OLD, PACKED),
            r"different digests \(of A0 only the names and sizes of the images are rec",
        ),
        ((OLD, NEW, NEW[:-32] + "b" * 32), "A1 and B0 have different digests$"),
    ],
)
def test_images_of_other_bytes_are_refused_also_behind_a_run_that_recorded_none(digests, message):
    *left, right = digests
    runs = (scored(range(9), name="A", seed=n, data_digest=one) for n, one in enumerate(left))
    with pytest.raises(UsageError, match=message):
        compare(side("A", *runs), side("B", scored(range(9), name="B", data_digest=right)))


def test_other_training_images_and_preparation_are_allowed_and_said():
    other = scored(
        *(range(360),), name="b", data_digest="sha256:" + "9" * 32 + "2" * 32, preprocessing="crop"
    )
    notes = compare(side("A", scored(range(380))), side("B", other)).notes
    assert {"the training images differ", "the images were prepared differently"} <= set(notes)


def test_what_is_done_in_training_alone_is_said_apart():
    plain = scored(range(380), preprocessing="as it is; training: pad 4 and crop, mirror yes")
    views = "as it is; training: pad 4 and crop, mirror yes, 5 views"
    notes = compare(
        side("A", plain), side("B", scored(range(9), name="b", preprocessing=views))
    ).notes
    assert "the training images were prepared differently" in notes
    assert "the images were prepared differently" not in notes


def test_without_hits_the_number_of_images_has_its_say():
    """Recorded runs: two seeds that differ alike would be certain of any difference."""
    a, b = seeds("a", [320, 324], hits=b""), seeds("b", [316, 320], hits=b"")
    found = compare(side("A", *a), side("B", *b))
    assert [one.name for one in found.tests] == [
        "a test of two shares of 400 images",
        "a paired t-test over 2 seeds",
    ]
    assert (found.test, found.verdict) == (found.tests[0].name, "undecided")
    assert found.difference == pytest.approx(1.0)
    assert "A: which images were right is not stored; so they are not paired" in found.notes


def test_without_hits_two_runs_are_told_apart_by_their_counts():
    """By hand: 30/402 ± 1.96 · sqrt((381 · 21 + 351 · 51) / 402³)."""
    found = compare(
        side("A", scored(range(380), hits=b"")), side("B", scored(range(350), name="b", hits=b""))
    )
    assert found.verdict == "better"
    assert (found.low, found.high) == pytest.approx((3.549, 11.376), abs=1e-3)


def test_failed_runs_and_epochs_chosen_on_the_test_set_are_said():
    found = compare(
        side("A", scored(range(380), selection="best"), n_failed=2),
        side("B", scored(range(380), name="b")),
    )
    assert "2 failed runs of A are not in its mean" in found.notes
    assert "A: the epoch was chosen by looking at these images" in found.notes


@pytest.mark.parametrize(
    ("value", "text"), [(1.666, "+1.67"), (-0.19, "−0.19"), (-0.001, "0.00"), (0.0, "0.00")]
)
def test_points_have_a_sign_and_zero_none(value, text):
    assert format_signed(value) == text


def test_p_is_told_in_two_digits():
    assert [format_p(p) for p in (1.0, 0.0123, 3e-8, 0.0)] == [
        *("p = 1", "p = 0.012", "p = 3e-08", "p < 1e-300")
    ]
