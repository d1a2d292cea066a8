"""The page as text: complete, within its size, deterministic, and without code but ours."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.page.rendering import LiveStatus, content_security_policy, render, safe_link
from lsqctl.leaderboard.rank import rank
from lsqctl.text import sanitize
from tests.leaderboard.page.boards import history, hostile_board, large_board, plain_board


class Reader(HTMLParser):
    """Collects what a page holds: tags, attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, _tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.code.append((self._inside, data))


def test_the_same_board_gives_the_same_bytes():
    runs = [history("r1", "one")]
    assert render(plain_board(), runs) == render(plain_board(), runs)


def test_a_thousand_rows_and_their_runs_stay_under_300_kB():
    board = large_board()
    runs = (history(f"r{n}", f"model {n}", layers=20) for n in range(24))
    text = render(board, runs)
    assert text.count("<th scope=row>") == 1000
    assert len(text.encode()) < 300_000
    assert text.count("<details") >= 2


def test_histories_fill_the_budget_and_no_more():
    runs = [history(f"r{n}", f"model {n}", layers=20) for n in range(40)]
    text = render(plain_board(), runs)
    assert 6 < text.count("<details") < 40
    assert 250_000 < len(text.encode()) < 300_000


def test_style_and_script_are_the_ones_that_the_policy_names():
    read = Reader(render(plain_board()))
    (content,) = [a["content"] for _, a in read.tags if a.get("http-equiv")]
    assert content == content_security_policy()
    for tag, part in (("style", "style-src"), ("script", "script-src")):
        ours = [text for kind, text in read.code if kind == tag][-1]
        digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}'" in content
    assert content.startswith("default-src 'none'")
    assert "connect-src" not in content
    assert "connect-src 'self'" in content_security_policy(live=True)


@pytest.mark.parametrize("board", [plain_board, hostile_board], ids=["plain", "hostile"])
def test_no_name_becomes_a_tag_an_attribute_or_an_address(board):
    read = Reader(render(board(), [history("r1", "</summary><script>alert(1)</script>")]))
    assert sum(tag == "script" for tag, _ in read.tags) == 2  # the data and the one script
    assert sum(tag == "style" for tag, _ in read.tags) == 1
    assert not {"img", "iframe", "object", "base", "embed"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        address = attributes.get("href") or attributes.get("src") or "#"
        assert re.match(r"#|https?://|data:image/svg", address), address


def test_our_script_makes_no_markup_and_our_template_trusts_nobody():
    from lsqctl.leaderboard.page import rendering

    script = rendering._asset("page.js")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in script
    for name in ("page.html", "chart.html", "history.html"):
        assert "safe" not in re.findall(r"\|\s*(\w+)", rendering._asset(name))


def test_every_row_stands_in_the_table_with_its_rank_and_source():
    text = render(plain_board())
    for entry in plain_board().entries:
        assert f">{sanitize(entry.model)}<" in text or sanitize(entry.model) in text
    assert '<a href="https://example.org/paper" rel="noreferrer">paper</a>' in text
    assert "±" in text


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://example.org/a?b=c", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)", False),
        (" javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        ("https://", False),
        ("https://exa mple.org", False),
        ("https://example.org/\u202e", False),
        ("https://[::1", False),
        ("docs/results.md", False),
        ("", False),
        (None, False),
    ],
)
def test_only_an_address_of_the_web_becomes_a_link(address, kept):
    assert bool(safe_link(address)) is kept


def test_an_empty_board_says_what_to_do():
    assert "lsqctl submit RECIPE" in render(Board(()))
    assert "lsqctl submit RECIPE" in render(rank(()))


def test_a_served_page_says_the_queue_and_may_ask_its_server():
    text = render(plain_board(), live=LiveStatus("Live: 2 running.", '"tag"', 5.0))
    assert "Live: 2 running." in text
    assert "connect-src &#39;self&#39;" in text
