"""Removed runs stay as rows; columns, a reason and a key get the field's words.

Revision 0004, after 0003.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_RENAMED = (
    ("runs", "snapshot", "provenance"),
    ("runs", "circumstances", "pinned_environment"),
    ("runs", "urgency", "priority"),
    ("runs", "failures", "consecutive_failures"),
    ("runs", "checkpoint_step", "max_checkpoint_step"),
    ("attempts", "circumstances", "environment"),
    ("attempts", "progressed", "moved_checkpoint"),
    ("workers", "started", "process_started"),
    ("workers", "seen_at", "last_heartbeat_at"),
    ("workers", "gone_at", "stopped_at"),
)


def upgrade() -> None:
    op.drop_index("ix_runs_state_urgency_seq", table_name="runs")
    # RENAME COLUMN is SQLite's own, as PostgreSQL's: no table is copied, as batch mode would
    for table, old, new in _RENAMED:
        op.alter_column(table, old, new_column_name=new)
    time = sa.TIMESTAMP(timezone=True) if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.add_column("runs", sa.Column("removed_at", time))
    op.execute("UPDATE runs SET priority = -priority")  # it was kept negated
    op.create_index(
        "ix_runs_state_priority_seq", "runs", ["state", sa.text("priority DESC"), "seq"]
    )
    _change_reason("lost", "worker_lost")
    _rename_key("snapshot", "provenance")


def downgrade() -> None:
    """Removed runs have no place in the older schema: they go."""
    _rename_key("provenance", "snapshot")
    _change_reason("worker_lost", "lost")
    op.drop_index("ix_runs_state_priority_seq", table_name="runs")
    op.execute("UPDATE runs SET priority = -priority")
    removed = "(SELECT id FROM runs WHERE removed_at IS NOT NULL)"
    op.execute(f"DELETE FROM run_parents WHERE parent_id IN {removed}")  # noqa: S608 (ours)
    op.execute("DELETE FROM runs WHERE removed_at IS NOT NULL")
    op.drop_column("runs", "removed_at")
    for table, old, new in _RENAMED:
        op.alter_column(table, new, new_column_name=old)
    op.create_index("ix_runs_state_urgency_seq", "runs", ["state", "urgency", "seq"])


def _change_reason(old: str, new: str) -> None:
    for table in ("runs", "attempts"):
        change = f"UPDATE {table} SET reason = :new WHERE reason = :old"  # noqa: S608 (ours)
        op.execute(sa.text(change).bindparams(old=old, new=new))


def _rename_key(old: str, new: str) -> None:
    """Rename a key of what each cell keeps to be submitted again from."""
    db = op.get_bind()
    write = sa.text(
        "UPDATE sweep_cells SET submission = :submission WHERE sweep = :sweep AND run_sha256 = :sha"
    )
    rows = db.execute(sa.text("SELECT sweep, run_sha256, submission FROM sweep_cells")).all()
    for row in rows:
        submission = json.loads(row.submission)
        if old in submission:
            submission[new] = submission.pop(old)
        text = json.dumps(submission, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        db.execute(write, {"submission": text, "sweep": row.sweep, "sha": row.run_sha256})
