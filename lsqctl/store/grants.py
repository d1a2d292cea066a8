"""Roles on PostgreSQL as SQL: who may read, submit, work, and own the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lsqctl.errors import UsageError

ROLES = ("reader", "submitter", "worker", "owner")
_ADD, _KEEP, _ALL = "INSERT", "INSERT, UPDATE", "INSERT, UPDATE, DELETE"
# What each role may do to a table beside reading it; a role that is not named only reads.
TABLE_GRANTS: Mapping[str, Mapping[str, str]] = {
    "alembic_version": {},
    "runs": {"submitter": _KEEP, "worker": "UPDATE"},
    "run_parents": {"submitter": _ADD},
    "run_tags": {"submitter": _ALL},
    "sweeps": {"submitter": _KEEP},
    "sweep_cells": {"submitter": _KEEP},
    "events": {"submitter": _ADD, "worker": _ADD},
    "workers": {"worker": _KEEP},
    "attempts": {"worker": _KEEP},
    "metric_points": {"submitter": "DELETE", "worker": _ALL},
    "metric_summaries": {"submitter": "DELETE", "worker": _ALL},
    "quantizer_stats": {"submitter": "DELETE", "worker": _ALL},
    "checkpoints": {"submitter": "DELETE", "worker": _ALL},
    "results": {"worker": _KEEP},
}
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def grants_sql(schema: str) -> str:
    """Return the SQL that makes the roles and grants them what they need, as often as it is run.

    A superuser, or who owns the tables and may make roles, runs it once the tables are there.
    Raises UsageError for a schema that would have to be quoted.
    """
    if not _IDENTIFIER.fullmatch(schema):
        raise UsageError(f"`{schema}` is no plain name of a schema: lower-case letters, digits, _")
    return "\n".join(_statements(schema)) + "\n"


def _statements(schema: str) -> Iterator[str]:
    yield "-- lsqctl db grants | psql DATABASE; then: GRANT lsqctl_submitter TO somebody;"
    yield "BEGIN;"
    for role in ROLES:
        exists = f"SELECT FROM pg_roles WHERE rolname = 'lsqctl_{role}'"
        create = f"CREATE ROLE lsqctl_{role} NOLOGIN"
        yield f"DO $$ BEGIN IF NOT EXISTS ({exists}) THEN {create}; END IF; END $$;"
    for role in ROLES[1:]:
        yield f"GRANT lsqctl_reader TO lsqctl_{role};"
    yield "GRANT lsqctl_submitter, lsqctl_worker TO lsqctl_owner;"
    yield f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;"
    yield f"GRANT USAGE ON SCHEMA {schema} TO lsqctl_reader;"
    yield f"GRANT ALL ON SCHEMA {schema} TO lsqctl_owner;"
    for table, privileges in TABLE_GRANTS.items():
        yield f"REVOKE ALL ON {schema}.{table} FROM PUBLIC;"
        yield f"ALTER TABLE {schema}.{table} OWNER TO lsqctl_owner;"
        yield f"GRANT SELECT ON {schema}.{table} TO lsqctl_reader;"
        for role, privilege in privileges.items():
            yield f"GRANT {privilege} ON {schema}.{table} TO lsqctl_{role};"
    writers = "lsqctl_submitter, lsqctl_worker"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {writers};"
    yield "COMMIT;"
