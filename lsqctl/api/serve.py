"""Serve the live board to a browser: read-only, GET and HEAD, to this machine unless told.

No path of a request ever reaches the file system: a handful of names answer, all others are 404.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

from lsqctl.api.asking import (
    COOKIE,
    SHORTEST_TOKEN,
    host_allowed,
    is_loopback,
    origin_allowed,
    same_token,
    token_in,
)
from lsqctl.api.board import board
from lsqctl.api.page import page
from lsqctl.errors import LsqctlError, UsageError
from lsqctl.leaderboard.formats import to_csv, to_json
from lsqctl.leaderboard.page.rendering import Live, policy
from lsqctl.run import RunState

if TYPE_CHECKING:
    from lsqctl.store import Store

MADE_UP = "auto"
LOOK_SECONDS = 2.0
"""The database is looked at no more often than this, however many ask."""

_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_TYPES = {
    "/": "text/html; charset=utf-8",
    "/board.json": "application/json",
    "/board.csv": "text/csv; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """Which part of the board is served."""

    dataset: str | None = None
    references: Literal["auto", "all", "none"] = "auto"


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
        ranked = board(self._store, dataset=shown.dataset, references=shown.references)
        counts = self._store.counts()
        if (ranked, counts) == self._state:
            return
        tag = f'"{hashlib.sha256(repr((ranked, counts)).encode()).hexdigest()[:32]}"'
        live = Live(queue=_queue(counts), tag=tag)
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
    handler = partial(_Handler, bodies, host, token)
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


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    default_request_version = "HTTP/1.0"  # a request that is none gets a head, too
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    timeout = 30

    def __init__(self, bodies: Bodies, host: str, token: str | None, *rest: Any) -> None:
        self._bodies, self._host, self._token = bodies, host, token
        super().__init__(*rest)

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    def end_headers(self) -> None:
        """Send what every answer carries, errors included."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'")
        super().end_headers()

    def version_string(self) -> str:
        """Return the name of this server, without the versions of what it is made of."""
        return "lsqctl"

    def log_message(self, *_words: Any) -> None:
        """Keep the terminal quiet."""

    def _refuse_method(self) -> None:
        self._say(405, "only GET and HEAD", Allow="GET, HEAD")

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if not host_allowed(self.headers.get("Host"), served=self._host):
            self._say(403, "this Host header names another server: open the address as printed")
        elif not origin_allowed(self.headers):
            self._say(403, "asked by another site: open the address yourself")
        elif self._token and not same_token(token_in(self.path, self.headers), self._token):
            self._say(401, "the address lacks the token that `lsqctl serve` printed")
        elif path not in _TYPES:
            self._say(404, f"nothing is here; there are {', '.join(_TYPES)}")
        else:
            self._send_body(path)

    def _send_body(self, path: str) -> None:
        try:
            body, tag = self._bodies.get(path)
        except LsqctlError as error:
            self._say(503, str(error))
            return
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        self._send(200, body, {"Content-Type": _TYPES[path], "ETag": tag})

    def _say(self, status: int, words: str, **headers: str) -> None:
        kind = {"Content-Type": "text/plain; charset=utf-8"}
        self._send(status, f"{words}\n".encode(), kind | headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self._token and status == 200:
            marks = "HttpOnly; SameSite=Strict; Path=/"
            self.send_header("Set-Cookie", f"{COOKIE}={self._token}; {marks}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
