"""The processes that tests fork from end with the tests."""

from __future__ import annotations

import os
import signal

from tests.warm import WarmStarter


def test_a_process_that_was_forked_and_stays_keeps_no_starter_from_its_end(tmp_path):
    starter = WarmStarter()
    out, _ = starter.start(["--version"], tmp_path, os.environ).communicate(60)
    assert out.startswith("lsqctl ")
    if (child := os.fork()) == 0:
        signal.pause()
    try:
        starter.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
