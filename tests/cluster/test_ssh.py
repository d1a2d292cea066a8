"""Pilots on plain hosts: a real sshd on the loopback, and a host that is away."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lsqctl.run import RunState
from tests.cluster.conftest import ROOT, ClusterLine
from tests.cluster.private_slurm import free_ports
from tests.conftest import TINY, wait_for
from tests.store.samples import identity, lapse, take
from tests.worker.long_run import LONG, at_work, submitted

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
CLIENT = """\
Host *
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
Host one two
  HostName 127.0.0.1
  Port {port}
Host away
  HostName 127.0.0.1
  Port {closed}
"""
SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
"""


@pytest.fixture(scope="module")
def ssh_config(tmp_path_factory) -> Iterator[Path]:
    """The ssh_config that leads to a private sshd by the names `one` and `two`."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("NOT TESTED OVER SSH: no sshd here (Debian: apt install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for key in ("key", "host_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
        )
    port, closed = free_ports(2)
    values = {"folder": folder, "port": port, "closed": closed, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SERVER.format(**values))
    (folder / "ssh_config").write_text(CLIENT.format(**values))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants its empty folder
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")])
    yield folder / "ssh_config"
    server.terminate()
    server.wait()


@pytest.fixture
def on_hosts(line: ClusterLine, ssh_config: Path) -> Iterator[ClusterLine]:
    line.profile(
        f"""\
[lab]
scheduler = "ssh"
hosts = ["away", "one", "two"]
gres = ""
idle = "3s"
flags = ["-F", "{ssh_config}"]
setup = ["export PATH='{line.folder / "bin"}':$PATH PYTHONPATH='{ROOT}' OMP_NUM_THREADS=1"]
"""
    )
    yield line
    wait_for(lambda: not pilots(line))


def pilots(line: ClusterLine) -> list[psutil.Process]:
    """Return the workers of this workspace that ssh started."""
    home = str(line.folder)
    return [
        one
        for one in psutil.process_iter(["cmdline", "environ"])
        if "worker" in (one.info["cmdline"] or ())
        and (one.info["environ"] or {}).get("LSQCTL_HOME", "").startswith(home)
        and any(word.startswith("ssh-") for word in one.info["cmdline"])
    ]


def test_the_dispatcher_tells_the_hooks_of_a_run_that_it_finds_lost(on_hosts):
    on_hosts.write("tiny.yaml", TINY)
    on_hosts("submit", "tiny.yaml")
    got = on_hosts.folder / "got"
    file = on_hosts.home / "workspace.toml"
    file.write_text(f'[on_end]\ncommand = ["sh", "-c", "cat > {got}"]\n')
    with on_hosts.store() as store:
        store.workers.register(identity("w1"))
        run_id = take(store).run.id
        store.runs.cancel(run_id)
        lapse(store, run_id)
    said = on_hosts("cluster", "work", "lab", "--until-empty", "--poll", "1s").stderr
    assert f"({run_id}): its worker was lost; now cancelled" in said
    assert json.loads(got.read_text())["state"] == "cancelled"


@pytest.mark.slow
def test_hosts_behind_ssh_work_the_queue_though_one_is_away_and_end_by_themselves(on_hosts):
    on_hosts.write("tiny.yaml", TINY.replace("epochs: 2", "epochs: 1"))
    on_hosts("submit", "tiny.yaml")
    said = on_hosts("cluster", "work", "lab", "--until-empty", "--poll", "1s").stderr
    with on_hosts.store() as store:
        (run,) = store.runs.list()
    assert run.state is RunState.SUCCEEDED, (said, on_hosts.logs())
    assert re.match(r"ssh-(one|two)_[0-9a-f]+\.0-", run.worker)
    assert said.count("sent pilot") == 1


@pytest.mark.slow
def test_a_pilot_that_is_killed_is_replaced_and_its_run_resumed(on_hosts):
    run_id = submitted(on_hosts, LONG.replace("epochs: 8", "epochs: 14"))
    dispatcher = on_hosts.start("cluster", "work", "lab", "--until-empty", "--poll", "1s")
    with on_hosts.store() as store:
        wait_for(lambda: at_work(store, run_id), 120)
        for one in pilots(on_hosts):
            one.kill()
        said, _ = dispatcher.communicate(timeout=200)
        assert store.runs.detail(run_id).run.state is RunState.SUCCEEDED, said
        reasons = [str(one.reason) for one in store.runs.detail(run_id).attempts]
    assert reasons == ["worker_lost", "completed"]


def test_when_no_host_answers_nothing_is_concluded(on_hosts):
    path = on_hosts.home / "cluster.toml"
    path.write_text(path.read_text().replace('"away", "one", "two"', '"away"'))
    on_hosts("submit", "digits/resnet8-fp32")
    assert "Connection refused" in on_hosts("cluster", "status", "lab", code=1).stderr
