"""A Slurm of our own in seconds: a controller and several nodes on one machine, without services.

As root each node has a host name and a pid space of its own, so that to lsqctl it is another
machine, and a kill of its first process ends all that runs there at once, as a power cut does.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import wait_for

# Slurm wants a character device for each GPU that it hands out.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")

CONF = """\
ClusterName=lsqctl
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=5
SlurmdParameters=config_overrides
SlurmctldTimeout=10
InactiveLimit=0
MinJobAge=300
KillWait=30
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=closed Nodes=ALL Default=NO MaxTime=INFINITE State=DOWN
"""


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def missing() -> str:
    """Return what this machine lacks for it, in words."""
    wanted = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "unshare")
    lacking = [name for name in wanted if shutil.which(name) is None]
    if lacking:
        return f"no {lacking[0]} here (Debian: apt install slurmctld slurmd slurm-client)"
    return "" if os.getuid() == 0 else "nodes with a pid space of their own need root"


@dataclass
class PrivateSlurm:
    """A controller and nodes n1, n2, … with ``gpus`` made-up GPUs and ``cpus`` cores each."""

    folder: Path
    nodes: int = 2
    gpus: int = 2
    cpus: int = 2
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def start(self) -> None:
        for name in ("state", "log", "run", *(f"spool/{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True)
        self._write_configuration()
        self.start_controller()
        for node in self.names:
            self.start_node(node)
        self.wait_until_idle()

    def stop(self) -> None:
        self.call("scancel", "--full", "--me", "--signal=KILL")
        for name, process in self.processes.items():
            if process.poll() is None:
                # `unshare --fork` passes over SIGTERM; its end ends all that is in its space
                process.send_signal(signal.SIGTERM if name == "controller" else signal.SIGKILL)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def call(self, *words: str, text: str = "") -> str:
        done = subprocess.run(
            words,
            input=text,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (done.stdout + done.stderr).strip()

    def start_controller(self) -> None:
        self.processes["controller"] = self._spawn("slurmctld", "-D")

    def kill_controller(self) -> None:
        self.processes["controller"].kill()
        self.processes["controller"].wait()

    def start_node(self, name: str, *, hide: Path | None = None) -> None:
        """Start a node, whose slurmd comes back; ``hide`` is a folder that it does not share."""
        spaces = ["--pid", "--fork", "--kill-child", "--uts", "--mount-proc"]
        before = f"hostname {name}; " + (f"mount -t tmpfs none '{hide}'; " if hide else "")
        forever = f"while :; do slurmd -D -N {name}; sleep 0.3; done"
        self.processes[name] = self._spawn("unshare", *spaces, "sh", "-c", before + forever)

    def kill_daemon(self, name: str) -> None:
        """Kill a node's slurmd; its jobs live on."""
        (shell,) = psutil.Process(self.processes[name].pid).children()
        (daemon,) = [one for one in shell.children() if one.name() == "slurmd"]
        daemon.kill()

    def cut_power(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def wait_until_idle(self) -> None:
        def idle() -> bool:
            shown = self.call("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D")
            return shown == str(self.nodes)

        wait_for(idle, 30)

    def clean(self) -> None:
        """End every job and bring back what a test broke."""
        controller = self.processes["controller"]
        if controller.poll() is not None:
            self.start_controller()
        controller.send_signal(signal.SIGCONT)
        self.call("scancel", "--full", "--me", "--signal=KILL")
        self.call("scancel", "--me")
        for name in self.names:
            if self.processes[name].poll() is not None:
                self.start_node(name)
        end = time.monotonic() + 60
        while self.call("squeue", "-h") and time.monotonic() < end:
            self.call("scancel", "--full", "--me", "--signal=KILL")
            time.sleep(0.3)
        for name in self.names:
            self.call("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        environment = os.environ | self.environment
        with (self.folder / "log" / "processes.log").open("ab") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def _write_configuration(self) -> None:
        host, ports = socket.gethostname().partition(".")[0], free_ports(self.nodes + 1)
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory=8000 Gres=gpu:{self.gpus} State=UNKNOWN"
            for name, port in zip(self.names, ports[1:], strict=True)
        ]
        text = CONF.format(
            host=host,
            user=getpass.getuser(),
            port=ports[0],
            folder=self.folder,
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(text)
        gres = [
            f"NodeName={name} Name=gpu File={device}"
            for name in self.names
            for device in DEVICES[: self.gpus]
        ]
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")
