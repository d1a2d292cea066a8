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
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from lsqctl import JSON_SCHEMA_VERSION
from lsqctl.atomic_write import check_overwrite, write_atomic
from lsqctl.errors import LsqctlError, StoreError, UsageError
from lsqctl.ownership import open_regular
from lsqctl.run import JsonObject
from lsqctl.services.doctor import diagnose
from lsqctl.services.provenance import installed_versions, version_line
from lsqctl.services.redaction import KnownSecrets, Redactor
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings, recorded_variables, secret_values
from lsqctl.text import sanitize
from lsqctl.worker.messages import log_path
from lsqctl.worker.slots import cpu_cores

if TYPE_CHECKING:
    from lsqctl.store import Store

_ABOUT = """\
A bug report of lsqctl, written at {at:%Y-%m-%d %H:%M:%S} UTC.

Replaced: passwords in URLs and what looks like a token or a key by ***, the home folder by ~,
names of users and hosts by <user> and <host>. Not in it: weights, data, metrics, and variables
of the environment other than those in machine.json.

Read through it before you send it: a secret that looks like a word is not known for one.
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
    sections = _to_json_types(
        store_sections(settings, run_ref) | machine_sections(settings, sources)
    )
    redactor = Redactor(collect_known_secrets(settings, sections))
    texts = {name: _member_text(section, redactor) for name, section in sorted(sections.items())}
    members = {"about.txt": _ABOUT.format(at=at), **texts}
    data = _zip_bytes(members)
    write_atomic(path, data, force=force, mode=0o600)
    sizes = tuple(Member(name, len(text.encode())) for name, text in members.items())
    return BugReport(path, len(data), sizes)


def collect_known_secrets(settings: Settings, sections: object) -> KnownSecrets:
    """Return what is private here: of this machine, its user, and a report's sections."""
    passwords, server = _url_passwords_and_hosts(settings.db_url)
    return KnownSecrets(
        secrets=secret_values() | passwords,
        homes=_home_folders(),
        users=_user_names()
        | strings_under(sections, "user", "SLURM_JOB_USER", "SLURM_JOB_ACCOUNT"),
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


def _to_json_types(sections: Mapping[str, object]) -> JsonObject:
    plain: JsonObject = json.loads(json.dumps(sections, default=_to_json_leaf))
    return plain


def _to_json_leaf(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # a fence lets one write to a run; nobody needs it to read about one
        names = (field.name for field in dataclasses.fields(value) if field.name != "fence")
        return {name: getattr(value, name) for name in names}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _member_text(section: object, redactor: Redactor) -> str:
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


Sections = JsonObject  # by the name of the member: text, or what JSON can hold

PACKAGES = (
    *("torch", "torchvision", "numpy", "sqlalchemy", "alembic", "psycopg", "pandas", "pydantic"),
    *("pyyaml", "yamlcore", "typer", "rich", "jinja2", "psutil", "scikit-learn", "safetensors"),
    *("timm", "matplotlib", "nvidia-ml-py"),
)
MAX_LOG_LINES = 200
MAX_LOG_BYTES = 256 * 1024  # of a log's end, at most
MAX_LOGS = 20
MAX_WORKERS = 50
CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and movements of the cursor
# What a damaged database or file may raise, besides the errors made for users.
_SECTION_ERRORS = (LsqctlError, OSError, ValueError, LookupError, TypeError)


def machine_sections(settings: Settings, sources: Mapping[str, str]) -> Sections:
    """Return what is true of the installation and the machine; ``sources`` as settings gives it."""
    return {
        "versions.json": _or_unavailable(_versions_section),
        "machine.json": _or_unavailable(_machine_section),
        "settings.json": _or_unavailable(lambda: _settings_section(settings, sources)),
        "doctor.json": _or_unavailable(
            lambda: {
                "schema_version": JSON_SCHEMA_VERSION,
                "findings": diagnose(settings, opens_data=False),
            }
        ),
    }


def store_sections(settings: Settings, run_ref: str | None) -> Sections:
    """Return the state of the queue and, if asked, all about one run but what it measured.

    Raises NotFound or UsageError where the run that ``run_ref`` names is not there.
    """
    sections: Sections = {}
    try:
        with open_workspace(settings, read_only=True) as store:
            sections["queue.json"] = _or_unavailable(lambda: _queue_section(store))
            if run_ref:
                sections |= _run_sections(store, settings, store.runs.resolve(run_ref).id)
    except LsqctlError as error:
        if run_ref and not isinstance(error, StoreError):
            raise
        unavailable = {"unavailable": str(error)}
        return (
            {"queue.json": unavailable} | ({"run.json": unavailable} if run_ref else {}) | sections
        )
    return sections


def _or_unavailable(make_section: Callable[[], object]) -> object:
    try:
        return make_section()
    except _SECTION_ERRORS as error:
        reason = (
            str(error) if isinstance(error, LsqctlError) else f"{type(error).__name__}: {error}"
        )
        return {"unavailable": reason}


def _versions_section() -> Sections:
    return {
        "lsqctl": version_line(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": installed_versions(PACKAGES),
    }


def _machine_section() -> Sections:
    cpus = re.search(r"^model name\s*: (.*)$", _read_text(CPU_INFO), re.MULTILINE)
    gpus = [_read_text(path) for path in sorted(NVIDIA_GPUS.glob("*/information"))]
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "cpu": cpus[1] if cpus else "",
        "cpu_cores": cpu_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [match[1] for text in gpus if (match := re.search(r"Model:\s*(.*)", text))],
        "variables": recorded_variables(),
    }


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _settings_section(settings: Settings, sources: Mapping[str, str]) -> Sections:
    return {name: {"value": getattr(settings, name), "from": sources[name]} for name in sources}


def _queue_section(store: Store) -> Sections:
    return {
        "url": store.url,
        "schema": store.maintenance.schema_version(),
        "runs": {state.value: count for state, count in store.runs.counts().items()},
        "workers": [
            {
                "name": worker.identity.name,
                "device": worker.identity.device,
                "slots": worker.identity.slots,
                "host": worker.identity.host,
                "registered_at": worker.registered_at,
                "last_heartbeat_at": worker.last_heartbeat_at,
                "stopped_at": worker.stopped_at,
                "notice": worker.notice,
            }
            for worker in islice(store.workers.list(), MAX_WORKERS)
        ],
    }


def _run_sections(store: Store, settings: Settings, run_id: str) -> Sections:
    attempts = store.runs.detail(run_id).run.attempt
    newest = range(max(1, attempts - MAX_LOGS + 1), attempts + 1)
    logs = {n: log_path(settings.run_dir(run_id), n) for n in newest}
    return {
        "run.json": _or_unavailable(lambda: store.runs.detail(run_id)),
        "events.json": _or_unavailable(lambda: store.runs.events(run_id)),
        **{f"attempt-{number}.log": _log_section(path) for number, path in logs.items()},
    }


def _log_section(path: Path) -> str:
    """Return the end of a log, or why there is none."""
    section = _or_unavailable(lambda: log_tail(path))
    if isinstance(section, str):
        return section
    return f"no log here: {path}; it lies on the machine whose worker ran the attempt\n"


def log_tail(path: Path) -> str:
    """Return the last ``MAX_LOG_BYTES`` of a file in whole lines: half a secret is not found."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LOG_BYTES))
        data = file.read(MAX_LOG_BYTES)
    if size > MAX_LOG_BYTES:
        data = data.partition(b"\n")[2]
    return _ANSI_ESCAPE.sub("", data.decode("utf-8", "replace").replace("\r", "\n"))


def last_lines(text: str) -> str:
    """Return the last ``MAX_LOG_LINES`` lines, safe to print."""
    return "".join(f"{sanitize(line)}\n" for line in text.splitlines()[-MAX_LOG_LINES:])


def strings_under(tree: object, *keys: str) -> frozenset[str]:
    """Return every string that stands under one of these keys, however deep."""
    if isinstance(tree, list):
        return frozenset().union(*(strings_under(child, *keys) for child in tree))
    if not isinstance(tree, dict):
        return frozenset()
    strings = frozenset(v for k, v in tree.items() if k in keys and isinstance(v, str) and v)
    return strings.union(*(strings_under(child, *keys) for child in tree.values()))
