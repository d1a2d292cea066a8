"""Who may ask the served board: the checks of a request's headers, as pure functions.

A web page that the user happens to visit must not read the board through the user's browser: not
by a name that leads here (DNS rebinding: the Host header), not by a request from its own origin
(Origin, Sec-Fetch-Site), and not in a frame.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_COOKIE = "lsqctl_token"
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
