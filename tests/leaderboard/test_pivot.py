"""Pivots: every cell holds the best row that falls there, and no row vanishes uncounted."""

import csv
import io
import json

import pytest
from hypothesis import given, settings

from lsqctl.errors import UsageError
from lsqctl.leaderboard.output import OutputOptions, format_board
from lsqctl.leaderboard.pivot import Pivot, build_pivot, pivot_view
from lsqctl.leaderboard.rank import rank

from .rows import HOSTILE, board_rows, published_results, row

BITS = Pivot("arch", "bits")


@settings(max_examples=15)
@given(board_rows(texts=HOSTILE), published_results)
def test_each_cell_is_the_best_of_its_rows(rows, published):
    board = rank(rows, published)
    for one in build_pivot(board, BITS):
        for (arch, bits), entry in one.cells.items():
            rivals = [
                e.top1_mean
                for e in one.table.rows
                if (e.arch, f"W{e.weight_bits}A{e.act_bits}") == (arch, bits)
            ]
            assert entry.top1_mean == max(rivals)


@settings(max_examples=15)
@given(board_rows(texts=HOSTILE), published_results)
def test_a_pivot_has_one_cell_a_column_in_every_format(rows, published):
    board = rank(rows, published)
    for table in pivot_view(board, BITS):
        assert {len(line) for line in table.rows} <= {len(table.columns)}
    lines = list(
        csv.reader(io.StringIO(format_board(board, "csv", OutputOptions(pivot=BITS)), newline=""))
    )
    assert {len(line) for line in lines} == {len(lines[0])}
    found = json.loads(format_board(board, "json", OutputOptions(pivot=BITS)))
    assert sum(len(table["cells"]) for table in found["tables"]) == sum(
        len(one.cells) for one in build_pivot(board, BITS)
    )


def test_the_cells_of_a_sweep_share_the_row_of_their_model():
    (table,) = pivot_view(rank(list(_rows())), Pivot("model", "weight_bits"))
    assert [column.title for column in table.columns] == ["model", "W2", "W3", "W4"]
    assert [[c.text.split()[0] for c in line] for line in table.rows] == [
        ["net", "55.56", "96.30", "98.15"]
    ]


def _rows():
    for name, bits, n in (("w2a2", 2, 300), ("w4a4", 4, 530), ("W3A4", 3, 520)):
        yield row(f"net-{name}", n_correct=n, weight_bits=bits, size_bytes=bits * 1000)


def test_bits_and_numbers_ascend_as_numbers_whatever_ranks_first():
    rows = [
        row(f"net-{bits}", n_correct=500 - bits, weight_bits=bits, act_bits=bits)
        for bits in (32, 4, 8, 2)
    ]
    board = rank(rows)
    (table,) = build_pivot(board, Pivot("weight_bits", "bits"))
    assert (table.rows, table.columns) == ((2, 4, 8, 32), ("W2A2", "W4A4", "W8A8", "W32A32"))
    (table,) = build_pivot(board, Pivot("bits", "arch"))
    assert table.rows == ("W2A2", "W4A4", "W8A8", "W32A32")


def test_another_value_stands_in_the_cells_in_its_own_unit():
    (table,) = pivot_view(rank(list(_rows())), Pivot("arch", "weight_bits", "size_bytes"))
    assert [cell.text for cell in table.rows[0]] == ["resnet8", "2.00 kB", "3.00 kB", "4.00 kB"]


def test_what_shares_a_cell_with_a_better_row_is_counted():
    (table,) = pivot_view(rank([row("a"), row("b"), row("c", arch="x")]), BITS)
    assert table.footer.endswith("1 more row not shown")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (("arch", "bitz"), "did you mean `bits`"),
        (("arch", "bits", "top1"), "no column"),
        (("arch", "arch"), "two columns"),
    ],
)
def test_a_pivot_that_cannot_be_is_refused(columns, told):
    with pytest.raises(UsageError, match=told):
        Pivot(*columns)
