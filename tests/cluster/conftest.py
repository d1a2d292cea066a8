"""A private Slurm for the session, a workspace on PostgreSQL, and the command line in it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsqctl.store import Store, open_store
from tests.cluster.private_slurm import PrivateSlurm, missing
from tests.conftest import CommandLine
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)

LEASE = 3.0
PROFILE = """\
[cpu]
gres = ""
cpus = 1
idle = "20s"
lead = "20s"
most = 2
"""
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def private_slurm() -> Iterator[PrivateSlurm]:
    if lacking := missing():
        pytest.skip(f"NOT TESTED UNDER SLURM: {lacking}")
    folder = Path(tempfile.mkdtemp(prefix="lsqctl-slurm-"))
    cluster = PrivateSlurm(folder / "slurm", nodes=2, gpus=2, cpus=2)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(private_slurm: PrivateSlurm) -> Iterator[PrivateSlurm]:
    """The session's Slurm with every node up and no job; left like that."""
    private_slurm.clean()
    yield private_slurm
    private_slurm.clean()


class ClusterLine(CommandLine):
    """The command line of a workspace that pilots share, on PostgreSQL."""

    cold = True  # pilots are never warm, and the dispatcher's environment is part of the test

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        programs = folder / "bin"
        programs.mkdir()
        (programs / "lsqctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m lsqctl "$@"\n')
        (programs / "lsqctl").chmod(0o755)
        self.home = folder / ".lsqctl"
        self.environment |= {
            "LSQCTL_DB": url,
            "LSQCTL_LEASE": f"{LEASE:g}",
            "LSQCTL_HOME": str(self.home),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self.url = url

    def profile(self, text: str = PROFILE) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        path = self.home / "cluster.toml"
        path.write_text(text)
        path.chmod(0o600)

    def store(self) -> Store:
        return open_store(self.url, lease_seconds=LEASE)

    def logs(self) -> str:
        """Return what pilots printed."""
        paths = sorted((self.home / "cluster" / "logs").glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text()}" for path in paths)


@pytest.fixture
def line(postgresql_url: str) -> Iterator[ClusterLine]:  # noqa: F811
    folder = Path(tempfile.mkdtemp(prefix="lsqctl-cluster-"))
    opened = ClusterLine(folder, postgresql_url)
    opened.profile()
    yield opened
    for process in opened.started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_slurm(line: ClusterLine, slurm: PrivateSlurm) -> ClusterLine:
    line.environment |= slurm.environment
    return line
