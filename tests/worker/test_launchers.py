"""Launchers: what an attempt's process starts as, built in or of a plugin."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lsqctl.errors import PluginError
from lsqctl.launchers import LAUNCHERS, launched_words
from lsqctl.settings import module_command
from lsqctl.testing import launcher_laws
from tests.conftest import TINY, CommandLine

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
COMMAND = (sys.executable, "-m", "lsqctl.worker.execute", "7")

PLUGIN = """\
from lsqctl.plugins import launcher


@launcher("marked", description="says in the log that it was there")
def marked(command, variables):
    return ["sh", "-c", 'echo "launched by hand"; exec "$@"', "sh", *command]


@launcher("wordless", description="makes nothing")
def wordless(command, variables):
    return "python"


@launcher("missing", description="names a program that is not there")
def missing(command, variables):
    return ["no-such-program", *command]


@launcher("deaf", description="keeps the input to itself")
def deaf(command, variables):
    return ["sh", "-c", 'exec "$@" </dev/null', "sh", *command]
"""


@pytest.fixture
def own(cli: CommandLine) -> CommandLine:
    """A workspace with a trusted plugin of launchers."""
    plugins = cli.folder / ".lsqctl" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "mine.py").write_text(PLUGIN)
    for path in (plugins.parent, plugins, plugins / "mine.py"):
        path.chmod(0o700)
    cli.environment |= {"LSQCTL_PLUGINS": "1", "HOME": str(cli.folder / "home")}
    cli("plugins", "trust", "mine.py")
    return cli


@pytest.mark.parametrize(
    ("name", "law"), [(name, law) for name in LAUNCHERS for law in launcher_laws(name)], ids=str
)
def test_a_launcher_that_is_built_in_keeps(name, law):
    law()


def test_a_launcher_makes_words_of_a_command():
    assert launched_words("python", COMMAND, {}) == COMMAND
    assert launched_words("nice", COMMAND, {}) == ("nice", "-n", "19", *COMMAND)


def test_the_table_of_the_page_has_each_that_is_built_in():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert rows == {name: info.description for name, info in LAUNCHERS.items()}


def test_a_name_that_is_none_is_refused_with_the_nearest_before_any_run_is_taken(here):
    assert "did you mean `nice`?" in here("worker", "--launcher", "nise", code=3).stderr
    (here.folder / ".lsqctl").mkdir(mode=0o700, exist_ok=True)
    (here.folder / ".lsqctl" / "workspace.toml").write_text('launcher = "pyhton"\n')
    assert "did you mean `python`?" in here("worker", "--until-empty", code=3).stderr
    (here.folder / ".lsqctl" / "workspace.toml").write_text("launcher = 3\n")
    assert "`launcher` must be a name" in here("worker", "--until-empty", code=2).stderr


def test_laws_tell_what_a_bad_launcher_does(own):
    told = own("plugins", "check", code=None)
    said = told.stdout + told.stderr
    assert said.count("kept") == 3  # marked keeps both, deaf dies of a signal
    assert "must return a list of words, not 'python'" in said
    assert "does not start" in said
    assert "exit code and answer (75, b'asked') became (75, b'')" in said


@pytest.mark.slow
def test_a_run_is_started_by_the_launcher_of_a_plugin(own):
    own.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    own("submit", "tiny.yaml")
    own("worker", "--until-empty", "--launcher", "mine/marked")
    assert "launched by hand" in own("runs", "logs", "@last").stdout


def test_a_launcher_that_raises_or_names_no_program_is_an_error_of_its_start(own, monkeypatch):
    from lsqctl.discovery import use_workspace
    from lsqctl.worker.launchers import Pipes, SubprocessLauncher

    monkeypatch.setenv("LSQCTL_PLUGINS", "1")
    monkeypatch.setenv("HOME", own.environment["HOME"])
    use_workspace(own.folder / ".lsqctl")
    try:
        with pytest.raises(PluginError, match="list of words"):
            launched_words("mine/wordless", COMMAND, {})
        for name, said in (("wordless", "list of words"), ("missing", "no-such-program")):
            with pytest.raises(OSError, match=said):
                SubprocessLauncher(f"mine/{name}").launch(Pipes(0, 1, 2), {})
    finally:
        use_workspace(None)


@pytest.mark.parametrize("name", ["execute", "fork_server", "on_end"])
def test_no_process_of_a_worker_imports_what_lies_in_the_folder_of_a_command(
    tmp_path, monkeypatch, name
):
    """A recipe's folder, perhaps somebody else's, may hold files called as Python's own."""
    for module in ("contextlib", "json", "torch"):
        (tmp_path / f"{module}.py").write_text("open('imported', 'w')\n")
    monkeypatch.chdir(tmp_path)
    words = {"stdin": subprocess.DEVNULL, "capture_output": True}
    subprocess.run(module_command(f"lsqctl.worker.{name}"), check=False, **words)
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-m", f"lsqctl.worker.{name}"], check=False, **words)
    assert (tmp_path / "imported").exists()  # by Python alone


def test_every_process_of_lsqctls_own_modules_is_started_so():
    sources = (Path(__file__).parents[2] / "lsqctl").rglob("*.py")
    assert [path.name for path in sources if '"-m", "lsqctl' in path.read_text("utf-8")] == []
