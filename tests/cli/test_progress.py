"""What a worker says of its runs where there is no terminal: one line an event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lsqctl.cli.progress import attempt_end_text, progress_text
from lsqctl.run import EndReason, Run, RunState
from lsqctl.worker.messages import ExitReport

RUN = Run("k7x2m9qd", "a", RunState.RUNNING, 0, "r", "s", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 25}, "starting"),
        ({"epochs": 0}, "evaluating"),
        ({"epochs": 25, "step": 39, "total_steps": 9775}, "epoch 0/25, step 39/9775"),
        (
            {"epochs": 2, "epoch": 1, "step": 5, "total_steps": 10, "top1": 91.04},
            "epoch 1/2, step 5/10 91.04 %",
        ),
    ],
)
def test_progress_names_no_step_before_there_is_one(changes, told):
    assert progress_text(replace(RUN, **changes)) == told


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        (RunState.SUCCEEDED, EndReason.COMPLETED, "succeeded in 9 s: Top-1 unknown"),
        (RunState.CANCELLED, EndReason.PREEMPTED, "cancelled; lsqctl runs retry k7x2m9qd goes on"),
        (RunState.QUEUED, EndReason.PREEMPTED, "saved and requeued: asked to stop"),
        (RunState.QUEUED, EndReason.WORKER_LOST, "lease lost: why"),
        (RunState.FAILED, EndReason.DIVERGED, "failed: diverged: why; lsqctl runs logs k7x2m9qd"),
    ],
)
def test_the_end_of_an_attempt_is_told_by_what_became_of_its_run(state, reason, told):
    message = "" if reason is EndReason.PREEMPTED else "why"
    line = attempt_end_text(replace(RUN, state=state), ExitReport(reason, message), 9.0)
    assert line.startswith(f"k7x2m9qd  a  {told}")
