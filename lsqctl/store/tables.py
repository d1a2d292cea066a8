"""The tables, as ``db/versions`` builds them and ``db/README.md`` draws them.  No behaviour."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    false,
)
from sqlalchemy.types import TypeEngine

from lsqctl.events import Evaluation, ResultValues
from lsqctl.store.dialects import UtcDateTime

# SQLAlchemy Core knows the columns of a row, a query and an expression by name, not by type.
AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"
AnySelect: TypeAlias = "Select[*tuple[Any, ...]]"
AnyColumn: TypeAlias = ColumnElement[Any]
AnyType: TypeAlias = TypeEngine[Any]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _run_id_key() -> Column[str]:
    return Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)


def _required_columns(column_type: type[AnyType], names: str) -> list[Column[str]]:
    """Return columns of one type that are never empty."""
    return [Column(name, column_type, nullable=False) for name in names.split()]


# What every result has, though a row of a failed run has none of it.
_REQUIRED = frozenset("epochs train_seconds peak_mem_bytes".split())
# Numbers that stay small; all others may be large.
_SMALL = frozenset({"weight_bits", "act_bits", "epochs"})
_COLUMN_TYPES: Mapping[type, type[AnyType]] = {
    str: Text,
    int: BigInteger,
    float: Double,
    bool: Boolean,
}


def _value_columns(
    values: type, *, keys: Collection[str] = (), without: Collection[str] = ()
) -> list[Column[str]]:
    """Return a column for each field of a dataclass; it may be empty where the field may be None.

    ``keys`` are of the primary key, ``without`` are kept in another way.
    """
    columns = []
    for name, hint in get_type_hints(values).items():
        if name in without:
            continue
        types = [part for part in get_args(hint) or (hint,) if part is not NoneType]
        column_type = Integer if name in _SMALL else _COLUMN_TYPES[types[0]]
        nullable = NoneType in get_args(hint) and name not in _REQUIRED
        columns.append(Column(name, column_type, primary_key=name in keys, nullable=nullable))
    return columns


workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("registered_at", UtcDateTime, nullable=False),
    Column("last_heartbeat_at", UtcDateTime, nullable=False),
    Column("stopped_at", UtcDateTime),
    Column("notice", Text, nullable=False, server_default=""),  # why it leaves a GPU alone
)

runs = Table(
    "runs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("recipe_sha256", Text, nullable=False, index=True),
    Column("run_sha256", Text, nullable=False, index=True),
    Column("code_commit", Text, nullable=False),
    Column("code_dirty", Boolean),
    Column("priority", Integer, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("not_before", UtcDateTime),
    Column("attempt", Integer, nullable=False),
    Column("fence", Text),
    Column("worker_id", Text, ForeignKey("workers.id")),
    Column("lease_until", UtcDateTime),
    Column("renewals", Integer, nullable=False),
    Column("consecutive_failures", Integer, nullable=False),  # without checkpoint progress
    Column("max_checkpoint_step", BigInteger, nullable=False),  # ever reached; -1 before any
    Column("step", BigInteger, nullable=False),
    Column("total_steps", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("pinned_environment", Text),  # device, threads, …: decided by the first attempt
    Column("recipe", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("gpus", Integer, nullable=False, server_default="1"),  # so many whole ones, if above 1
    Column("time_limit_seconds", Double),  # of one attempt
    Column("note", Text, nullable=False, server_default=""),
    Column("removed_at", UtcDateTime),  # in the trash since then; NULL: live
    Column("origin", Text, nullable=False, server_default="local"),  # or recorded
    Column("user", Text, nullable=False, server_default=""),  # who submitted it
    Column("partial", Boolean, nullable=False, server_default=false()),  # of the images
    CheckConstraint(
        "state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled')",
        name="ck_runs_state",  # revision 0001 gave it the prefix twice
    ),
    sqlite_autoincrement=True,
)
# a claim is one walk along it: the most urgent first, among those the oldest
Index("ix_runs_state_priority_seq", runs.c.state, runs.c.priority.desc(), runs.c.seq)

# What every query that shows runs reads: nothing forgets to leave the removed ones out.
live_runs = runs.select().where(runs.c.removed_at.is_(None)).subquery("live_runs")

run_parents = Table(
    "run_parents",
    metadata,
    _run_id_key(),
    Column("role", Text, primary_key=True),
    Column("parent_id", Text, ForeignKey("runs.id"), nullable=False, index=True),
)

run_tags = Table(
    "run_tags",
    metadata,
    _run_id_key(),
    Column("tag", Text, primary_key=True, index=True),
)

attempts = Table(
    "attempts",
    metadata,
    _run_id_key(),
    Column("number", Integer, primary_key=True),
    Column("fence", Text, nullable=False),
    Column("worker_id", Text, ForeignKey("workers.id"), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("reason", Text),
    Column("message", Text, nullable=False),
    Column("resumed_step", BigInteger),
    Column("moved_checkpoint", Boolean, nullable=False),
    Column("environment", Text, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("max_failures", Integer),  # so many failed cells cancel the rest; NULL: never
)

sweep_cells = Table(
    "sweep_cells",
    metadata,
    Column("sweep", Text, ForeignKey("sweeps.name", ondelete="CASCADE"), primary_key=True),
    Column("run_sha256", Text, primary_key=True),
    Column("cell", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("run_id", Text, ForeignKey("runs.id", ondelete="SET NULL"), index=True),
    Column("submission", Text, nullable=False),  # what enqueues it again when its run is gone
)

metric_points = Table(
    "metric_points",
    metadata,
    _run_id_key(),
    Column("name", Text, primary_key=True),
    Column("split", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double),
    Column("kind", Text, nullable=False),  # number, or nan, inf, -inf with a NULL value
    Column("fence", Text, nullable=False),
    sqlite_with_rowid=False,
)

metric_summaries = Table(
    "metric_summaries",
    metadata,
    _run_id_key(),
    Column("name", Text, primary_key=True),
    Column("split", Text, primary_key=True),
    Column("last_value", Double),
    Column("last_kind", Text, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("best_value", Double),
    Column("best_kind", Text, nullable=False),
    Column("best_step", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

quantizer_stats = Table(
    "quantizer_stats",
    metadata,
    _run_id_key(),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", Text, nullable=False),
    Column("stats", LargeBinary, nullable=False),  # every quantizer, as store/metrics.py packs it
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _run_id_key(),
    Column("directory", Text, primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("best", Boolean, nullable=False),
    Column("fence", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

results = Table(
    "results",
    metadata,
    _run_id_key(),
    *_value_columns(Evaluation, keys=("variant", "selection"), without=("hits", "checkpoint")),
    *_value_columns(ResultValues),
    Column("verified", Boolean),
    *_required_columns(Text, "checkpoint_path checkpoint_sha256"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("hits", LargeBinary, nullable=False),  # last: rows are read without touching it
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text),
    Column("attempt", Integer, nullable=False),
    Column("fence", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "run_id", "id"),
    sqlite_autoincrement=True,
)
