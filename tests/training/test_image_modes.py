"""What becomes of images by how they are stored, by each decoder: docs/images.md."""

from __future__ import annotations

import importlib.util
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lsqctl.datasets.image_files import has_deep_channels, open_image
from lsqctl.errors import DataError
from lsqctl.training.image_folder import decode

RANDOM = np.random.default_rng(0)
RGBA = RANDOM.integers(0, 256, (9, 7, 4), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (9, 7, 4), dtype=np.uint16)
RGB, GREY = RGBA[..., :3], np.repeat(RGBA[..., :1], 3, axis=2)
PALETTE = Image.fromarray(np.ascontiguousarray(RGB)).quantize(16)
CMYK = Image.fromarray(np.full((16, 16, 4), (40, 90, 200, 30), np.uint8), "CMYK")
DECODERS = ["pil", *(["torchcodec"] if importlib.util.find_spec("torchcodec") else [])]


def image(mode):
    """Return the pixels as an image of a mode."""
    alpha = Image.fromarray(RGBA).getchannel("A")
    grey = Image.fromarray(RGBA[..., 0])
    made = {"L": grey, "LA": Image.merge("LA", (grey, alpha)), "1": grey.convert("1")}
    return made.get(mode) or Image.fromarray(RGBA)


def png16(channels):
    """Return a PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    pixels = DEEP[..., :channels].astype(">u2")
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff16():
    """Return a TIFF of 16 bits a channel in RGB, uncompressed."""
    pixels = DEEP[..., :3].astype("<u2").tobytes()
    height, width, _ = DEEP.shape
    tags = ((256, width), (257, height), (259, 1), (262, 2), (273, 8), (277, 3), (278, height))
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags}
    entries[258] = struct.pack("<HHII", 258, 3, 3, 8 + len(pixels))
    entries[279] = struct.pack("<HHII", 279, 4, 1, len(pixels))
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    bits = struct.pack("<3H", 16, 16, 16)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(pixels) + len(bits))
    return start + pixels + bits + directory + bytes(4)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "made", "options", "expected"),
    [
        ("1.png", image("1"), {}, np.repeat(np.array(image("1"))[..., None] * 255, 3, axis=2)),
        ("grey.png", image("L"), {}, GREY),
        ("grey-transparent.png", image("LA"), {}, GREY),
        ("palette.png", PALETTE, {}, np.array(PALETTE.convert("RGB"))),
        ("palette-transparent.png", PALETTE, {"transparency": 3}, np.array(PALETTE.convert("RGB"))),
        ("transparent.png", image("RGBA"), {}, RGB),
        ("transparent.webp", image("RGBA"), {"lossless": True, "exact": True}, RGB),
    ],
)
def test_an_image_of_8_bits_becomes_its_colours_without_its_transparency(
    tmp_path, decoder, name, made, options, expected
):
    made.save(tmp_path / name, **options)
    decoded = decode(str(tmp_path / name), decoder).permute(1, 2, 0).numpy()
    assert np.array_equal(decoded, expected)
    with open_image(str(tmp_path / name)) as opened:
        assert not has_deep_channels(opened)


@pytest.mark.parametrize("decoder", DECODERS)
def test_cmyk_becomes_rgb_by_its_formula(tmp_path, decoder):
    CMYK.save(tmp_path / "a.jpg", quality=100)
    decoded = decode(str(tmp_path / "a.jpg"), decoder)
    expected = [round((255 - colour) * (255 - 30) / 255) for colour in (40, 90, 200)]
    assert [int(channel.float().mean().round()) for channel in decoded] == pytest.approx(
        expected, abs=1
    )


@pytest.mark.parametrize(
    ("name", "data", "channels", "rounded"),
    [
        ("a.png", png16(3), [0, 1, 2], False),
        ("alpha.png", png16(4), [0, 1, 2], False),
        ("grey-alpha.png", png16(2), [0, 0, 0], False),
        ("a.tif", tiff16(), [0, 1, 2], False),
        ("a.ppm", b"P6 7 9 65535\n" + DEEP[..., :3].astype(">u2").tobytes(), [0, 1, 2], True),
    ],
)
def test_16_bits_a_channel_become_the_upper_8_and_are_seen(tmp_path, name, data, channels, rounded):
    (tmp_path / name).write_bytes(data)
    deep = DEEP[..., channels]
    for decoder in DECODERS:
        decoded = decode(str(tmp_path / name), decoder).permute(1, 2, 0).numpy()
        by_rounding = rounded or (decoder == "torchcodec" and name.endswith(".png"))
        assert np.array_equal(decoded, np.rint(deep / 257) if by_rounding else deep >> 8), decoder
    with open_image(str(tmp_path / name)) as opened:
        assert has_deep_channels(opened)


@pytest.mark.parametrize("decoder", DECODERS)
def test_grey_of_16_bits_is_refused(tmp_path, decoder):
    (tmp_path / "a.png").write_bytes(png16(1))
    with pytest.raises(DataError, match="pixels of I;16, which do not fit into 8 bits"):
        decode(str(tmp_path / "a.png"), decoder)
