"""The archive's tables: read whole, task by task, and refused in one line where they are not."""

import gzip
import json

import pytest

from lsqctl.errors import DataError, NotFound
from lsqctl.leaderboard import pwc_archive
from lsqctl.leaderboard.published_results import (
    PWC_PAGE,
    PwcRow,
    dataset_key,
    load_bundled_results,
    parse_number,
    pwc_rows,
    to_published_result,
)
from lsqctl.leaderboard.pwc_archive import ARCHIVE_LICENCE, read_tables
from lsqctl.leaderboard.pwc_view import lsq_page_rows


def sota(*rows, metrics=("Weight bits", "Activation bits", "Top-1 Accuracy (%)")):
    return {"metrics": list(metrics), "rows": list(rows)}


def row(model="m", **metrics):
    return {"model_name": model, "metrics": metrics or {"Top-1 Accuracy (%)": "70.0"}}


def task(name="Quantization", dataset="ImageNet", rows=(), **more):
    return {"task": name, "datasets": [{"dataset": dataset, "sota": sota(*rows)}], **more}


def written(tmp_path, document):
    path = tmp_path / "tables.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def found(path):
    return [
        (one.task, one.dataset, [r["model_name"] for r in one.rows]) for one in read_tables(path)
    ]


def published(model="m", **metrics):
    return PwcRow("Quantization", "ImageNet", model, tuple(metrics.items()), ARCHIVE_LICENCE)


NESTED = [
    task("A", rows=[row("a")], subtasks=[task("B", rows=[row("b")], subtasks=[task("C")])]),
    {
        "task": "D",
        "datasets": [
            {
                "dataset": "Whole",
                "sota": sota(row("d")),
                "subdatasets": [{"subdataset": "Part", "sota": sota(row("p"))}],
            }
        ],
    },
]


def test_subtasks_and_subdatasets_are_found_and_empty_tables_are_none(tmp_path):
    assert found(written(tmp_path, NESTED)) == [
        *(("A", "ImageNet", ["a"]), ("B", "ImageNet", ["b"])),
        *(("D", "Whole", ["d"]), ("D", "Part", ["p"])),
    ]


def test_a_gzipped_archive_with_a_byte_order_mark_reads_the_same(tmp_path):
    plain = written(tmp_path, NESTED)
    packed = tmp_path / "tables.json.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert found(packed) == found(plain)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_where_the_file_is_cut_for_reading_does_not_matter(tmp_path, monkeypatch, chunk):
    path = written(tmp_path, json.dumps(NESTED, indent=3))
    whole = found(path)
    monkeypatch.setattr(pwc_archive, "_CHUNK", chunk)
    assert found(path) == whole


