"""The first schema: workers, runs and all that belongs to them.

Revision 0001, after nothing.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# ISO text in UTC on SQLite, which has no type for a moment
MOMENT = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")

STATES = "state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled')"
TABLES = (
    "sweeps",
    "workers",
    "runs",
    "attempts",
    "checkpoints",
    "events",
    "metric_points",
    "metric_summaries",
    "results",
    "run_parents",
    "sweep_cells",
)


def columns(kind: Any, names: str, *, nullable: bool = False) -> list[Any]:
    return [sa.Column(name, kind, nullable=nullable) for name in names.split()]


def of_run(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_run_id_runs"
    return sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    _create_sweeps()
    _create_workers()
    _create_runs()
    _create_attempts()
    _create_checkpoints()
    _create_events()
    _create_metric_points()
    _create_metric_summaries()
    _create_results()
    _create_run_parents()
    _create_sweep_cells()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_sweeps() -> None:
    op.create_table(
        "sweeps",
        *columns(sa.Text, "name"),
        *columns(MOMENT, "created_at"),
        sa.PrimaryKeyConstraint("name", name="pk_sweeps"),
    )


def _create_workers() -> None:
    op.create_table(
        "workers",
        *columns(sa.Text, "id name host"),
        *columns(sa.Integer, "pid"),
        *columns(sa.Double, "started"),
        *columns(sa.Text, "boot_id"),
        *columns(sa.Integer, "slots"),
        *columns(sa.Text, "device"),
        *columns(MOMENT, "registered_at seen_at"),
        *columns(MOMENT, "gone_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        *columns(sa.Text, "id name state"),
        *columns(sa.Text, "reason", nullable=True),
        *columns(sa.Text, "message"),
        *columns(sa.BigInteger, "seed"),
        *columns(sa.Text, "recipe_sha256 run_sha256 code_commit"),
        *columns(sa.Boolean, "code_dirty", nullable=True),
        *columns(sa.Integer, "urgency"),
        *columns(sa.Boolean, "held cancel_requested"),
        *columns(MOMENT, "not_before", nullable=True),
        *columns(sa.Integer, "attempt"),
        *columns(sa.Text, "fence worker_id", nullable=True),
        *columns(MOMENT, "lease_until", nullable=True),
        *columns(sa.Integer, "renewals failures"),
        *columns(sa.BigInteger, "checkpoint_step step total_steps"),
        *columns(sa.Integer, "epoch epochs"),
        *columns(MOMENT, "created_at"),
        *columns(MOMENT, "started_at finished_at", nullable=True),
        *columns(sa.Text, "circumstances", nullable=True),
        *columns(sa.Text, "recipe snapshot"),
        sa.CheckConstraint(STATES, name="ck_runs_state"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name="fk_runs_worker_id_workers"),
        sa.PrimaryKeyConstraint("seq", name="pk_runs"),
        sa.UniqueConstraint("id", name="uq_runs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_name", "runs", ["name"], unique=False)
    op.create_index("ix_runs_recipe_sha256", "runs", ["recipe_sha256"], unique=False)
    op.create_index("ix_runs_run_sha256", "runs", ["run_sha256"], unique=False)
    op.create_index("ix_runs_state_urgency_seq", "runs", ["state", "urgency", "seq"], unique=False)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        *columns(sa.Text, "run_id"),
        *columns(sa.Integer, "number"),
        *columns(sa.Text, "fence worker_id"),
        *columns(MOMENT, "started_at"),
        *columns(MOMENT, "finished_at", nullable=True),
        *columns(sa.Text, "reason", nullable=True),
        *columns(sa.Text, "message"),
        *columns(sa.BigInteger, "resumed_step", nullable=True),
        *columns(sa.Boolean, "progressed"),
        *columns(sa.Text, "circumstances"),
        of_run("attempts"),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name="fk_attempts_worker_id_workers"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_attempts"),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        *columns(sa.Text, "run_id directory"),
        *columns(sa.BigInteger, "step"),
        *columns(sa.Integer, "epoch"),
        *columns(sa.Text, "sha256"),
        *columns(sa.BigInteger, "size_bytes"),
        *columns(sa.Boolean, "best"),
        *columns(sa.Text, "fence"),
        *columns(MOMENT, "created_at"),
        of_run("checkpoints"),
        sa.PrimaryKeyConstraint("run_id", "directory", name="pk_checkpoints"),
    )


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        *columns(sa.Text, "run_id kind"),
        *columns(sa.Text, "from_state to_state", nullable=True),
        *columns(sa.Integer, "attempt"),
        *columns(sa.Text, "fence detail"),
        *columns(MOMENT, "at"),
        of_run("events"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_run_id_id", "events", ["run_id", "id"], unique=False)


def _create_metric_points() -> None:
    op.create_table(
        "metric_points",
        *columns(sa.Text, "run_id name split"),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        *columns(sa.Double, "value", nullable=True),
        *columns(sa.Text, "kind fence"),
        of_run("metric_points"),
        sa.PrimaryKeyConstraint("run_id", "name", "split", "step", name="pk_metric_points"),
        sqlite_with_rowid=False,
    )


def _create_metric_summaries() -> None:
    op.create_table(
        "metric_summaries",
        *columns(sa.Text, "run_id name split"),
        *columns(sa.Double, "last_value", nullable=True),
        *columns(sa.Text, "last_kind"),
        *columns(sa.BigInteger, "last_step"),
        *columns(sa.Double, "best_value", nullable=True),
        *columns(sa.Text, "best_kind"),
        *columns(sa.BigInteger, "best_step"),
        of_run("metric_summaries"),
        sa.PrimaryKeyConstraint("run_id", "name", "split", name="pk_metric_summaries"),
        sqlite_with_rowid=False,
    )


def _create_results() -> None:
    op.create_table(
        "results",
        *columns(sa.Text, "run_id variant selection"),
        *columns(sa.Boolean, "headline"),
        *columns(sa.BigInteger, "n_correct"),
        *columns(sa.BigInteger, "n_correct_top5", nullable=True),
        *columns(sa.BigInteger, "n_total step"),
        *columns(sa.Text, "dataset split arch method"),
        *columns(sa.Integer, "weight_bits act_bits"),
        *columns(sa.Text, "first_last_bits granularity"),
        *columns(sa.BigInteger, "params size_bytes naive_bytes macs bops"),
        *columns(sa.Integer, "epochs"),
        *columns(sa.Double, "train_seconds"),
        *columns(sa.BigInteger, "peak_mem_bytes"),
        *columns(sa.Text, "device torch precision deterministic data_digest preprocessing"),
        *columns(sa.BigInteger, "fp32_n_correct fp32_n_total", nullable=True),
        *columns(sa.Text, "notes"),
        *columns(sa.Boolean, "verified", nullable=True),
        *columns(sa.Text, "checkpoint_path checkpoint_sha256"),
        *columns(MOMENT, "created_at"),
        *columns(sa.LargeBinary, "hits"),
        of_run("results"),
        sa.PrimaryKeyConstraint("run_id", "variant", "selection", name="pk_results"),
    )


def _create_run_parents() -> None:
    op.create_table(
        "run_parents",
        *columns(sa.Text, "run_id role parent_id"),
        sa.ForeignKeyConstraint(["parent_id"], ["runs.id"], name="fk_run_parents_parent_id_runs"),
        of_run("run_parents"),
        sa.PrimaryKeyConstraint("run_id", "role", name="pk_run_parents"),
    )
    op.create_index("ix_run_parents_parent_id", "run_parents", ["parent_id"], unique=False)


def _create_sweep_cells() -> None:
    op.create_table(
        "sweep_cells",
        *columns(sa.Text, "sweep cell"),
        sa.Column("seed", sa.BigInteger(), autoincrement=False, nullable=False),
        *columns(sa.Text, "run_id", nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_sweep_cells_run_id_runs", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["sweep"], ["sweeps.name"], name="fk_sweep_cells_sweep_sweeps", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sweep", "cell", "seed", name="pk_sweep_cells"),
    )
    op.create_index("ix_sweep_cells_run_id", "sweep_cells", ["run_id"], unique=False)
