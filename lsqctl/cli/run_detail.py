"""Print all that is known of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsqctl.cli.cost import cost_line
from lsqctl.cli.render import ago, format_duration, to_json_types, print_table
from lsqctl.facts import Evaluation, MetricSummary, Result
from lsqctl.run import RunDetail


def print_run(
    detail: RunDetail, folder: str, tags: Sequence[str] = (), result: Result | None = None
) -> None:
    """Print the fields of a run, one a line."""
    run = detail.run
    fields = {
        "run": run.name,
        "id": run.id,
        "state": "lost (its worker does not renew)" if run.lease_expired else run.state.value,
        "held": "until `lsqctl runs release`" if run.held and not run.finished_at else "",
        "priority": str(run.priority or ""),
        "reason": ": ".join(filter(None, (run.reason, run.message))),
        "seed": str(run.seed),
        "epoch": f"{run.epoch} of {run.epochs}, step {run.step} of {run.total_steps}",
        "Top-1": "" if run.top1 is None else f"{run.top1:.2f} %",
        "cost": cost_line(result) if result else "",
        "waits for": ", ".join(f"{role}: {parent}" for role, parent in detail.parents.items()),
        "tags": " ".join(tags),
        "note": run.note,
        "created": ago(run.created_at),
        "recipe": run.recipe_sha256[:16],
        "commit": _commit_text(detail.provenance),
        "code": _changed_code(detail),
        "folder": folder,
    }
    print_table(("", ""), [(key, value) for key, value in fields.items() if value])


def _commit_text(provenance: Mapping[str, object]) -> str:
    commit = str(provenance.get("code_commit", ""))[:12]
    return commit + (" with changes" if provenance.get("code_dirty") else "")


def _changed_code(detail: RunDetail) -> str:
    """Return the attempts that ran other code than was submitted; nothing when none did."""
    submitted = detail.provenance.get("code_sha256")
    code_by_attempt = {attempt.number: attempt.environment.get("code_sha256", submitted) for attempt in detail.attempts}
    changed = [str(number) for number, code in code_by_attempt.items() if code != submitted]
    return f"changed after submit: attempt {', '.join(changed)} ran other code" if changed else ""


def print_metrics(summaries: list[MetricSummary]) -> None:
    """Print the last and the best value of each metric."""
    if summaries:
        print()
        print_table(
            ("metric", "last", "at step", "best", "at step"),
            [
                (
                    f"{summary.split}/{summary.name}",
                    f"{summary.last:.6g}",
                    str(summary.last_step),
                    f"{summary.best:.6g}",
                    str(summary.best_step),
                )
                for summary in summaries
            ],
            right_aligned=("last", "at step", "best"),
        )


def print_attempts(detail: RunDetail) -> None:
    """Print who tried, for how long, and how it ended."""
    if not detail.attempts:
        return
    print()
    print_table(
        ("attempt", "worker", "took", "ended", "message"),
        [
            (
                str(attempt.number),
                attempt.worker,
                format_duration((attempt.finished_at - attempt.started_at).total_seconds())
                if attempt.finished_at
                else "",
                str(attempt.reason or "running"),
                attempt.message,
            )
            for attempt in detail.attempts
        ],
    )


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """Return an evaluation for JSON; its bitmap of per-image hits stays in the store."""
    fields: dict[str, object] = to_json_types(evaluation)
    fields.pop("hits", None)
    return fields
