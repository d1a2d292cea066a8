"""Who this worker is, and whether another one on this machine is provably dead."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import psutil

from lsqctl.run import WorkerIdentity


def this_worker(name: str | None, slots: int, device: str) -> WorkerIdentity:
    """Return a new identity for this process."""
    host = socket.gethostname()
    token = secrets.token_hex(3)
    pid = os.getpid()
    return WorkerIdentity(
        id=f"{name or host}-{pid}-{token}",
        name=name or host,
        host=host,
        pid=pid,
        process_started=psutil.Process(pid).create_time(),
        boot_id=boot_id(),
        slots=slots,
        device=device,
    )


def boot_id() -> str:
    """Return what names this boot of this machine, and within it the space that pids live in.

    Two containers may share a host's name and boot, yet not its pids.  Empty where the system
    tells neither.
    """
    boot_file, pid_namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot_file.exists():
        return ""
    namespace = pid_namespace.readlink() if pid_namespace.is_symlink() else ""
    return f"{boot_file.read_text().strip()} {namespace}"


def is_dead(worker: WorkerIdentity) -> bool:
    """Return whether ``worker`` ran where we run and its process does not live any more.

    A pid is reused, so its start time must match too.  After a reboot nothing is provable (the
    name may be another machine's): the lease decides.
    """
    if worker.host != socket.gethostname() or worker.boot_id != boot_id():
        return False
    try:
        process = psutil.Process(worker.pid)
        return abs(process.create_time() - worker.process_started) > 1.0
    except psutil.NoSuchProcess:
        return True
