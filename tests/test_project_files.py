"""The version, the changelog, CI and the container say what the project is and does."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import lsqctl
from lsqctl import JSON_SCHEMA_VERSION
from lsqctl.leaderboard.schema import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEWEST = (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## [")[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([\w./-]+):", MAKEFILE, re.MULTILINE))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: the word, and its arguments on one line."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line]


def run_lines() -> list[str]:
    """Return what is to be run in the copied tree; the machine is set up by the others."""
    return [text for word, text in instructions() if word == "RUN" and "apt-get" not in text]


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert lsqctl.__version__ == version
    assert NEWEST.startswith(f"{version}]")
    wheels = re.findall(r"lsqctl-(\S+?)-py3-none-any", (ROOT / "README.md").read_text("utf-8"))
    assert wheels == [version]


def test_the_changelog_names_the_versions_of_what_others_read():
    revisions = sorted(path.name[:4] for path in (ROOT / "db" / "versions").glob("[0-9]*.py"))
    said = re.search(r"JSON schema (\S+), CSV contract (\S+),\s+database schema (\S+)\.", NEWEST)
    assert said
    assert said.groups() == (str(JSON_SCHEMA_VERSION), str(SCHEMA_VERSION), revisions[-1])


def test_ci_runs_the_two_commands_that_a_newcomer_runs_and_may_only_read():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["make test", "make demo"]
    assert {"test", "demo"} <= TARGETS
    assert workflow["permissions"] == {"contents": "read"}


def test_ci_runs_the_oldest_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == PROJECT["requires-python"]


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_is_one(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= kinds
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)


def test_a_bug_asks_for_the_bug_report():
    assert "lsqctl bugreport" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()


def test_the_dockerfile_does_the_demos_job_as_a_user_of_its_own():
    words = [word for word, _ in instructions()]
    assert set(words) <= {"FROM", "RUN", "WORKDIR", "USER", "ENV", "COPY", "CMD"}
    assert instructions()[0] == ("FROM", "python:3.12-slim")
    assert instructions()[-1] == ("CMD", '["make", "demo"]')
    user = words.index("USER")
    assert all("apt-get" in text for word, text in instructions()[:user] if word == "RUN")
    assert words.index("COPY") > user
    (target,) = re.findall(r"^make (\S+)$", "\n".join(run_lines()), re.MULTILINE)
    assert target in TARGETS


def ignored(path: str) -> bool:
    """Return whether .dockerignore leaves a path out."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    parts = Path(path).parts
    heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    return any(
        fnmatch(head, line) or (line.startswith("**/") and fnmatch(head.split("/")[-1], line[3:]))
        for head in heads
        for line in lines
    )


def test_no_environment_and_no_history_go_into_the_image():
    for path in (".git/HEAD", ".venv/bin/python", ".lsqctl/lsqctl.db", "lsqctl/__pycache__/a.pyc"):
        assert ignored(path), path
    assert not [path for path in tracked_files() if ignored(path)]


def tracked_files() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


@pytest.mark.slow
def test_the_dockerfiles_commands_do_the_demos_job_in_a_clean_folder(tmp_path):
    """Where docker is not at hand: each RUN and the CMD, in a copy of what COPY takes.

    The libraries are this environment's, lent by a .pth file; the package itself is installed by
    pip, whose build needs the package index.
    """
    for path in tracked_files():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / ".venv")], check=True)
    (libraries,) = (tmp_path / ".venv").glob("lib/python*/site-packages")
    (libraries / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("LSQCTL_") and key != "PYTHONPATH"
    }
    path = f"{tmp_path / '.venv' / 'bin'}:{os.environ['PATH']}"
    for command in [*run_lines(), "make demo"]:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=kept | {"PATH": path, "PIP_NO_CACHE_DIR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if "No matching distribution" in done.stderr:
            pytest.skip(f"no package index to build from: {command} was not tested")
        assert done.returncode == 0, done.stderr
    assert "digits/resnet8-lsq-w4a4" in done.stdout
    assert (tmp_path / "leaderboard.csv").read_text().startswith("rank,model,")


@pytest.mark.slow
def test_the_image_builds_and_does_the_demos_job():
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker here: the image was not built")
    build = ["docker", "build", "--quiet", "--tag", "lsqctl-test", "."]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run(
        ["docker", "run", "--rm", "lsqctl-test"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "digits/resnet8-lsq-w4a4" in done.stdout
