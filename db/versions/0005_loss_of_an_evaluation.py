"""The mean loss of each evaluation, taken from the metrics where they have it.

Revision 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FROM_METRICS = """
UPDATE results SET loss = (
    SELECT point.value FROM metric_points AS point
    WHERE point.run_id = results.run_id AND point.split = 'val' AND point.step = results.step
    AND point.name = CASE results.variant WHEN 'raw' THEN 'loss' ELSE results.variant || '_loss' END
)
"""


def upgrade() -> None:
    # by a copy: what stood behind the hits could be read only past them
    with op.batch_alter_table("results", recreate="always") as results:
        results.add_column(sa.Column("loss", sa.Double()), insert_after="step")
    op.execute(_FROM_METRICS)


def downgrade() -> None:
    op.drop_column("results", "loss")
