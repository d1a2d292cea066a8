"""Habits of the command line: data to stdout, words to stderr, one clear line for a mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from typer.main import get_command

from lsqctl.bundled import bundled
from lsqctl.cli.app import app, split_global_options
from lsqctl.store.migrate import shipped_revisions
from tests.conftest import FULL, TINY


def leaves(command, path=()):
    if children := getattr(command, "commands", None):
        for name, child in children.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(get_command(app)))


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder with a tiny sweep that was worked, and one run that is only queued."""
    from tests.conftest import CommandLine

    line = CommandLine(tmp_path_factory.mktemp("worked"))
    line.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    line("submit", "tiny.yaml", "--seed", "0", "--seed", "1")
    line("worker", "--until-empty", "--slots", "2")
    line("submit", "tiny.yaml", "--set", "train.lr=0.2")
    return line


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_gives_an_example(path):
    command = COMMANDS[path]
    assert command.help
    assert command.epilog.startswith(f"Example: lsqctl {' '.join(path)}".rstrip()) or (
        "lsqctl --db" in command.epilog
    )
    for parameter in command.params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_the_promised_commands_are_there():
    promised = """submit run worker leaderboard compare export verify doctor bugreport
        runs:ls runs:show runs:logs runs:cancel runs:retry runs:diff
        runs:rm runs:gc runs:tag runs:note watch wait
        recipe:ls recipe:show recipe:check recipe:diff recipe:schema recipe:new
        runs:hold runs:release runs:priority
        sweep:ls sweep:status sweep:resume published:ls published:add
        published:import:pwc data:fetch db:upgrade db:check db:backup"""
    assert {tuple(one.split(":")) for one in promised.split()} <= set(COMMANDS)


@pytest.fixture
def asked(worked, here):
    """The same workspace, asked from within this process."""
    here.enter(worked.folder)
    return here


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "ls"],
        ["runs", "show", "@last"],
        ["runs", "diff", "@last", "@last~1"],
        ["leaderboard"],
        ["compare", "tiny", "tiny"],
        ["sweep", "status"],
        ["sweep", "ls"],
        ["sweep", "resume", "--dry-run"],
        ["runs", "priority", "@last", "0"],
        ["doctor"],
        ["bugreport", "--run", "@last"],
        ["db", "check"],
        ["db", "backup"],
        ["watch"],
        ["wait", "@last~1"],
        ["runs", "gc"],
        ["runs", "rm", "@last", "--dry-run"],
        ["runs", "trash"],
        ["published", "ls"],
        ["leaderboard", "--view", "pwc"],
        ["recipe", "ls"],
        ["recipe", "show", "digits/resnet8-lsq"],
        ["recipe", "check", "tiny.yaml"],
        ["submit", "tiny.yaml", "--dry-run"],
        ["submit", "tiny.yaml", "--seed", "0"],
    ],
    ids=" ".join,
)
def test_json_is_json_and_names_its_schema(asked, words):
    data = json.loads(asked(*words, "--json").stdout)
    assert data["schema_version"] >= 1


def test_runs_show_in_json_has_the_complete_recipe_and_what_was_measured(worked):
    ids = worked("runs", "ls", "-q", "--state", "succeeded").stdout.split()
    data = json.loads(worked("runs", "show", ids[0], "--json").stdout)
    assert data["recipe"]["train"]["momentum"] == 0.9
    assert {"last", "best"} == {one["selection"] for one in data["results"]}
    assert data["results"][0]["n_total"] == 540
    assert data["provenance"]["code_sha256"]
    assert data["attempts"][0]["environment"]["threads"] == 1


def test_runs_show_tells_the_cost_of_a_run_and_of_its_layers(worked):
    ids = worked("runs", "ls", "-q", "--state", "succeeded").stdout.split()
    stored = json.loads(worked("runs", "show", ids[0], "--json").stdout)["cost"]
    counted = json.loads(worked("runs", "show", ids[0], "--cost", "--json").stdout)["cost"]
    assert stored == {key: counted[key] for key in stored}
    assert sum(layer["bops"] for layer in counted["layers"]) == stored["bops"] > 0
    told = worked("runs", "show", ids[0], "--cost").stdout
    assert "\ncost\t300 kB (naive 300 kB), 0.75 MMAC, 0.77 GBOP\n" in told
    assert "\nlayer1.0.conv1\t32\t32\t2,304\t" in told
    queued = worked("runs", "ls", "-q", "--state", "queued").stdout.split()[0]
    assert json.loads(worked("runs", "show", queued, "--json").stdout)["cost"] is None


