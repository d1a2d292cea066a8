"""Profiles: what a cluster wants to be told, in ``cluster.toml`` of the workspace."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from lsqctl.errors import NotFound, UsageError
from lsqctl.text import did_you_mean, is_invisible, parse_duration, sanitize

PROFILE_FILE = "cluster.toml"
_PROFILE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORD = re.compile(r"[\w.,:@%+/={}\[\]*&()!|-]*", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9})([KMGT]?)")
# What a pilot cannot do without, or what would make two of one.
_RESERVED = frozenset(
    """job-name parsable requeue no-requeue signal array output error export wrap test-only time
    hold begin dependency wait chdir open-mode comment""".split()
)


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"must be one word without quotes or blanks, got {text!r}")
    return text


def _line(text: str) -> str:
    if any(map(is_invisible, text)):
        raise ValueError(f"must be one line, got {text!r}")
    return text


def _memory(text: str) -> str:
    if text and not _MEMORY.fullmatch(text):
        raise ValueError(f"must be a number with K, M, G or T, as in 32G, got {text!r}")
    return text


def _gres(text: str) -> str:
    if text and "{gpus}" not in text:
        raise ValueError(
            f"must have {{gpus}} where the number stands, as gpu:{{gpus}}, got {text!r}"
        )
    return _word(text)


def _flag(text: str) -> str:
    name = _word(text).lstrip("-").partition("=")[0]
    if name in _RESERVED:
        raise ValueError(f"{text} is said by lsqctl itself; leave it out")
    return text


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"must be a time in quotes, such as 90s or 5m, got {value!r}")
    seconds = parse_duration(value)
    if seconds < 1:
        raise ValueError(f"must be a second at least, got {value!r}")
    return seconds


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Duration = Annotated[float, BeforeValidator(_seconds)]


class Profile(BaseModel):
    """What is asked of a scheduler for each pilot.  Amounts are for each GPU that it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    scheduler: Word = Field("slurm", description="who starts pilots")
    partition: Word = Field("", description="Slurm's partition; empty: its default")
    account: Word = Field("", description="who pays")
    qos: Word = Field("", description="quality of service")
    minutes: int = Field(
        0, ge=0, le=525_600, description="time limit of a pilot; 0: the partition's"
    )
    cpus: int = Field(1, ge=1, le=1024, description="CPU cores for each GPU, or of a CPU pilot")
    memory: Annotated[str, AfterValidator(_memory)] = Field(
        "", description="memory for each GPU, as 32G; empty: the partition's default"
    )
    gres: Annotated[str, AfterValidator(_gres)] = Field(
        "gpu:{gpus}", description="how GPUs are asked for, as gpu:a100:{gpus}; empty: CPU pilots"
    )
    flags: tuple[Annotated[str, AfterValidator(_flag)], ...] = Field(
        (), strict=False, description="further options of sbatch, or of ssh"
    )
    setup: tuple[Line, ...] = Field(
        (), strict=False, description="lines of shell before the worker starts, as module load cuda"
    )
    wrap: tuple[Line, ...] = Field(
        (), strict=False, description="words before lsqctl, as apptainer, exec, --nv, lsqctl.sif"
    )
    hosts: tuple[Word, ...] = Field(
        (), strict=False, description="where ssh starts pilots, one each"
    )
    lead: Duration = Field(
        120.0, description="how long before its time limit a pilot saves and ends"
    )
    idle: Duration = Field(300.0, description="how long a pilot waits for another run")
    most: int = Field(4, ge=1, le=10_000, description="how many pilots there may be")

    def memory_of(self, gpus: int) -> str:
        """Return the memory of a pilot with so many GPUs, as ``sbatch --mem`` reads it."""
        match = _MEMORY.fullmatch(self.memory)
        return f"{int(match[1]) * max(gpus, 1)}{match[2]}" if match else ""


def read_profile(home: Path, name: str) -> Profile:
    """Return a profile of the workspace's file.

    Raises NotFound where there is none of this name, and UsageError that names file, line and key
    of the first mistake.
    """
    path = home / PROFILE_FILE
    text, tables = _read_tables(path)
    if name not in tables:
        known = did_you_mean(name, tables) or f"; there are {', '.join(tables) or 'none'}"
        raise NotFound(f"{path} has no profile `{sanitize(name)}`{known}")
    return _checked(path, text, name, tables[name])


def profile_names(home: Path) -> list[str]:
    """Return the profiles of the workspace's file.  Raises as ``read_profile`` does."""
    return list(_read_tables(home / PROFILE_FILE)[1])


def _read_tables(path: Path) -> tuple[str, dict[str, dict[str, object]]]:
    """Return the text of the file and its tables, whose keys nobody has checked."""
    if not path.exists():
        raise NotFound(f"there is no {path}; docs/cluster.md shows one of five lines")
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except (OSError, ValueError) as error:  # TOMLDecodeError says line and column
        raise UsageError(f"{path}: {error}") from None
    for table, content in tables.items():
        if not _PROFILE_NAME.fullmatch(table) or not isinstance(content, dict):
            raise UsageError(
                f"{path}:{_line_of(text, '', table)}: `{sanitize(table)}` is no profile: each is a "
                "[name] of small letters, digits and _, and its keys stand below it"
            )
    return text, tables


def _checked(path: Path, text: str, name: str, content: dict[str, object]) -> Profile:
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{path}:{_line_of(text, name, str(first['loc'][0]))}: [{name}]"
        raise UsageError(f"{where} {_message(first)}") from None
    for key, problem in _contradictions(profile):
        raise UsageError(f"{path}:{_line_of(text, name, key)}: [{name}] {key}: {problem}")
    return profile


def _contradictions(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield each key that does not fit the others, and why."""
    from lsqctl.cluster.schedulers import SCHEDULERS

    if profile.scheduler not in SCHEDULERS:
        near = did_you_mean(profile.scheduler, SCHEDULERS)
        yield "scheduler", f"there are {', '.join(SCHEDULERS)}, not `{profile.scheduler}`{near}"
    if profile.minutes and profile.lead >= profile.minutes * 60:
        yield "lead", f"{profile.lead:g} s is not less than the time limit, {profile.minutes} min"
    if (profile.scheduler == "ssh") != bool(profile.hosts):
        yield "hosts", "the scheduler ssh, and it alone, needs a list of hosts"
    for flag in profile.flags if profile.scheduler == "slurm" else ():
        if not flag.startswith("--"):
            yield "flags", f"each is written as --name=value, not `{flag}`"


def _message(error: ErrorDetails) -> str:
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        near = did_you_mean(key, Profile.model_fields)
        known = near or f"; keys are {', '.join(Profile.model_fields)}"
        return f"no key is named `{sanitize(key)}`{known}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}"


def _line_of(text: str, table: str, key: str) -> int:
    """Return the line where a key of a table stands, the table's own where it is not there."""
    inside, found = table == "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line):
            inside = header[1] == table
            if inside or header[1] == key:
                found = number
        elif inside and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return found
