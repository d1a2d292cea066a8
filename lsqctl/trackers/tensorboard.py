"""TensorBoard's event files, written without TensorFlow: records of protocol buffers.

The format: a record is the length of its data (8 bytes), the masked CRC-32C of these, the data, and
its masked CRC-32C, all little-endian (tensorflow/core/lib/io/record_writer.h). The data is an Event
(tensorflow/core/util/event.proto), of which the fields below are written.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from functools import cache

from lsqctl.trackers import Number, TrackedRun, tracker

_FOLDER = "tensorboard"
# Fields of Event, Summary, Summary.Value and SessionLog, by number.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_VALUE, _TAG, _SIMPLE_VALUE, _STATUS, _START = 1, 1, 2, 1, 1
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # kinds of fields
_CASTAGNOLI = 0x82F63B78


@tracker(
    "tensorboard",
    description="event files in the folder `tensorboard` of each run: `tensorboard --logdir "
    ".lsqctl/runs` shows all",
)
class TensorBoard:
    """An event file for each attempt; a later one says from which step on it replaces others."""

    def __init__(self, run: TrackedRun) -> None:
        folder = run.folder / _FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{run.attempt}"
        self._file = (folder / name).open("xb")
        self._write([_event(now, _bytes(_FILE_VERSION, b"brain.Event:2"))])
        if run.attempt > 1:
            start = _bytes(_SESSION_LOG, _varint_field(_STATUS, _START))
            self._write([_event(now, _varint_field(_STEP, (run.resumed_step or 0) + 1) + start)])

    def log(self, numbers: Sequence[Number]) -> None:
        """Append an event for each number, and hand them to the disk's cache."""
        self._write(map(_number_event, numbers))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, events: Iterable[bytes]) -> None:
        for event in events:
            self._file.write(record(event))
        self._file.flush()


def _event(wall_time: float, rest: bytes) -> bytes:
    return _key(_WALL_TIME, _DOUBLE) + struct.pack("<d", wall_time) + rest


def _number_event(number: Number) -> bytes:
    try:
        packed = struct.pack("<f", number.value)
    except OverflowError:  # beyond single precision
        packed = struct.pack("<f", float("inf") if number.value > 0 else float("-inf"))
    tag = _bytes(_TAG, number.tag.encode())
    value = _bytes(_VALUE, tag + _key(_SIMPLE_VALUE, _FLOAT) + packed)
    return _event(number.time, _varint_field(_STEP, number.step) + _bytes(_SUMMARY, value))


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def record(data: bytes) -> bytes:
    """Return one record of an event file."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of ``data``.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
