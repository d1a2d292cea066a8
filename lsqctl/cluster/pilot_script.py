"""The script of a pilot: set up, prove that this is the right workspace, then become a worker.

It holds no secret: schedulers keep scripts. The database's URL is read where it runs, from a file
in the workspace that the user alone may read.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lsqctl.cluster.profile import Profile

URL_FILE = "database-url"
TOKEN_FILE = "token"  # noqa: S105 (its name: what it holds proves a folder, and guards nothing)


@dataclass(frozen=True, slots=True)
class PilotRequest:
    """All that a scheduler has to know of a pilot that is to be sent.

    ``folder`` is ``cluster`` in the workspace ``home``; ``token`` is what the pilot must find in
    it, ``version`` what its lsqctl must be. ``variables`` are exported. ``avoid`` names nodes where
    pilots failed.
    """

    name: str
    gpus: int
    profile: Profile
    home: Path
    token: str
    version: str
    variables: Mapping[str, str] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """Where token, URL and logs lie."""
        return cluster_dir(self.home)

    @property
    def log(self) -> Path:
        """What the pilot prints."""
        return self.folder / "logs" / f"{self.name}.log"


def cluster_dir(home: Path) -> Path:
    """Return the folder of a workspace that is for pilots and dispatchers."""
    return home / "cluster"


def pilot_script(request: PilotRequest, *, header: Sequence[str], job_id: str) -> str:
    """Return the script. ``header`` is the scheduler's; ``job_id`` what the shell makes it of.

    The worker is exec'ed: a signal to the script's process reaches it.
    """
    profile, quote = request.profile, shlex.quote
    command = " ".join(map(quote, (*profile.wrap, "lsqctl")))
    exports = {"LSQCTL_HOME": str(request.home), **request.variables}
    nonce = "$(od -An -N3 -tx1 /dev/urandom | tr -d ' \\n')"
    gpus = request.gpus if profile.gres else 0
    join = f"--gpus {gpus} --token {request.token} --expect {quote(request.version)}"
    slots = 1 if profile.gres else request.gpus  # a CPU's slots are what its ranks run in
    work = f"--idle-limit {profile.idle:g} --only-gpus {request.gpus} --slots {slots}"
    lines = [
        "#!/bin/bash",
        *header,
        f"# A pilot of lsqctl: a worker of {request.home}, until there is nothing to do.",
        *profile.setup,
        *(f"export {name}={quote(value)}" for name, value in exports.items()),
        f'export LSQCTL_DB="$(cat {quote(str(request.folder / URL_FILE))})"',
        f"{command} cluster join {join} || exit",
        f"exec {command} worker {work} --gpus {'all' if profile.gres else 'none'} \\",
        f'    --name "{profile.scheduler}-{job_id}-{nonce}"',
    ]
    return "\n".join(lines) + "\n"
