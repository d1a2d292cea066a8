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
COOKIE = "lsqctl_token"
SHORTEST_TOKEN = 16
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::[0-9]*)?")
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
    found = _HOST.fullmatch(header.strip().lower())
    return found[1] if found else ""


def host_allowed(header: str | None, *, served: str) -> bool:
    """Return whether a request's Host names this server; ``served`` is the address it listens on.

    Beside the loopback names only the address itself; of a server that listens on every address,
    any address written in digits, for no name can be rebound to that.
    """
    if not header:
        return False
    name = host_name(header)
    if name in LOOPBACK:
        return True
    if is_loopback(served):
        return False
    return name == served.lower() or _is_address(name)


def origin_allowed(headers: Headers) -> bool:
    """Return whether a request comes from the page itself or was typed by the user."""
    site = headers.get("Sec-Fetch-Site")
    if site not in (None, "none", "same-origin"):
        return False
    origin = headers.get("Origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("Host", "").strip().lower()


def token_in(target: str, headers: Headers) -> str:
    """Return the token that a request brings: in its query, its cookie, or as a bearer."""
    asked = parse_qs(urlsplit(target).query).get("token", [""])[0]
    if asked:
        return asked
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    try:
        found = SimpleCookie(headers.get("Cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def same_token(given: str, wanted: str) -> bool:
    """Return whether two tokens are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
