"""A filter in SQL says what it says in Python, on both databases, and binds every value."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from lsqctl.filters.column_kinds import RESULT_COLUMN_KINDS, RUN_COLUMN_KINDS
from lsqctl.filters.evaluate import matches
from lsqctl.filters.expression import Expression
from lsqctl.filters.parser import parse, parse_time
from lsqctl.run import Run
from lsqctl.store import Store, open_store
from lsqctl.store.filter_sql import RESULT_COLUMNS, RUN_COLUMNS, condition
from lsqctl.store.tables import runs
from tests.filters.trees import comparisons, trees
from tests.store.samples import new, result, submit, take

COLUMNS = {name: RUN_COLUMN_KINDS[name] for name in ("name", "seed", "note", "held", "created_at")}
VALUES = {
    "number": st.integers(-1, 3) | st.floats(-1, 3) | st.sampled_from([10**18, -1e300]),
    "text": st.sampled_from(["", "a", "A%", "ä_\\", "%", "_", "é'", "\\"]),
    "bool": st.booleans(),
    "time": st.sampled_from(["2026-01-01", "2026-01-02T03:04+02:00"]),
}


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


@settings(max_examples=120)
@given(tree=trees(comparisons(COLUMNS, VALUES)))
def test_the_database_and_python_agree_on_every_filter(stored: Store, tree: Expression) -> None:
    def passes(run: Run) -> bool | None:
        row = {name: getattr(run, name) for name in COLUMNS} | {"note": run.note or None}
        return matches(tree, row.__getitem__)

    everything = stored.runs.list()
    assert [run.id for run in stored.runs.list(where=tree)] == [
        r.id for r in everything if passes(r)
    ]


def test_a_backslash_in_a_pattern_is_a_letter_like_any_other(stored: Store) -> None:
    def notes(where: str) -> list[str]:
        return [run.note for run in stored.runs.list(where=parse(where, RUN_COLUMN_KINDS))]

    assert notes("note like '%\\'") == ["ä_\\"]
    assert notes("note like '%\\%' and note != null") == ["ä_\\"]
    assert notes("note ~ '\\'") == ["ä_\\"]


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=lambda d: d.name)
@given(text=st.text(st.characters(exclude_characters="\0'", exclude_categories=["Cs"]), min_size=1))
def test_every_value_reaches_the_database_as_a_parameter(dialect, text: str) -> None:
    tree = parse(
        f"name = 'canary{text}' or note ~ 'canary{text}' and seed != 4711", RUN_COLUMN_KINDS
    )
    query = select(runs.c.id).where(condition(tree, RUN_COLUMNS, RUN_COLUMN_KINDS, dialect.name))
    compiled = query.compile(dialect=dialect)
    assert "canary" not in str(compiled)
    assert "4711" not in str(compiled)
    bound = list(compiled.params.values())
    assert f"canary{text}" in bound
    assert 4711 in bound


@pytest.mark.parametrize(
    ("columns", "kinds"), [(RESULT_COLUMNS, RESULT_COLUMN_KINDS), (RUN_COLUMNS, RUN_COLUMN_KINDS)]
)
def test_every_column_of_a_filter_can_be_asked_for_in_sql(columns, kinds) -> None:
    assert list(columns) != []
    assert set(columns) == set(kinds)


VALUE = {"number": "1", "text": "'x'", "bool": "true", "time": "'2026-01-01'"}


def test_every_column_can_be_compared_on_a_real_database(store: Store) -> None:
    submit(store, new("a"), new("b"))
    store.queue.finish(take(store).lease, result())
    for name, kind in RUN_COLUMN_KINDS.items():
        tree = parse(f"{name} = {VALUE[kind]} or {name} = null", RUN_COLUMN_KINDS)
        assert len(store.runs.list(where=tree)) <= 2
    for name, kind in RESULT_COLUMN_KINDS.items():
        tree = parse(f"{name} = {VALUE[kind]} or {name} = null", RESULT_COLUMN_KINDS)
        assert len(store.results.board_rows(tree)) <= 1
    (found,) = store.results.board_rows(
        parse("weight_bits = 4 and gbops >= 0 and model = 'a'", RESULT_COLUMN_KINDS)
    )
    assert found.name == "a"
    assert store.results.board_rows(parse("weight_bits != 4", RESULT_COLUMN_KINDS)) == []
