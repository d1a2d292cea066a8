"""A filter of runs chooses, on either database, what it chooses among the runs themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, update

from lsqctl.filters.evaluate import matches
from lsqctl.filters.expression import Expression
from lsqctl.filters.parser import parse, parse_time
from lsqctl.filters.run_columns import RUN_COLUMN_KINDS
from lsqctl.run import Run
from lsqctl.store import Store, open_store
from lsqctl.store.tables import runs
from tests.conftest import examples
from tests.filters.expressions import comparisons, expressions
from tests.store.samples import new, result, submit, take

COLUMNS = {name: RUN_COLUMN_KINDS[name] for name in ("name", "seed", "note", "held", "created_at")}
VALUES = {
    "number": st.integers(-1, 3) | st.floats(-1, 3) | st.sampled_from([10**18, -1e300]),
    "text": st.sampled_from(["", "a", "A%", "ä_\\", "%", "_", "é'", "\\"]),
    "bool": st.booleans(),
    "time": st.sampled_from(["2026-01-01", "2026-01-02T03:04+02:00"]),
}
VALUE = {"number": "1", "text": "'x'", "bool": "true", "time": "'2026-01-01'"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Runs whose names, notes, seeds and times are all that VALUES may ask for."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('filtering')}/lsqctl.db"
    else:
        import psycopg

        server: str = request.getfixturevalue("postgresql")
        plain = (server % "postgres").replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute("CREATE DATABASE filtering")
        url = server % "filtering"
    with open_store(url) as store:
        notes = ["", "a", "A%", "ä_\\", "b%_", "é'"]
        submit(store, *(new(f"r{n % 3}", seed=n) for n in range(6)))

        def change(db: Connection) -> None:
            for n, note in enumerate(notes):
                when = parse_time("2026-01-01" if n % 2 else "2026-01-02T01:04:00.001")
                changed = {"note": note, "held": n % 3 == 0, "created_at": when}
                db.execute(update(runs).where(runs.c.seed == n).values(changed))

        store._database.write(change)
        yield store


@settings(max_examples=examples(60))
@given(tree=expressions(comparisons(COLUMNS, VALUES)), limit=st.none() | st.integers(1, 3))
def test_a_filter_chooses_what_it_says_newest_first(
    stored: Store, tree: Expression, limit: int | None
) -> None:
    def passes(run: Run) -> bool | None:
        row = {name: getattr(run, name) for name in COLUMNS} | {"note": run.note or None}
        return matches(tree, row.__getitem__)

    passing = [run.id for run in stored.runs.list() if passes(run)]
    assert [run.id for run in stored.runs.list(where=tree, limit=limit)] == passing[:limit]


def test_a_backslash_in_a_pattern_is_a_letter_like_any_other(stored: Store) -> None:
    def notes(where: str) -> list[str]:
        return [run.note for run in stored.runs.list(where=parse(where, RUN_COLUMN_KINDS))]

    assert notes("note like '%\\'") == ["ä_\\"]
    assert notes("note like '%\\%' and note != null") == ["ä_\\"]
    assert notes("note ~ '\\'") == ["ä_\\"]


@pytest.mark.parametrize("name", RUN_COLUMN_KINDS)
def test_every_column_can_be_asked_for(store: Store, name: str) -> None:
    submit(store, new("a"), new("b"))
    store.queue.finish(take(store).lease, result())
    kind = RUN_COLUMN_KINDS[name]
    either = [f"{name} = {VALUE[kind]}", f"not ({name} = {VALUE[kind]})"]
    counts = [len(store.runs.list(where=parse(where, RUN_COLUMN_KINDS))) for where in either]
    assert sum(counts) == 2
    unknown = store.runs.list(where=parse(f"{name} = null", RUN_COLUMN_KINDS))
    known = store.runs.list(where=parse(f"{name} != null", RUN_COLUMN_KINDS))
    assert len(unknown) + len(known) == 2


def test_a_filter_and_the_other_arguments_narrow_together(store: Store) -> None:
    submit(store, new("a"), new("b"), new("a", seed=1))
    where = parse("seed = 0", RUN_COLUMN_KINDS)
    assert [run.name for run in store.runs.list(where=where)] == ["b", "a"]
    assert [run.name for run in store.runs.list(where=where, name="a")] == ["a"]
