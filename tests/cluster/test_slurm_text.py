"""What Slurm is told and what it says: scripts without secrets, words of any state."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.cluster.pilot_script import PilotRequest
from lsqctl.cluster.profile import Profile
from lsqctl.cluster.schedulers import Pilot, pilot_name
from lsqctl.cluster.schedulers.slurm import allocation_problem, slurm_script
from lsqctl.settings import scheduler_environment
from lsqctl.store.queue_overview import PilotWorker


def request(gpus: int = 1, home: str = "/shared/w", **keys: object) -> PilotRequest:
    avoid = frozenset({"n7", "n3"})
    name = pilot_name("lsqctl-ab12-gpu-", gpus)
    return PilotRequest(name, gpus, Profile(**keys), Path(home), "ab12", "1/2/3", {}, avoid)


def test_the_script_asks_for_what_the_profile_says_times_the_gpus():
    keys = {"partition": "a100", "account": "lab", "qos": "long", "cpus": 8, "memory": "32G"}
    text = slurm_script(request(2, **keys, minutes=90, flags=("--constraint=ib",)))
    asked = {line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line}
    assert {
        *("--partition=a100", "--account=lab", "--qos=long", "--cpus-per-task=16", "--mem=64G"),
        *("--gres=gpu:2", "--time=90", "--constraint=ib", "--signal=B:USR1@120", "--no-requeue"),
        "--exclude=n3,n7",
    } < asked
    assert "worker --idle-limit 300 --only-gpus 2 --slots 1 --gpus all" in text
    assert "--only-gpus 2 --slots 2 --gpus none" in slurm_script(request(2, gres=""))


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20))
def test_no_path_and_no_word_of_a_wrap_is_read_as_shell(word):
    home = f"/x/{word.replace('/', '').replace(chr(0), '')}"
    text = slurm_script(request(home=home, wrap=("env", word)))
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    (line,) = [line for line in text.splitlines() if line.startswith("export LSQCTL_HOME")]
    assert shlex.split(line) == ["export", f"LSQCTL_HOME={home}"]
    (last,) = [line for line in text.splitlines() if line.startswith("exec ")]
    assert shlex.split(last.rstrip("\\"))[1:4] == ["env", word, "lsqctl"]


def test_what_a_scheduler_gets_holds_no_secret_and_nothing_of_another_job(monkeypatch):
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "lab"}
    secret = {"LSQCTL_DB": "postgresql://u:hush@h/d", "PGPASSWORD": "hush", "HF_TOKEN": "hush"}
    other = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "1", "SQUEUE_PARTITION": "x"}
    for name, value in {**kept, **secret, **other}.items():
        monkeypatch.setenv(name, value)
    environment = scheduler_environment()
    assert kept.items() <= environment.items()
    assert not (secret.keys() | other.keys()) & environment.keys()
    assert "hush" not in str(environment)


def test_the_worker_of_a_pilot_is_found_by_its_job_whatever_the_restart():
    for name, job_id in [
        ("slurm-12.0-ab12cd", "12"),
        ("slurm-12.1-ab12cd", "12"),
        ("ssh-me_gpu-1_lab_77aa.0-ab12cd", "me_gpu-1_lab_77aa"),
    ]:
        assert PilotWorker(name, 0, False).job_id == job_id


def test_the_name_of_a_pilot_tells_how_many_gpus_its_runs_reserve():
    assert Pilot("1", pilot_name("lsqctl-ab12-big_ones-", 16), "PENDING").gpus == 16


@pytest.mark.parametrize(
    ("changes", "gpus", "said"),
    [
        ({}, 0, ""),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, 2, ""),
        ({"SLURM_JOB_NUM_NODES": "2"}, 0, "SLURM_JOB_NUM_NODES is 2, and a pilot has one node"),
        ({"SLURM_CPUS_ON_NODE": "many"}, 0, "SLURM_CPUS_ON_NODE is `many`, which is no number"),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0"}, 2, "names 1"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 2, "2 GPUs were asked for, SLURM_GPUS_ON_NODE is 1"),
        ({}, 1, "1 GPUs were asked for, SLURM_GPUS_ON_NODE is 0"),
    ],
)
def test_variables_of_a_job_that_contradict_each_other_are_told(changes, gpus, said):
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "4"}
    problem = allocation_problem({**variables, **changes}, gpus)
    assert said in problem
    assert bool(said) == bool(problem)
    assert "SLURM_JOB_ID is not set" in allocation_problem({}, 0)
