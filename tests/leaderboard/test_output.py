"""Every format holds every row, stays whole whatever a name holds, and has its own shape."""

import csv
import io
import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings

from lsqctl.errors import UsageError
from lsqctl.leaderboard.formats import FORMATS
from lsqctl.leaderboard.formats.latex import _LATEX_SYMBOLS
from lsqctl.leaderboard.output import (
    OutputOptions,
    board_tables,
    format_board,
    resolve_format,
)
from lsqctl.leaderboard.page.rendering import render
from lsqctl.leaderboard.pwc_view import pwc_lines
from lsqctl.leaderboard.rank import rank
from lsqctl.leaderboard.table_view import (
    DEFAULT_COLUMNS,
    FULL_PRECISION_MARKER,
    LOCAL_MARKER,
    PUBLISHED_MARKER,
    RECORDED_MARKER,
    board_view,
)
from lsqctl.run import RunState
from lsqctl.text import sanitize

from .rows import HOSTILE, board_rows, published_result, published_results, row

EVIL = {
    "markup": "[/red] [link=file:///etc]x",
    "escape": "a\x1b[2J\x1b]8;;http://e.org\x07b\x9bc",
    "script": "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;",
    "formula": '=HYPERLINK("http://e.org?"&A1)',
    "command": "+cmd|' /C calc'!A0",
    "path": "../../etc/passwd\\..\\C:",
    "long": "x" * 10_000,
    "rtl": "abc\u202ecba\u2066\u200b\ufeff",
    "lines": "a\r\nb\tc\u2028d\x00",
    "latex": r"\input{/etc/passwd} $x_1^2$ 50% & # ~ {}",
    "json": '"}],"x":[{"',
    "pipes": "a|b`c`*d*_e_~f~",
}


TEXTS = [name for name in FORMATS if name != "hf-eval-results" and not FORMATS[name].binary]


def hostile_board(name):
    own = row(name, name=name, arch=name, device=name, notes=name, method=name)
    return rank(
        [own], [published_result(f"p{name}", source_url=f"https://e.org/{name}", notes=name)]
    )


