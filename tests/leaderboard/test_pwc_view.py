"""The board in the form of the page: eleven lines as they stood there, local runs after them."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import NotFound
from lsqctl.leaderboard.formats.csv_text import guard_formula
from lsqctl.leaderboard.published_results import PwcRow
from lsqctl.leaderboard.pwc_view import (
    HEADINGS,
    PwcLine,
    lsq_page_rows,
    pwc_csv,
    pwc_json,
    pwc_lines,
    pwc_markdown,
    pwc_table,
)
from lsqctl.leaderboard.rank import rank
from lsqctl.text import sanitize

from .rows import HOSTILE, row

# Typed from the specification, independently of the data file.
ELEVEN = [
    ("Model Compression", "ImageNet", "Top-1", "77.878", "ADLIK-MO-ResNet50+W4A4"),
    ("Model Compression", "ImageNet", "Top-1", "77.34", "ADLIK-MO-ResNet50+W3A4"),
    ("Quantization", "ImageNet", "Activation bits", "4", "ADLIK-MO-ResNet50-W4A4"),
    ("Quantization", "ImageNet", "Top-1 Accuracy (%)", "77.878", "ADLIK-MO-ResNet50-W4A4"),
    ("Quantization", "ImageNet", "Weight bits", "4", "ADLIK-MO-ResNet50-W4A4"),
    ("Quantization", "ImageNet", "Activation bits", "4", "ADLIK-MO-ResNet50-W3A4"),
    ("Quantization", "ImageNet", "Top-1 Accuracy (%)", "77.34", "ADLIK-MO-ResNet50-W3A4"),
    ("Quantization", "ImageNet", "Weight bits", "3", "ADLIK-MO-ResNet50-W3A4"),
    ("Quantization", "ImageNet", "Activation bits", "4", "ResNet50-W4A4 (paper)"),
    ("Quantization", "ImageNet", "Top-1 Accuracy (%)", "76.7", "ResNet50-W4A4 (paper)"),
    ("Quantization", "ImageNet", "Weight bits", "4", "ResNet50-W4A4 (paper)"),
]
lines = st.builds(PwcLine, *[HOSTILE] * 5, st.sampled_from(["page", "imported", "local"]))


def told(found):
    return [(one.task, one.dataset, one.metric, one.value, one.model) for one in found]


def test_the_pages_eleven_lines_stand_as_and_where_they_stood():
    assert told(pwc_lines(rank([]))) == ELEVEN


def test_own_runs_follow_in_the_same_form_the_best_first_and_full_precision_not():
    own = rank(
        [
            row("a-low", n_correct=500, dataset="cifar10", weight_bits=2),
            row("b-high", n_correct=534, dataset="cifar10", act_bits=3),
            row("whole", n_correct=540, weight_bits=32, act_bits=32),
        ]
    )
    assert told(pwc_lines(own))[len(ELEVEN) :] == [
        ("Quantization", "CIFAR-10", "Activation bits", "3", "b-high"),
        ("Quantization", "CIFAR-10", "Top-1 Accuracy (%)", "98.889", "b-high"),
        ("Quantization", "CIFAR-10", "Weight bits", "4", "b-high"),
        ("Quantization", "CIFAR-10", "Activation bits", "4", "a-low"),
        ("Quantization", "CIFAR-10", "Top-1 Accuracy (%)", "92.593", "a-low"),
        ("Quantization", "CIFAR-10", "Weight bits", "2", "a-low"),
    ]


def test_a_whole_percentage_has_no_decimals_as_on_the_page():
    assert "100" in {one.value for one in pwc_lines(rank([row(n_correct=540)]))}


def test_imported_rows_stand_between_and_the_pages_own_not_twice():
    other = PwcRow("Image Classification", "ImageNet", "x", (("Top 1", "n/a"),), "licence")
    same = lsq_page_rows()[2]
    found = pwc_lines(rank([row()]), [other, same, other])
    assert [one.origin for one in found] == ["page"] * 11 + ["imported"] + ["local"] * 3
    assert told(found)[11] == ("Image Classification", "ImageNet", "Top 1", "n/a", "x")


def test_one_dataset_is_found_however_it_is_spelled_and_a_typo_is_answered():
    board = rank([row(dataset="cifar10")])
    for name in ("cifar10", "CIFAR-10"):
        assert {one.dataset for one in pwc_lines(board, dataset=name)} == {"CIFAR-10"}
    with pytest.raises(NotFound, match=r"`cifr10`; did you mean `cifar10`\?; there are cifar10, i"):
        pwc_lines(board, dataset="cifr10")


def test_own_rows_alone_where_published_ones_are_not_wanted():
    assert {one.origin for one in pwc_lines(rank([row()]), include_published=False)} == {"local"}
    assert pwc_lines(rank([]), include_published=False) == []


@given(st.lists(lines, max_size=5))
def test_csv_and_json_read_back_and_markdown_keeps_its_shape(some):
    read = list(csv.reader(io.StringIO(pwc_csv(some), newline="")))
    assert read[0] == [heading.lower() for heading in HEADINGS]
    safe = [tuple(guard_formula(sanitize(text)) for text in line) for line in told(some)]
    assert [tuple(cells) for cells in read[1:]] == safe
    assert [PwcLine(**one) for one in json.loads(pwc_json(some))["lines"]] == some
    table = pwc_markdown(some).splitlines()
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in table]
    assert bars == [6] * (2 + len(some))


@given(st.lists(lines, max_size=5))
def test_a_terminal_gets_five_safe_cells_a_line(some):
    table = pwc_table(some)
    assert [column.title for column in table.columns] == list(HEADINGS)
    for cells in table.rows:
        assert len(cells) == 5
        assert all(sanitize(cell.text) == cell.text for cell in cells)


def test_no_cell_of_the_csv_is_a_formula():
    text = pwc_csv([PwcLine("t", "d", "m", "=1+1", "@x", "imported")])
    assert text == "task,dataset,metric,value,model\nt,d,m,'=1+1,'@x\n"