def test_every_truncated_file_is_refused_and_none_half_read(tmp_path):
    text = json.dumps(NESTED)
    for end in range(0, len(text), 11):
        path = written(tmp_path, text[:end])
        with pytest.raises(DataError, match=r"tables\.json: (truncated or damaged|not evaluation)"):
            found(path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "truncated or damaged after 0 whole tasks: it is empty"),
        ("{}", "a list of tasks belongs here, not an object"),
        ("3", "a list of tasks belongs here, not a number"),
        ("[] x", "after 0 whole tasks: parse error: trailing garbage"),
        ("[{} {}]", "task 1: not evaluation tables: a task needs a name"),
        ('[{"task": "a"} {"task": "b"}]', "after 1 whole tasks: parse error: after array"),
        ("[3]", "task 1: not evaluation tables"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"task": "a", "datasets": ' + '[{"subdatasets": ' * 100_000, "nested too deeply"),
        ("[1" + "0" * 5000 + "]", "after 0 whole tasks: parse error: integer overflow"),
        ([task(subtasks=[{"task": 3}])], "a task needs a name under `task`"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_archive_is_refused_in_one_line(tmp_path, document, message):
    with pytest.raises(DataError, match=message) as caught:
        found(written(tmp_path, document))
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_binary_or_cut_in_their_gzip_are_refused(tmp_path):
    path = tmp_path / "tables.json"
    with pytest.raises(NotFound, match="there is no file"):
        found(path)
    path.write_bytes(b"[\xff\xfe")
    with pytest.raises(DataError, match="damaged after 0 whole tasks: lexical error: invalid char"):
        found(path)
    path.write_bytes(gzip.compress(json.dumps(NESTED).encode())[:-12])
    with pytest.raises(DataError, match="gzip file is truncated"):
        found(path)


def test_a_file_that_never_ends_is_given_up(tmp_path, monkeypatch):
    path = written(tmp_path, [task(rows=[row("m" * 5_000)])])
    monkeypatch.setattr(pwc_archive, "_CHUNK", 100)
    monkeypatch.setattr(pwc_archive, "MAX_TASK_BYTES", 4_000)
    with pytest.raises(DataError, match="too large for evaluation tables"):
        found(path)


def test_the_tasks_of_a_file_may_be_larger_together_than_one_may_be(tmp_path, monkeypatch):
    path = written(tmp_path, [task(rows=[row("m" * 1_000)]) for _ in range(9)])
    monkeypatch.setattr(pwc_archive, "_CHUNK", 100)
    monkeypatch.setattr(pwc_archive, "MAX_TASK_BYTES", 4_000)
    assert len(found(path)) == 9
    monkeypatch.setattr(pwc_archive, "MAX_BYTES", 8_000)
    with pytest.raises(DataError, match="too large for evaluation tables"):
        found(path)


def test_what_stands_among_the_rows_and_is_none_is_counted(tmp_path):
    rows = [row("good"), {"model_name": " ", "metrics": {}}, 3, {"model_name": "no metrics"}]
    (table,) = read_tables(written(tmp_path, [task(rows=rows)]))
    assert ([one["model_name"] for one in table.rows], table.n_skipped) == (["good"], 3)


def test_rows_keep_every_metric_as_written_in_the_tables_order(tmp_path):
    metrics = {"Zeta": "x", "Top-1 Accuracy (%)": 77.34, "Weight bits": None, "Alpha": ["y"]}
    (table,) = read_tables(
        written(tmp_path, [task(rows=[row("m", **metrics), row("m", **metrics)])])
    )
    (one,) = pwc_rows(table)
    assert one.metrics == (("Top-1 Accuracy (%)", "77.34"), ("Alpha", "['y']"), ("Zeta", "x"))
    assert one.licence == "CC-BY-SA 4.0"


def test_half_a_surrogate_pair_becomes_text_that_can_be_written(tmp_path):
    (table,) = read_tables(written(tmp_path, "[" + json.dumps(task(rows=[row("a\ud800b")])) + "]"))
    assert pwc_rows(table)[0].model == "a?b"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("77.34%", 77.34),
        (" 77.34 % ", 77.34),
        ("71.1 ± 0.2", 71.1),
        ("71.1 +/- 0.2", 71.1),
        ("71.1 (single crop)", 71.1),
        ("76,7", 76.7),
        ("~70", 70.0),
        ("−3", -3.0),
        ("170", 170.0),
        ("n/a", None),
        ("-", None),
        ("", None),
        ("1e5", None),
        ("nan", None),
        ("70 or 71", None),
        ("٧٠", None),
    ],
)
def test_a_number_is_cleaned_of_what_stands_around_it(text, number):
    assert parse_number(text) == number


def test_datasets_are_spelled_as_recipes_spell_them():
    assert [*map(dataset_key, ("ImageNet", "CIFAR-10", "Fashion-MNIST", "數字"))] == [
        *("imagenet", "cifar10", "fashion_mnist", "數字")
    ]


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"Top-1 Accuracy (%)": "n/a", "Weight bits": "4", "Activation bits": "4"}, "no Top-1 acc"),
        ({"Weight bits": "4", "Activation bits": "4"}, "no Top-1 accuracy that is a number"),
        ({"Top-1": "170", "Weight bits": "4", "Activation bits": "4"}, "170 is no percentage"),
        ({"Top-1": "0.77", "Weight bits": "4", "Activation bits": "4"}, "0.77 is no percentage"),
        ({"Top-1": "77"}, "its bits are not told"),
        ({"Top-1": "77", "Weight bits": "4.5", "Activation bits": "4"}, "its bits are not told"),
        ({"Top-1": "77", "Weight bits": "1", "Activation bits": "1"}, "weight_bits must be 2..8"),
    ],
    ids=str,
)
def test_a_row_that_the_board_cannot_show_says_why(metrics, why):
    told = to_published_result(published(**metrics))
    assert isinstance(told, str)
    assert why in told


def test_bits_are_read_from_the_name_where_no_metric_tells_them():
    made = to_published_result(published("ADLIK-MO-ResNet50+W3A4", **{"Top-1": "77.34"}))
    assert (made.weight_bits, made.act_bits, made.n_total) == (3, 4, 50_000)
    assert made.notes == "Papers With Code archive, CC-BY-SA 4.0"
    assert made.quote == "Top-1 77.34"


def test_a_top_5_below_top_1_or_above_100_is_left_out():
    bits = {"Weight bits": "4", "Activation bits": "4"}
    for top5, kept in (("93.2", 93.2), ("60", None), ("932", None), ("n/a", None)):
        made = to_published_result(published(**{"Top-1": "77", "Top-5": top5, **bits}))
        assert made.top5 == kept


def test_the_bundled_page_and_the_bundled_results_tell_the_same():
    page = [to_published_result(one) for one in lsq_page_rows() if one.task == "Quantization"]
    rows = [one for one in load_bundled_results() if one.page == PWC_PAGE]
    assert [(r.model, r.weight_bits, r.act_bits, r.top1) for r in page] == [
        (r.model, r.weight_bits, r.act_bits, r.top1) for r in rows
    ]
