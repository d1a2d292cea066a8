"""How Alembic reaches the database: over the connection lsqctl hands it, or over LSQCTL_DB."""

from alembic import context
from sqlalchemy import Connection

from lsqctl.store.tables import metadata


def run_migrations(connection: Connection) -> None:
    """Run the revisions on a connection; a transaction that is open already is joined."""
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()


shared_connection = context.config.attributes.get("connection")
if shared_connection is not None:
    run_migrations(shared_connection)
else:  # `alembic revision --autogenerate`, `alembic current`: a developer at the prompt
    from lsqctl.settings import load_settings
    from lsqctl.store.engine import make_engine, parse_url

    engine = make_engine(parse_url(load_settings().db_url), busy_seconds=5.0, lease_seconds=30.0)
    with engine.begin() as db:
        run_migrations(db)
    engine.dispose()
