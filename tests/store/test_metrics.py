"""Laws of metrics, checkpoints and results."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsqctl.errors import LeaseLost, NotFound
from lsqctl.events import Metric, MetricSummary, Progress, QuantizerStats
from lsqctl.run import EndReason, RunState
from lsqctl.store import Store
from tests.store.samples import checkpoint, evaluation, new, result, submit, take, zombie

VALUES = [0.1, -1e300, 5e-324, math.nan, math.inf, -math.inf, 0.0]
points = st.builds(
    Metric,
    st.sampled_from(["top1", "loss"]),
    st.sampled_from(["train", "test"]),
    st.integers(0, 20),
    st.sampled_from([*VALUES, 1.0, 2.0, 3.0]),
)


def comparable(metrics: list[Metric]) -> list[tuple[Any, ...]]:
    return [(m.name, m.split, m.step, repr(m.value)) for m in metrics]


def summary_of(metrics: list[Metric]) -> list[tuple[Any, ...]]:
    """What the summaries must say, worked out the slow way."""
    found = []
    for key in sorted({(m.name, m.split) for m in metrics}):
        mine = [m for m in metrics if (m.name, m.split) == key]
        numbers = [m for m in mine if not math.isnan(m.value)] or mine
        sign = -1 if key[0] == "loss" else 1
        # the first of equals wins
        best = max(numbers, key=lambda m: 0 if math.isnan(m.value) else sign * m.value)
        found.append((*key, repr(mine[-1].value), mine[-1].step, repr(best.value), best.step))
    return found


def flat(found: list[MetricSummary]) -> list[tuple[Any, ...]]:
    return [(s.name, s.split, repr(s.last), s.last_step, repr(s.best), s.best_step) for s in found]


def test_every_float_comes_back_as_it_was(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    written = [Metric("loss", "train", step, value) for step, value in enumerate(VALUES)]
    store.metrics.log(claim.lease, written, Progress(6, 60, 1, 10))
    assert comparable(store.metrics.points(claim.run.id)) == comparable(written)
    run = store.runs.detail(claim.run.id).run
    assert (run.step, run.total_steps, run.epoch, run.epochs) == (6, 60, 1, 10)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.lists(points, max_size=6), max_size=4), cut=st.integers(-1, 20))
def test_summaries_agree_with_the_points_whatever_is_logged_replaced_or_cut_off(
    store: Store, batches: list[list[Metric]], cut: int
) -> None:
    store.queue.enqueue([new("a")], if_exists="rerun")
    claim = take(store)
    expected: dict[tuple[str, str, int], Metric] = {}
    for batch in batches:
        store.metrics.log(claim.lease, batch)
        expected |= {(m.name, m.split, m.step): m for m in batch}
    for kept in (20, cut):
        expected = {key: m for key, m in expected.items() if m.step <= kept}
        metrics = [expected[key] for key in sorted(expected)]
        assert comparable(store.metrics.points(claim.run.id)) == comparable(metrics)
        assert flat(store.metrics.summaries(claim.run.id)) == summary_of(metrics)
        store.metrics.resume_at(claim.lease, None if cut == -1 else cut)
    store.queue.finish(claim.lease, result())


def test_resuming_deletes_what_lies_after_the_checkpoint_and_nothing_else(store: Store) -> None:
    submit(store, new("a"), new("other"))
    claim, other = take(store), take(store)
    for lease in (claim.lease, other.lease):
        for step in (10, 20):
            metrics = [Metric("top1", "test", step, float(step))]
            store.checkpoints.record(lease, checkpoint(step), metrics)
        store.metrics.log(lease, [Metric("top1", "test", 25, 99.0)], Progress(25, 100, 2, 10))
    store.metrics.resume_at(claim.lease, 10)
    assert [m.step for m in store.metrics.points(claim.run.id)] == [10]
    assert [c.step for c in store.checkpoints.list(claim.run.id)] == [10]
    (summary,) = store.metrics.summaries(claim.run.id)
    assert (summary.last, summary.best) == (10.0, 10.0)
    detail = store.runs.detail(claim.run.id)
    assert (detail.run.step, detail.attempts[-1].resumed_step) == (10, 10)
    assert [m.step for m in store.metrics.points(other.run.id)] == [10, 20, 25]
    store.metrics.resume_at(claim.lease, None)
    assert store.metrics.points(claim.run.id) == []
    assert store.runs.detail(claim.run.id).run.top1 is None


def test_metrics_are_chosen_by_name_and_split(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    names = [("top1", "test"), ("loss", "test"), ("loss", "train")]
    store.metrics.log(claim.lease, [Metric(*name, 1, 1.0) for name in names])
    read = store.metrics.points
    assert len(read(claim.run.id, "loss")) == 2
    assert len(read(claim.run.id, split="test")) == 2
    assert [(m.name, m.split) for m in read(claim.run.id, "loss", "train")] == [names[2]]


def test_a_list_shows_the_latest_top1_of_the_evaluation_split(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    for step, value in ((1, 50.0), (2, 40.0)):
        store.metrics.log(claim.lease, [Metric("top1", "test", step, value)])
    store.metrics.log(claim.lease, [Metric("top1", "train", 3, 99.0)])
    assert store.runs.list()[0].top1 == 40.0
    averaged = evaluation(variant="ema", n_correct=7)
    store.queue.finish(claim.lease, result(evaluation(headline=False, n_correct=4), averaged))
    assert store.runs.list()[0].top1 == pytest.approx(70.0)  # the headline's, as on the board


@pytest.mark.parametrize(
    ("value", "best"), [(10.0, (60.0, 3)), (70.0, (70.0, 2)), (float("nan"), (60.0, 3))]
)
def test_the_best_of_a_metric_is_found_again_when_its_point_is_replaced(
    store: Store, value: float, best: tuple[float, int]
) -> None:
    submit(store, new("a"))
    claim = take(store)
    for step, first in ((1, 50.0), (2, 90.0), (3, 60.0)):
        store.metrics.log(claim.lease, [Metric("top1", "test", step, first)])
    store.metrics.log(claim.lease, [Metric("top1", "test", 2, value)])
    (summary,) = store.metrics.summaries(claim.run.id)
    assert (summary.best, summary.best_step) == best
    assert (summary.last, summary.last_step) == (60.0, 3)


def test_checkpoints_are_forgotten_when_swept_and_one_is_best(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.checkpoints.record(claim.lease, checkpoint(10, best=True))
    store.checkpoints.record(claim.lease, checkpoint(20, best=True))
    store.checkpoints.record(claim.lease, checkpoint(30), replaced=[checkpoint(10).directory])
    found = [(c.step, c.best, c.sha256) for c in store.checkpoints.list(claim.run.id)]
    assert found == [(30, False, "sha-30"), (20, True, "sha-20")]


def test_a_result_comes_back_as_it_was_and_its_headline_is_on_the_board(store: Store) -> None:
    submit(store, new("a"), new("b"), new("c"))
    claim, failed = take(store), take(store)
    store.checkpoints.record(claim.lease, checkpoint(100))
    evaluations = evaluation(selection="best", headline=False, n_correct=10), evaluation()
    whole = result(*evaluations)
    store.queue.finish(claim.lease, whole)
    store.queue.fail(failed.lease, EndReason.OOM, "too big")
    assert store.results.get(claim.run.id) == whole
    assert store.results.evaluations(claim.run.id) == list(evaluations)
    good, bad = store.results.board_rows()
    assert (good.name, good.n_correct, good.bops, good.act_bits) == ("a", 9, 10**13, 3)
    assert (good.checkpoint_sha256, good.code_commit, good.code_dirty) == ("sha-100", "abc", False)
    assert (bad.name, bad.state, bad.n_correct, bad.weight_bits) == ("b", RunState.FAILED, None, 4)
    assert bad.notes == "too big"
    assert (good.n_correct_last, good.n_correct_best, bad.n_correct_best) == (9, 10, None)


def test_a_run_is_scored_by_its_headline_with_its_hits(store: Store) -> None:
    submit(store, new("a"), new("b"))
    claim = take(store)
    store.queue.finish(
        claim.lease, result(evaluation(selection="best", headline=False), evaluation(n_correct=8))
    )
    ids = [run.id for run in store.runs.list()]
    (scored,) = store.results.per_image_results([*ids, "unknown"])
    assert (scored.run_id, scored.name, scored.seed) == (claim.run.id, "a", 0)
    assert (scored.selection, scored.n_correct, scored.n_total) == ("last", 8, 10)
    assert (scored.hits, scored.data_digest, scored.cell) == (b"\xff\x40", "d", "")


def test_a_result_is_marked_when_it_was_measured_again(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    store.queue.finish(claim.lease, result())
    assert store.results.board_rows()[0].verified is None
    for verified in (False, True):
        store.results.mark_verified(claim.run.id, ("raw", "last"), verified=verified)
        assert store.results.board_rows()[0].verified is verified
    with pytest.raises(NotFound, match="ema"):
        store.results.mark_verified(claim.run.id, ("ema", "last"), verified=True)


def stats(name: str, step: int, **changes: Any) -> QuantizerStats:
    values: dict[str, Any] = {"bits": 4, "signed": True, "epoch": step // 10, "codes_used": 15}
    values |= dict.fromkeys(("step_size", "step_size_min", "step_size_max"), 0.1 + step)
    values |= {"kind": "weight", "clip_fraction": 0.1, "n_codes": 16, "n_values": 99} | changes
    return QuantizerStats(name=name, step=step, **values)


def test_what_was_seen_of_quantizers_comes_back_and_is_cut_back_like_points(store: Store) -> None:
    submit(store, new("a"), new("other"))
    claim, other = take(store), take(store)
    whole = [stats(name, step) for step in (10, 20, 30) for name in ("z", "a", "m")]
    odd = [stats("a", 20, r_ratio=math.inf, oscillation_rate=0.5, clamped=3), whole[5]]
    for lease in (claim.lease, other.lease):
        store.metrics.log(lease, [Metric("top1", "test", 10, 1.0), *whole[:4]])  # half an epoch
        store.checkpoints.record(lease, checkpoint(30), whole[4:])
    assert store.metrics.quantizer_stats(claim.run.id) == whole
    store.metrics.log(claim.lease, odd)  # replaces
    assert store.metrics.quantizer_stats(claim.run.id) == [*whole[:4], odd[0], *whole[5:]]
    store.metrics.resume_at(claim.lease, 10)
    assert store.metrics.quantizer_stats(claim.run.id) == whole[:3]
    store.metrics.resume_at(claim.lease, None)
    assert store.metrics.quantizer_stats(claim.run.id) == []
    assert store.metrics.quantizer_stats(other.run.id) == whole


def test_no_zombie_writes_what_it_saw_of_quantizers(store: Store) -> None:
    submit(store, new("a"))
    claim = take(store)
    with pytest.raises(LeaseLost):
        store.metrics.log(zombie(claim.lease), [stats("a", 10)])
    assert store.metrics.quantizer_stats(claim.run.id) == []
