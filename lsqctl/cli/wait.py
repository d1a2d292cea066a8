"""`wait`: until runs have ended, with an exit code that a script can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.durations import duration
from lsqctl.cli.live import label
from lsqctl.cli.render import print_json, say
from lsqctl.cli.state import Json, workspace
from lsqctl.errors import LsqctlError, NotFound, RunFailed, StillPending, UsageError, WaitTimeout
from lsqctl.run import RunState

if TYPE_CHECKING:
    from lsqctl.api.wait import Waited
    from lsqctl.store import Store
    from lsqctl.store.standing import Standing

_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl wait @last --timeout 2h && lsqctl leaderboard")(wait)


def wait(
    ctx: typer.Context,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Ids, unique prefixes, names, or @last.",
            autocompletion=completing.runs,
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Every cell of this sweep.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="90s, 10m, 2h; 0 looks once."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="End at the first failure.")
    ] = False,
    json: Json = False,
) -> None:
    """Wait until runs have ended.

    Exit code 0: all succeeded; 5: one failed or was cancelled; 6: the time was over first; 8: not
    ended, and --timeout was 0.
    """
    from lsqctl.api.wait import wait as wait_for

    with workspace(ctx) as store:
        ids = _wanted(store, runs or [], sweep)
        ended = wait_for(store, ids, timeout=timeout, fail_fast=fail_fast, ended=_tell)
    if json:
        print_json(
            {
                "succeeded": ended.succeeded,
                "failed": ended.failed,
                "pending": ended.pending,
                "removed": ended.removed,
            }
        )
    _conclude(ended, len(ids), timeout)


def _wanted(store: Store, runs: list[str], sweep: str | None) -> list[str]:
    from lsqctl.api.sweeps import sweep_named

    if not runs and sweep is None:
        raise UsageError("name runs to wait for, or a sweep with --sweep")
    ids = [store.resolve(ref).id for ref in runs]
    if sweep is not None:
        name = sweep_named(store, sweep)
        cells = store.sweep_run_ids(name or "")
        if not cells:
            raise NotFound(f"the sweep `{sweep}` has no runs left; `lsqctl sweep status {sweep}`")
        ids += cells
    return list(dict.fromkeys(ids))


def _tell(one: Standing) -> None:
    say(f"{one.id}  {label(one)}  {_how(one)}")


def _how(one: Standing) -> str:
    return f"{one.state}: {one.reason}: {one.message}" if one.message else one.state.value


def _conclude(ended: Waited, total: int, timeout: float | None) -> None:
    """Say what came of it; raise what the exit code stands for."""
    pending = len(ended.pending)
    if bad := [*ended.failed, *ended.removed]:
        told = [f"{label(one)} ({one.id}) {_how(one)}" for one in ended.failed]
        told += [f"{run_id} was removed" for run_id in ended.removed]
        more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        rest = f"; {pending} still pending" if pending else ""
        advice = f"; lsqctl runs logs {ended.failed[0].id}" if ended.failed else ""
        raise RunFailed(
            f"{len(bad)} of {total} did not succeed: {', '.join(told[:_SHOWN])}{more}{rest}{advice}"
        )
    if pending:
        raise _unfinished(ended, total, timeout)
    say(f"{total} succeeded; next: lsqctl leaderboard")


def _unfinished(ended: Waited, total: int, timeout: float | None) -> LsqctlError:
    states = [one.state for one in ended.pending]
    counts = {state: states.count(state) for state in RunState}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if timeout == 0:
        return StillPending(f"{len(states)} of {total} have not ended: {told}")
    return WaitTimeout(
        f"{len(states)} of {total} had not ended after {timeout:g} s: {told}; "
        "lsqctl watch shows how far they are"
    )
