"""Ranks, groups and the Pareto front: laws over random boards, and the edges by example."""

from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import NotFound, UsageError
from lsqctl.leaderboard.board_query import BoardQuery, apply_query
from lsqctl.leaderboard.published_results import PWC_PAGE, load_bundled_results
from lsqctl.leaderboard.rank import _with_pareto, rank
from lsqctl.leaderboard.table_view import board_view
from lsqctl.run import RunState

from .rows import START, board_rows, failed, published_result, published_results, row


def only(rows, published=(), **how):
    (table,) = rank(rows, published, **how).tables
    return table


def entry(rows, **how):
    (found,) = only(rows, **how).rows
    return found


@given(board_rows(), published_results, st.booleans())
def test_a_rank_counts_the_rows_that_lie_wholly_above(rows, published, per_run):
    for table in rank(rows, published, per_run=per_run).tables:
        ranked = [e for e in table.rows if not e.is_full_precision]
        for e in ranked:
            assert e.rank == 1 + sum(other.interval_low > e.interval_high for other in ranked)


@given(board_rows(), published_results)
def test_rows_stand_by_rank_then_mean_and_full_precision_comes_last_without_a_rank(rows, published):
    for table in rank(rows, published).tables:
        assert all((e.rank is None) == e.is_full_precision for e in table.rows)
        for a, b in pairwise(table.rows):
            assert (a.is_full_precision, a.rank or 0, -a.top1_mean) <= (
                b.is_full_precision,
                b.rank or 0,
                -b.top1_mean,
            )


@given(st.data(), board_rows(), published_results)
def test_the_order_of_what_comes_in_does_not_matter(data, rows, published):
    shuffled = data.draw(st.permutations(rows)), data.draw(st.permutations(published))
    assert rank(*shuffled) == rank(rows, published)
    assert rank(*shuffled, per_run=True) == rank(rows, published, per_run=True)
    assert rank(*shuffled, best_seed=True) == rank(rows, published, best_seed=True)


def test_published_rows_of_one_name_and_number_stand_in_one_order():
    twins = [
        published_result(source_url="https://example.org/a"),
        published_result(source_url="https://b.org"),
    ]
    assert rank([], twins) == rank([], twins[::-1])


@given(board_rows(), published_results)
def test_nothing_is_dropped_in_silence(rows, published):
    board = rank(rows, published)
    counts = [table.counts for table in board.tables]
    assert sum(c.runs for c in counts) == len({r.run_id for r in rows})
    assert sum(c.failed for c in counts) == sum(r.state is RunState.FAILED for r in rows)
    assert sum(c.published for c in counts) == len(published)
    assert sum(c.groups + c.empty_groups for c in counts) == len({r.recipe_sha256 for r in rows})
    assert len(board.entries) == sum(c.groups + c.published for c in counts)


@given(board_rows(), st.sampled_from(["gbops", "size_bytes"]))
def test_a_row_is_pareto_optimal_unless_another_is_no_worse_and_in_one_way_better(rows, cost):
    for table in rank(rows, pareto=cost).tables:
        priced = [e for e in table.rows if getattr(e, cost) is not None]
        for e in table.rows:
            price = getattr(e, cost)
            if price is None:
                assert e.pareto_optimal is None
                continue
            dominated = any(
                not e.interval_low > o.interval_high
                and getattr(o, cost) <= price
                and (o.interval_low > e.interval_high or getattr(o, cost) < price)
                for o in priced
            )
            assert e.pareto_optimal is not dominated


def test_of_rows_without_an_interval_that_tie_the_cheapest_are_pareto_optimal():
    point = replace(entry([row()]), top1_ci95_lo=None, top1_ci95_hi=None)
    marked = _with_pareto([replace(point, gbops=gbops) for gbops in (1.0, 1.0, 2.0)], "gbops")
    assert [e.pareto_optimal for e in marked] == [True, True, False]


def test_rows_that_cannot_be_told_apart_share_a_rank():
    rows = [row("a", n_correct=530), row("b", n_correct=528), row("c", n_correct=300)]
    assert [(e.model, e.rank) for e in only(rows).rows] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_row_without_an_interval_is_a_point():
    published = [published_result("x", 90.0), published_result("y", 89.99)]
    assert [e.rank for e in only([], published).rows] == [1, 2]
    told = [
        published_result("x", 90.0, n_total=10_000),
        published_result("y", 89.99, n_total=10_000),
    ]
    assert [e.rank for e in only([], told).rows] == [1, 1]


