"""What a name stands for in a comparison: a run, all seeds of a recipe, or a sweep's cells."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lsqctl.errors import NotFound, UsageError
from lsqctl.events import DEPLOYED, DeployedResult
from lsqctl.run import EndReason
from lsqctl.services.compare import CellComparisons, compare, compare_cells
from lsqctl.store import open_store
from tests.store.samples import evaluation, identity, new, result, submit, take


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'lsqctl.db'}") as opened:
        opened.workers.register(identity("w1"))
        yield opened


def done(store, name, right, *, seed=0, **options):
    """Submit a run and finish it with so many of 10 images right; return its id."""
    (run_id,) = submit(store, new(name, seed=seed, **options))
    hits = ((1 << right) - 1 << (16 - right)).to_bytes(2, "big")
    store.queue.finish(take(store).lease, result(evaluation(n_correct=right, hits=hits)))
    return run_id


def failed(store, name, seed):
    submit(store, new(name, seed=seed))
    store.queue.fail(take(store).lease, EndReason.DIVERGED, "nan")


def test_a_name_stands_for_all_seeds_and_its_failed_runs_are_said(store):
    for seed in (0, 1):
        done(store, "a", 9, seed=seed)
        done(store, "b", 8, seed=seed)
    failed(store, "a", 2)
    found = compare(store, "a", "b")
    assert (found.first.seeds, found.first.n_failed, found.second.n_failed) == ((0, 1), 1, 0)
    assert "1 failed runs of a are not in its mean" in found.notes


def test_a_seed_that_was_run_again_counts_by_its_newest_run(store):
    done(store, "a", 2)
    submit(store, replace(new("a"), run_sha256="again"))
    hits = b"\xff\x80"
    store.queue.finish(take(store).lease, result(evaluation(n_correct=9, hits=hits)))
    done(store, "b", 9)
    assert compare(store, "a", "b").difference == 0


def test_another_recipe_of_the_same_name_is_left_out_and_said(store):
    done(store, "a", 2)
    submit(store, replace(new("a", seed=1), recipe_sha256="other"))
    store.queue.finish(take(store).lease, result(evaluation(n_correct=9, hits=b"\xff\x80")))
    done(store, "b", 9, seed=1)
    found = compare(store, "a", "b")
    assert (found.first.seeds, found.difference) == ((1,), 0)
    assert "a: 1 other recipe of this name left out; name its runs" in found.notes


def test_sweeps_are_compared_cell_by_cell(store):
    for sweep, right in (("x", 9), ("y", 8)):
        for cell in ("w2", "w4"):
            for seed in (0, 1):
                done(store, f"{sweep}-{cell}", right - seed, seed=seed, sweep=sweep)
    found = compare(store, "x", "y")
    assert [(row.cell, row.seed, row.difference) for row in found.rows] == [
        *(("w2", 0, 10.0), ("w2", 1, 10.0), ("w4", 0, 10.0), ("w4", 1, 10.0))
    ]
    assert "a paired t-test over 4 cells and seeds" in {one.name for one in found.tests}
    with pytest.raises(UsageError, match="x has w2, w4; x-w2 has one cell; name one recipe"):
        compare(store, "x", "x-w2")


def test_each_cell_of_a_sweep_is_compared_with_one_recipe(store):
    for cell, right in (("w2", 3), ("w4", 9)):
        done(store, f"x-{cell}", right, sweep="x")
    submit(store, new("x-w8", sweep="x"))
    store.queue.fail(take(store).lease, EndReason.DIVERGED, "nan")
    done(store, "base", 8)
    found = compare_cells(store, "x", "base")
    assert isinstance(found, CellComparisons)
    pairs = [(one.first.label, one.second.label, one.difference) for one in found.comparisons]
    assert pairs == [("x-w2", "base", -50.0), ("x-w4", "base", 10.0)]
    assert found.answer == "x against base, cell by cell: 2 undecided"
    assert {"without a result yet: x-w8", "1 failed run of x in no mean"} < {*found.notes}
    assert "2 comparisons: one in 20 differs by luck alone, unless p is below 0.025" in str(found)
    turned = compare_cells(store, "base", "x")
    assert isinstance(turned, CellComparisons)
    assert [one.difference for one in turned.comparisons] == [50.0, -10.0]
    own = compare_cells(store, "x", "x-w2")
    assert isinstance(own, CellComparisons)
    assert [one.first.label for one in own.comparisons] == ["x-w4"]


def test_each_cell_of_a_sweep_is_compared_as_its_files_answered(store):
    for cell, right in (("w2", 3), ("w4", 9)):
        run_id = done(store, f"x-{cell}", right, sweep="x")
        deployed(store, run_id, right)
    done(store, "base", 8)
    found = compare_cells(store, "x:deployed", "base")
    assert isinstance(found, CellComparisons)
    labels = [one.first.label for one in found.comparisons]
    assert labels == ["x-w2:deployed", "x-w4:deployed"]


def test_a_sweep_of_one_recipe_is_compared_with_any_other(store):
    for seed in (0, 1):
        done(store, "a", 9, seed=seed, sweep="seeds of a")
        done(store, "b", 8, seed=seed)
    assert [row.seed for row in compare(store, "seeds of a", "b").rows] == [0, 1]


def test_a_name_of_a_recipe_and_of_a_sweep_is_the_recipes_which_is_said(store):
    done(store, "x-w2", 3, sweep="x")
    done(store, "x-w4", 5, sweep="x")
    done(store, "base", 8)
    done(store, "x", 9)
    found = compare(store, "x", "base")
    assert (found.first.label, found.difference) == ("x", 10.0)
    said = "x names a recipe and a sweep of other runs: the recipe's; `x:sweep` is the sweep"
    assert said in found.notes
    cells = compare_cells(store, "x:sweep", "base")
    assert isinstance(cells, CellComparisons)
    assert [one.first.label for one in cells.comparisons] == ["x-w2", "x-w4"]
    against_itself = compare_cells(store, "x:sweep", "x")
    assert isinstance(against_itself, CellComparisons)
    assert against_itself.answer.startswith("x:sweep against x, cell by cell")
    with pytest.raises(NotFound, match="no sweep `base`"):
        compare(store, "base:sweep", "x")


def test_a_sweep_of_the_very_runs_of_a_recipe_needs_no_word(store):
    done(store, "x", 3, sweep="x")
    done(store, "x", 4, seed=1, sweep="x")
    done(store, "base", 8)
    assert not [note for note in compare(store, "x", "base").notes if "sweep" in note]
    submit(store, new("x", seed=7))
    assert [note for note in compare(store, "x", "base").notes if "`x:sweep`" in note]


def test_runs_are_named_by_id_or_its_beginning(store):
    first, second = done(store, "a", 9), done(store, "a", 8, seed=1)
    found = compare(store, first, "@last")
    assert [(row.first_run, row.second_run) for row in found.rows] == [(first, second)]
    assert found.first.label == f"a ({first})"


def test_what_has_no_result_is_said(store):
    done(store, "a", 9)
    submit(store, new("waits-swee", sweep="waits-sweep"), new("waiting", sweep="plan"))
    for reference, message in (
        ("waiting", r"no run of waiting has a result yet \(queued\)"),
        ("@last", r"\(waiting\) is queued: it has no result to compare"),
        ("plan", "plan has no result to compare yet"),
        ("plam", r"no run is `plam`; did you mean `plan`\?"),
        ("waitin", r"no run is `waitin`; did you mean `waiting`\?"),
        ("wait-sweep", r"no run is `wait-sweep`; did you mean `waits-sweep`\?"),
    ):
        with pytest.raises(NotFound, match=message):
            compare(store, "a", reference)


def deployed(store, run_id, right, exactness="exact"):
    """Put on the board that a run's file got so many of 10 images right."""
    hits = ((1 << right) - 1 << (16 - right)).to_bytes(2, "big")
    (headline,) = [one for one in store.results.evaluations(run_id) if one.headline]
    counted = replace(headline, variant=DEPLOYED, headline=False, n_correct=right, hits=hits)
    store.results.put_deployed(run_id, DeployedResult(counted, exactness, 1000 + right))


