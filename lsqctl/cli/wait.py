"""`wait`: until runs have ended, with an exit code that a script can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lsqctl.cli import completion
from lsqctl.cli.console import print_json, say
from lsqctl.cli.options import Json, duration_seconds, open_store
from lsqctl.cli.progress import run_label
from lsqctl.errors import LsqctlError, RunFailed, StillPending, WaitTimeout
from lsqctl.run import EndReason, RunState
from lsqctl.text import join_counts

if TYPE_CHECKING:
    from lsqctl.run import RunStatus
    from lsqctl.services.wait import WaitResult

_MAX_LISTED = 5


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command(epilog="Example: lsqctl wait @last --timeout 2h && lsqctl leaderboard")(wait)


def wait(
    ctx: typer.Context,
    run_refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Ids, unique prefixes, names, or @last.",
            autocompletion=completion.runs,
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="Every cell of this sweep.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(parser=duration_seconds, metavar="TIME", help="90s, 10m, 2h; 0 checks once."),
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
    from lsqctl.services.wait import run_ids
    from lsqctl.services.wait import wait as wait_for

    with open_store(ctx) as store:
        ids = run_ids(store, run_refs or [], sweep)
        result = wait_for(
            store, ids, timeout=timeout, fail_fast=fail_fast, on_end=_print_ended, notify=say
        )
    if json:
        print_json(
            {
                "succeeded": result.succeeded,
                "stopped": result.stopped,
                "failed": result.failed,
                "pending": result.pending,
                "removed": result.removed,
            }
        )
    _print_result(result, len(ids), timeout)


def _print_ended(status: RunStatus) -> None:
    say(f"{status.id}  {run_label(status)}  {_status_text(status)}")


def _status_text(status: RunStatus) -> str:
    return (
        f"{status.state}: {status.reason}: {status.message}"
        if status.message
        else status.state.value
    )


def _print_result(result: WaitResult, total: int, timeout: float | None) -> None:
    """Say what came of it; raise what the exit code stands for."""
    pending = len(result.pending)
    if unsuccessful := [*result.failed, *result.removed]:
        failed = sorted(result.failed, key=lambda status: status.reason is EndReason.PARENT)
        messages = [
            f"{run_label(status)} ({status.id}) {_status_text(status)}" for status in failed
        ]
        messages += [f"{run_id} was removed" for run_id in result.removed]
        more = f", and {len(messages) - _MAX_LISTED} more" if len(messages) > _MAX_LISTED else ""
        rest = f"; {pending} still pending" if pending else ""
        advice = f"; lsqctl runs logs {failed[0].id}" if failed else ""
        raise RunFailed(
            f"{len(unsuccessful)} of {total} did not succeed: "
            f"{', '.join(messages[:_MAX_LISTED])}{more}{rest}{advice}"
        )
    if pending:
        raise _pending_error(result, total, timeout)
    at_a_rung = f", {len(result.stopped)} stopped at a rung" if result.stopped else ""
    say(f"{total - len(result.stopped)} succeeded{at_a_rung}; next: lsqctl leaderboard")


def _pending_error(result: WaitResult, total: int, timeout: float | None) -> LsqctlError:
    states = [status.state for status in result.pending]
    counts = {state: states.count(state) for state in RunState}
    counts_text = join_counts(counts)
    if timeout == 0:
        return StillPending(f"{len(states)} of {total} have not ended: {counts_text}")
    return WaitTimeout(
        f"{len(states)} of {total} had not ended after {timeout:g} s: {counts_text}; "
        "lsqctl watch shows how far they are"
    )
