"""Answer one request to the served board: GET and HEAD, to those whose headers and token allow it.

No path of a request ever reaches the file system: a handful of names answer, all others are 404.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from lsqctl.errors import LsqctlError
from lsqctl.leaderboard.page.rendering import content_security_policy

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_COOKIE = "lsqctl_token"  # noqa: S105  a format and a name, no secret
MIN_TOKEN_LENGTH = 16
_HOST_HEADER = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::[0-9]*)?")
Headers: TypeAlias = "Message[str, str]"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the host of a Host header, its port stripped; nothing for what is no such header.

    >>> host_name("[::1]:80"), host_name("[::1].example.org")
    ('[::1]', '')
    """
    match = _HOST_HEADER.fullmatch(header.strip().lower())
    return match[1] if match else ""


def host_allowed(header: str | None, *, bind_address: str) -> bool:
    """Return whether a request's Host names this server, which listens on ``bind_address``.

    Beside the loopback names only the address itself; of a server that listens on every address,
    any address written in digits, for no name can be rebound to that.
    """
    if not header:
        return False
    name = host_name(header)
    if name in LOOPBACK:
        return True
    if is_loopback(bind_address):
        return False
    return name == bind_address.lower() or _is_ip_address(name)


def origin_allowed(headers: Headers) -> bool:
    """Return whether a request comes from the page itself or was typed by the user."""
    site = headers.get("Sec-Fetch-Site")
    if site not in (None, "none", "same-origin"):
        return False
    origin = headers.get("Origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("Host", "").strip().lower()


def request_token(target: str, headers: Headers) -> str:
    """Return the token that a request brings: in its query, its cookie, or as a bearer."""
    query_token = parse_qs(urlsplit(target).query).get("token", [""])[0]
    if query_token:
        return query_token
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    try:
        cookie = SimpleCookie(headers.get("Cookie", "")).get(TOKEN_COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def tokens_equal(token: str, expected: str) -> bool:
    """Return whether two tokens are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(token.encode(), expected.encode())


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


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

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    def end_headers(self) -> None:
        """Send what every answer carries, errors included."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header(
            "Content-Security-Policy",
            f"{content_security_policy(live=True)}; frame-ancestors 'none'",
        )
        super().end_headers()

    def version_string(self) -> str:
        """Return the name of this server, without the versions of what it is made of."""
        return "lsqctl"

    def log_message(self, *_args: object) -> None:
        """Keep the terminal quiet."""

    def _refuse_method(self) -> None:
        self._send_text(405, "only GET and HEAD", Allow="GET, HEAD")

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        if not host_allowed(self.headers.get("Host"), bind_address=self._host):
            self._send_text(
                403, "this Host header names another server: open the address as printed"
            )
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