def test_77_878_and_78_0_on_imagenet_are_a_tie():
    published = [r for r in load_bundled_results() if r.top1 in (77.878, 78.0)]
    assert [e.rank for e in only([], published).rows] == [1, 1]


def test_seeds_of_a_recipe_are_one_row_with_mean_deviation_and_count():
    e = entry([row(seed=seed, n_correct=n) for seed, n in enumerate([486, 513, 540])])
    assert (e.top1_mean, e.top1_std, e.n_seeds, e.seeds) == (95.0, 5.0, 3, "0 1 2")
    assert (e.top1_best, e.best_run) == (100.0, "r-2")


def test_failed_runs_are_counted_beside_the_seeds_that_succeeded():
    table = only([row(seed=0), row(seed=1), failed(seed=2)])
    assert (table.rows[0].n_failed, table.rows[0].n_seeds) == (1, 2)
    assert (table.counts.groups, table.counts.runs, table.counts.failed) == (1, 3, 1)


def test_a_recipe_with_failures_only_is_in_the_counts_and_not_ranked():
    table = only([failed("broken"), row("fine")])
    assert [e.model for e in table.rows] == ["fine"]
    assert (table.counts.empty_groups, table.counts.failed) == (1, 1)


def test_a_seed_run_again_counts_once_by_its_newest_run():
    again = row(n_correct=540, run_id="again", created_at=START.replace(year=2027))
    e = entry([row(n_correct=270), again])
    assert (e.n_seeds, e.top1_mean, e.best_run) == (1, 100.0, "again")


def test_only_the_headline_result_of_a_run_counts():
    rows = [row(n_correct=500, selection="best"), row(n_correct=540, headline=False)]
    assert entry(rows).top1_mean == pytest.approx(100 * 500 / 540)


def test_a_headline_chosen_on_the_test_set_says_so():
    assert entry([row(selection="best")]).selected_on_test is True
    assert entry([row(selection="last")]).selected_on_test is False


def test_unfinished_runs_are_not_on_the_board():
    assert rank([row(n_correct=None, state=RunState.RUNNING)]).tables == ()


def test_delta_is_against_the_groups_own_measured_start():
    rows = [
        row(seed=0, n_correct=486, fp32_n_correct=513, fp32_n_total=540),
        row(seed=1, n_correct=513, fp32_n_correct=540, fp32_n_total=540),
    ]
    e = entry(rows)
    assert (e.top1_mean, e.fp32_top1, e.delta_fp32) == (92.5, 97.5, -5.0)


def test_the_best_seed_must_be_asked_for_and_is_labelled():
    rows = [row(seed=seed, n_correct=n) for seed, n in enumerate([486, 513, 540])]
    e = entry(rows, best_seed=True)
    assert (e.top1_mean, e.n_seeds, e.seeds) == (100.0, 1, "2")
    assert e.notes == "best of 3 seeds"


def test_per_run_gives_each_run_a_row():
    rows = [row(seed=seed) for seed in range(3)]
    assert [e.seeds for e in only(rows, per_run=True).rows] == ["0", "1", "2"]


def test_per_run_and_best_seed_do_not_go_together():
    with pytest.raises(UsageError, match="either"):
        rank([row()], per_run=True, best_seed=True)


def test_a_renamed_recipe_is_shown_by_its_newest_name():
    rows = [row(seed=0, name="old"), row(seed=1, name="new")]
    assert entry(rows).model == "new"


def test_weight_only_quantization_is_ranked_and_full_precision_is_not():
    rows = [row("w4a32", act_bits=32), row("fp32", weight_bits=32, act_bits=32)]
    assert [(e.model, e.rank) for e in only(rows).rows] == [("w4a32", 1), ("fp32", None)]


def test_verified_needs_every_run_and_one_refutation_is_enough():
    def verified(*checks):
        return entry([row(seed=n, verified=check) for n, check in enumerate(checks)]).verified

    assert verified(True, True) is True
    assert verified(True, None) is None
    assert verified(None, True, False) is False


def test_runs_that_differ_in_their_circumstances_show_them_all():
    e = entry([row(seed=0, device="cpu"), row(seed=1, device="A100"), row(seed=2, device="cpu")])
    assert e.device == "cpu; A100"


def test_hours_are_a_mean_and_peak_memory_a_maximum():
    seconds = [3600.0, 7200.0]
    e = entry([row(seed=n, train_seconds=s, peak_mem_bytes=n) for n, s in enumerate(seconds)])
    assert (e.train_gpu_h, e.peak_mem_bytes) == (1.5, 1)


