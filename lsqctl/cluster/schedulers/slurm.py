"""Slurm by ``sbatch``, ``squeue`` and ``scancel``: their text is stable over its versions.

A pilot is never requeued by Slurm (``--no-requeue``): a requeued job waits two minutes and comes
back under the same id; a new pilot is sent instead. Accounting (sacct) is not needed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from lsqctl.cluster.pilot_script import PilotRequest, pilot_script
from lsqctl.cluster.profile import Profile
from lsqctl.cluster.schedulers import TIMEOUT_SECONDS, Pilot, call_program, scheduler
from lsqctl.errors import PilotRefused, SchedulerAway, UsageError
from lsqctl.failpoint import failpoint

_FORMAT = "%i|%T|%N|%j|%r"
# Of `man squeue`; anything else is alive.
_ENDED = frozenset(
    """BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED
    TIMEOUT""".split()
)
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_UNREACHABLE = re.compile(
    r"unable to contact|timed out|connect failure|communication|zero bytes|backup mode|"
    r"temporarily unable|try again|slurmctld.*not respond",
    re.IGNORECASE,
)
_JOB_ID = "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"


@scheduler("slurm", description="Slurm 20.11 or later: `sbatch`, `squeue`, `scancel`")
class Slurm:
    """The user's jobs of a Slurm cluster."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def script(self, request: PilotRequest) -> str:
        """Return the text that sbatch is given."""
        return slurm_script(request)

    def jobs(self, prefix: str) -> Sequence[Pilot]:
        """Return the pilots that squeue lists, ended ones for Slurm's MinJobAge.

        Raises SchedulerAway.
        """
        options = ["--me", "--noheader", "--states=all", f"--format={_FORMAT}"]
        done = _call(["squeue", *options])
        if done.returncode:
            raise SchedulerAway(f"squeue: {_words(done.stderr)}")
        rows = (line.split("|", 4) for line in done.stdout.splitlines())
        return [_to_pilot(row) for row in rows if len(row) == 5 and row[3].startswith(prefix)]

    def submit(self, request: PilotRequest) -> str:
        """Send a pilot by sbatch.  Raises PilotRefused and SchedulerAway."""
        failpoint("cluster.before-submit")
        job_id = self._sbatch(request, "--parsable").stdout.partition(";")[0].strip()
        failpoint("cluster.after-submit")
        return job_id

    def recall(self, job_ids: Sequence[str]) -> None:
        """Cancel those that are still pending.  Raises SchedulerAway."""
        done = _call(["scancel", "--state=PENDING", *job_ids])
        if done.returncode and _UNREACHABLE.search(done.stderr):
            raise SchedulerAway(f"scancel: {_words(done.stderr)}")

    def examine(self, request: PilotRequest) -> Iterator[tuple[Literal["ok", "warning"], str, str]]:
        """Yield when and where Slurm would start a pilot, and how long it lets one save."""
        yield "ok", f"sbatch --test-only: {_words(self._sbatch(request, '--test-only').stderr)}", ""
        config = parse_settings(_call(["scontrol", "show", "config"]).stdout)
        if kill_wait := config.get("KillWait"):
            yield "ok", f"KillWait {kill_wait}: so long a pilot may save when it is cancelled", ""
        if grace := self._partition().get("GraceTime"):
            yield "ok", f"GraceTime {grace} s: so long a pilot may save when it is preempted", ""

    def _partition(self) -> dict[str, str]:
        """Return what Slurm knows of the profile's partition, or of its default."""
        blocks = _call(["scontrol", "show", "partition"]).stdout.split("\n\n")
        partitions = [parse_settings(block) for block in blocks]
        name, default = self._profile.partition, {"Default": "YES"}
        wanted = {"PartitionName": name} if name else default
        return next((one for one in partitions if wanted.items() <= one.items()), {})

    def _sbatch(self, request: PilotRequest, option: str) -> subprocess.CompletedProcess[str]:
        done = _call(["sbatch", option], self.script(request))
        if done.returncode:
            message = f"sbatch: {_words(done.stderr)}"
            raise (SchedulerAway if _UNREACHABLE.search(message) else PilotRefused)(message)
        return done


def slurm_script(request: PilotRequest) -> str:
    """Return the text that sbatch is given."""
    profile, gpus = request.profile, max(request.gpus, 1)
    options = {
        "job-name": request.name,
        "output": '"' + str(request.log).replace("%", "%%") + '"',
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(profile.cpus * gpus),
        "mem": profile.memory_of(gpus),
        "gres": profile.gres.replace("{gpus}", str(gpus)),
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "time": str(profile.minutes or ""),
        "signal": f"B:USR1@{profile.lead:.0f}",
        "exclude": ",".join(sorted(request.avoid)),
    }
    header = [
        *(f"#SBATCH --{name}={value}" for name, value in options.items() if value),
        "#SBATCH --no-requeue",
        *(f"#SBATCH {flag}" for flag in profile.flags),
    ]
    return pilot_script(request, header=header, job_id=_JOB_ID)


def allocation_problem(variables: Mapping[str, str], gpus: int) -> str:
    """Return what SLURM_* variables of a pilot contradict; empty when they agree.

    ``gpus`` is what was asked for, 0 for a pilot of the CPU.
    """
    numbers: dict[str, int] = {}
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_JOB_NUM_NODES", "SLURM_GPUS_ON_NODE"):
        text = variables.get(name)
        if text is not None and not text.isdigit():
            return f"{name} is `{text}`, which is no number"
        numbers |= {} if text is None else {name: int(text)}
    if numbers.get("SLURM_JOB_NUM_NODES", 1) != 1:
        return f"SLURM_JOB_NUM_NODES is {numbers['SLURM_JOB_NUM_NODES']}, and a pilot has one node"
    if "SLURM_JOB_ID" not in numbers:
        return "SLURM_JOB_ID is not set: this is no job of Slurm"
    visible = [one for one in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    given = numbers.get("SLURM_GPUS_ON_NODE", len(visible))
    if gpus and not given == len(visible) == gpus:
        return (
            f"{gpus} GPUs were asked for, SLURM_GPUS_ON_NODE is {given} and CUDA_VISIBLE_DEVICES "
            f"names {len(visible)}"
        )
    return ""


def parse_settings(text: str) -> dict[str, str]:
    """Return what ``scontrol show`` prints: a ``Name = value`` a line, or several ``Name=value``.

    >>> parse_settings("KillWait    = 30 sec")
    {'KillWait': '30 sec'}
    >>> parse_settings("  Default=YES GraceTime=5")
    {'Default': 'YES', 'GraceTime': '5'}
    """
    settings: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(" = ")
        found = [(name.strip(), value.strip())] if separator else re.findall(r"(\w+)=(\S+)", line)
        settings.update(found)
    return settings


def _to_pilot(row: Sequence[str]) -> Pilot:
    job_id, state, node, name, reason = row
    return Pilot(
        job_id,
        name,
        state,
        "" if reason == "None" else reason,
        node,
        waiting=state in _WAITING,
        ended=state in _ENDED,
    )


def _call(words: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return call_program(words, text)
    except FileNotFoundError:
        raise UsageError(
            f"{words[0]} is not installed here: run this where jobs of Slurm are submitted"
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerAway(f"{words[0]} gave no answer in {TIMEOUT_SECONDS:g} s") from None


def _words(text: str) -> str:
    """Return what a command said, as one line without its own name."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(filter(None, lines))) or "it gave no reason"
