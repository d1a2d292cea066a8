"""Laws of the plan: no more pilots than runs or than allowed, none that works is recalled."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lsqctl.cluster.demand import PilotInUse, PilotRole, plan

ready = st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.integers(1, 6), max_size=4)
pilots = st.lists(
    st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from(list(PilotRole))), max_size=12
).map(lambda found: [PilotInUse(str(n), gpus, role) for n, (gpus, role) in enumerate(found, 1)])
COUNTED_ON = {PilotRole.WAITING, PilotRole.STARTING, PilotRole.IDLE}


@given(ready, pilots, st.integers(1, 12))
def test_no_run_gets_two_pilots_and_no_more_are_sent_than_allowed(runs, there, most):
    sent = Counter(plan(runs, there, most).send)
    alive = sum(one.role is not PilotRole.SILENT for one in there)
    assert sum(sent.values()) <= max(0, most - alive)
    assert len(there) + sum(sent.values()) <= max(len(there), 2 * most)
    for gpus, count in sent.items():
        supply = sum(one.gpus == gpus and one.role in COUNTED_ON for one in there)
        assert supply + count <= runs[gpus]


@given(ready, pilots, st.integers(1, 12))
def test_with_room_every_run_gets_a_pilot(runs, there, most):
    sent = Counter(plan(runs, there, 1000).send)
    for gpus, count in runs.items():
        supply = sum(one.gpus == gpus and one.role in COUNTED_ON for one in there)
        assert supply + sent[gpus] >= count


@given(ready, pilots, st.integers(1, 12))
def test_only_waiting_pilots_that_no_run_needs_are_recalled(runs, there, most):
    recalled = plan(runs, there, most).recall
    assert len(recalled) == len(set(recalled))
    by_id = {one.job_id: one for one in there}
    assert all(by_id[job_id].role is PilotRole.WAITING for job_id in recalled)
    for gpus, count in runs.items():
        left = [one for one in there if one.gpus == gpus and one.job_id not in recalled]
        supply = sum(one.role in COUNTED_ON for one in left)
        before = sum(one.gpus == gpus and one.role in COUNTED_ON for one in there)
        assert supply >= min(count, before)


@given(ready, pilots, st.integers(1, 12))
def test_a_second_look_at_the_same_changes_nothing_more(runs, there, most):
    """Two dispatchers that see the same choose the same; what was done is not done again."""
    first = plan(runs, there, most)
    kept = [one for one in there if one.job_id not in first.recall]
    new = [PilotInUse(f"n{n}", gpus, PilotRole.WAITING) for n, gpus in enumerate(first.send)]
    second = plan(runs, kept + new, most)
    assert second.recall == ()
    if not first.recall:
        assert second.send == ()


def test_the_most_urgent_size_comes_first_and_the_newest_pilot_goes_first():
    assert plan({8: 1, 1: 5}, [], 3).send == (8, 1, 1)
    waiting = [PilotInUse(job_id, 1, PilotRole.WAITING) for job_id in ("9", "10", "11")]
    assert plan({1: 1}, waiting, 5).recall == ("11", "10")
    busy = [PilotInUse("3", 1, PilotRole.BUSY)]
    assert plan({}, busy, 5).recall == ()
