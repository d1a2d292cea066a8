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

from lsqctl.api.bugreport_facts import machine_sections, store_sections, last_lines, strings_under
from lsqctl.api.outfile import check_overwrite, write_atomic
from lsqctl.api.redacting import KnownSecrets, Redactor
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
class BugReport:
    """A report that was written; ``size_bytes`` is the zip file's."""

    path: Path
    size_bytes: int
    members: tuple[Member, ...]


def write_bug_report(
    settings: Settings,
    path: Path | None = None,
    *,
    sources: Mapping[str, str],
    run_ref: str | None = None,
    force: bool = False,
) -> BugReport:
    """Write the report, by default to ``lsqctl-bugreport-TIME.zip`` in the current folder.

    ``sources`` says where each setting comes from (``settings.sources``); ``run_ref`` is an id, a
    name or ``@last``.  Raises UsageError for a file that exists, without ``force``, or cannot be
    written, and NotFound for a run that is not there.
    """
    at = datetime.now(UTC)
    path = path or Path(f"lsqctl-bugreport-{at:%Y%m%dT%H%M%SZ}.zip")
    if path.suffix != ".zip":
        raise UsageError(f"{path} must end in .zip")
    check_overwrite(path, force=force)
    sections = _to_json_types(store_sections(settings, run_ref) | machine_sections(settings, sources))
    redactor = Redactor(collect_known_secrets(settings, sections))
    texts = {name: _member_text(section, redactor) for name, section in sorted(sections.items())}
    members = {"about.txt": _ABOUT.format(at=at), **texts}
    data = _zip_bytes(members)
    write_atomic(path, data, force=force)
    sizes = tuple(Member(name, len(text.encode())) for name, text in members.items())
    return BugReport(path, len(data), sizes)


def collect_known_secrets(settings: Settings, sections: Any) -> KnownSecrets:
    """Return what is private here: of this machine, its user, and a report's sections."""
    passwords, server = _url_passwords_and_hosts(settings.db_url)
    return KnownSecrets(
        secrets=secret_values() | passwords,
        homes=_home_folders(),
        users=_user_names() | strings_under(sections, "SLURM_JOB_USER"),
        host=platform.node(),
        hosts=strings_under(sections, "host", "hostname") | server,
    )


def _home_folders() -> frozenset[str]:
    try:
        home = Path.home()
        return frozenset({str(home), str(home.resolve())})
    except RuntimeError:  # a user without a home
        return frozenset()


def _user_names() -> frozenset[str]:
    names = set()
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        names.add(getpass.getuser())
    with suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    return frozenset(names)


def _url_passwords_and_hosts(url: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the passwords in a URL, in every spelling, and the names of its server."""
    rest, _, query = url.partition("://")[2].partition("?")
    userinfo, _, location = rest.rpartition("@")
    password = userinfo.partition(":")[2]
    passwords = {password, *password.split("@")}
    parameters = parse_qsl(query)
    passwords |= {value for key, value in parameters if "pass" in key.lower()}
    spellings = {form(candidate) for candidate in passwords for form in (str, unquote, quote)}
    hosts = {value for key, value in parameters if key == "host" and not value.startswith("/")}
    hosts.add(location.partition("/")[0].partition(":")[0])
    return frozenset(spellings), frozenset(hosts - {""})


def _to_json_types(sections: Mapping[str, object]) -> Any:
    return json.loads(json.dumps(sections, default=_to_json_leaf))


def _to_json_leaf(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # a fence lets one write to a run; nobody needs it to read about one
        names = (field.name for field in dataclasses.fields(value) if field.name != "fence")
        return {name: getattr(value, name) for name in names}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _member_text(section: Any, redactor: Redactor) -> str:
    """Return a member's text: a log, or JSON in ASCII, which no terminal can stumble over."""
    if isinstance(section, str):
        return last_lines(redactor.redact_text(section))
    return json.dumps(redactor.redact_value(section), indent=2) + "\n"


def _zip_bytes(members: Mapping[str, str]) -> bytes:
    """Return the same bytes for the same members: no entry bears a time."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as file:
        for name, text in members.items():
            entry = ZipInfo(name)
            entry.external_attr = 0o600 << 16
            entry.compress_type = ZIP_DEFLATED
            file.writestr(entry, text.encode())
    return buffer.getvalue()
