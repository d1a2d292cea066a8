"""No secret of the machine is stored or shown, whatever a run does; on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sqlalchemy import make_url, text

from lsqctl.store import open_store
from lsqctl.store.tables import metadata
from tests.conftest import TINY, CommandLine

CANARY = "canary-5up3r-s3cr3t"
SEEN = "this-one-is-recorded"
FAILING = TINY.replace("lr: 0.1", "lr: 1000.0")


def plant(cli: CommandLine) -> None:
    """Put the canary where people keep secrets: the environment, git, files, comments."""
    for name in (
        *("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD", "LSQCTL_SECRET"),
        *("SLURM_JOB_TOKEN", "NCCL_AUTH_KEY", "SLURM_JWT", "SLURM_SPANK_SECRET"),
    ):
        cli.environment[name] = CANARY
    cli.environment |= {"NCCL_DEBUG": SEEN, "SLURM_JOB_PARTITION": SEEN, "GIT_ASKPASS": "true"}

    def git(*words: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=cli.folder, check=True, capture_output=True)

    git("init")
    cli.write("config.txt", "user: nobody")
    git("add", "config.txt")
    git("commit", "-m", "first")
    git("remote", "add", "origin", f"https://user:{CANARY}@example.org/x.git")
    cli.write("config.txt", f"password: {CANARY}")
    cli.write(".env", f"TOKEN={CANARY}")
    cli.write("tiny.yaml", f"# the password is {CANARY}\n" + TINY.replace("epochs: 2", "epochs: 1"))
    cli.write("failing.yaml", f"# {CANARY}\n" + FAILING)


def everything_shown(cli: CommandLine) -> str:
    """The output of every command that reads, and of the worker."""
    shown = [cli("submit", "tiny.yaml", "failing.yaml", "--dry-run", "--json")]
    shown += [
        cli("submit", "tiny.yaml", "failing.yaml"),
        cli("worker", "--until-empty", "--slots", "2"),
    ]
    for words in (
        *(["runs", "show", f"@last~{n}", "--json"] for n in (0, 1)),
        *(["runs", "logs", f"@last~{n}"] for n in (0, 1)),
        *(["export", f"board.{kind}"] for kind in ("csv", "json", "md")),
        *(["leaderboard", "--format", "csv"], ["runs", "ls"], ["doctor"]),
    ):
        shown.append(cli(*words, code=None))
    return "".join(one.stdout + one.stderr for one in shown)


def everything_stored(cli: CommandLine, url: str) -> str:
    """Every row, as text, and the bytes of every file that lsqctl wrote."""
    planted = {"config.txt", ".env", "tiny.yaml", "failing.yaml"}
    files = [
        path.read_bytes().decode("latin-1")
        for path in cli.folder.rglob("*")
        if path.is_file() and ".git" not in path.parts and path.name not in planted
    ]
    assert len(files) > 5
    with open_store(url) as store:
        rows = store._database.read(
            lambda db: [
                str(tuple(row))
                for table in metadata.sorted_tables
                for row in db.execute(text(f'SELECT * FROM "{table.name}"'))
            ]
        )
    return "\n".join([*files, *rows])


def with_password(url: str) -> str:
    """The same database; where it has a server, by a URL that holds a password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return url
    return parsed.set(password=CANARY).render_as_string(hide_password=False)


def test_planted_secrets_are_in_no_row_no_file_and_no_output(
    cli: CommandLine, url: str, tmp_path: Path
) -> None:
    plant(cli)
    cli.environment["LSQCTL_DB"] = with_password(url)
    shown = everything_shown(cli)
    stored = everything_stored(cli, url)
    assert "diverged" in shown, "one run failed, so that failures are looked at too"
    assert '"succeeded"' in shown
    assert SEEN in stored
    assert SEEN in shown
    assert CANARY not in shown
    assert CANARY not in stored