def test_a_deployed_file_is_compared_as_a_side_of_its_own_and_the_newest_one_counts(store):
    run_id = done(store, "a", 9)
    with pytest.raises(NotFound, match=f"{run_id} has no deployed file on the board"):
        compare(store, "a", "a:deployed")
    deployed(store, run_id, 6, "settled")
    deployed(store, run_id, 7)
    found = compare(store, "a", "a:deployed")
    assert found.difference == pytest.approx(20)
    assert found.second.label == "a:deployed"
    assert (found.rows[0].only_first, found.rows[0].only_second) == (2, 0)
    kept = store.results.deployed(run_id)
    assert (kept.exactness, kept.file_bytes, kept.evaluation.n_correct) == ("exact", 1007, 7)
    with pytest.raises(NotFound, match="after `:` only `deployed` or `sweep` can stand"):
        compare(store, "a", "a:other")


def test_the_board_shows_a_deployed_file_beside_the_headline_which_stays_as_it_was(store):
    run_id = done(store, "a", 9)
    before = store.results.get(run_id)
    deployed(store, run_id, 7)
    (row,) = store.results.board_rows()
    assert (row.n_correct, row.n_correct_deployed, row.exactness) == (9, 7, "exact")
    assert (row.file_bytes, row.size_bytes) == (1007, before.size_bytes)
    after = store.results.get(run_id)
    assert replace(after, evaluations=before.evaluations) == before
    assert [one.variant for one in after.evaluations] == [DEPLOYED, "raw"]
    with pytest.raises(NotFound, match="has no result"):
        store.results.put_deployed("nosuch", store.results.deployed(run_id))
