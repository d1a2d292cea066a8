"""Work a queue through a scheduler: dispatch, status, script and check of one profile."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lsqctl import __version__
from lsqctl.atomic_write import replace_file, temporary_beside, write_atomic
from lsqctl.bundled import code_sha256
from lsqctl.cluster.dispatcher import Dispatcher, PilotStatus
from lsqctl.cluster.pilot_script import TOKEN_FILE, URL_FILE, PilotRequest, cluster_dir
from lsqctl.cluster.profile import Profile, profile_names, read_profile
from lsqctl.cluster.schedulers import SCHEDULERS, Examinable, Scheduler, pilot_name
from lsqctl.cluster.schedulers.slurm import allocation_problem
from lsqctl.errors import NotFound, PilotRefused, SchedulerAway, StoreError, UsageError
from lsqctl.ownership import make_private_dir, read_regular
from lsqctl.services.doctor_machine import Finding
from lsqctl.services.provenance import newest_schema
from lsqctl.services.watch import PILOTS_SUFFIX
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings, allocation_variables
from lsqctl.store import Store
from lsqctl.text import format_bytes
from lsqctl.worker.on_end import EndHooks
from lsqctl.worker.workspace_file import read_on_end

NEEDS_POSTGRESQL = (
    "pilots on other machines need PostgreSQL (SQLite on a shared disk loses runs): one small "
    "server that every node reaches, as docs/cluster.md sets up in five commands; then "
    "--db postgresql+psycopg://USER@HOST/NAME or LSQCTL_DB"
)


_TOKEN = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A profile in a workspace, ready to send pilots."""

    name: str
    profile: Profile
    settings: Settings
    token: str
    scheduler: Scheduler

    @property
    def prefix(self) -> str:
        """What the names of this profile's pilots begin with."""
        return f"lsqctl-{self.token}-{self.name}-"

    def request(self, gpus: int, avoid: frozenset[str] = frozenset()) -> PilotRequest:
        """Return what is asked of the scheduler for a new pilot."""
        return PilotRequest(
            name=pilot_name(self.prefix, gpus),
            gpus=gpus,
            profile=self.profile,
            home=self.settings.home,
            token=self.token,
            version=expected_version(),
            variables=_exported(self.settings),
            avoid=avoid,
        )


def open_cluster(settings: Settings, name: str, *, prepare: bool = True) -> Cluster:
    """Return a profile of the workspace; its token and the file of the database's URL are made.

    Without ``prepare`` nothing is written, and no pilot of it could join. Raises UsageError for
    SQLite, for a mistake in the profile, and for a workspace whose path a script cannot hold;
    NotFound where there is no such profile.
    """
    profile = read_profile(settings.home, name)
    if settings.db_url.startswith("sqlite"):
        raise UsageError(NEEDS_POSTGRESQL)
    if not str(settings.home).isprintable() or set(str(settings.home)) & set("\"'\\"):
        raise UsageError(f"the workspace {settings.home} has a quote or worse in its path; move it")
    scheduler: Scheduler = SCHEDULERS.load(profile.scheduler)(profile)
    folder = cluster_dir(settings.home)
    if not prepare:
        return Cluster(name, profile, settings, "0" * 8, scheduler)
    make_private_dir(folder)
    make_private_dir(folder / "logs")
    write_atomic(folder / URL_FILE, settings.db_url.encode(), force=True, mode=0o600)
    return Cluster(name, profile, settings, _token(folder / TOKEN_FILE), scheduler)


def _token(path: Path) -> str:
    """Return the workspace's token, made by whoever comes first: it is there whole, or not."""
    if not path.exists():
        temporary = temporary_beside(path)
        replace_file(temporary, secrets.token_hex(4).encode())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        except OSError:  # a file system without links, where two at once are not told apart
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    token = read_regular(path).decode("ascii", "replace")
    if not _TOKEN.fullmatch(token):
        raise StoreError(f"{path} holds no token; remove it while no pilot works or waits")
    return token


def expected_version() -> str:
    """Return what a pilot must have: version of lsqctl, of its schema, and its code's digest."""
    return f"{__version__}/{newest_schema()}/{code_sha256()[:12]}"


def _exported(settings: Settings) -> dict[str, str]:
    """Return the variables that a pilot needs to do as we would; none is a secret."""
    variables = {"LSQCTL_LEASE": f"{settings.lease_seconds:g}", "LSQCTL_COMPILE": settings.compile}
    if settings.data_dir_explicit:
        variables["LSQCTL_DATA"] = str(settings.data_dir)
    return variables if settings.warm else {**variables, "LSQCTL_WARM": "0"}


def make_dispatcher(
    cluster: Cluster,
    store: Store,
    notify: Callable[[str], object] = lambda _: None,
    reap: Callable[[], object] = lambda: None,
) -> Dispatcher:
    """Return the dispatcher of a profile."""
    profile = cluster.profile
    most = min(profile.most, len(profile.hosts)) if profile.hosts else profile.most
    return Dispatcher(
        store,
        cluster.scheduler,
        scheduler_name=profile.scheduler,
        prefix=cluster.prefix,
        most=most,
        largest=None if profile.gres else 1,
        make_request=cluster.request,
        notify=notify,
        reap=reap,
    )


