"""The served board, by raw sockets: who may ask, what is answered, and that nothing is written."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lsqctl.errors import StoreError, UsageError
from lsqctl.run import NewRun, WorkerIdentity
from lsqctl.services import html_page
from lsqctl.services.board import BoardSelection
from lsqctl.services.html_page import ServedPage, make_server
from lsqctl.services.http_handler import host_allowed, host_name
from lsqctl.store import open_store
from tests.conftest import TINY, wait_for
from tests.store.conftest import postgresql, postgresql_url  # noqa: F401 (fixtures)
from tests.store.samples import evaluation, result

TOKEN = "a-long-enough-token"
RECIPE = {"data": {"name": "digits"}, "model": {"name": "resnet8"}}


def url_of(database: Path | str) -> str:
    """Return the URL of a database: of a SQLite file, or the URL that it is."""
    return database if isinstance(database, str) else f"sqlite:///{database}"


def finished(database: Path | str, name: str, seed: int = 0) -> None:
    """Put one finished run into a database."""
    with open_store(url_of(database)) as store:
        store.workers.register(WorkerIdentity("w1", "w1", "host", 1, 1.0, "", 1, "cpu"))
        store.queue.enqueue([NewRun(name, RECIPE, name, f"{name}:{seed}", seed, {}, epochs=1)])
        claim = store.queue.claim("w1")
        assert claim is not None
        store.queue.finish(claim.lease, result(evaluation()))


@pytest.fixture
def database(tmp_path):
    folder = tmp_path / "a folder #1"
    finished(folder / "lsqctl.db", "digits/first")
    return folder / "lsqctl.db"


@contextmanager
def serving(database, **options):
    with open_store(url_of(database), read_only=True) as store:
        server = make_server(store, ServedPage(BoardSelection(show_published="none")), **options)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()


def ask(server, request: str) -> tuple[int, dict[str, str], str]:
    """Send a request as it is; return the status, the headers in small letters, and the body."""
    host = server.server_address[0]
    with socket.create_connection((host, server.server_port), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


def get(
    server, target: str = "/", host: str = "127.0.0.1", extra: str = ""
) -> tuple[int, dict, str]:
    return ask(server, f"GET {target} HTTP/1.1\nHost: {host}\n{extra}\n")


def test_the_page_is_answered_with_every_guard(database):
    with serving(database) as server:
        status, headers, body = get(server, host=f"localhost:{server.server_port}")
    assert status == 200
    assert "digits/first" in body
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)
    assert headers["server"] == "lsqctl"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\nHost: evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: evil.example:80\n\n", 403),
        ("GET / HTTP/1.1\nHost: 127.0.0.1.evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost.evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: [::1].evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: 192.168.1.7\n\n", 403),
        ("GET / HTTP/1.1\n\n", 403),
        ("GET / HTTP/1.1\nHost:\n\n", 403),
        ("GET / HTTP/1.0\n\n", 403),
        ("GET http://127.0.0.1/ HTTP/1.1\nHost: evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: [::1]:9\n\n", 200),
        ("GET / HTTP/1.1\nHost: LOCALHOST\n\n", 200),
        ("GET /?x=1 HTTP/1.1\nHost: localhost\n\n", 200),
        ("HEAD / HTTP/1.1\nHost: localhost\n\n", 200),
        ("GET / HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost\nOrigin: null\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost:81\nOrigin: http://localhost:80\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost:81\nOrigin: http://localhost:81\n\n", 200),
        ("GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: same-site\n\n", 403),
        ("GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: same-origin\n\n", 200),
        ("GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: none\n\n", 200),
        ("POST / HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n", 405),
        ("PUT / HTTP/1.1\nHost: localhost\n\n", 405),
        ("DELETE / HTTP/1.1\nHost: localhost\n\n", 405),
        ("OPTIONS / HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\n\n", 405),
        ("TRACE / HTTP/1.1\nHost: localhost\n\n", 405),
        ("GET /../../../../etc/passwd HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET //etc/passwd HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /..\\..\\windows HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /lsqctl.db HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /\x00 HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET / nonsense\n\n", 400),
        ("GET / HTTP/9.9\nHost: localhost\n\n", 505),
    ],
)
def test_only_this_machine_asking_for_itself_is_answered(shared, request_, status):
    answer, headers, body = ask(shared, request_)
    assert answer == status
    assert "root:" not in body
    assert headers["x-frame-options"] == "DENY"
    if answer != 200:
        assert "digits/first" not in body


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "lsqctl.db"
    finished(path, "digits/first")
    with serving(path) as server:
        yield server


def test_the_board_is_there_as_json_and_csv(shared):
    assert '"schema_version"' in get(shared, "/board.json")[2]
    assert get(shared, "/board.csv")[2].startswith("rank,model,")


def test_head_has_no_body_and_an_unchanged_board_is_304(shared):
    status, headers, body = ask(shared, "HEAD / HTTP/1.1\nHost: localhost\n\n")
    assert (status, body) == (200, "")
    assert int(headers["content-length"]) > 1000
    tag = headers["etag"]
    assert get(shared, extra=f"If-None-Match: {tag}\n")[0] == 304
    assert tag.strip('"') in get(shared)[2]


def test_a_new_result_changes_the_tag_and_the_page(database, monkeypatch):
    monkeypatch.setattr(html_page, "DATABASE_POLL_SECONDS", 0.0)
    with serving(database) as server:
        _, before, body = get(server)
        assert get(server)[1]["etag"] == before["etag"]
        assert "digits/second" not in body
        finished(database, "digits/second")
        _, after, body = get(server)
        assert after["etag"] != before["etag"]
        assert "digits/second" in body


def test_nothing_of_the_database_changes_while_it_is_served(database):
    def prints():
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in database.parent.iterdir()
        }

    before = prints()
    with serving(database) as server:
        get(server)
    after = prints()
    assert {name: after[name] for name in before} == before


def test_a_read_only_store_refuses_to_write(database):
    with open_store(f"sqlite:///{database}", read_only=True) as store, pytest.raises(StoreError):
        store.queue.enqueue([NewRun("x", RECIPE, "x", "x:0", 0, {}, epochs=1)])
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{database.parent / 'absent.db'}", read_only=True)
    assert not (database.parent / "absent.db").exists()


def test_postgresql_is_served_live_and_read_only(postgresql_url, monkeypatch):  # noqa: F811
    monkeypatch.setattr(html_page, "DATABASE_POLL_SECONDS", 0.0)
    finished(postgresql_url, "digits/first")
    with serving(postgresql_url) as server:
        assert "digits/first" in get(server)[2]
        finished(postgresql_url, "digits/second")
        assert "digits/second" in get(server)[2]
    with open_store(postgresql_url, read_only=True) as store, pytest.raises(StoreError):
        store.queue.enqueue([NewRun("x", RECIPE, "x", "x:0", 0, {}, epochs=1)])


def test_a_database_that_fails_is_said_in_one_line(database, monkeypatch):
    monkeypatch.setattr(html_page, "DATABASE_POLL_SECONDS", 0.0)
    with serving(database) as server:
        with sqlite3.connect(database) as db:
            db.execute("DROP TABLE results")
        status, _, body = get(server)
        assert status == 503
        assert len(body.splitlines()) == 1


def test_a_host_header_loses_its_port_only():
    assert host_name("localhost:80") == "localhost"
    assert host_name("[::1]:80") == "[::1]"
    assert host_name(" LOCALHOST ") == "localhost"
    assert host_allowed("10.0.0.5:99", bind_address="0.0.0.0")
    assert not host_allowed("evil.example", bind_address="0.0.0.0")
    assert host_allowed("node7:99", bind_address="node7")
    assert not host_allowed("10.0.0.5", bind_address="127.0.0.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_that_others_reach_needs_a_token(database, host):
    with open_store(f"sqlite:///{database}", read_only=True) as store:
        with pytest.raises(UsageError, match="--token auto"):
            make_server(store, ServedPage(), host=host)
        with pytest.raises(UsageError, match="16 characters"):
            make_server(store, ServedPage(), host=host, token="short")


def test_with_a_token_only_who_knows_it_is_answered(database):
    with serving(database, host="0.0.0.0", token=TOKEN) as server:
        assert server.address.endswith(f"/?token={TOKEN}")
        assert get(server)[0] == 401
        assert get(server, "/?token=wrong")[0] == 401
        assert get(server, extra="Cookie: lsqctl_token=wrong\n")[0] == 401
        status, headers, _ = get(server, f"/?token={TOKEN}")
        assert status == 200
        assert re.search("HttpOnly; SameSite=Strict", headers["set-cookie"])
        assert get(server, extra=f"Cookie: lsqctl_token={TOKEN}\n")[0] == 200
        assert get(server, extra=f"Authorization: Bearer {TOKEN}\n")[0] == 200
        assert get(server, f"/?token={TOKEN}", host="evil.example")[0] == 403


def test_a_made_up_token_is_long_and_new(database):
    tokens = set()
    for _ in range(2):
        with serving(database, token="auto") as server:
            tokens.add(server.address.partition("token=")[2])
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32


def test_the_sixth_protocol_is_served_where_the_machine_has_it(database):
    try:
        with serving(database, host="::1") as server:
            assert server.address.startswith("http://[::1]:")
            assert get(server, host=f"[::1]:{server.server_port}")[0] == 200
    except UsageError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_a_port_that_is_taken_is_one_clear_line(shared, database):
    with open_store(f"sqlite:///{database}", read_only=True) as store:
        with pytest.raises(UsageError, match=r"cannot listen at 127\.0\.0\.1, port"):
            make_server(store, ServedPage(), port=shared.server_port)
        with pytest.raises(UsageError, match="65535"):
            make_server(store, ServedPage(), port=70_000)


def test_ctrl_c_ends_it_with_130_and_one_line(cli):
    cli.write("tiny.yaml", TINY)
    cli("submit", "tiny.yaml")
    process = cli.start("serve")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next(line for line in lines if line.startswith("http://"))
    port = int(re.search(r":(\d+)/", address)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.close()  # gone before the answer: no reason to end
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: process.poll() is not None)
    assert process.returncode == 130
    assert list(lines)[-1] == "stopped\n"


def test_serving_nothing_says_how_to_begin(cli):
    assert "submit RECIPE" in cli("serve", code=3).stderr
