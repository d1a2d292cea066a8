"""One image, a file of its own or a part of a packed one: opened safely, bounded, and decodable.

No torch and no numpy: a recipe is refused for a damaged image before it is queued.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from lsqctl.datasets.image_pack import PackedImage
from lsqctl.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# Each ending with the decoder of Pillow that its files may reach, and no other: Pillow would try
# all it has, and an EPS file called x.png starts Ghostscript, which runs what the file says.
# The endings are those that torchvision's ImageFolder takes for an image; a test holds them equal.
IMAGE_DECODERS: Mapping[str, str] = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".webp": "WEBP",
}
_FORMATS = tuple(dict.fromkeys(IMAGE_DECODERS.values()))
JPEG_FORMATS = ("JPEG", "MPO")  # a photo with a second picture, as telephones write them, is MPO
# What Pillow raises for bytes that are damaged, or were made to harm.
_IMAGE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error),
)
MAX_IMAGE_PIXELS = 178_956_970  # above which Pillow opens none: half a gigabyte of RGB
_DEEP_MODES = ("I", "F")  # of 16 or 32 bits: what is above 255 would be cut off

Decoder = Literal["pil", "torchcodec"]
ImageFile = str | PackedImage  # the path of a file of its own, or a part of a packed one


def file_size(file: ImageFile) -> int:
    """Return the bytes of an image."""
    return file.size if isinstance(file, PackedImage) else os.stat(file).st_size


def _source(file: ImageFile, data: bytes | None) -> str | io.BytesIO:
    if data is None and isinstance(file, PackedImage):
        data = file.read()
    if data is None:
        assert isinstance(file, str)
        return file
    return io.BytesIO(data)


@contextlib.contextmanager
def open_image(file: ImageFile, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image of one of the wanted formats; whatever Pillow raises is a DataError.

    ``data`` are its bytes, where they were read already.
    """
    from PIL import Image

    source = _source(file, data)
    try:
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.mode.startswith(_DEEP_MODES):
                raise DataError(
                    f"{file} has pixels of {opened.mode}, which do not fit into 8 bits: save it "
                    "with 8 bits a channel"
                )
            yield opened
    except (*_IMAGE_ERRORS, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{file} does not open as an image ({', '.join(_FORMATS)}): {reason}"
        ) from None


def has_deep_channels(opened: Image.Image) -> bool:
    """Return whether an image that was just opened stores more than 8 bits of each of its colours.

    Pillow makes 8 of them when it decodes: the upper ones of a PNG or TIFF, rounded ones of a PPM.
    """
    for tile in getattr(opened, "tile", ()):  # what is not decoded yet
        raw_mode, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if ";16" in str(raw_mode):
            return True
        if opened.format == "PPM" and any(isinstance(one, int) and one > 255 for one in others):
            return True
    return False


def file_sha256(file: ImageFile) -> str:
    """Return the sha256 of an image's bytes as they are stored, of a packed one by its index.

    Raises OSError.
    """
    if isinstance(file, PackedImage):
        return file.sha256
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_image(path: ImageFile, *, resize: int, mode: str) -> None:
    """Raise DataError for a file that is no image, or becomes too large when it is resized.

    Its pixels are not decoded.
    """
    with open_image(path) as opened:
        size = opened.size
    check_resized(path, size, resize=resize, mode=mode)


def check_resized(path: ImageFile, size: tuple[int, int], *, resize: int, mode: str) -> None:
    """Raise DataError for an image of ``size`` that has too many pixels once it is resized.

    An image of 1 x 30,000 has few; with its shorter side at 256 it has two thousand million.
    """
    short, long = sorted(size)
    pixels = resize * resize if mode == "square" else resize * (resize * long // short)
    if pixels > MAX_IMAGE_PIXELS:
        raise DataError(
            f"{path} is {size[0]}x{size[1]}, and would have {pixels:,} pixels once resized to "
            f"{resize}: remove it, or say data.resize_mode: square"
        )


def check_decoder(decoder: str) -> None:
    """Raise DataError where what ``data.decoder`` names is not installed, or does not load."""
    if decoder != "torchcodec":
        return
    if importlib.util.find_spec("torchcodec") is None:
        raise DataError(
            "data.decoder: torchcodec is not installed: pip install 'lsqctl[torchcodec]', or say "
            "`decoder: pil`"
        )
    try:
        importlib.import_module("torchcodec.decoders")  # and torch, for those alone who decode so
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.decoder: torchcodec is installed and does not load: {reason}; install FFmpeg's "
            "libraries and a version for this torch, or say `decoder: pil`"
        ) from None


def is_image_name(name: str) -> bool:
    """Return whether a file is taken for an image, by its ending."""
    return name.lower().endswith(tuple(IMAGE_DECODERS))
