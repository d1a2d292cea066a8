"""Plain hosts behind ssh: a pilot on each, found again among the processes of the host.

A host that does not answer gets no pilot, and its own are merely not seen. Nothing ever waits here:
there is nothing to recall.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lsqctl.cluster.pilot_script import TOKEN_FILE, PilotRequest, pilot_script
from lsqctl.cluster.profile import Profile
from lsqctl.cluster.schedulers import Pilot, call_program, scheduler
from lsqctl.errors import PilotRefused, SchedulerAway, UsageError

_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


@scheduler("ssh", description="hosts that `ssh` reaches without a password, a pilot on each")
class SshHosts:
    """The hosts of a profile."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def script(self, request: PilotRequest) -> str:
        """Return the script that the shell of a host is given."""
        return pilot_script(request, header=(), job_id="$PILOT_JOB.0")

    def jobs(self, prefix: str) -> Sequence[Pilot]:
        """Return the pilots among the user's processes; SchedulerAway when no host answers."""
        listing = f"ps -u {os.getuid()} -o args= || ps -o args="
        with ThreadPoolExecutor(len(self._profile.hosts)) as pool:
            answers = list(pool.map(lambda host: self._ask(host, listing), self._profile.hosts))
        if all(answer.returncode for answer in answers):
            raise SchedulerAway(f"ssh: {answers[0].stderr.strip() or 'no host answers'}")
        found = zip(self._profile.hosts, answers, strict=True)
        return [
            Pilot(job_id_of(host, name), name, "RUNNING", node=host)
            for host, answer in found
            if answer.returncode == 0
            for name in sorted(set(_found(prefix, host, answer.stdout)))
        ]

    def submit(self, request: PilotRequest) -> str:
        """Start a pilot on a host that has none; PilotRefused where each has one or is away."""
        busy = {pilot.node for pilot in self.jobs(request.name.rpartition("g")[0])}
        problems = []
        for host in self._profile.hosts:
            if host in busy or host in request.avoid:
                continue
            job_id = job_id_of(host, request.name)
            # the outer shell stays, and bears the name that the pilot is found by
            inner = f"PILOT_JOB={job_id} bash -c {shlex.quote(self.script(request))}; :"
            log = shlex.quote(str(request.log))
            words = ["setsid", "sh", "-c", inner, f"{request.name}@{host}"]
            token = shlex.quote(str(request.folder / TOKEN_FILE))
            shared = f'[ "$(cat {token})" = {request.token} ]'
            start = f"{{ {shlex.join(words)} </dev/null >>{log} 2>&1 & }}"
            done = self._ask(host, f"{shared} && {start}")
            if done.returncode == 0:
                return job_id
            problems.append(f"{host}: {done.stderr.strip()}")
        raise PilotRefused("; ".join(problems) or "every host has its pilot, or is avoided")

    def recall(self, job_ids: Sequence[str]) -> None:
        """Do nothing: a pilot here never waits."""

    def _ask(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        words = ["ssh", *_OPTIONS, *self._profile.flags, "--", host, command]
        try:
            return call_program(words)
        except FileNotFoundError:
            raise UsageError("ssh is not installed here: apt install openssh-client") from None
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, 255, "", f"{host} gave no answer")


def _found(prefix: str, host: str, listing: str) -> list[str]:
    """Return the names of the pilots that a host's processes bear."""
    return re.findall(rf"({re.escape(prefix)}g\d+-[0-9a-f]+)@{re.escape(host)}(?!\S)", listing)


def job_id_of(host: str, name: str) -> str:
    """Return the job id of a pilot: what a worker's name can hold of host and name.

    >>> job_id_of("me@gpu-1.lab", "lsqctl-a1-lab-g1-77aa")
    'me_gpu-1_lab_77aa'
    """
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', host)}_{name.rpartition('-')[2]}"
