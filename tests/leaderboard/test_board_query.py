"""Cutting a board: filters, sections, order and limit change what is shown, never a rank."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsqctl.errors import NotFound, UsageError
from lsqctl.events import BoardRow
from lsqctl.filters.parser import parse
from lsqctl.leaderboard.board_query import (
    BoardQuery,
    apply_query,
    filter_published,
    filter_runs,
)
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.schema import COLUMN_NAMES, COLUMNS, RUN_SOURCES, WHERE_COLUMNS
from lsqctl.leaderboard.table_view import board_view

from .rows import board_rows, failed, published_result, published_results, row

KINDS = {column.name: column.kind for column in COLUMNS}
TEXTS = {
    **{name: name for name in ("method", "first_last_bits", "granularity", "device", "torch")},
    **{name: name for name in ("precision", "deterministic", "code_commit")},
    **{name: name for name in ("user", "chain")},
    "code_dirty": True,
    "seed": 1,
    "run_id": "a-0",
}
ANY = {
    "where": st.sampled_from(["rank = 1", "pareto_optimal", "weight_bits < 4 or rank > 1"]),
    "group_by": st.sampled_from([(), ("weight_bits",), ("origin", "arch"), ("verified",)]),
    "sort": st.lists(st.sampled_from(["-top1_mean", "size_bytes", "model", "-weight_bits"])).map(
        tuple
    ),
    "limit": st.none() | st.integers(1, 3),
}


def cut(board, where=None, **how):
    tree = None if where is None else parse(where, WHERE_COLUMNS)
    return apply_query(board, BoardQuery(where=tree, **how))


def models(board):
    return [[entry.model for entry in table.rows] for table in board.tables]


@settings(max_examples=15)
@given(board_rows(), published_results, st.fixed_dictionaries({}, optional=ANY))
def test_no_row_is_changed_doubled_or_lost_without_being_counted(rows, published, how):
    board = rank(rows, published)
    found = cut(board, **how)
    assert set(found.entries) <= set(board.entries)
    assert len(set(found.entries)) == len(found.entries)
    if "where" not in how:
        shown, hidden = len(found.entries), sum(table.hidden for table in found.tables)
        assert shown + hidden == len(board.entries)


@settings(max_examples=15)
@given(board_rows(), published_results)
def test_a_board_that_nothing_is_asked_of_stays_as_it_is(rows, published):
    board = rank(rows, published)
    assert cut(board) == board


@settings(max_examples=15)
@given(board_rows(), st.sampled_from(["size_bytes", "top1_std", "model"]), st.booleans())
def test_sorting_puts_missing_values_last_either_way(rows, name, down):
    for table in cut(rank(rows), sort=(("-" if down else "") + name,)).tables:
        values = [getattr(entry, name) for entry in table.rows]
        known = [value for value in values if value is not None]
        assert values == sorted(known, reverse=down) + [None] * (len(values) - len(known))


def test_a_filter_on_a_rank_keeps_the_rank_and_says_how_many_are_hidden():
    board = rank([row("a", n_correct=530), row("b", n_correct=400), row("c", n_correct=300)])
    found = cut(board, "rank > 1")
    assert [(entry.model, entry.rank) for entry in found.entries] == [("b", 2), ("c", 3)]
    assert "1 row not shown" in board_view(found)[0].footer


def test_sections_are_titled_by_their_values_and_come_best_first():
    board = rank([row("a", n_correct=530, arch="x"), row("b", arch="y"), row("c", arch="x")])
    found = cut(board, group_by=("arch",), limit=1)
    assert models(found) == [["a"], ["b"]]
    assert [table.title.split(" · ")[1] for table in board_view(found)] == ["arch x", "arch y"]
    assert [table.hidden for table in found.tables] == [1, 0]


def test_a_table_without_any_result_still_says_what_came_to_nothing():
    (table,) = cut(rank([failed("a")])).tables
    assert (table.rows, table.counts.empty_groups) == ((), 1)


@pytest.mark.parametrize("how", [{"sort": ("-top1_men",)}, {"group_by": ("top1_men",)}])
def test_an_unknown_column_is_refused_with_the_nearest(how):
    with pytest.raises(UsageError, match="`top1_men`; did you mean `top1_mean`"):
        BoardQuery(**how)


def test_a_filter_may_name_every_column_of_the_contract_and_of_a_run():
    assert set(WHERE_COLUMNS) == {*COLUMN_NAMES, "run_id", "seed"}
    assert set(RUN_SOURCES) < set(WHERE_COLUMNS)
    differing = {n for n, kind in WHERE_COLUMNS.items() if n in COLUMN_NAMES and kind != KINDS[n]}
    assert differing == {"created_at"}


@pytest.mark.parametrize("name", RUN_SOURCES)
def test_every_column_of_a_run_filters_what_is_ranked_by_the_run_s_own_value(name):
    costs = {"macs": 2 * 10**9, "bops": 3 * 10**9, "size_bytes": 8, "file_bytes": 9}
    full = row("a", epochs=5, params=7, exactness="exact", **costs, **TEXTS)
    value = RUN_SOURCES[name].of_run(full)
    assert value is not None
    literal = {"text": f"'{value}'", "time": f"'{value}'"}.get(WHERE_COLUMNS[name], str(value))
    assert chosen(f"{name} = {literal.lower() if value is True else literal}", full) == ["a-0"]
    assert chosen(f"{name} = null", full) == []


def chosen(where, *rows: BoardRow):
    return [one.run_id for one in filter_runs(rows, parse(where, WHERE_COLUMNS))]


def test_a_filter_on_bits_and_cost_chooses_runs():
    rows = [row("a", bops=10**9), row("b", weight_bits=2, bops=10**8)]
    assert chosen("weight_bits = 4 and gbops >= 1", *rows) == ["a-0"]
    assert chosen("gbops < 1 or model = 'a'", *rows) == ["a-0", "b-0"]
    assert chosen("weight_bits != 4 and weight_bits != 2", *rows) == []


def test_a_failed_seed_stays_with_its_row_when_the_filter_asks_what_only_results_know():
    rows = [row("a", method="lsq"), failed("a"), failed("b"), failed("c"), row("c")]
    assert chosen("method = 'lsq'", *rows) == ["a-0", "a-9"]


def test_a_failed_run_is_judged_by_its_recipe_where_that_is_known():
    rows = [row("a", method="lsq"), failed("a"), failed("b", weight_bits=3)]
    assert chosen("weight_bits = 4 and seed != 0", *rows) == ["a-9"]
    assert chosen("weight_bits = 4", *rows) == ["a-0", "a-9"]
    assert chosen("weight_bits = 3", *rows) == ["b-9"]
    assert chosen("weight_bits = 3 and method = 'lsq'", *rows) == []


def test_a_published_row_passes_by_what_its_source_says():
    some = [published_result("a", weight_bits=3), published_result("b")]
    kept = filter_published(some, parse("weight_bits <= 3 and device = null", WHERE_COLUMNS))
    assert [one.model for one in kept] == ["a"]
    assert filter_published(some, parse("device = 'gpu'", WHERE_COLUMNS)) == []


def test_an_unknown_dataset_is_still_not_found():
    with pytest.raises(NotFound, match="digits"):
        rank([row()], dataset="digit")
