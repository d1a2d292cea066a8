"""What several tests of the worker are compared with, and a database that they lock."""

from __future__ import annotations

import pytest

from lsqctl.store import open_store
from tests.conftest import CommandLine
from tests.store.samples import identity
from tests.worker.long_run import LONG, final_hashes, reproducible, store_of, submitted


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The model hash and the metric rows of LONG, trained in one go."""
    cli = CommandLine(tmp_path_factory.mktemp("whole"))
    run_id = submitted(cli, LONG)
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        return final_hashes(cli, run_id)["model.pt"], reproducible(store, run_id)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "lsqctl.db"


@pytest.fixture
def empty_store(path):
    """A store with one registered worker, which soon gives up waiting for its database."""
    with open_store(f"sqlite:///{path}", lease_seconds=2, busy_seconds=0.05) as opened:
        opened.workers.register(identity("w1"))
        yield opened
