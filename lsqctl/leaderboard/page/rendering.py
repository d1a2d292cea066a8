"""Fill the page's template: everything escaped, one file, and a policy that lets nothing else in.

The policy names the style and the script by their hashes; nothing is loaded, and what a name
contains can become neither markup nor code nor a request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.page.content import History, Section, ShownHistory, sections, shown

if TYPE_CHECKING:
    from jinja2 import Environment

BUDGET = 290_000
"""Bytes that histories may fill a page to; the table itself is never cut."""


@dataclass(frozen=True, slots=True)
class Live:
    """What a served page adds: words on the queue, and how it asks whether it is stale.

    ``tag`` is the state of the database that it shows; every ``seconds`` it asks for the newest.
    """

    queue: str
    tag: str
    seconds: float


def render(board: Board, histories: Iterable[History] = (), *, live: Live | None = None) -> str:
    """Return the page of a board; the same arguments always give the same text.

    ``histories`` are shown in their order for as long as the page stays within ``BUDGET``.
    """
    found = sections(board)
    bare = _fill(found, [], live)
    left = BUDGET - len(bare.encode())
    kept: list[ShownHistory] = []
    template = _environment().get_template("history.html")
    for history in map(shown, histories):
        left -= len(template.render(history=history, number=len(kept)).encode()) + _LISTED
        if left < 0:
            break
        kept.append(history)
    return _fill(found, kept, live) if kept else bare


_LISTED = 120  # bytes of a history's entry in the list of runs


def policy(*, live: bool = False) -> str:
    """Return the Content-Security-Policy of the page; a served one may ask its own server."""
    parts = [
        "default-src 'none'",
        f"style-src '{_digest('page.css')}'",
        f"script-src '{_digest('page.js')}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        parts.append("connect-src 'self'")
    return "; ".join(parts)


def _fill(found: Sequence[Section], kept: Sequence[ShownHistory], live: Live | None) -> str:
    from markupsafe import Markup

    template = _environment().get_template("page.html")
    return template.render(
        sections=found,
        histories=kept,
        kept={one.run_id for one in kept},
        live=live,
        policy=policy(live=live is not None),
        style=Markup(_asset("page.css")),  # noqa: S704  our own file, no word of another's
        script=Markup(_asset("page.js")),  # noqa: S704
        data=_data(found, live),
    )


def _data(found: Sequence[Section], live: Live | None) -> dict[str, Any]:
    """Return what the script needs beside the page's own text: which mark is of which rows."""
    rows = [
        [[list(mark.rows) for mark in drawing.marks] for drawing in (*one.drawings, *one.networks)]
        for one in found
    ]
    return {
        "rows": rows,
        "look_seconds": live.seconds if live else 0,
        "tag": live.tag if live else "",
    }


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _asset(name: str) -> str:
    return files("lsqctl.leaderboard.page").joinpath(name).read_text("utf-8")


@cache
def _digest(name: str) -> str:
    found = hashlib.sha256(_asset(name).encode()).digest()
    return f"sha256-{base64.b64encode(found).decode()}"