def test_quiet_prints_ids_only_and_any_unique_prefix_finds_the_run(worked):
    ids = worked("runs", "ls", "-q").stdout.split()
    assert len(ids) == 3
    for run_id in ids:
        assert (
            json.loads(worked("runs", "show", run_id[:6], "--json").stdout)["run"]["id"] == run_id
        )


def test_a_pipe_gets_tab_separated_lines_without_colour_or_cut(worked):
    done = worked("runs", "ls")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {11}
    assert "\x1b" not in done.stdout + done.stderr


def test_a_closed_pipe_ends_quietly(worked):
    command = f"{sys.executable} -m lsqctl leaderboard --published all --format csv | head -1"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=worked.folder,
        env=worked.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("rank,")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_global_options_may_stand_anywhere(tmp_path):
    assert split_global_options(["runs", "ls", "--home", "x", "-q"]) == (
        ["--home", "x"],
        ["runs", "ls", "-q"],
    )
    assert split_global_options(["submit", "a", "--db=sqlite:///x"]) == (
        ["--db=sqlite:///x"],
        ["submit", "a"],
    )
    assert split_global_options(["a", "--", "--home", "x"]) == ([], ["a", "--", "--home", "x"])
    assert split_global_options(["a", "--home"]) == (["--home"], ["a"])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["sumbit"], 2, "did you mean `submit`?"),
        (["runs", "ls", "--limt", "3"], 2, "--limit"),
        (["runs", "ls", "--limit", "0"], 2, "at least 1"),
        (["runs", "show", "zzzzzzzz"], 3, "zzzzzzzz"),
        (["leaderboard", "--dataset", "digit"], 3, "digits"),
        (["submit", "digits/resnet8-lqs"], 3, "digits/resnet8-lsq"),
        (["submit", "none.yaml"], 3, "none.yaml"),
        (["data", "fetch", "cifra10"], 3, "cifar10"),
        (["sweep", "status", "tny"], 3, "tiny"),
        (["export", "board.xls"], 2, ".csv"),
        (["bugreport", "-o", "tiny.yaml"], 2, ".zip"),
        (["bugreport", "--run", "zzzzzzzz"], 3, "zzzzzzzz"),
        (["worker", "--gpus", "tpu"], 2, "auto, all, none"),
        (["worker", "--gpus", "99"], 2, "these GPUs"),
        (["worker", "--time-limit", "soon"], 2, "90s, 10m, 2h"),
        (["submit", "digits/resnet8-fp32", "--time-limit", "0"], 2, "above zero"),
        (["submit", "digits/resnet8-fp32", "--gpus", "0"], 2, "at least 1"),
        (["worker", "--slots", "0"], 2, "1 to 256"),
        (["runs", "retry", "@last~1"], 1, "failed or cancelled"),
        (["runs", "cancel", "@last~1"], 1, "succeeded"),
        (["--db", "mysql://u:secret@h/x", "runs", "ls"], 4, "postgresql"),
        (["--home", "/proc/x", "submit", "tiny.yaml"], 4, "/proc/x"),
        (["submit", "tiny.yaml", "--set", "train.epohcs=1"], 2, "epochs"),
        (["submit", "tiny.yaml", "--set", "train.epochs"], 2, "="),
        (["submit", "tiny.yaml", "--seed", "x"], 2, "must be a whole number, got `x`"),
        (["run", "tiny.yaml", "--compile", "of"], 2, "`of` is none of auto | on | off; did you"),
        (["leaderboard", "--html", "b.html", "--json"], 2, "--html writes the whole page"),
        (["runs", "logs", "@last~1", "--attempt", "9"], 3, "attempt 9: it has had 1 attempt"),
        (["published", "import", "pwc", "none.json"], 3, "there is no file none.json"),
        (["runs", "import", "none.lsqctl"], 3, "there is no file none.lsqctl"),
        (["submit", "tiny.yaml", "--set", "data.name=cifar10"], 1, "lsqctl data fetch cifar10"),
        (["submit", "tiny.yaml", "--set", "model.weights=a/b.pth"], 1, "a/b.pth"),
        (["submit", "tiny.yaml", "--set", "model.weights={run: nothing}"], 3, "nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_clear_line_and_its_exit_code(worked, asked, words, code, told):
    before = asked("runs", "ls", "-q").stdout
    done = worked(*words, code=code)
    assert told in done.stderr
    assert "secret" not in done.stderr
    assert asked("runs", "ls", "-q").stdout == before


def test_a_folder_without_a_workspace_is_said_and_none_is_made(cli):
    done = cli("runs", "ls", code=3)
    assert "no workspace here" in done.stderr
    assert "lsqctl submit" in done.stderr
    assert not (cli.folder / ".lsqctl").exists()
    assert "6 runs would be queued" in cli("submit", "digits/resnet8-lsq", "--dry-run").stderr
    assert not (cli.folder / ".lsqctl").exists()


def test_without_a_workspace_the_board_has_the_published_results_and_says_why(here):
    board = here("leaderboard", "--dataset", "imagenet")
    assert "ADLIK-MO-ResNet50-W4A4" in board.stdout
    assert "published results only: no workspace here" in board.stderr
    assert "ResNet50-W4A4 (paper)" in here("leaderboard", "--view", "pwc").stdout
    here("export", "board.csv")
    assert "ADLIK" in (here.folder / "board.csv").read_text()
    assert "no workspace here" in here("leaderboard", "--html", "page.html", code=3).stderr
    assert not (here.folder / ".lsqctl").exists()


def test_an_empty_workspace_teaches(cli):
    cli("db", "upgrade")
    assert "lsqctl recipe ls" in cli("runs", "ls").stderr
    assert "no finished run yet" in cli("leaderboard").stderr
    assert "no sweeps yet" in cli("sweep", "status").stderr


def test_submitting_twice_makes_no_duplicates(worked):
    before = worked("runs", "ls", "-q").stdout
    data = json.loads(worked("submit", "tiny.yaml", "--seed", "0", "--json").stdout)
    assert [one["outcome"] for one in data["runs"]] == ["exists"]
    assert worked("runs", "ls", "-q").stdout == before
    worked("submit", "tiny.yaml", "--seed", "0", "--if-exists", "error", code=2)


def test_an_existing_file_is_not_overwritten_without_force(worked):
    path = worked.write("mine.csv", "precious")
    worked("export", "mine.csv", code=2)
    assert path.read_text() == "precious"
    worked("export", "mine.csv", "--force")
    assert path.read_text().startswith("rank,")
    (worked.folder / "link.csv").symlink_to(path)
    worked("export", "link.csv", "--force", code=2)


def test_the_board_in_csv_json_and_markdown_has_the_same_rows(worked):
    csv_rows = worked("leaderboard", "--format", "csv").stdout.splitlines()[1:]
    tables = json.loads(worked("leaderboard", "--format", "json").stdout)["tables"]
    markdown = worked("leaderboard", "--format", "md").stdout
    assert len(csv_rows) == sum(len(table["rows"]) for table in tables) == 4
    assert "tiny" in markdown
    assert worked("leaderboard", "--format", "csv").stdout.splitlines()[1:] == csv_rows


def test_recipe_new_writes_a_recipe_that_checks_and_refuses_to_overwrite(cli):
    cli("recipe", "new", "mine.yaml")
    cli("recipe", "check", "mine.yaml")
    cli("recipe", "new", "mine.yaml", code=2)
    cli("recipe", "new", "mine.txt", code=2)
    cli("recipe", "new", "2026.yaml")  # a number, were it not quoted
    cli("recipe", "check", "2026.yaml")
    assert "at most 64 letters" in cli("recipe", "new", "my recipe.yaml", code=2).stderr
    assert not (cli.folder / "my recipe.yaml").exists()


def test_faults_come_as_text_json_or_annotations_and_exit_with_2(cli):
    cli.write("bad.yaml", TINY + "quant: {wieght_bits: 4}\n")
    text = cli("recipe", "check", "bad.yaml", code=2).stderr
    assert "bad.yaml:4:9" in text
    assert "did you mean `weight_bits`?" in text
    told = json.loads(cli("recipe", "check", "bad.yaml", "--json", code=2).stdout)
    assert told["diagnostics"][0]["code"] == "R101"
    assert "::error file=bad.yaml,line=4" in (
        cli("recipe", "check", "bad.yaml", "--format", "github", code=2).stdout
    )
    assert "nothing was queued" in cli("submit", "bad.yaml", code=2).stderr


def test_recipe_check_says_what_a_submit_would_be_refused_for_and_makes_no_workspace(here):
    for text, told, code in (
        (TINY, "", 0),
        (TINY.replace("resnet8", "resnet8, weights: gone.pth"), "no file gone.pth", 1),
        (TINY.replace("resnet8", "resnet8, weights: {run: nobody}"), "no run has this name", 3),
        (TINY.replace("digits", "imagefolder"), "no imagefolder data in", 1),
    ):
        Path("r.yaml").write_text(text)
        said = here("recipe", "check", "r.yaml").stderr
        assert ("warning: cannot be submitted here as it is" in said) == bool(told), said
        assert told in said
        assert told in here("submit", "r.yaml", code=code).stderr
        shutil.rmtree(".lsqctl", ignore_errors=True)
        here("recipe", "check", "r.yaml")
        assert not Path(".lsqctl").exists()


def test_a_parent_that_nobody_knows_is_told_with_the_nearest_name_and_an_id_with_its_run(here):
    Path("r.yaml").write_text(TINY)
    run_id = here("submit", "r.yaml", "-q").stdout.split()[0]
    name = json.loads(here("runs", "show", run_id, "--json").stdout)["run"]["name"]
    child = TINY.replace("resnet8", "resnet8, weights: {run: PARENT}")
    for parent, told in (
        (name + "x", f"no run has this name; did you mean `{name}`?"),
        ("digits/resnet8-fp23", "did you mean `digits/resnet8-fp32`?"),
        (run_id, f"no recipe and no run has this name, but an id: write `{name}`"),
    ):
        Path("child.yaml").write_text(child.replace("PARENT", parent))
        assert told in here("submit", "child.yaml", code=3).stderr


def test_version_names_commit_and_schema(cli):
    assert f"schema {shipped_revisions(bundled('db'))[-1]}" in cli("--version").stdout


def test_a_traceback_comes_only_with_debug(cli):
    done = subprocess.run(
        [sys.executable, "-m", "lsqctl", "runs", "ls", "--debug"],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


# What a hand or a script may put behind `=` by mistake.
NASTY = (
    *("", "-1", "0", "nan", "1e309", "9" * 20, "1,2", "x=y", "=", "a|b", "[1", "{", "null"),
    *("/nonexistent/x", ".", "\u00e9\u202e", "\x1b[31m"),
)
ARGUMENTS = {"recipe": "tiny.yaml", "run": "tiny", "file": "some.file", "code": "R101"}
# They train, take their time, or stay until they are stopped.
NOT_QUESTIONS = (
    *(("run",), ("worker",), ("serve",)),
    *(("conformance",), ("deploy", "run"), ("cluster", "work")),
)


def arguments_of(command):
    """Return something that each argument of a command may be."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            fitting = [told for name, told in ARGUMENTS.items() if name in parameter.name]
            yield (fitting or ["tiny"])[0]


def mistaken(path, command):
    """Yield command lines with a nasty value: for each option and argument all, or two of them."""
    fine = list(arguments_of(command))
    if path == ("watch",):
        fine.append("--once")
    options = [
        option
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.is_flag
        for option in parameter.opts[:1]
    ]
    for place in (*options, *range(len(fine))):
        start = zlib.crc32(f"{path} {place}".encode()) % len(NASTY)
        for value in NASTY if FULL else (NASTY * 2)[start : start + 2]:
            if isinstance(place, str):
                yield [*path, *fine, f"{place}={value}"]
            elif not value.startswith("-"):
                yield [*path, *fine[:place], value, *fine[place + 1 :]]


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path not in NOT_QUESTIONS], ids=" ".join
)
def test_a_mistaken_value_never_ends_in_a_traceback(worked, here, path):
    shutil.copytree(worked.folder, here.folder / "copy")
    here.enter(here.folder / "copy")
    for words in mistaken(path, COMMANDS[path]):
        done = here(*words, code=None)
        assert done.returncode in {0, 1, 2, 3, 4, 5, 6, 8}, (words, done)
