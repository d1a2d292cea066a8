"""Laws of reading logs: in pieces, from the end, and the same text whatever the pieces are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.services import logs
from lsqctl.services.logs import read_log
from lsqctl.store import Store, open_store
from lsqctl.worker.messages import log_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return open_store(f"sqlite:///{folder}/lsqctl.db")


@given(
    lines=st.lists(st.text(st.sampled_from("aé\t\x1b\r"), max_size=5), max_size=8),
    ended=st.booleans(),
    tail_lines=st.none() | st.integers(1, 9),
    piece_bytes=st.sampled_from([1, 2, 3, 7, 1000]),
)
def test_a_log_reads_the_same_whatever_the_pieces_and_its_tail_is_its_last_lines(
    store: Store, folder: Path, lines: list[str], ended: bool, tail_lines: int, piece_bytes: int
) -> None:
    text = "\n".join(lines) + ("\n" if ended else "")
    log_path(folder, 1).write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_PIECE_BYTES", piece_bytes)
        pieces = list(read_log(store, "run", folder, 1, tail_lines=tail_lines))
    kept = text.split("\n")[: -1 if text.endswith("\n") else None]
    wanted = "\n".join(kept[-(tail_lines or 99) :]) + ("\n" if text.endswith("\n") else "")
    wanted = wanted.replace("\r\n", "\n").replace("\x1b", "\\x1b").replace("\r", "\\r")
    assert "".join(pieces) == wanted


def test_no_more_than_a_piece_of_a_long_log_is_in_memory(store: Store, folder: Path) -> None:
    import tracemalloc

    log_path(folder, 2).write_text(("x" * 99 + "\n") * 200_000)
    tracemalloc.start()
    (tail,) = filter(None, read_log(store, "run", folder, 2, tail_lines=1))
    n_lines = sum(piece.count("\n") for piece in read_log(store, "run", folder, 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(tail), n_lines) == (100, 200_000)
    assert peak < 20 * logs._PIECE_BYTES
