"""docs/plugins.md and examples/plugin tell the truth: written, installed, trained and ranked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lsqctl import discovery
from tests.conftest import FULL, CommandLine

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
EXAMPLE = ROOT / "examples" / "plugin"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> dict[str, str]:
    """What each command of the page printed, in a folder with the files that it shows."""
    line = CommandLine(tmp_path_factory.mktemp("plugins"))
    plugins = line.folder / ".lsqctl" / "plugins"
    plugins.mkdir(parents=True)
    for folder in (plugins, plugins.parent):
        folder.chmod(0o700)
    (plugins / "flowers.py").write_text(blocks("python")[0])
    (plugins / "flowers.py").chmod(0o600)
    line.write("stripes.yaml", blocks("yaml")[0])
    line.environment |= {"LSQCTL_PLUGINS": "1", "HOME": str(line.folder / "home")}
    commands = re.findall(r"^\$ lsqctl (.+?)(?:  +#.*)?$", blocks("console")[0], re.MULTILINE)
    if not FULL:  # training is left to the full form
        commands = commands[: commands.index("run stripes.yaml")]
    return {command: line(*command.split()).stdout for command in commands}


def test_a_file_of_the_page_is_trusted_and_keeps_the_laws(walked):
    assert "is not trusted" in walked["plugins ls"]
    assert walked["plugins check"].count("kept\t") == 10
    assert "recipe check stripes.yaml" in walked


@pytest.mark.slow
def test_a_file_of_the_page_is_trained_and_ranked(walked):
    assert "stripes" in walked["leaderboard"]
    provenance = json.loads(walked["runs show @last --json"])["provenance"]["plugins"]
    assert set(provenance) == {"model flowers/tinynet", "dataset flowers/stripes"}


def test_its_table_names_each_kind_and_its_group():
    rows = dict(re.findall(r"^\| `(\w+)\(.*?\| `(lsqctl\.\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {"model": "lsqctl.models", "dataset": "lsqctl.datasets",
                    "board_format": "lsqctl.exporters", "tracker": "lsqctl.trackers",
                    "launcher": "lsqctl.launchers"}  # fmt: skip
    assert set(rows.values()) == set(discovery.GROUPS)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> CommandLine:
    """A new environment in which the wheel of the example is installed; its libraries are ours."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True)
    line = CommandLine(folder)
    libraries = os.pathsep.join((str(ROOT), sysconfig.get_paths()["purelib"]))
    line.environment |= {"LSQCTL_PLUGINS": "1", "PYTHONPATH": libraries}
    line.environment["PYTHON"] = str(python)
    return line


def run(line: CommandLine, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [line.environment["PYTHON"], *words],
        cwd=line.folder,
        env=line.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done


LSQCTL = ("-m", "lsqctl")


def test_the_example_is_built_installed_and_checked_in_a_fresh_environment(fresh):
    rows = json.loads(run(fresh, *LSQCTL, "plugins", "ls", "--json").stdout)["plugins"]
    assert {row["name"]: row["kind"] for row in rows} == {
        "stripes/tinynet": "model", "stripes/stripes": "dataset", "stripes/org": "format"
    }  # fmt: skip
    assert {(row["package"], row["version"]) for row in rows} == {("lsqctl-stripes", "1.0")}
    assert run(fresh, *LSQCTL, "plugins", "check").stdout.count("kept\t") == 13


@pytest.mark.slow
def test_the_example_is_trained_and_ranked_there(fresh):
    run(fresh, *LSQCTL, "run", str(EXAMPLE / "stripes-w4a4.yaml"))
    written = run(fresh, *LSQCTL, "leaderboard", "--format", "stripes/org").stdout
    assert written.startswith("* ")
    assert "stripes-w4a4" in written


@pytest.mark.slow
def test_the_examples_own_tests_pass_there(fresh):
    tests = str(EXAMPLE / "tests" / "test_laws.py")
    done = run(fresh, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    assert "13 passed" in done.stdout


def test_the_example_is_as_short_as_promised():
    sources = [path.read_text().splitlines() for path in (EXAMPLE / "stripes").glob("*.py")]
    assert sum(bool(line.strip()) for lines in sources for line in lines) <= 60
