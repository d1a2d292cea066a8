"""CSV, JSON and markdown: what is read back, hostile text, the same bytes for the same runs."""

import csv
import io
import json
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import UsageError
from lsqctl.leaderboard.board import Board, Counts, Table, to_frame
from lsqctl.leaderboard.formats.csv_text import guard_formula, to_csv
from lsqctl.leaderboard.formats.json_text import to_json
from lsqctl.leaderboard.formats.markdown import escape_markdown
from lsqctl.leaderboard.output import OutputOptions, board_bytes, format_board
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.schema import COLUMN_NAMES, COLUMNS, Entry, columns_markdown
from lsqctl.text import sanitize

from .rows import HOSTILE, board_rows, published_results, row

DANGEROUS = tuple("=+-@\t\r\0")
CONTRACT = (
    "rank, model, arch, dataset, split, method, weight_bits, act_bits, first_last_bits, "
    "granularity, top1_mean, top1_std, top1_ci95_lo, top1_ci95_hi, n_seeds, seeds, top1_best, "
    "best_run, top5_mean, fp32_top1, delta_fp32, eval_n, params, size_bytes, gmacs, gbops, "
    "pareto_optimal, epochs, train_gpu_h, peak_mem_bytes, device, torch, precision, "
    "deterministic, state, n_failed, verified, checkpoint_sha256, checkpoint_path, recipe_sha256,"
    " code_commit, code_dirty, created_at, notes, origin, source_kind, source_url, "
    "selected_on_test, top1_last_epoch, top1_best_epoch, suspect, eval_loss, "
    "top1_deployed, exactness, file_bytes, user, chain, partial, mixed"
)


def markdown(board):
    return format_board(board, "md")


def board_of(*entries):
    return Board((Table("digits", entries, Counts()),))


def example(**changes):
    return replace(rank([row()]).entries[0], **changes)


def test_the_contract_has_the_published_columns_in_their_order():
    assert ", ".join(COLUMN_NAMES) == CONTRACT


def test_an_entry_has_exactly_the_columns_with_their_types():
    assert tuple(field.name for field in fields(Entry)) == COLUMN_NAMES
    assert {column.value_type for column in COLUMNS} == {int, float, str, bool}
    assert all(column.spec.meaning for column in COLUMNS)


def test_the_documentation_shows_the_contract_as_it_is():
    page = Path(__file__).parents[2] / "docs" / "csv.md"
    assert page.read_text(encoding="utf-8").endswith(columns_markdown())


def read_back(text):
    """The rows of a CSV as lists of texts."""
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def as_text(value):
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@given(board_rows(texts=HOSTILE), published_results, st.booleans())
def test_a_csv_reads_back_as_the_rows_of_the_board(rows, published, raw):
    board = rank(rows, published)
    header, *lines = read_back(to_csv(board, raw=raw))
    assert tuple(header) == COLUMN_NAMES
    assert len(lines) == len(board.entries)
    for entry, cells in zip(board.entries, lines, strict=True):
        for column, cell in zip(COLUMNS, cells, strict=True):
            value = getattr(entry, column.name)
            if isinstance(value, float):
                assert float(cell) == value
            elif isinstance(value, str) and not raw:
                assert cell.removeprefix("'") == sanitize(value).removeprefix("'")
            else:
                assert cell == as_text(value)


@given(HOSTILE.filter(bool), HOSTILE.filter(bool))
def test_any_two_texts_survive_the_raw_csv_side_by_side(model, arch):
    text = to_csv(board_of(example(model=model, arch=arch)), columns=("model", "arch"), raw=True)
    assert read_back(text) == [["model", "arch"], [model, arch]]


@given(HOSTILE.filter(bool))
def test_no_csv_moves_a_cursor_or_breaks_a_line_unless_it_is_raw(text):
    written = to_csv(board_of(example(model=text, notes=text)))
    assert written.count("\n") == 2
    assert sanitize(written.replace("\n", "")) == written.replace("\n", "")


@given(st.data(), board_rows(texts=HOSTILE), published_results)
def test_every_format_gives_the_same_bytes_in_any_order_of_rows(data, rows, published):
    shuffled = rank(data.draw(st.permutations(rows)), data.draw(st.permutations(published)))
    board = rank(rows, published)
    for style in ("csv", "json", "md", "html", "pwc-json", "hf-model-index"):
        assert format_board(shuffled, style) == format_board(board, style)


@given(st.text(" \u00a0\n", max_size=3), st.sampled_from(DANGEROUS), st.text(max_size=5))
def test_no_guarded_text_begins_like_a_formula_even_after_blanks(blanks, sign, rest):
    assert guard_formula(blanks + sign + rest).startswith("'")
    assert not guard_formula(blanks + sign + rest).lstrip().startswith(DANGEROUS)


def test_harmless_text_is_left_alone():
    assert guard_formula("cifar10/resnet20-w4a4") == "cifar10/resnet20-w4a4"


def test_no_text_cell_of_a_csv_begins_like_a_formula_but_negative_numbers_stay_numbers():
    entry = example(model="=HYPERLINK(1)", notes="  @cmd", delta_fp32=-1.5)
    (cells,) = csv.DictReader(io.StringIO(to_csv(board_of(entry))))
    assert (cells["model"], cells["notes"]) == ("'=HYPERLINK(1)", "'  @cmd")
    assert cells["delta_fp32"] == "-1.5"


def test_raw_leaves_text_as_it_is():
    assert "\n1,=1+1," in to_csv(board_of(example(model="=1+1")), raw=True)