def dispatch(
    cluster: Cluster,
    store: Store,
    notify: Callable[[str], object],
    *,
    poll_seconds: float,
    until_empty: bool,
) -> None:
    """Turn the dispatcher until interrupted, or until no run is left that can go on by itself.

    A database that is away is said, and asked again. The hooks of the workspace are told of runs
    that were lost for good, as by a worker. Raises UnusableDatabase.
    """
    hooks = EndHooks(read_on_end(cluster.settings.home), notify=notify)
    reap = partial(hooks.reap, store, cluster.settings)
    dispatcher = make_dispatcher(cluster, store, notify, reap)
    try:
        for _ in _turns(dispatcher, cluster, store, notify, until_empty=until_empty):
            hooks.tick()
            time.sleep(poll_seconds)
    finally:
        hooks.close()


def _turns(
    dispatcher: Dispatcher,
    cluster: Cluster,
    store: Store,
    notify: Callable[[str], object],
    *,
    until_empty: bool,
) -> Iterator[None]:
    said = ""
    while True:
        store.ensure_usable()
        try:
            if (statuses := dispatcher.tick()) is not None:
                with suppress(UsageError):  # a full disk: it is for show alone
                    write_pilots(cluster, statuses)
            if until_empty and store.queue.remaining().runnable == 0:
                return
            said = ""
        except StoreError as error:
            if str(error) != said:
                notify(said := str(error))
        yield


def read_status(cluster: Cluster, store: Store) -> list[PilotStatus]:
    """Return the pilots that there are now; nothing is sent.  Raises SchedulerAway."""
    return make_dispatcher(cluster, store).statuses()


def write_pilots(cluster: Cluster, statuses: Sequence[PilotStatus]) -> None:
    """Keep what the scheduler said for those who watch: they need not ask it, too."""
    rows = [pilot_row(cluster.name, one) for one in statuses]
    path = cluster_dir(cluster.settings.home) / f"{cluster.name}{PILOTS_SUFFIX}"
    content = {"at": time.time(), "pilots": rows}
    write_atomic(path, json.dumps(content).encode(), force=True, mode=0o600)


def pilot_row(profile: str, status: PilotStatus) -> dict[str, str]:
    """Return a pilot as lists show it."""
    pilot = status.pilot
    return {
        "profile": profile,
        "job": pilot.job_id,
        "gpus": str(pilot.gpus),
        "node": pilot.node,
        "state": pilot.state,
        "reason": pilot.reason,
        "role": status.role,
        "worker": status.worker,
    }


def check(cluster: Cluster, store: Store, gpus: int) -> Iterator[Finding]:
    """Yield findings on what a pilot needs; nothing is sent."""
    profile = cluster.profile
    yield Finding(
        "ok", f"profile {cluster.name}: {profile.scheduler}, {profile.most} pilots at most"
    )
    yield _check_database(cluster.settings.db_url, store)
    if size := store.checkpoints.largest_bytes():
        yield Finding("ok", f"the largest checkpoint has {format_bytes(size)}: what saving writes")
    if not isinstance(cluster.scheduler, Examinable):
        return
    try:
        for level, message, fix in cluster.scheduler.examine(cluster.request(gpus)):
            yield Finding(level, message, fix)
    except PilotRefused as error:
        yield Finding("error", str(error), f"change [{cluster.name}] in cluster.toml")
    except SchedulerAway as error:
        yield Finding("error", str(error), "try again; nothing is known of the scheduler")


def check_profiles(store: Store, settings: Settings) -> Iterator[Finding]:
    """Yield findings on every profile of the workspace; a mistake in one is a finding, too."""
    try:
        for name in profile_names(settings.home):
            yield from check(open_cluster(settings, name, prepare=False), store, 1)
    except (UsageError, NotFound) as error:
        message, _, fix = str(error).partition("; ")
        yield Finding("warning", message, fix or "see docs/cluster.md")


def _check_database(url: str, store: Store) -> Finding:
    host = urlsplit(url).hostname or parse_qs(urlsplit(url).query).get("host", [""])[0]
    if host in ("localhost", "127.0.0.1", "::1") or host.startswith("/"):
        return Finding(
            "warning",
            f"the database {store.url} is reached by {host}, which on a node is the node itself",
            "name this machine in the URL, and let the server listen on its network",
        )
    return Finding("ok", f"database {store.url}")


def join(settings: Settings, *, gpus: int, token: str, expect: str) -> None:
    """Check, in a pilot, that it may become a worker; raises a LsqctlError that says why not.

    The workspace must be the one that the dispatcher sees, lsqctl and schema its own, and what the
    scheduler gave what was asked for.
    """
    path = cluster_dir(settings.home) / TOKEN_FILE
    found = path.read_text("ascii", "replace") if path.is_file() else None
    if found != token:
        what = "is not there" if found is None else "is another workspace's"
        raise NotFound(
            f"{path} {what}: this node does not share the workspace, and a run would begin anew; "
            "no run was claimed"
        )
    if expect != expected_version():
        raise UsageError(
            f"this node has lsqctl {expected_version()} (version/schema/code), the dispatcher "
            f"{expect}: install the same; no run was claimed"
        )
    if settings.db_url.startswith("sqlite"):
        raise UsageError(NEEDS_POSTGRESQL)
    variables = allocation_variables()
    problem = allocation_problem(variables, gpus) if "SLURM_JOB_ID" in variables else ""
    if problem:
        raise UsageError(f"{problem}; no run was claimed")
    open_workspace(settings, migrate=False).close()
