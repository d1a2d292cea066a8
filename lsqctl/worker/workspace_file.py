"""``workspace.toml``: what a workspace wants beside its runs: trackers, a launcher, hooks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lsqctl.errors import UsageError
from lsqctl.launchers import LAUNCHERS
from lsqctl.ownership import read_regular
from lsqctl.text import did_you_mean, parse_duration
from lsqctl.trackers import check_trackers

WORKSPACE_FILE = "workspace.toml"
_KEYS = ("trackers", "launcher", "on_end")
_ON_END_KEYS = ("command", "webhook", "timeout")
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class OnEnd:
    """What is done at the end of each run: a command (a word each), a message to a webhook.

    Either is ended after ``timeout_seconds``.
    """

    command: tuple[str, ...] = ()
    webhook: str = ""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    """The file's content; that of a workspace without one is empty."""

    trackers: tuple[str, ...] = ()
    launcher: str = ""
    on_end: OnEnd = field(default_factory=OnEnd)


def read_workspace_file(home: Path) -> WorkspaceFile:
    """Return what a workspace's file says.  Raises UsageError, naming file and key, and NotFound
    or PluginError for a tracker or a launcher that cannot be used.
    """
    path, data = _read(home)
    on_end = _on_end(path, data)
    trackers = _words(path, "trackers", data.get("trackers", []))
    check_trackers(trackers)
    launcher = data.get("launcher", "")
    if not isinstance(launcher, str):
        raise UsageError(f'{path}: `launcher` must be a name, as "nice"')
    if launcher:
        LAUNCHERS.find(launcher)
    return WorkspaceFile(trackers, launcher, on_end)


def read_on_end(home: Path) -> OnEnd:
    """Return the hooks alone, for who trains nothing.  Raises UsageError."""
    return _on_end(*_read(home))


def _read(home: Path) -> tuple[Path, Mapping[str, object]]:
    path = home / WORKSPACE_FILE
    try:
        data = tomllib.loads(read_regular(path).decode())
    except FileNotFoundError:
        return path, {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    _check_keys(path, data, _KEYS)
    return path, data


def _check_keys(
    path: Path, data: Mapping[str, object], known: Sequence[str], prefix: str = ""
) -> None:
    for key in data:
        if key not in known:
            hint = did_you_mean(key, known) or f"; it may hold {', '.join(known)}"
            raise UsageError(f"{path}: unknown key `{prefix}{key}`{hint}")


def _words(path: Path, key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(word, str) and word for word in value):
        return tuple(value)
    raise UsageError(f'{path}: `{key}` must be a list of words, as ["tensorboard"]')


def _on_end(path: Path, workspace: Mapping[str, object]) -> OnEnd:
    data = workspace.get("on_end", {})
    if not isinstance(data, dict):
        raise UsageError(f"{path}: `on_end` must be a table: [on_end]")
    _check_keys(path, data, _ON_END_KEYS, "on_end.")
    webhook, timeout = data.get("webhook", ""), data.get("timeout", "30s")
    if not isinstance(webhook, str) or (
        webhook and not webhook.startswith(("https://", "http://"))
    ):
        raise UsageError(
            f"{path}: `on_end.webhook` must be a URL that begins with https:// or http://"
        )
    try:
        seconds = parse_duration(str(timeout))
    except ValueError as error:
        raise UsageError(f"{path}: `on_end.timeout`: {error}") from None
    command = _words(path, "on_end.command", data.get("command", []))
    return OnEnd(command, webhook, max(1.0, seconds))
