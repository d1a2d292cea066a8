"""Who submitted each run, who trained it, and whether it was on a part of the images only.

What a network costs may be unknown: that of a loop of somebody's own.

Revision 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


_COSTS = ("params", "size_bytes", "naive_bytes", "macs", "bops")


def upgrade() -> None:
    op.add_column("runs", sa.Column("origin", sa.Text(), nullable=False, server_default="local"))
    op.add_column("runs", sa.Column("user", sa.Text(), nullable=False, server_default=""))
    partial = sa.Column("partial", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("runs", partial)
    with op.batch_alter_table("results") as results:
        for name in _COSTS:
            results.alter_column(name, existing_type=sa.BigInteger(), nullable=True)


def downgrade() -> None:
    with op.batch_alter_table("results") as results:
        for name in _COSTS:
            results.alter_column(name, existing_type=sa.BigInteger(), nullable=False)
    for name in ("partial", "user", "origin"):
        op.drop_column("runs", name)
