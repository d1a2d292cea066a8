"""The board as one HTML page with its best runs' curves: written to a file, or served live."""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import chain, islice, zip_longest
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import TYPE_CHECKING

from lsqctl.atomic_write import write_atomic
from lsqctl.errors import DataError, NotFound, UsageError
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.charts.history import step_size_charts, training_curves
from lsqctl.leaderboard.formats.csv_text import to_csv
from lsqctl.leaderboard.formats.json_text import to_json
from lsqctl.leaderboard.page.rendering import LiveStatus, RunHistory, render
from lsqctl.run import RunState
from lsqctl.services.board import EVERYTHING, BoardSelection, build_board
from lsqctl.services.http_handler import MIN_TOKEN_LENGTH, BoardRequestHandler, is_loopback
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.leaderboard.page.classifier import Classifier
    from lsqctl.store import Store

MAX_HISTORIES = 24


def render_page(
    store: Store,
    board: Board,
    *,
    live: LiveStatus | None = None,
    classifier: Classifier | None = None,
) -> str:
    """Return the page of a board; the same database and board always give the same text."""
    return render(board, run_histories(store, board), live=live, classifier=classifier)


def write_page(
    store: Store,
    board: Board,
    path: Path,
    *,
    force: bool = False,
    classifier: Classifier | None = None,
) -> int:
    """Write the page to a file and return the number of bytes.  Raises UsageError."""
    data = render_page(store, board, classifier=classifier).encode()
    write_atomic(path, data, force=force)
    return len(data)


def read_classifier(directory: Path) -> Classifier:
    """Return a deployed folder as a page runs it: its packed codes and its expected images.

    Raises NotFound for a folder without them, DataError for one that has changed.
    """
    from lsqctl.deploy.folder import changed_files, read_expected, read_report
    from lsqctl.deploy.forms.codes import read_program
    from lsqctl.leaderboard.page.classifier import Classifier

    report = read_report(directory)
    entry = report["forms"].get("codes")
    if entry is None:
        raise NotFound(
            f"{directory} has no packed codes for the page: `lsqctl deploy RUN -o DIR --form codes`"
        )
    for problem in changed_files(directory, report["sha256"]):
        raise DataError(problem)
    path = directory / entry["file"]
    program = read_program(path.read_bytes(), str(path))
    images, logits = read_expected(directory)
    if not program.takes_bytes:
        raise UsageError(f"{directory} takes normalized images; the page classifies bytes")
    tensors = dict(program.tensors)
    return Classifier(directory.resolve().name, program.as_json(), tensors, images, logits)  # type: ignore[arg-type]


def run_histories(store: Store, board: Board) -> Iterator[RunHistory]:
    """Yield the history of local rows' best runs: the first of each dataset, then the second."""
    rows_by_table = [
        [row for row in table.rows if row.is_local and row.best_run] for table in board.tables
    ]
    interleaved = chain.from_iterable(zip_longest(*rows_by_table))
    for row in islice((row for row in interleaved if row is not None), MAX_HISTORIES):
        curves = run_history(store, row.best_run or "", row.model)
        if curves.charts:
            yield curves


def run_history(store: Store, run_id: str, model: str) -> RunHistory:
    """Return the charts of one run: Top-1, loss, and its step sizes where they were recorded."""
    charts = training_curves(store.metrics.points(run_id))
    return RunHistory(
        run_id, model, (*charts, *step_size_charts(store.metrics.quantizer_stats(run_id)))
    )


RANDOM_TOKEN = "auto"  # noqa: S105  a format and a name, no secret
PAGE_POLL_SECONDS = 5.0
"""A page asks so often whether it is stale."""
DATABASE_POLL_SECONDS = 2.0
"""The database is polled no more often than this, however many ask."""


@dataclass(frozen=True, slots=True)
class ServedPage:
    """What is served: a part of the board; ``settings`` name the workspace's added rows.

    ``classifier`` is a deployed network that the page runs.
    """

    selection: BoardSelection = EVERYTHING
    settings: Settings | None = None
    classifier: Classifier | None = None


class ResponseCache:
    """What is answered at each path, made anew when the database's board has changed."""

    def __init__(self, store: Store, served: ServedPage) -> None:
        self._store, self._served = store, served
        self._lock = threading.Lock()
        self._refreshed_at = float("-inf")
        self._state: object = None
        self._bodies: dict[str, bytes] = {}
        self._etag = ""

    def get(self, path: str) -> tuple[bytes, str]:
        """Return the newest body at a path and the ETag of its state.  Raises LsqctlError."""
        with self._lock:
            if time.monotonic() - self._refreshed_at > DATABASE_POLL_SECONDS:
                self._refresh()
                self._refreshed_at = time.monotonic()
            return self._bodies[path], self._etag

    def _refresh(self) -> None:
        self._store.ensure_usable()
        served = self._served
        ranked = build_board(self._store, served.selection, settings=served.settings)
        counts = self._store.runs.counts()
        if (ranked, counts) == self._state:
            return
        etag = f'"{hashlib.sha256(repr((ranked, counts)).encode()).hexdigest()[:32]}"'
        live = LiveStatus(queue_text=_queue_text(counts), etag=etag, poll_seconds=PAGE_POLL_SECONDS)
        self._bodies = {
            "/": render_page(self._store, ranked, live=live, classifier=served.classifier).encode(),
            "/board.json": to_json(ranked).encode(),
            "/board.csv": to_csv(ranked).encode(),
        }
        self._state, self._etag = (ranked, counts), etag


class BoardServer(ThreadingHTTPServer):
    """The server; ``address`` is what to open."""

    daemon_threads = True
    allow_reuse_address = True
    address: str

    def __init__(
        self,
        bind_address: tuple[str, int],
        family: socket.AddressFamily,
        handler: Callable[..., BaseRequestHandler],
    ) -> None:
        self.address_family = family
        super().__init__(bind_address, handler)

    def server_bind(self) -> None:
        """Bind without looking up a name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, _request: object, _client: object) -> None:
        """Say nothing of a browser that went away in the middle."""


def make_server(
    store: Store,
    served: ServedPage,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
) -> BoardServer:
    """Return a server that listens; the board has been made once, so that an error shows now.

    Raises UsageError for an address that others reach without a token, and for one in use.
    """
    if token == RANDOM_TOKEN:
        token = secrets.token_urlsafe(24)
    _check_address(host, port, token)
    cache = ResponseCache(store, served)
    cache.get("/")
    handler = partial(BoardRequestHandler, cache.get, host, token)
    try:
        family, _, _, _, bind_address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = BoardServer((str(bind_address[0]), port), family, handler)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror}; --port 0 takes a free one"
        ) from None
    url_host = f"[{host}]" if ":" in host else host
    server.address = f"http://{url_host}:{server.server_port}/"
    if token:
        server.address += f"?token={token}"
    return server


def _check_address(host: str, port: int, token: str | None) -> None:
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port must be 0..65535, got {port}")
    if not is_loopback(host) and token is None:
        raise UsageError(
            f"others can reach {host}: give a token, too; --token auto makes one up and prints it"
        )
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or " " in token):
        raise UsageError(
            f"--token must have {MIN_TOKEN_LENGTH} characters or more, ASCII without blanks; "
            "--token auto makes one up"
        )


def _queue_text(counts: dict[RunState, int]) -> str:
    states = (RunState.RUNNING, RunState.QUEUED, RunState.WAITING)
    parts = [f"{counts[state]:,} {state}" for state in states if counts[state]]
    return f"Live: {', '.join(parts)}." if parts else "Live: nothing is queued or running."
