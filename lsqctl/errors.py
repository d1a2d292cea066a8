"""Every error a user may see, and the exit code it ends with.

* LsqctlError                  1
  * UsageError                 2   the command line asks for something that does not fit together
    * UnfitKey                 2   a recipe's key asks for what its network's layers cannot do
    * FilterError              2   a --where that is no filter, or names no column
  * RecipeError                2   one or more mistakes in a recipe; nothing was queued
  * NotFound                   3   no run, recipe, model or dataset has this name
  * StoreError                 4   the database is unreachable, locked or unsafe
    * LockedDatabase           4   another process holds it; to wait may help
    * UnusableDatabase         4   it was removed, replaced or damaged, or has another schema
      * OlderSchema            4   it must be upgraded first, and this may not do it
  * DataError                  1   a dataset or a weights file is missing, damaged or does not fit
  * PluginError                1   a plugin is not trusted, clashes with another, or is broken
  * CannotCompile              1   torch.compile was asked for and does not work on this machine
  * SchedulerAway              1   a scheduler cannot be asked now, which proves nothing
  * PilotRefused               1   a scheduler says that a pilot can never start
  * RankFailed                 1   a process of a run on several has gone, or computes other bits
  * IllegalTransition          1   e.g. cancelling a run that has finished
  * RunFailed                  5   a run that was waited for failed
  * WaitTimeout                6   runs that were waited for had not ended in time
  * StillPending               8   they have not ended, and nobody waited (`wait --timeout 0`)
  * LeaseLost                  75  another attempt owns the run: stop, change nothing
  * Preempted                  75  the attempt was asked to stop and has saved its state
  * Diverged                   77  NaN or infinity where a number was expected

Library code raises these; only ``lsqctl.cli`` prints and exits (``lsqctl.worker.execute`` turns
them into exit codes and end reasons).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class LsqctlError(Exception):
    """A mistake or a fault that ends in one clear line; the message says what to do next."""

    exit_code: ClassVar[int] = 1


class UsageError(LsqctlError):
    """The command line asks for something that does not fit together."""

    exit_code = 2


class UnfitKey(UsageError):
    """A key of a recipe asks for what its network's layers cannot do; ``hint`` says what would."""

    def __init__(self, key: str, reason: str, hint: str) -> None:
        self.key, self.reason, self.hint = key, reason, hint
        super().__init__(f"{key}: {reason}; {hint}")


class NotFound(LsqctlError):
    """No run, recipe, model or dataset has this name."""

    exit_code = 3


class StoreError(LsqctlError):
    """The database is unreachable, locked, or unsafe to use."""

    exit_code = 4


class LockedDatabase(StoreError):
    """Another process has held the database for longer than all tries: to wait may help."""


class UnusableDatabase(StoreError):
    """The database was removed, replaced or damaged, or has another schema: do not try again."""


class OlderSchema(UnusableDatabase):
    """The database must be upgraded first, and whoever opened it may not do that."""


class DataError(LsqctlError):
    """A dataset or a weights file is missing, damaged, or does not fit the model."""


class PluginError(LsqctlError):
    """A plugin is not trusted, claims a name that is taken, or its code is wrong."""


class CannotCompile(LsqctlError):
    """``torch.compile`` was asked for and does not work on this machine."""


class SchedulerAway(LsqctlError):
    """A scheduler cannot be asked now: nothing is known, and nothing may be concluded."""


class PilotRefused(LsqctlError):
    """A scheduler says that a pilot can never start as it was asked for."""


class RankFailed(LsqctlError):
    """A process of a run on several has gone, or computes other bits than the first one.

    ``is_lost``: it does not answer, which does not say why.
    """

    def __init__(self, message: str, *, is_lost: bool = False) -> None:
        self.is_lost = is_lost
        super().__init__(message)


class IllegalTransition(LsqctlError):
    """A run cannot go from its state to the one asked for."""


class RunFailed(LsqctlError):
    """A run that was waited for did not succeed."""

    exit_code = 5


class WaitTimeout(LsqctlError):
    """Runs that were waited for had not ended in time."""

    exit_code = 6


class StillPending(LsqctlError):
    """Runs have not ended, and nobody waited for them."""

    exit_code = 8


class LeaseLost(LsqctlError):
    """Another attempt owns the run now: stop, and change nothing."""

    exit_code = 75


class Preempted(LsqctlError):
    """The attempt was asked to stop and has saved its state."""

    exit_code = 75


class Diverged(LsqctlError):
    """A loss, gradient or step size is NaN or infinite."""

    exit_code = 77


@dataclass(frozen=True, slots=True)
class Position:
    """A span in a text file: lines and columns count from 1, ``end_column`` is exclusive."""

    line: int
    column: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong with a recipe, and where.

    ``code`` is stable (``R101``); ``title`` stands alone; ``message`` stands under the carets and
    reads alone; ``hints`` say what to do. ``file`` is as the user named it; ``position`` is None
    for what no line of the file says (a mistake in ``--set``, an empty file).
    """

    code: str
    title: str
    message: str
    file: str
    position: Position | None = None
    source_line: str = ""
    hints: tuple[str, ...] = ()
    cell: str = ""

    @property
    def level(self) -> str:
        """``error``, or ``warning`` for what may be meant."""
        return "warning" if self.code.startswith("W") else "error"

    def __str__(self) -> str:
        where = self.file
        if self.position:
            where += f":{self.position.line}:{self.position.column}"
        cell = f" ({self.cell})" if self.cell else ""
        return f"{where}: {self.level}[{self.code}]: {self.title}{cell}: {self.message}"


class RecipeError(LsqctlError):
    """One or more mistakes in a recipe; nothing was queued."""

    exit_code = 2

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))


class FilterError(UsageError):
    """A ``--where`` that is no filter, or names no column; ``diagnostics`` says where."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostics = (diagnostic,)
        super().__init__(str(diagnostic))
