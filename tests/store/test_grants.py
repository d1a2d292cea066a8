"""Roles on PostgreSQL: each of four may do what it is for, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lsqctl.errors import StoreError, UsageError
from lsqctl.events import Metric
from lsqctl.store import Store, open_store
from lsqctl.store.grants import ROLES, TABLE_GRANTS, grants_sql
from lsqctl.store.tables import metadata
from tests.store.samples import checkpoint, identity, new, result, submit, take

STEPS = ("read", "submit", "work", "alter")
MAY = {
    "reader": {"read"},
    "submitter": {"read", "submit"},
    "worker": {"read", "work"},
    "owner": set(STEPS),
}


@pytest.fixture
def granted(postgresql_url: str) -> Iterator[Callable[[str], Store]]:
    """A database with a queued run and the roles; opens it as a user who has one of them."""
    import psycopg

    with open_store(postgresql_url) as store:
        store.workers.register(identity("w1"))
        submit(store, new("first"))
    server = postgresql_url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(server, autocommit=True) as connection:
        for _ in range(2):  # as often as one likes
            connection.execute(grants_sql("public"))
        for role in ROLES:
            with suppress(psycopg.errors.DuplicateObject):  # users are of the whole server
                connection.execute(f"CREATE USER some_{role} IN ROLE lsqctl_{role}")
    opened = []

    def as_(role: str) -> Store:
        store = open_store(re.sub(r"//\w+@", f"//some_{role}@", postgresql_url))
        opened.append(store)
        return store

    yield as_
    for store in opened:
        store.close()


def read(store: Store) -> None:
    assert store.runs.list()
    assert store.sweeps.summaries() == []


def submit_and_steer(store: Store) -> None:
    (run_id,) = submit(store, new("mine", sweep="s", cell="a", tags=("t",)))
    store.runs.hold(run_id)
    store.runs.update_tags(run_id, remove=["t"])
    store.runs.cancel(run_id)
    store.runs.retry(run_id, from_scratch=True)


def work(store: Store) -> None:
    store.workers.register(identity("w1"))
    claim = take(store)
    store.queue.renew(claim.lease)
    store.metrics.log(claim.lease, [Metric("top1", "test", 1, 50.0)])
    store.checkpoints.record(claim.lease, checkpoint(10))
    store.queue.reap()
    store.queue.finish(claim.lease, result())


def alter(store: Store) -> None:
    from sqlalchemy import text

    store._database.write(lambda db: db.execute(text("ALTER TABLE runs ADD COLUMN more TEXT")))


DO = dict(zip(STEPS, (read, submit_and_steer, work, alter), strict=True))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_it_is_for_and_is_refused_all_else_in_one_line(
    granted: Callable[[str], Store], role: str
) -> None:
    store = granted(role)
    for step in STEPS:
        if step in MAY[role]:
            DO[step](store)
            continue
        with pytest.raises(StoreError, match=r"permission denied|must be owner") as refused:
            DO[step](store)
        assert "\n" not in str(refused.value)


def test_every_table_has_its_grants_and_a_schema_that_needs_quotes_is_refused() -> None:
    assert set(TABLE_GRANTS) == {*metadata.tables, "alembic_version"}
    assert "GRANT USAGE ON SCHEMA lab TO lsqctl_reader;" in grants_sql("lab")
    with pytest.raises(UsageError, match="no plain name of a schema"):
        grants_sql('x"; DROP TABLE runs; --')
