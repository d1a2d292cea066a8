"""Answer one request to the served board: GET and HEAD, to whoever may ask.

No path of a request ever reaches the file system: a handful of names answer, all others are 404.
"""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, TypeAlias

from lsqctl.api.asking import TOKEN_COOKIE, host_allowed, origin_allowed, tokens_equal, request_token
from lsqctl.errors import LsqctlError
from lsqctl.leaderboard.page.rendering import policy

GetBody: TypeAlias = Callable[[str], tuple[bytes, str]]

_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CONTENT_TYPES = {
    "/": "text/html; charset=utf-8",
    "/board.json": "application/json",
    "/board.csv": "text/csv; charset=utf-8",
}


class BoardRequestHandler(BaseHTTPRequestHandler):
    """One request; ``get_body`` gives the body at a path and the ETag of its state."""

    default_request_version = "HTTP/1.0"  # a request that is none gets a head, too
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    timeout = 30

    def __init__(self, get_body: GetBody, host: str, token: str | None, *handler_args: Any) -> None:
        self._get_body, self._host, self._token = get_body, host, token
        super().__init__(*handler_args)

    def do_GET(self) -> None:
        """Answer with a body."""
        self._respond()

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._respond()

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

    def log_message(self, *_args: Any) -> None:
        """Keep the terminal quiet."""

    def _refuse_method(self) -> None:
        self._send_text(405, "only GET and HEAD", Allow="GET, HEAD")

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        if not host_allowed(self.headers.get("Host"), bind_address=self._host):
            self._send_text(403, "this Host header names another server: open the address as printed")
        elif not origin_allowed(self.headers):
            self._send_text(403, "asked by another site: open the address yourself")
        elif self._token and not tokens_equal(request_token(self.path, self.headers), self._token):
            self._send_text(401, "the address lacks the token that `lsqctl serve` printed")
        elif path not in _CONTENT_TYPES:
            self._send_text(404, f"nothing is here; there are {', '.join(_CONTENT_TYPES)}")
        else:
            self._send_body(path)

    def _send_body(self, path: str) -> None:
        try:
            body, etag = self._get_body(path)
        except LsqctlError as error:
            self._send_text(503, str(error))
            return
        if self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.send_header("ETag", etag)
            self.end_headers()
            return
        self._send(200, body, {"Content-Type": _CONTENT_TYPES[path], "ETag": etag})

    def _send_text(self, status: int, text: str, **headers: str) -> None:
        content_type = {"Content-Type": "text/plain; charset=utf-8"}
        self._send(status, f"{text}\n".encode(), content_type | headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self._token and status == 200:
            cookie_attributes = "HttpOnly; SameSite=Strict; Path=/"
            self.send_header("Set-Cookie", f"{TOKEN_COOKIE}={self._token}; {cookie_attributes}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
