"""Laws of slots: nobody shares one, reserved GPUs are whole, excluded ones are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import UsageError
from lsqctl.settings import thread_variables
from lsqctl.worker.slots import Allocation, Pool, cpu_cores, make_slots

GPUS = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")
gpus = st.integers(0, 4).map(lambda count: GPUS[:count])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("give"), st.integers(0, 9)),
        st.tuples(st.just("shut"), st.sets(st.sampled_from(GPUS))),
    ),
    max_size=30,
)


@given(gpus, st.integers(1, 3), steps)
def test_no_slot_is_held_twice_and_a_reserved_gpu_is_held_whole(names, per_gpu, todo):
    pool = Pool(make_slots(names, per_gpu))
    held: list[tuple[int, Allocation]] = []
    for what, value in todo:
        if what == "shut":
            pool = pool.excluding(value)
        elif what == "give" and held:
            pool = pool.release(held.pop(value % len(held))[1])
        elif what == "take":
            room = pool.free_ranks >= value if value > 1 else bool(pool.free)
            if not room:
                with pytest.raises(ValueError, match=r"free|wanted"):
                    pool.allocate(value)
                continue
            shut = pool.excluded
            share, pool = pool.allocate(value)
            assert not shut & set(share.gpus)
            held.append((value, share))
        indexes = [slot.index for _, share in held for slot in share.slots]
        assert len(indexes) == len(set(indexes))
        assert pool.taken == set(indexes)
        for wanted, share in held:
            if wanted > 1 and not names:
                assert len(share.slots) == wanted
            elif wanted > 1:
                assert len(share.gpus) == wanted
                assert set(share.slots) == {one for one in pool.slots if one.gpu in share.gpus}
    for _, share in held:
        pool = pool.release(share)
    assert pool.excluding(()) == Pool(make_slots(names, per_gpu))


@given(gpus, st.integers(1, 3))
def test_attempts_are_spread_over_the_gpus_before_they_share_one(names, per_gpu):
    pool = Pool(make_slots(names, per_gpu))
    first = []
    for _ in range(max(1, len(names))):
        share, pool = pool.allocate()
        first += share.gpus
    assert sorted(first) == sorted(names)


@given(gpus, st.integers(1, 64))
def test_threads_are_the_cores_divided_among_the_slots(names, per_gpu):
    slots = make_slots(names, per_gpu)
    assert len(slots) == max(1, len(names)) * per_gpu
    assert sum(one.threads for one in slots) <= max(cpu_cores(), len(slots))
    assert min(one.threads for one in slots) >= 1


def test_what_an_attempt_sees_is_its_allocation_and_no_more():
    pool = Pool(make_slots(GPUS[:3], 2))
    share, _ = pool.excluding({"GPU-b"}).allocate(2)
    assert share.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-c"
    assert share.env["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert share.env["OMP_NUM_THREADS"] == str(share.threads)
    assert share.device == "cuda:0"
    alone, _ = Pool(make_slots((), 1)).allocate()
    assert alone.device == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in alone.env


@pytest.mark.parametrize("count", [0, -1, 257])
def test_slots_out_of_range_are_refused(count):
    with pytest.raises(UsageError, match="1 to 256"):
        make_slots((), count)


def test_a_job_of_slurm_uses_no_more_cores_than_it_has(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert cpu_cores() == 8
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cpu_cores() == 2
    assert [slot.threads for slot in make_slots((), 2)] == [1, 1]
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2(x3)")
    assert cpu_cores() == 8


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ({}, {"GOMP_SPINCOUNT": "30000"}),
        ({"GOMP_SPINCOUNT": "7"}, {}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
    ],
)
def test_threads_do_not_wait_busily_unless_their_owner_says_how_they_wait(monkeypatch, own, added):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    counts = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert thread_variables(2) == counts | added
