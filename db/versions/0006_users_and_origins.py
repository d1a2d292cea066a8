"""Who submitted each run, who trained it, and whether it was on a part of the images only.

Revision 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("origin", sa.Text(), nullable=False, server_default="local"))
    op.add_column("runs", sa.Column("user", sa.Text(), nullable=False, server_default=""))
    partial = sa.Column("partial", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("runs", partial)


def downgrade() -> None:
    op.drop_column("runs", "partial")
    op.drop_column("runs", "user")
    op.drop_column("runs", "origin")
