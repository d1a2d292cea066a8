"""`published ls|add|rm|import` and the page's view: idempotent, validated, one line each."""

from __future__ import annotations

import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lsqctl.errors import DataError, StoreError
from lsqctl.leaderboard.published_results import PublishedResult, load_bundled_results
from lsqctl.services.published_results import (
    add_published_result,
    import_pwc_table,
    load_published_results,
    load_workspace_results,
)
from lsqctl.settings import Settings
from tests.conftest import no_locks
from tests.leaderboard.test_pwc_view import ELEVEN

ROW = {
    "--dataset": "cifar10",
    "--model": "ResNet-20 mine",
    "--weight-bits": "4",
    "--act-bits": "4",
    "--top1": "91.9",
    "--source-kind": "paper",
    "--source-url": "https://example.org/paper",
    "--quote": "W4A4: 91.9",
}
HOSTILE = [
    "[/bold]",
    "\x1b[2J",
    "=HYPERLINK(1)",
    "../../etc",
    "<img src=x>",
    "\u202eabc",
    "x" * 10_000,
]


def table(*rows, task="Quantization", dataset="ImageNet"):
    sota = {"metrics": ["Weight bits", "Activation bits", "Top-1 Accuracy (%)"], "rows": [*rows]}
    return {"task": task, "datasets": [{"dataset": dataset, "sota": sota}]}


def row(model, *values):
    names = ("Activation bits", "Top-1 Accuracy (%)", "Weight bits")
    return {"model_name": model, "metrics": dict(zip(names, values, strict=True))}


# The eleven lines of the LSQ paper's page, in the archive's format.
PAGE = [
    {
        "task": "Model Compression",
        "datasets": [
            {
                "dataset": "ImageNet",
                "sota": {
                    "metrics": ["Top-1"],
                    "rows": [
                        {"model_name": "ADLIK-MO-ResNet50+W4A4", "metrics": {"Top-1": "77.878"}},
                        {"model_name": "ADLIK-MO-ResNet50+W3A4", "metrics": {"Top-1": "77.34"}},
                    ],
                },
            }
        ],
    },
    table(
        row("ADLIK-MO-ResNet50-W4A4", "4", "77.878", "4"),
        row("ADLIK-MO-ResNet50-W3A4", "4", "77.34", "3"),
        row("ResNet50-W4A4 (paper)", "4", "76.7", "4"),
    ),
]


@pytest.fixture
def here(tmp_path):
    return Settings(tmp_path / "home", "sqlite:///unused", tmp_path / "data")


def archive(folder: Path, *tasks) -> Path:
    path = folder / "tables.json"
    path.write_text(json.dumps([*tasks]))
    return path


def words(**changes):
    given = ROW | {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
    return ["published", "add", *(word for pair in given.items() for word in pair)]


def test_the_pages_own_file_gives_its_lines_once_however_often_it_is_imported(here, tmp_path):
    path = archive(tmp_path, *PAGE)
    for task, rows in (("quantization", 3), ("Model Compression", 2)):
        first = import_pwc_table(here, path, task=task, dataset="imagenet")
        again = import_pwc_table(here, path, task=task, dataset="imagenet")
        assert (len(first.rows), first.n_existing, first.warnings) == (rows, 0, ())
        assert (len(again.rows), again.n_existing) == (0, rows)
    kept = load_workspace_results(here).pwc_rows
    order = {model: place for place, (_, _, _, _, model) in enumerate(ELEVEN)}
    in_order = sorted(kept, key=lambda one: order[one.model])
    lines = [(r.task, r.dataset, *metric, r.model) for r in in_order for metric in r.metrics]
    assert sorted(lines) == sorted(ELEVEN)
    assert {one.licence for one in kept} == {"CC-BY-SA 4.0"}
    bundled = load_bundled_results()
    new = [one.model for one in load_published_results(here) if one not in bundled]
    assert new == ["ADLIK-MO-ResNet50+W4A4", "ADLIK-MO-ResNet50+W3A4"]  # the others are there


def test_bad_rows_are_kept_and_told_one_by_one(here, tmp_path):
    rows = [
        row("text", "4", "n/a", "4"),
        row("above", "4", "177", "4"),
        row("good", "4", "70.5%", "4"),
        {"metrics": {}},
    ]
    found = import_pwc_table(
        here, archive(tmp_path, table(*rows)), task="Quantization", dataset="imagenet"
    )
    assert found.warnings == (
        "text: it has no Top-1 accuracy that is a number; kept, but not on the board",
        "above: its Top-1 of 177 is no percentage from 1 to 100; kept, but not on the board",
        "1 entries among the rows are none: no model name, or no metrics",
    )
    assert [one.model for one in load_workspace_results(here).pwc_rows] == ["text", "above", "good"]
    assert load_published_results(here)[-1].top1 == 70.5


def test_a_damaged_end_imports_nothing(here, tmp_path):
    path = archive(tmp_path, *PAGE)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match="truncated or damaged after 1 whole tasks"):
        import_pwc_table(here, path, task="Model Compression", dataset="ImageNet")
    assert not here.published_results_file.exists()


