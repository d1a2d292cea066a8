"""The runs of one recipe as a group: how each number of a row is made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TypeVar

from lsqctl.events import BoardRow
from lsqctl.leaderboard.statistics import mean, percent, top1_interval

Value = str | int | float | bool | None
T = TypeVar("T")


@dataclass(frozen=True)
class RunGroup:
    """Succeeded runs of one recipe, at most one a seed, by seed.

    ``best_of`` above 1 says that ``runs`` is the best of so many seeds; ``n_failed`` counts the
    runs of the recipe that failed.
    """

    runs: tuple[BoardRow, ...]
    n_failed: int = 0
    best_of: int = 1

    @cached_property
    def newest(self) -> BoardRow:
        """The run that was queued last."""
        return max(self.runs, key=recency_key)

    @cached_property
    def best(self) -> BoardRow:
        """The best seed's run."""
        return select_best_run(self.runs)

    @cached_property
    def top1s(self) -> list[float]:
        """Top-1 of each run, in percent."""
        return [top1_percent(run) for run in self.runs]

    @cached_property
    def top1_mean(self) -> float:
        """The mean Top-1, in percent."""
        return mean(self.top1s)

    @cached_property
    def eval_n(self) -> int:
        """The images of one evaluation; the fewest, should the runs differ."""
        return min(run.n_total for run in self.runs if run.n_total)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean Top-1."""
        return top1_interval(self.top1s, self.eval_n)

    @cached_property
    def fp32_top1(self) -> float | None:
        """The mean Top-1 before quantization, of the runs that measured it."""
        percents = [
            percent(run.fp32_n_correct, run.fp32_n_total)
            for run in self.runs
            if run.fp32_n_correct is not None and run.fp32_n_total
        ]
        return mean(percents) if percents else None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a column's value comes from: one run's, and the group's from those of its runs.

    ``of_run`` is None for what only a group has; such a column filters after ranking.
    ``at_submit`` says that a run has it before it has a result.
    """

    of_group: Callable[[RunGroup], Value]
    of_run: Callable[[BoardRow], Value | datetime] | None = None
    at_submit: bool = field(default=False, kw_only=True)


def newest(name: str) -> Source:
    """What the newest run says; it is known of a run that has no result, too."""

    def of_run(run: BoardRow) -> Value:
        value: Value = getattr(run, name)
        return value or None

    return Source(
        lambda group: of_run(group.newest),
        of_run,
        at_submit=True,
    )


def first_known(name: str, per: float = 1) -> Source:
    """The first value that a run knows, in units of ``per``."""

    def of_run(run: BoardRow) -> float | None:
        value: float | None = getattr(run, name)
        return value if value is None or per == 1 else value / per

    return Source(lambda group: _first_not_none(map(of_run, group.runs)), of_run)


def distinct(name: str, *, at_submit: bool = False) -> Source:
    """The distinct texts of the runs, parted by ``; ``."""
    return Source(
        lambda group: join_distinct(getattr(run, name) for run in group.runs),
        lambda run: getattr(run, name) or None,
        at_submit=at_submit,
    )


def of_group(value: Callable[[RunGroup], Value]) -> Source:
    """What only the group has."""
    return Source(value)


def mean_percent(count: str) -> Source:
    """The mean of a count in percent of the images, unless a run has none."""

    def value(group: RunGroup) -> float | None:
        percents = [
            percent(getattr(run, count), run.n_total)
            for run in group.runs
            if getattr(run, count) is not None and run.n_total
        ]
        return mean(percents) if len(percents) == len(group.runs) else None

    return Source(value)


def mean_of(name: str, per: float = 1) -> Source:
    """The mean of the runs that know it, in units of ``per``."""

    def value(group: RunGroup) -> float | None:
        values = [getattr(run, name) / per for run in group.runs if getattr(run, name) is not None]
        return mean(values) if values else None

    return Source(value)


def recency_key(run: BoardRow) -> tuple[datetime, str, str, str]:
    """Return a key that orders runs by age, the newest last."""
    return to_utc(run.created_at), run.run_id, run.variant, run.selection


def top1_percent(run: BoardRow) -> float:
    """Return the Top-1 of a run that has counts, in percent."""
    if run.n_correct is None or not run.n_total:
        raise ValueError(f"run {run.run_id} has no counts")
    return percent(run.n_correct, run.n_total)


def select_best_run(runs: Iterable[BoardRow]) -> BoardRow:
    """Return the run with the highest Top-1; of equal ones that of the lowest seed."""
    return min(runs, key=lambda run: (-top1_percent(run), run.seed, run.run_id))


def group_of(runs: Sequence[BoardRow], *, n_failed: int = 0, best_of: int = 1) -> RunGroup:
    """Return runs as a group, by seed."""
    by_seed = sorted(runs, key=lambda run: (run.seed, run.run_id))
    return RunGroup(tuple(by_seed), n_failed, best_of)


def join_distinct(texts: Iterable[str]) -> str | None:
    """Return the distinct texts that are not empty, parted by ``; ``; None for none."""
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None


def all_verified(group: RunGroup) -> bool | None:
    """Return whether every run was verified: False where one failed, None where not all tried."""
    verifications = {run.verified for run in group.runs}
    return False if False in verifications else True if verifications == {True} else None


def any_dirty(group: RunGroup) -> bool | None:
    """Return whether the code of a run had uncommitted changes; None where none knows."""
    flags = [run.code_dirty for run in group.runs if run.code_dirty is not None]
    return any(flags) if flags else None


def to_utc(time: datetime) -> datetime:
    """Return a time in UTC; one without a zone is taken for UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _first_not_none(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def difference(left: float | None, right: float | None) -> float | None:
    """Return ``left - right`` to ten decimals, or None where one is unknown."""
    return None if left is None or right is None else round(left - right, 10)
