"""cluster.toml: a mistake ends in one line with file, line and key, and nothing is sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lsqctl.cluster.profile import Profile, profile_names, read_profile
from lsqctl.cluster.schedulers import SCHEDULERS
from lsqctl.errors import NotFound, UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def mistake(folder: Path, text: str, error: type[Exception] = UsageError) -> str:
    (folder / "cluster.toml").write_text(text)
    with pytest.raises(error) as caught:
        read_profile(folder, "gpu")
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def test_a_profile_says_what_is_asked_for_each_gpu(tmp_path):
    text = '[gpu]\npartition = "a100"\nmemory = "32G"\ncpus = 8\nlead = "5m"\nsetup = ["a \'b\'"]\n'
    (tmp_path / "cluster.toml").write_text(f"{text}[other]\n")
    profile = read_profile(tmp_path, "gpu")
    assert (profile.memory_of(4), profile.lead, profile.setup) == ("128G", 300.0, ("a 'b'",))
    assert profile_names(tmp_path) == ["gpu", "other"]
    assert read_profile(tmp_path, "other") == Profile()


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        ('partitoin = "x"', 3, "no key is named `partitoin`; did you mean `partition`?"),
        ('partition = "a b"', 3, "partition: must be one word without quotes or blanks"),
        ("partition = 'a\"b'", 3, "partition: must be one word"),
        ('account = "a\\nb"', 3, "account: must be one word"),
        ('setup = ["module load cuda", "a\\nb"]', 3, "setup: must be one line"),
        ("minutes = -1", 3, "minutes: "),
        ('minutes = "60"', 3, "minutes: input should be a valid integer"),
        ('memory = "lots"', 3, "memory: must be a number with K, M, G or T, as in 32G"),
        ('gres = "gpu:1"', 3, "gres: must have {gpus} where the number stands"),
        ('flags = ["--requeue"]', 3, "flags: --requeue is said by lsqctl itself"),
        ('flags = ["x"]', 3, "flags: each is written as --name=value, not `x`"),
        ('idle = "soon"', 3, "idle: must be a time such as 90s"),
        ("idle = 30", 3, "idle: must be a time in quotes"),
        ('minutes = 2\nlead = "2m"', 4, "lead: 120 s is not less than the time limit, 2 min"),
        ('scheduler = "slum"', 3, "not `slum`; did you mean `slurm`?"),
        ('scheduler = "ssh"', 2, "hosts: the scheduler ssh, and it alone, needs a list of hosts"),
        ('hosts = ["a"]', 3, "hosts: the scheduler ssh, and it alone"),
        ("most = 0", 3, "most: input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path, lines, line, said):
    message = mistake(tmp_path, f"[other]\n[gpu]\n{lines}\n")
    assert message.startswith(f"cluster.toml:{line}: [gpu] ")
    assert said in message


def test_a_file_that_is_no_toml_says_where_and_a_table_that_is_no_profile_is_named(tmp_path):
    assert "line 2, column" in mistake(tmp_path, "[gpu]\npartition = a100\n")
    assert "`big-gpu` is no profile" in mistake(tmp_path, "[gpu]\n[big-gpu]\n")
    assert mistake(tmp_path, "[gpu]\n[big-gpu]\n").startswith("cluster.toml:2:")
    assert "`most` is no profile" in mistake(tmp_path, "most = 3\n")


def test_what_is_not_there_is_said_with_what_is(tmp_path):
    with pytest.raises(NotFound, match=r"there is no .*cluster\.toml; docs/cluster\.md"):
        read_profile(tmp_path, "gpu")
    assert "did you mean `gpus`?" in mistake(tmp_path, "[gpus]\n", NotFound)


def test_every_fault_of_the_page_names_a_test_that_exists():
    table = PAGE.partition("| fault |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == 13
    for row in table:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path} has no {name}"


def test_the_page_lists_every_key_with_its_meaning_and_every_scheduler():
    lines = PAGE.splitlines()
    rows = [(name, field.description) for name, field in Profile.model_fields.items()]
    rows += [(name, info.description) for name, info in SCHEDULERS.items()]
    shown = [f"| `{name}` | {words} |" for name, words in rows]
    assert [row for row in shown if not any(line.startswith(row) for line in lines)] == []