def test_hostile_names_come_back_letter_by_letter(here, tmp_path):
    names = [*HOSTILE, "a\u2028b", "a\x85b\nc", "\x00"]
    path = archive(tmp_path, table(*(row(name, "4", "70", "4") for name in names)))
    import_pwc_table(here, path, task="Quantization", dataset="ImageNet")
    assert [one.model for one in load_workspace_results(here).pwc_rows] == names


def test_two_processes_that_add_at_once_lose_nothing(here):
    def one(number):
        values = (f"m{number}", "", "", 4, 4, 70.0, "paper", "https://example.org", "70.0")
        return add_published_result(here, PublishedResult("cifar10", *values))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(24))) == {"added"}
    assert len(load_workspace_results(here).published) == 24


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"references\.jsonl:2: not JSON"),
        ("[]", r"jsonl:2: not a published row"),
        ('{"kind": "row", "modle": 1}', r"jsonl:2: unknown key `modle`; did you mean `model`\?"),
        ('{"kind": "pwc", "task": "t"}', "jsonl:2: dataset, model, metrics, licence missing"),
        (
            '{"kind":"pwc","task":"t","dataset":"d","model":"m","metrics":[1],"licence":""}',
            "jsonl:2: .*int",
        ),
    ],
)
def test_a_damaged_line_of_the_file_is_named(here, line, message):
    here.home.mkdir()
    here.published_results_file.write_text("\n" + line + "\n")
    with pytest.raises(DataError, match=message):
        load_workspace_results(here)


def test_a_link_in_the_files_place_is_not_followed(here, tmp_path):
    here.home.mkdir()
    (here.home / "references.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot write"):
        add_published_result(here, load_bundled_results()[0])
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_said(here, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match=r"references\.lock: its file system locks no files \("):
        add_published_result(here, load_bundled_results()[0])


def test_adding_listing_and_importing_by_the_command_line(cli):
    assert "would be added; nothing was changed" in cli(*words(), "--dry-run").stderr
    assert not (cli.folder / ".lsqctl").exists()
    assert "ResNet-20 mine (cifar10): added" in cli(*words()).stderr
    assert "is there already" in cli(*words()).stderr
    done = cli(*words(top1="92.0"), code=2)
    assert "was added with other values; --replace puts this row in its place" in done.stderr
    assert "replaced" in cli(*words(top1="92.0"), "--replace").stderr
    listed = json.loads(cli("published", "ls", "--dataset", "cifar10", "--json").stdout)
    mine = [one for one in listed["published"] if not one["bundled"]]
    assert [(one["model"], one["top1"], one["quote"]) for one in mine] == [
        ("ResNet-20 mine", 92.0, "W4A4: 91.9")
    ]
    assert len(listed["published"]) == 5
    path = archive(cli.folder, *PAGE)
    tables = cli("published", "import", "pwc", path, code=2)
    assert tables.stdout == "Model Compression\tImageNet\t2\nQuantization\tImageNet\t3\n"
    pick = ("--task", "Quantization", "--dataset", "ImageNet")
    assert (
        "3 rows would be imported"
        in cli("published", "import", "pwc", path, *pick, "--dry-run").stderr
    )
    assert (
        "3 rows imported, 0 were there already; licence CC-BY-SA 4.0"
        in cli("published", "import", "pwc", path, *pick).stderr
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top1": "191"}, "top1 must be 0..100 percent, got 191.0; nothing was added"),
        ({"top1": "high"}, "must be a number of percent, got `high`"),
        ({"top1": "nan"}, "top1 must be a number"),
        ({"weight_bits": "9"}, "weight_bits must be 2..8, or 32 for not quantized, got 9"),
        ({"quote": " "}, "quote must be a text, not empty"),
        ({"model": "ResNet-20 APoT W4A4"}, "ships with lsqctl, with other values"),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_in_one_line(cli, changes, message):
    done = cli(*words(**changes), code=2)
    assert message in done.stderr
    assert not (cli.folder / ".lsqctl" / "references.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("ls", "--dataset", "cifr10"),
            "no published result has dataset `cifr10`; did you mean `cif",
        ),
        (
            ("ls", "--page", "pwc-lqs"),
            "no published result has page `pwc-lqs`; did you mean `pwc-lsq`",
        ),
        (
            ("import", "pwc", "tables.json", "--task", "Quantisation"),
            "did you mean `Quantization`?",
        ),
        (
            ("import", "pwc", "tables.json", "--task", "Quantization", "--dataset", "Imagenet1"),
            "no dataset `Imagenet1` of task `Quantization`; did you mean `ImageNet`?",
        ),
    ],
    ids=" ".join,
)
def test_a_typo_is_answered_with_the_nearest(cli, arguments, message):
    archive(cli.folder, *PAGE)
    assert message in cli("published", *arguments, code=3).stderr
