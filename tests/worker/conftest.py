"""What several tests of the worker are compared with."""

from __future__ import annotations

import pytest

from tests.conftest import CommandLine
from tests.worker.long_run import LONG, final_hashes, reproducible, store_of, submitted


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The model hash and the metric rows of LONG, trained in one go."""
    cli = CommandLine(tmp_path_factory.mktemp("whole"))
    run_id = submitted(cli, LONG)
    cli("worker", "--until-empty", "--slots", "2")
    with store_of(cli) as store:
        return final_hashes(cli, run_id)["model.pt"], reproducible(store, run_id)
