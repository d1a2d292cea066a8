"""Copy a SQLite database while others write to it: whole, private, checked, and never over another.

The copy appears under its name only when it is complete and sound.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lsqctl.errors import StoreError, UsageError
from lsqctl.store.base import StorePart


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made and found sound."""

    path: Path
    size_bytes: int
    runs: int
    schema: str


class Backups(StorePart):
    """Making backups."""

    def backup(self, path: Path, *, force: bool = False) -> Backup:
        """Copy the database to ``path``, which only its owner can read; its folder is made.

        SQLite's online backup holds one read lock for the whole copy: it is one moment, and
        writers wait for it. Raises UsageError for PostgreSQL, with the command that does it, for
        a link, and for a file that exists when ``force`` is not given; StoreError when the copy
        cannot be made or is not sound, with nothing left behind.
        """
        if not self._database.sqlite:
            raise UsageError(f"PostgreSQL has its own tool: {self._pg_dump(path)}")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UsageError(f"{path} is a link or not a plain file; name another path")
        source = Path(str(self._database.url.database))
        if path.exists() and path.samefile(source):
            raise UsageError(f"{path} is the database itself; name another path")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; --force overwrites it")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            runs_and_schema = _copy_and_check(source, temporary)
            _publish_copy(temporary, path, force=force)
        except FileExistsError:
            raise UsageError(f"{path} exists; --force overwrites it") from None
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise StoreError(f"cannot copy {source} to {path}: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return Backup(path, path.stat().st_size, *runs_and_schema)

    def _pg_dump(self, path: Path) -> str:
        """Return the command line, without a password: that comes from ~/.pgpass."""
        url = self._database.url
        query = {key: value for key, value in url.query.items() if "password" not in key}
        shown = url.set(drivername="postgresql", password=None, query=query)
        return f"pg_dump --format=custom --file={path} '{shown.render_as_string()}'"


def _copy_and_check(source: Path, target: Path) -> tuple[int, str]:
    """Copy, check, sync; return how many runs the copy has, and its schema."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, uri=True, timeout=60)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        integrity_errors = [row[0] for row in copy.execute("PRAGMA integrity_check")]
        broken = copy.execute("PRAGMA foreign_key_check").fetchall()
        if integrity_errors != ["ok"] or broken:
            first_error = integrity_errors[0] if integrity_errors != ["ok"] else f"{len(broken)} broken references"
            raise StoreError(f"the copy of {source} is not sound ({first_error}); see lsqctl db check")
        (run_count,) = copy.execute("SELECT count(*) FROM runs").fetchone()
        (schema,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return run_count, schema


def _publish_copy(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # fails where another has made the file in the meantime
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
