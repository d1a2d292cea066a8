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
from lsqctl.leaderboard.page.content import (
    RunHistory,
    Section,
    RunHistoryView,
    build_sections,
    history_view,
)

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_PAGE_BYTES = 290_000
"""Bytes that histories may fill a page to; the table itself is never cut."""


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """What a served page adds: words on the queue, and how it asks whether it is stale.

    ``etag`` is the database's state that it shows; every ``poll_seconds`` it asks for the newest.
    """

    queue_text: str
    etag: str
    poll_seconds: float


def render(
    board: Board, histories: Iterable[RunHistory] = (), *, live: LiveStatus | None = None
) -> str:
    """Return the page of a board; the same arguments always give the same text.

    ``histories`` are shown in their order for as long as the page stays within ``MAX_PAGE_BYTES``.
    """
    page_sections = build_sections(board)
    bare_page = _render_page(page_sections, [], live)
    bytes_left = MAX_PAGE_BYTES - len(bare_page.encode())
    kept_histories: list[RunHistoryView] = []
    template = _environment().get_template("history.html")
    for history in map(history_view, histories):
        bytes_left -= (
            len(template.render(history=history, number=len(kept_histories)).encode())
            + _HISTORY_ENTRY_BYTES
        )
        if bytes_left < 0:
            break
        kept_histories.append(history)
    return _render_page(page_sections, kept_histories, live) if kept_histories else bare_page


_HISTORY_ENTRY_BYTES = 120  # bytes of a history's entry in the list of runs


def content_security_policy(*, live: bool = False) -> str:
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


def _render_page(
    page_sections: Sequence[Section], histories: Sequence[RunHistoryView], live: LiveStatus | None
) -> str:
    from markupsafe import Markup

    template = _environment().get_template("page.html")
    return template.render(
        sections=page_sections,
        histories=histories,
        shown_run_ids={history.run_id for history in histories},
        live=live,
        policy=content_security_policy(live=live is not None),
        style=Markup(_asset("page.css")),  # noqa: S704  our own file, no word of another's
        script=Markup(_asset("page.js")),  # noqa: S704
        data=_script_data(page_sections, live),
    )


def _script_data(page_sections: Sequence[Section], live: LiveStatus | None) -> dict[str, Any]:
    """Return what the script needs beside the page's own text: which mark is of which rows."""
    rows = [
        [
            [list(mark.rows) for mark in drawing.marks]
            for drawing in (*section.drawings, *section.networks)
        ]
        for section in page_sections
    ]
    return {
        "rows": rows,
        "poll_seconds": live.poll_seconds if live else 0,
        "etag": live.etag if live else "",
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
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