def test_times_with_and_without_a_zone_go_together_and_are_shown_in_utc():
    rows = [row(seed=0), row(seed=1, created_at=datetime(2026, 1, 2))]
    assert entry(rows).created_at == "2026-01-02T00:00:00+00:00"


def test_own_datasets_come_before_those_with_published_rows_alone():
    board = rank([row(dataset="digits")], [published_result(dataset="cifar10")])
    assert [table.dataset for table in board.tables] == ["digits", "cifar10"]


def test_a_board_of_one_dataset_leaves_the_others_out():
    rows = [row("a", dataset="digits"), row("b", dataset="cifar10")]
    assert only(rows, dataset="cifar10").dataset == "cifar10"


def test_a_dataset_that_nothing_is_of_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match=r"`cifar`; did you mean `cifar10`\?; it has cifar10"):
        rank([row(dataset="cifar10")], dataset="cifar")


def test_an_empty_board_is_no_error():
    assert rank([], dataset="digits").tables == ()


def test_the_papers_page_has_a_board_without_own_runs():
    page = [one for one in load_bundled_results() if one.page == PWC_PAGE]
    (table,) = rank((), page).tables
    assert (table.dataset, table.counts.published) == ("imagenet", 3)
    assert [(e.model, e.rank) for e in table.rows] == [
        ("ADLIK-MO-ResNet50-W4A4", 1),
        ("ADLIK-MO-ResNet50-W3A4", 1),
        ("ResNet50-W4A4 (paper)", 2),
    ]


def test_ten_thousand_runs_are_ranked_whole():
    rows = [
        row(f"recipe-{n // 5}", n % 5, n_correct=(n // 5) * 5, n_total=10_000)
        for n in range(10_000)
    ]
    ranked = only(rows).rows
    assert len(ranked) == 2_000
    assert [e.top1_mean for e in ranked] == sorted((e.top1_mean for e in ranked), reverse=True)
    assert (ranked[0].rank, ranked[-1].n_seeds) == (1, 5)


def digest(train: str, evaluated: str) -> str:
    return f"sha256:{train * 32}{evaluated * 32}"


def test_what_was_counted_on_different_images_is_not_ranked_together():
    rows = [
        row("a", data_digest=digest("1", "a")),
        row("b", data_digest=digest("2", "a")),  # other training images do not matter
        row("c", n_correct=540, data_digest=digest("1", "b")),
        failed("c"),
        failed("new"),
    ]
    first, second = rank(rows, [published_result()]).tables
    assert [(e.model, e.rank) for e in second.rows] == [("c", 1)]
    assert {e.model for e in first.rows} == {"a", "b", "published"}
    assert (first.group, second.group) == ((("images", "a" * 8),), (("images", "b" * 8),))
    assert (first.counts.failed, second.counts.failed) == (1, 1)
    assert rank([rows[0], failed("a")]).tables[0].group == ()


def test_runs_whose_images_bytes_were_not_recorded_stand_with_those_that_are_listed_alike():
    listing = "listing-" + digest("1", "a")
    rows = [row("a", data_digest=listing), row("b", data_digest=listing + "c" * 32)]
    (table,) = rank(rows).tables
    assert len(table.rows) == 2
    other = row("d", data_digest=listing + "d" * 32)
    assert [len(table.rows) for table in rank([*rows, other]).tables] == [1, 1, 1]


def test_a_recipe_whose_images_changed_has_a_row_for_each():
    before = row("a", data_digest=digest("1", "a"))
    after = row("a", run_id="later", n_correct=100, data_digest=digest("1", "b"))
    assert [len(table.rows) for table in rank([before, after]).tables] == [1, 1]


def test_a_tie_with_a_row_that_is_not_shown_is_still_a_tie():
    board = rank([row("a", n_correct=500), row("b", n_correct=499), row("c", n_correct=10)])
    (table,) = board_view(apply_query(board, BoardQuery(limit=1)))
    assert table.rows[0][0].text == "1="
    (last,) = board_view(apply_query(board, BoardQuery(sort=("top1_mean",), limit=1)))
    assert last.rows[0][0].text == "3"


def test_a_difference_has_no_dust_of_binary_fractions():
    board = rank([], [published_result(top1=73.6, fp32_top1=76.7)])
    assert board.entries[0].delta_fp32 == -3.1
