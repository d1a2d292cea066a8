"""The command line inside the test's process: what starts Python once for fifty questions."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lsqctl.cli.app import main


@dataclass
class Here:
    """``lsqctl`` in a folder, like CommandLine; for questions, never for workers."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def enter(self, folder: Path) -> None:
        """Go to another folder, until the test ends."""
        self.folder = folder
        self.monkeypatch.chdir(folder)

    def __call__(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        pipes, collected = signal.getsignal(signal.SIGPIPE), gc.get_threshold()
        self.monkeypatch.setattr(sys, "argv", ["lsqctl", *words])
        self.capsys.readouterr()
        ended: object = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
        finally:
            signal.signal(signal.SIGPIPE, pipes)
            gc.set_threshold(*collected)
        told = self.capsys.readouterr()
        if code is not None:  # None: any
            assert ended == code, told
        assert "Traceback" not in told.err
        returncode = ended if isinstance(ended, int) else 1
        return subprocess.CompletedProcess(words, returncode, told.out, told.err)