class Page(HTMLParser):
    """What a browser would find: tags with attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key == "href"]
        assert {key for key, _ in attrs} <= {"href", "rel", "scope"}

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("name", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize(
    "style", [one for one, info in FORMATS.items() if one != "hf-eval-results" and not info.binary]
)
def test_a_hostile_name_breaks_no_format(style, name):
    board = hostile_board(name)
    text = format_board(board, style)
    assert format_board(board, style) == text
    check = {"csv": check_csv, "md": check_markdown, "html": check_html, "latex": check_latex}
    check["tsv"] = partial(check_csv, separator="\t")
    check.get(style, check_json)(text, name)


def check_csv(text, name, separator=","):
    lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    assert len(lines) == 2
    for line in lines:
        for cell in (line["model"], line["arch"], line["notes"]):
            assert not cell.lstrip().startswith(tuple("=+-@\t\r\0"))
    safe = {sanitize(name), sanitize(f"p{name}")}
    assert {line["model"].removeprefix("'") for line in lines} == safe


def check_json(text, name):
    def texts(value):
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            return {found for part in parts for found in texts(part)}
        return {value} if isinstance(value, str) else set()

    assert name in texts(json.loads(text))


def check_markdown(text, name):
    lines = text.split("\n")
    assert all(sanitize(line) == line for line in lines)
    rows = [re.sub(r"\\.", "", line).count("|") for line in lines if line.startswith("| ")]
    assert set(rows) == {len(DEFAULT_COLUMNS) + 1}
    assert len(rows) == 4
    assert "<script" not in re.sub(r"\\.", "", text)


def check_html(text, name):
    page = Page(text)
    known = {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong", "u", "a", "p"}
    assert set(page.tags) <= known
    assert any(sanitize(name).strip() in found for found in page.texts)
    assert all(link.startswith("https://e.org/") for link in page.links)


def check_latex(text, name):
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"\input" not in body
    left, right = ((re.sub(r"\\[{}]", "", body)).count(brace) for brace in "{}")
    assert left == right
    rows = body.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [len(DEFAULT_COLUMNS) - 1] * 2
    assert all(line.endswith(r"\\") for line in rows)
    assert not re.search(r"(?<!\\)[%#_^~]", body.replace(r"\pm", "").replace("$-$", ""))


@settings(max_examples=15)
@given(board_rows(texts=HOSTILE), published_results)
def test_html_has_a_row_an_entry_and_shows_the_cells_letter_by_letter(rows, published):
    board = rank(rows, published)
    page = Page(format_board(board, "html"))
    assert page.tags.count("tr") == len(board.entries) + len(board.tables)
    shown = "".join(page.texts)
    assert all(cell.text.strip() in shown for t in board_view(board) for r in t.rows for cell in r)


@pytest.mark.parametrize("style", ["md", "latex", "html", "page"])
def test_a_dataset_without_a_result_leaves_no_empty_table(style):
    rows = [row("a", dataset="a_dataset", state=RunState.FAILED, n_correct=None), row("b")]
    board = rank(rows, [])
    assert [len(table.rows) for table in board.tables] == [0, 1]
    text = render(board) if style == "page" else format_board(board, style)
    assert "digits" in text
    assert "a_dataset" not in text.replace("\\_", "_")


def example():
    start = {"fp32_n_correct": 535, "fp32_n_total": 540, "size_bytes": 9_000, "n_correct_top5": 540}
    rows = [
        row("best", n_correct=530, **start),
        row("second", n_correct=400, **start),
        row("third", n_correct=300, **start),
    ]
    return rank(rows, [published_result("theirs", 70.0, top5=90.0)])


def test_the_best_is_bold_and_the_second_underlined_in_latex():
    lines = format_board(example(), "latex").splitlines()
    bold = [line for line in lines if "textbf" in line]
    underlined = [line for line in lines if "underline" in line]
    assert ["best" in line for line in bold] == [True]
    assert ["second" in line for line in underlined] == [True]
    assert {r"\toprule", r"\midrule", r"\bottomrule"} <= set(lines)


def test_latex_compiles(tmp_path):
    if not (latex := shutil.which("pdflatex") or shutil.which("tectonic")):
        pytest.skip("NOT COMPILED: no TeX here (Debian: apt install texlive-latex-recommended)")
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    names = [name for name in EVIL.values() if name.isascii()]
    body = "\n".join(format_board(hostile_board(name[:60]), "latex") for name in names)
    (tmp_path / "a.tex").write_text(f"{head}{body}\n\\end{{document}}")
    command = [latex, "a.tex"] if "tectonic" in latex else [latex, "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


PWC = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["task", "categories", "datasets", "subtasks", "synonyms", "source_link"],
        "properties": {
            "datasets": {
                "items": {
                    "required": ["dataset", "sota", "subdatasets", "dataset_links"],
                    "properties": {
                        "sota": {
                            "required": ["metrics", "rows"],
                            "properties": {
                                "rows": {
                                    "items": {
                                        "required": [
                                            *("model_name", "metrics", "paper_title", "paper_url"),
                                            *("paper_date", "code_links", "model_links"),
                                        ],
                                        "properties": {
                                            "metrics": {"additionalProperties": {"type": "string"}}
                                        },
                                    }
                                }
                            },
                        }
                    },
                }
            }
        },
    },
}


def test_pwc_json_is_an_evaluation_table_with_metrics_as_texts():
    found = json.loads(format_board(example(), "pwc-json"))
    jsonschema.validate(found, PWC)
    rows = found[0]["datasets"][0]["sota"]["rows"]
    assert [one["model_name"] for one in rows] == ["best", "second", "theirs", "third"]
    assert rows[2]["metrics"] == {
        "Top-1 Accuracy (%)": "70.0",
        "Top-5 Accuracy (%)": "90.0",
        "Weight bits": "4",
        "Activation bits": "4",
    }
    assert set(found[0]["datasets"][0]["sota"]["metrics"]) == set(rows[2]["metrics"])


# The fields that the Hub's documentation of model cards requires; a name must not be empty.
MODEL_INDEX = {
    "type": "object",
    "required": ["model-index"],
    "properties": {
        "model-index": {
            "type": "array",
            "items": {
                "required": ["name", "results"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "results": {
                        "items": {
                            "required": ["task", "dataset", "metrics"],
                            "properties": {
                                "task": {"required": ["type"]},
                                "dataset": {"required": ["type", "name"]},
                                "metrics": {"items": {"required": ["type", "value"]}},
                            },
                        }
                    },
                },
            },
        }
    },
}


def test_a_model_index_has_what_the_hub_requires_and_own_rows_only():
    found = json.loads(format_board(example(), "hf-model-index"))
    jsonschema.validate(found, MODEL_INDEX)
    models = found["model-index"]
    assert [one["name"] for one in models] == ["best", "second", "third"]
    values = [metric["value"] for metric in models[0]["results"][0]["metrics"]]
    assert values == [pytest.approx(530 / 540), 1.0]


def test_the_hubs_own_reader_takes_the_model_index():
    why = "NOT READ BY THE HUB'S LIBRARY: it is not here"
    hub = pytest.importorskip("huggingface_hub.repocard_data", reason=why)
    found = json.loads(format_board(example(), "hf-model-index"))["model-index"]
    for one in found:
        name, results = hub.model_index_to_eval_results([one])
        assert name == one["name"]
        assert [result.metric_name for result in results] == ["Top-1 accuracy", "Top-5 accuracy"]


def test_what_is_published_elsewhere_leaves_out_runs_on_a_part_of_the_images():
    whole = row("whole", n_correct=9000, n_total=10_000, dataset="cifar10")
    part = row("part", n_correct=990, n_total=1000, dataset="cifar10", partial=True)
    for output_format in ("hf-model-index", "hf-eval-results", "pwc-json"):
        assert format_board(rank([whole, part]), output_format) == format_board(
            rank([whole]), output_format
        )
    assert "part" in format_board(rank([whole, part]), "csv")
    lines = pwc_lines(rank([whole, part]), include_published=False)
    assert {line.model for line in lines} == {"whole"}


def test_eval_results_name_the_hubs_dataset_and_how_the_value_came_about():
    rows = [row("a", seed, 9000 + seed, n_total=10_000, dataset="cifar10") for seed in range(3)]
    (found,) = json.loads(format_board(rank(rows), "hf-eval-results"))
    assert found["dataset"] == {"id": "uoft-cs/cifar10", "task_id": "default"}
    assert found["value"] == pytest.approx(90.01)
    assert found["notes"].startswith("a: W4A4, Top-1 in percent, mean of 3 seeds, ±")
    with pytest.raises(UsageError, match="hf-model-index"):
        format_board(example(), "hf-eval-results")


@pytest.mark.parametrize(
    ("style", "look", "told"),
    [
        ("json", OutputOptions(raw=True), "--raw is for CSV"),
        ("pwc-json", OutputOptions(columns=("model",)), "its own columns"),
    ],
)
def test_what_does_not_fit_together_is_refused(style, look, told):
    with pytest.raises(UsageError, match=told):
        format_board(example(), style, look)


def test_columns_stand_in_the_order_asked_for_in_every_format():
    look = OutputOptions(columns=("weight_bits", "model", "delta_fp32"))
    assert format_board(example(), "csv", look).splitlines()[:2] == [
        "weight_bits,model,delta_fp32",
        "4,best,-0.9259259259",
    ]
    (table,) = json.loads(format_board(example(), "json", look))["tables"]
    assert list(table["rows"][0]) == list(look.columns)
    (drawn,) = board_tables(example(), look)
    assert [cell.text for cell in drawn.rows[0]] == ["4", "● best", "−0.93"]


def test_a_files_ending_tells_its_format_and_another_is_refused_with_the_nearest():
    assert resolve_format(Path("a/b.TEX")) == "latex"
    assert resolve_format(Path("x.json"), "pwc-json") == "pwc-json"
    with pytest.raises(UsageError, match=r"did you mean `.html`"):
        resolve_format(Path("x.htm"))


def test_latex_has_a_sign_for_every_marker_of_a_row():
    """PdfLaTeX refuses those that are no letters."""
    markers = (LOCAL_MARKER, RECORDED_MARKER, PUBLISHED_MARKER, FULL_PRECISION_MARKER)
    assert all("$" in marker.translate(_LATEX_SYMBOLS) for marker in markers)
