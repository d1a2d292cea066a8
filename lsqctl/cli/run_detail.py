"""Print all that is known of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsqctl.cli.cost import cost_line
from lsqctl.cli.render import ago, duration, plain, print_table
from lsqctl.facts import Evaluation, MetricSummary, Result
from lsqctl.run import RunDetail


def print_detail(
    detail: RunDetail, folder: str, tags: Sequence[str] = (), result: Result | None = None
) -> None:
    """Print the facts of a run, one a line."""
    run = detail.run
    facts = {
        "run": run.name,
        "id": run.id,
        "state": "lost (its worker does not renew)" if run.lease_lapsed else run.state.value,
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
        "commit": _commit(detail.snapshot),
        "code": _code(detail),
        "folder": folder,
    }
    print_table(("", ""), [(key, value) for key, value in facts.items() if value])


def _commit(snapshot: Mapping[str, object]) -> str:
    commit = str(snapshot.get("code_commit", ""))[:12]
    return commit + (" with changes" if snapshot.get("code_dirty") else "")


def _code(detail: RunDetail) -> str:
    """Return the attempts that ran other code than was submitted; nothing when none did."""
    submitted = detail.snapshot.get("code_sha256")
    used = {one.number: one.circumstances.get("code_sha256", submitted) for one in detail.attempts}
    other = [str(number) for number, code in used.items() if code != submitted]
    return f"changed after submit: attempt {', '.join(other)} ran other code" if other else ""


def print_metrics(summaries: list[MetricSummary]) -> None:
    """Print the last and the best value of each metric."""
    if summaries:
        print()
        print_table(
            ("metric", "last", "at step", "best", "at step"),
            [
                (
                    f"{one.split}/{one.name}",
                    f"{one.last:.6g}",
                    str(one.last_step),
                    f"{one.best:.6g}",
                    str(one.best_step),
                )
                for one in summaries
            ],
            right=("last", "at step", "best"),
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
                str(one.number),
                one.worker,
                duration((one.finished_at - one.started_at).total_seconds())
                if one.finished_at
                else "",
                str(one.reason or "running"),
                one.message,
            )
            for one in detail.attempts
        ],
    )


def without_hits(evaluation: Evaluation) -> dict[str, object]:
    """Return an evaluation for JSON; its bitmap of per-image hits stays in the store."""
    found: dict[str, object] = plain(evaluation)
    found.pop("hits", None)
    return found
