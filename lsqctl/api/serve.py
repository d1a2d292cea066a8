"""Serve the live board to a browser: read-only, GET and HEAD, to this machine unless told.

The page is made anew when the database's board has changed, and not before.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

from lsqctl.api.answering import Handler
from lsqctl.api.asking import SHORTEST_TOKEN, is_loopback
from lsqctl.api.board import board
from lsqctl.api.page import page
from lsqctl.errors import UsageError
from lsqctl.leaderboard.formats import to_csv, to_json
from lsqctl.leaderboard.page.rendering import Live
from lsqctl.run import RunState
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store

MADE_UP = "auto"
ASK_SECONDS = 5.0
"""A page asks so often whether it is stale."""
LOOK_SECONDS = 2.0
"""The database is looked at no more often than this, however many ask."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Which part of the board is served; ``settings`` name the workspace's added rows."""

    dataset: str | None = None
    references: Literal["auto", "all", "none"] = "auto"
    settings: Settings | None = None


class Bodies:
    """What is answered at each path, made anew when the database's board has changed."""

    def __init__(self, store: Store, shown: Shown) -> None:
        self._store, self._shown = store, shown
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._state: object = None
        self._found: dict[str, bytes] = {}
        self._tag = ""

    def get(self, path: str) -> tuple[bytes, str]:
        """Return the newest body at a path and the tag of its state.  Raises LsqctlError."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
                self._looked = time.monotonic()
            return self._found[path], self._tag

    def _look(self) -> None:
        shown = self._shown
        ranked = board(
            self._store,
            dataset=shown.dataset,
            references=shown.references,
            settings=shown.settings,
        )
        counts = self._store.counts()
        if (ranked, counts) == self._state:
            return
        tag = f'"{hashlib.sha256(repr((ranked, counts)).encode()).hexdigest()[:32]}"'
        live = Live(queue=_queue(counts), tag=tag, seconds=ASK_SECONDS)
        self._found = {
            "/": page(self._store, ranked, live=live).encode(),
            "/board.json": to_json(ranked).encode(),
            "/board.csv": to_csv(ranked).encode(),
        }
        self._state, self._tag = (ranked, counts), tag


class Server(ThreadingHTTPServer):
    """The server; ``address`` is what to open."""

    daemon_threads = True
    allow_reuse_address = True
    address: str

    def __init__(self, where: tuple[str, int], family: socket.AddressFamily, handler: Any) -> None:
        self.address_family = family
        super().__init__(where, handler)

    def server_bind(self) -> None:
        """Bind without looking up a name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, _request: Any, _client: Any) -> None:
        """Say nothing of a browser that went away in the middle."""


def make_server(
    store: Store, shown: Shown, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> Server:
    """Return a server that listens; the board has been made once, so that an error shows now.

    Raises UsageError for an address that others reach without a token, and for one in use.
    """
    if token == MADE_UP:
        token = secrets.token_urlsafe(24)
    _check(host, port, token)
    bodies = Bodies(store, shown)
    bodies.get("/")
    handler = partial(Handler, bodies.get, host, token)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = Server((str(where[0]), port), family, handler)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror}; --port 0 takes a free one"
        ) from None
    shown_host = f"[{host}]" if ":" in host else host
    server.address = f"http://{shown_host}:{server.server_port}/"
    if token:
        server.address += f"?token={token}"
    return server


def _check(host: str, port: int, token: str | None) -> None:
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port must be 0..65535, got {port}")
    if not is_loopback(host) and token is None:
        raise UsageError(
            f"others can reach {host}: give a token, too; --token auto makes one up and prints it"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token):
        raise UsageError(
            f"--token must have {SHORTEST_TOKEN} characters or more, ASCII without blanks; "
            "--token auto makes one up"
        )


def _queue(counts: dict[RunState, int]) -> str:
    wanted = (RunState.RUNNING, RunState.QUEUED, RunState.WAITING)
    told = [f"{counts[state]:,} {state}" for state in wanted if counts[state]]
    return f"Live: {', '.join(told)}." if told else "Live: nothing is queued or running."