def test_missing_is_empty_and_nan_inf_and_booleans_are_spelled():
    entry = example(top1_std=None, top5_mean=math.inf, gmacs=-math.inf, train_gpu_h=math.nan)
    (cells,) = csv.DictReader(io.StringIO(to_csv(board_of(replace(entry, verified=True)))))
    found = [cells[name] for name in ("top1_std", "top5_mean", "gmacs", "train_gpu_h", "verified")]
    assert found == ["", "inf", "-inf", "nan", "true"]


def test_a_csv_has_lf_only_no_byte_order_mark_and_ends_with_a_line():
    text = to_csv(board_of(example(), example()))
    assert (text.count("\n"), "\r" in text, text[0]) == (3, False, "r")
    assert text.endswith("\n")


def test_pandas_reads_the_same_numbers_from_the_csv_as_from_the_frame():
    import pandas as pd

    board = rank([row("a", 0), row("a", 1, n_correct=493), row("b", 0, n_correct=1, bops=123)])
    read = pd.read_csv(io.StringIO(to_csv(board)))
    frame = to_frame(board)
    for name in ("rank", "top1_mean", "top1_std", "top1_ci95_lo", "gbops", "n_seeds"):
        found, expected = read[name].dropna().tolist(), frame[name].dropna().tolist()
        assert found == pytest.approx(expected, rel=1e-14)


def test_a_frame_of_an_empty_board_has_all_columns_with_their_types():
    frame = to_frame(rank([]))
    assert tuple(frame.columns) == COLUMN_NAMES
    assert (str(frame["rank"].dtype), str(frame["verified"].dtype)) == ("Int64", "boolean")


@given(board_rows(texts=HOSTILE), published_results)
def test_json_parses_strictly_and_holds_every_row(rows, published):
    def refuse(name):
        raise AssertionError(name)

    board = rank(rows, published)
    read = json.loads(to_json(board), parse_constant=refuse)
    assert read["schema_version"] == 2
    found = [Entry(**cells) for table in read["tables"] for cells in table["rows"]]
    assert tuple(found) == board.entries


def test_json_spells_what_it_has_no_number_for():
    read = json.loads(to_json(board_of(example(gmacs=math.inf, top5_mean=math.nan))))
    (cells,) = read["tables"][0]["rows"]
    assert (cells["gmacs"], cells["top5_mean"]) == ("inf", "nan")


@given(HOSTILE.filter(bool))
def test_a_markdown_table_keeps_its_shape_whatever_a_name_holds(name):
    lines = markdown(board_of(example(model=name), example())).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in table]
    assert len(set(bars)) == 1
    assert (len(table), len(lines)) == (4, 8)


def test_markdown_shows_special_letters_as_they_are():
    assert escape_markdown("a|b_c*<i>\n`x`\\") == r"a\|b\_c\*\<i\> \`x\`" + "\\\\"


def test_markdown_links_a_published_row_to_its_source():
    entry = example(origin="published", source_kind="readme", source_url="https://e.org/a|b")
    assert "[readme](<https://e.org/a%7Cb>)" in markdown(board_of(entry))


def test_an_empty_board_is_a_header_in_csv_and_nothing_in_markdown():
    assert to_csv(rank([])) == ",".join(COLUMN_NAMES) + "\n"
    assert markdown(rank([])) == ""


def test_for_excel_it_begins_with_a_mark_and_commas_part_what_the_locale_says():
    board = rank([row(n_correct=501)])
    plain = format_board(board, "csv")
    english = format_board(board, "csv", OutputOptions(excel=","))
    assert english == "\ufeff" + plain
    german = format_board(board, "csv", OutputOptions(columns=("model", "top1_mean"), excel=";"))
    assert german == "\ufeffmodel;top1_mean\nr;92,77777777777777\n"
    with pytest.raises(UsageError, match="--excel is for CSV"):
        format_board(board, "json", OutputOptions(excel=","))


def test_tsv_has_the_columns_of_the_csv_parted_by_tabs():
    board = rank([row(name="a\tb")])
    comma, tab = (
        [*csv.reader(io.StringIO(format_board(board, name)), delimiter=delimiter)]
        for name, delimiter in (("csv", ","), ("tsv", "\t"))
    )
    assert tab == comma


def test_a_spreadsheet_has_numbers_as_numbers_no_formula_and_the_same_bytes_again():
    pytest.importorskip("xlsxwriter")
    openpyxl = pytest.importorskip("openpyxl")
    board = rank([row(name="=1+1", n_correct=500), row(recipe="s", n_correct=400)])
    columns = ("model", "top1_mean", "n_seeds", "fp32_top1", "suspect")
    data = board_bytes(board, "xlsx", OutputOptions(columns=columns))
    assert data == board_bytes(board, "xlsx", OutputOptions(columns=columns))
    header, *rows = openpyxl.load_workbook(io.BytesIO(data)).active.iter_rows()
    assert tuple(cell.value for cell in header) == columns
    assert [(rows[0][0].value, rows[0][0].data_type)] == [("=1+1", "s")]
    assert [cell.value for cell in rows[1]] == ["s", pytest.approx(100 * 400 / 540), 1, None, False]
    with pytest.raises(UsageError, match="is no text: write it to a file"):
        format_board(board, "xlsx")


def test_a_spreadsheet_without_its_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(UsageError, match=r"xlsx needs XlsxWriter: pip install 'lsqctl\[xlsx\]'"):
        board_bytes(rank([row()]), "xlsx", OutputOptions())
