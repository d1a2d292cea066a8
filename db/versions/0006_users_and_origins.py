"""Who submitted each run, and whether lsqctl trained it or recorded it of another loop.

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


def downgrade() -> None:
    op.drop_column("runs", "user")
    op.drop_column("runs", "origin")
