"""What a terminal draws: words, markers and signs, and nothing that could harm a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.table_view import DEFAULT_COLUMNS, Cell, board_view, value_cell
from lsqctl.text import format_bops, format_bytes, format_signed, sanitize

from .rows import HOSTILE, board_rows, failed, published_result, published_results, row


def drawn(rows, published=(), **how):
    (table,) = board_view(rank(rows, published, **how))
    return table


def cells(rows, key, published=()):
    place = DEFAULT_COLUMNS.index(key)
    return [line[place] for line in drawn(rows, published).rows]


def texts(rows, key, published=()):
    return [cell.text for cell in cells(rows, key, published)]


def test_the_board_reads_as_a_person_expects():
    rows = [
        row("a", 0, n_correct=530, bops=670_000_000, size_bytes=140_000, verified=True),
        row("b", 0, n_correct=529, fp32_n_correct=533, fp32_n_total=540),
        row("c", 0, n_correct=300),
        failed("c", 1),
        row("fp", 0, n_correct=533, weight_bits=32, act_bits=32),
    ]
    table = drawn(rows, [published_result("paper's", 80.0)])
    assert table.title == "digits · Top-1 on 540 test images · local runs and published rows"
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["1=", "● a", "4", "4", "98.15 ±1.18", "–", "140 kB", "0.67 G", "1", "local, verified"],
        ["1=", "● b", "4", "4", "97.96 ±1.23", "−0.74", "–", "–", "1", "local"],
        ["3", "○ paper's", "4", "4", "80.00", "–", "–", "–", "–", "paper"],
        ["4", "● c", "4", "4", "55.56 ±4.18", "–", "–", "–", "1", "local, 1 failed"],
        ["", "◌ fp", "32", "32", "98.70 ±1.01", "–", "–", "–", "1", "local"],
    ]
    assert table.footer == (
        "4 groups, 5 runs (1 failed) · 1 published row · "
        "a rank counts the rows that lie wholly above"
    )


def test_columns_give_way_in_a_fixed_order_and_the_rank_never_does():
    columns = board_view(rank([row()]))[0].columns
    order = [c.key for c in sorted(columns, key=lambda c: c.priority) if c.priority]
    assert order == ["gbops", "size_bytes", "n_seeds", "delta_fp32", "origin"]
    kept = ["rank", "model", "weight_bits", "act_bits", "top1_mean"]
    assert [c.key for c in columns if not c.priority] == kept
    assert all(c.title for c in columns)


def test_a_published_row_links_to_its_source_and_only_to_the_web():
    (cell,) = cells([], "origin", [published_result()])
    assert (cell.text, cell.link) == ("paper", "https://example.org/paper")
    for unsafe in ("notes/table.txt", "javascript:alert(1)", "https://e.org/\x1b]8;;x"):
        (cell,) = cells([], "origin", [published_result(source_url=unsafe)])
        assert cell.link == ""


def test_origin_is_told_by_a_marker_and_never_by_colour_alone():
    published = [
        published_result("their fp", 99.0, weight_bits=32, act_bits=32),
        published_result("theirs"),
    ]
    assert texts([row("mine")], "model", published) == ["● mine", "○ theirs", "◌ their fp"]


def test_what_makes_a_number_doubtful_stands_beside_it():
    assert texts([row(verified=False)], "origin") == ["local, verification failed"]
    assert texts([row(selection="best")], "origin") == ["local, selected on test"]
    assert "best seed of each recipe" in drawn([row()], best_seed=True).title


def test_cancelled_runs_and_groups_without_a_result_are_in_the_footer():
    table = drawn([failed("a"), row("b", 0), row("b", 1, None, state="cancelled", n_total=None)])
    assert table.footer.startswith(
        "1 group, 3 runs (1 failed, 1 cancelled) · 1 group without a result · "
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (73_700, "73.7 kB"),
        (139_999, "140 kB"),
        (999_960, "1.00 MB"),
        (1_079_000, "1.08 MB"),
        (14e6, "14.0 MB"),
        (2.5e9, "2.50 GB"),
    ],
)
def test_sizes_have_three_digits_and_powers_of_ten(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("bops", "text"),
    [(0.67e9, "0.67 G"), (41.6e9, "41.6 G"), (1_857e9, "1857 G"), (8.1e6, "8.10 M")],
)
def test_bit_operations_are_told_in_g_and_in_m_where_g_says_nothing(bops, text):
    assert format_bops(bops) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.318, "+0.32"), (-1.123, "−1.12"), (-0.001, "0.00"), (0.0, "0.00")]
)
def test_a_difference_has_a_true_minus_sign_and_zero_none(value, text):
    assert format_signed(value) == text


def test_a_loss_and_a_gain_are_marked_beside_their_sign():
    start = {"fp32_n_correct": 500, "fp32_n_total": 540}
    gain, loss = cells(
        [row("a", n_correct=520, **start), row("b", n_correct=400, **start)], "delta_fp32"
    )
    assert (gain, loss) == (Cell("+3.70", highlight="good"), Cell("−18.52", highlight="bad"))


@given(st.text() | HOSTILE)
def test_clean_text_holds_nothing_that_moves_a_cursor_or_hides(text):
    assert not {unicodedata.category(char) for char in sanitize(text)} & {
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
    }


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_text_that_is_seen_is_left_as_it_is(text):
    assert sanitize(text) == text


def test_escapes_bidi_overrides_and_lone_surrogates_are_written_out():
    assert sanitize("a\x1b[2J\u202e\x9b\ud800\u2028") == r"a\x1b[2J\u202e\x9b\ud800\u2028"


@given(board_rows(texts=HOSTILE), published_results)
def test_every_row_has_one_safe_cell_a_column(rows, published):
    for table in board_view(rank(rows, published)):
        for line in table.rows:
            assert len(line) == len(table.columns)
            assert all(sanitize(cell.text) == cell.text for cell in line)


@pytest.mark.parametrize(
    ("n_correct", "highlight"), [(525, ""), (535, ""), (450, "bad"), (539, "good")]
)
def test_a_difference_has_a_colour_only_where_the_interval_tells_it_from_none(n_correct, highlight):
    full = {"fp32_n_correct": 490 if highlight == "good" else 530, "fp32_n_total": 540}
    (entry,) = rank([row("a", 0, n_correct, **full)], []).tables[0].rows
    cell = value_cell(entry, "delta_fp32")
    assert cell.text[0] in "+\N{MINUS SIGN}"
    assert cell.highlight == highlight
