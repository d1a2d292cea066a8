"""GPUs and time of a run, its tags and note, a worker's notice, cells keyed by their run's hash.

Revision 0002, after 0001.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    whole, text = sa.Integer(), sa.Text()
    op.add_column("runs", sa.Column("gpus", whole, nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("time_limit_seconds", sa.Double()))
    op.add_column("runs", sa.Column("note", text, nullable=False, server_default=""))
    op.add_column("workers", sa.Column("notice", text, nullable=False, server_default=""))
    op.add_column("sweeps", sa.Column("max_failures", whole))
    _create_run_tags()
    _key_cells_by_hash()


def downgrade() -> None:
    op.drop_table("run_tags")
    for table, column in (
        ("sweeps", "max_failures"),
        ("workers", "notice"),
        ("runs", "note"),
        ("runs", "time_limit_seconds"),
        ("runs", "gpus"),
    ):
        op.drop_column(table, column)


def _create_run_tags() -> None:
    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_run_tags_run_id_runs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "tag", name="pk_run_tags"),
    )
    op.create_index("ix_run_tags_tag", "run_tags", ["tag"], unique=False)


def _key_cells_by_hash() -> None:
    """Make the table anew: the old key was a label, which changes when a sweep gets an axis."""
    db = op.get_bind()
    old = db.execute(
        sa.text(
            "SELECT c.sweep, c.cell, c.seed, c.run_id, r.run_sha256, r.name, r.recipe_sha256,"
            " r.epochs, r.recipe, r.snapshot"
            " FROM sweep_cells c JOIN runs r ON r.id = c.run_id ORDER BY r.seq"
        )
    ).mappings()
    kept = {(row["sweep"], row["run_sha256"]): dict(row) for row in old}
    parents = {
        (row.run_id, row.role): row.run_sha256
        for row in db.execute(
            sa.text(
                "SELECT p.run_id, p.role, r.run_sha256"
                " FROM run_parents p JOIN runs r ON r.id = p.parent_id"
            )
        )
    }
    op.drop_index("ix_sweep_cells_run_id", table_name="sweep_cells")
    op.drop_table("sweep_cells")
    table = op.create_table(
        "sweep_cells",
        sa.Column("sweep", sa.Text(), nullable=False),
        sa.Column("run_sha256", sa.Text(), nullable=False),
        sa.Column("cell", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("submission", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_sweep_cells_run_id_runs", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["sweep"], ["sweeps.name"], name="fk_sweep_cells_sweep_sweeps", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sweep", "run_sha256", name="pk_sweep_cells"),
    )
    op.create_index("ix_sweep_cells_run_id", "sweep_cells", ["run_id"], unique=False)
    op.bulk_insert(table, [_cell(row, parents) for row in kept.values()])


def _cell(row: dict, parents: dict) -> dict:
    submission = {
        "name": row["name"],
        "recipe": json.loads(row["recipe"]),
        "recipe_sha256": row["recipe_sha256"],
        "snapshot": json.loads(row["snapshot"]),
        "parents": {role: sha for (run, role), sha in parents.items() if run == row["run_id"]},
        "epochs": row["epochs"],
    }
    keys = ("sweep", "run_sha256", "cell", "seed", "run_id")
    return {**{key: row[key] for key in keys}, "submission": json.dumps(submission, sort_keys=True)}
