"""Write one redacted zip file for an issue: no weights, no data, no metrics, and no secrets.

It needs no workspace, no sound database and no network: what cannot be had says why.
"""

from __future__ import annotations

import dataclasses
import getpass
import io
import json
import os
import platform
import pwd
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from lsqctl.api.bugreport_facts import facts_of_here, facts_of_store, last_lines, strings_at
from lsqctl.api.outfile import check_free, write_whole
from lsqctl.api.redacting import Known, Redactor
from lsqctl.errors import UsageError
from lsqctl.settings import Settings, secret_values

_ABOUT = """\
A bug report of lsqctl, written at {at:%Y-%m-%d %H:%M:%S} UTC.

Replaced: passwords in URLs and what looks like a token or a key by ***, the home folder by ~,
names of users and hosts by <user> and <host>. Not in it: weights, data, metrics, and variables
of the environment other than those in machine.json.

Look through it before you send it: a secret that looks like a word is not known for one.
"""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the report, and its size as it is read."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written; ``size_bytes`` is the zip file's."""

    path: Path
    size_bytes: int
    members: tuple[Member, ...]


def write_report(
    settings: Settings,
    path: Path | None = None,
    *,
    origins: Mapping[str, str],
    run: str | None = None,
    force: bool = False,
) -> Report:
    """Write the report, by default to ``lsqctl-bugreport-TIME.zip`` in the current folder.

    ``origins`` says where each setting comes from (``settings.origins``); ``run`` is an id, a
    name or ``@last``.  Raises UsageError for a file that exists, without ``force``, or cannot be
    written, and NotFound for a run that is not there.
    """
    at = datetime.now(UTC)
    path = path or Path(f"lsqctl-bugreport-{at:%Y%m%dT%H%M%SZ}.zip")
    if path.suffix != ".zip":
        raise UsageError(f"{path} must end in .zip")
    check_free(path, force=force)
    facts = _plain(facts_of_store(settings, run) | facts_of_here(settings, origins))
    redactor = Redactor(known(settings, facts))
    texts = {name: _text(fact, redactor) for name, fact in sorted(facts.items())}
    members = {"about.txt": _ABOUT.format(at=at), **texts}
    data = _zipped(members)
    write_whole(path, data, force=force)
    sizes = tuple(Member(name, len(text.encode())) for name, text in members.items())
    return Report(path, len(data), sizes)


def known(settings: Settings, facts: Any) -> Known:
    """Return what is private here: of this machine, its user, and the facts of a report."""
    passwords, server = _of_url(settings.db_url)
    return Known(
        secrets=secret_values() | passwords,
        homes=_homes(),
        users=_users() | strings_at(facts, "SLURM_JOB_USER"),
        host=platform.node(),
        hosts=strings_at(facts, "host", "hostname") | server,
    )


def _homes() -> frozenset[str]:
    try:
        home = Path.home()
        return frozenset({str(home), str(home.resolve())})
    except RuntimeError:  # a user without a home
        return frozenset()


def _users() -> frozenset[str]:
    found = set()
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        found.add(getpass.getuser())
    with suppress(KeyError):
        found.add(pwd.getpwuid(os.getuid()).pw_name)
    return frozenset(found)


def _of_url(url: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the passwords in a URL, in every spelling, and the names of its server."""
    rest, _, query = url.partition("://")[2].partition("?")
    who, _, where = rest.rpartition("@")
    password = who.partition(":")[2]
    found = {password, *password.split("@")}
    asked = parse_qsl(query)
    found |= {value for key, value in asked if "pass" in key.lower()}
    spelt = {form(one) for one in found for form in (str, unquote, quote)}
    hosts = {value for key, value in asked if key == "host" and not value.startswith("/")}
    hosts.add(where.partition("/")[0].partition(":")[0])
    return frozenset(spelt), frozenset(hosts - {""})


def _plain(facts: Mapping[str, object]) -> Any:
    return json.loads(json.dumps(facts, default=_leaf))


def _leaf(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # a fence lets one write to a run; nobody needs it to read about one
        names = (one.name for one in dataclasses.fields(value) if one.name != "fence")
        return {name: getattr(value, name) for name in names}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _text(fact: Any, redactor: Redactor) -> str:
    """Return a member's text: a log, or JSON in ASCII, which no terminal can stumble over."""
    if isinstance(fact, str):
        return last_lines(redactor.text(fact))
    return json.dumps(redactor.value(fact), indent=2) + "\n"


def _zipped(members: Mapping[str, str]) -> bytes:
    """Return the same bytes for the same members: no entry bears a time."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as file:
        for name, text in members.items():
            entry = ZipInfo(name)
            entry.external_attr = 0o600 << 16
            entry.compress_type = ZIP_DEFLATED
            file.writestr(entry, text.encode())
    return buffer.getvalue()
