"""What is shipped: one package, its recipes and schema inside it, and it works from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel's content, as an installation has it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_nothing_but_the_package_lands_in_site_packages(unpacked):
    assert {path.name.partition("-")[0] for path in unpacked.iterdir()} == {"lsqctl"}


def test_every_recipe_and_revision_is_inside(unpacked):
    for folder, pattern in (("recipes", "*.yaml"), ("db", "*.py")):
        inside = unpacked / "lsqctl" / "_bundled" / folder
        shipped = {path.relative_to(inside) for path in inside.rglob(pattern)}
        here = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(pattern)}
        assert shipped == here


def test_an_installed_copy_makes_its_database_and_queues_a_bundled_recipe(unpacked, tmp_path):
    environment = {key: value for key, value in os.environ.items() if "LSQCTL" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "lsqctl", "submit", "digits/resnet8-w4a4", "-q"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.split()) == 2


@pytest.mark.slow
def test_an_installed_copy_is_typed_for_a_checker_of_somebody_elses_code(unpacked, tmp_path):
    assert (unpacked / "lsqctl" / "py.typed").exists()
    (tmp_path / "mine.py").write_text(
        "import lsqctl\nreveal_type(lsqctl.runs(limit=1))\nlsqctl.sumbit('x')\n"
    )
    (tmp_path / "mypy.ini").write_text(  # what lsqctl itself imports is not asked about
        "[mypy]\nfollow_imports = silent\n"
        "[mypy-torch.*,torchvision.*,numpy.*,pandas.*,sqlalchemy.*,pydantic.*]\n"
        "follow_imports = skip\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "mine.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "list[lsqctl.run.Run]" in done.stdout
    assert 'Module has no attribute "sumbit"' in done.stdout
