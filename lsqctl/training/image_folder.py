"""Folders of image files, one a class: resized, cropped and mirrored as the recipe says.

Crops are pure in (seed, epoch, index); how many processes decode changes nothing but the speed.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lsqctl.datasets.image_files import (
    JPEG_FORMATS,
    ImageFile,
    check_resized,
    file_size,
    open_image,
)
from lsqctl.datasets.image_folders import MAX_HASHED_BYTES
from lsqctl.datasets.image_pack import PackedImage
from lsqctl.errors import DataError
from lsqctl.recipe import DataSection
from lsqctl.text import format_bytes
from lsqctl.training.counter_rng import Stream, bits, randint, uniform
from lsqctl.training.data_pipeline import Batch, Indices, mirrored

if TYPE_CHECKING:
    from PIL import Image

_EVAL_EPOCH = -1  # instead of an epoch: as evaluation sees the image
_CROP_ATTEMPTS = 10
_DATA_ERROR = f"{DataError.__module__}.{DataError.__name__}: "
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where the loader's processes pass batches)
_WORKER_TIMEOUT_SECONDS = 300

SampleKey = tuple[int, int, int]  # seed, epoch or _EVAL_EPOCH, index


class _DecodedImages(Dataset[tuple[Tensor, int]]):
    """Opens, resizes and crops one image: (C, crop, crop) uint8, and its label."""

    def __init__(self, files: Sequence[tuple[ImageFile, int]], data: DataSection) -> None:
        self.files, self.data = files, data

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: SampleKey) -> tuple[Tensor, int]:
        from torchvision.transforms.v2 import functional as tv

        _, epoch, index = item
        path, label = self.files[index]
        image = decode(path, self.data.decoder)
        if epoch == _EVAL_EPOCH or self.data.train_crop == "random":
            height, width = image.shape[-2:]
            size, mode = (width, height), self.data.resize_mode
            check_resized(path, size, resize=self.data.resize, mode=mode)
        if epoch == _EVAL_EPOCH:
            return tv.center_crop(resize(image, self.data), [self.data.crop] * 2), label
        return crop_and_mirror(image, self.data, item), label


class DecoderEnded(OSError):
    """A process that decodes images ended, or hangs."""


class FolderImages:
    """The images of one split; ``num_workers`` processes decode (0: this one)."""

    def __init__(
        self, files: Sequence[tuple[ImageFile, int]], data: DataSection, *, num_workers: int = 0
    ) -> None:
        self.files, self.data, self.num_workers = files, data, num_workers

    def __len__(self) -> int:
        return len(self.files)

    def train_batches(
        self, batches: Iterable[Indices], *, seed: int, epoch: int
    ) -> Iterator[Batch]:
        """Yield batches, cropped at random and mirrored."""
        return self._load_batches([[(seed, epoch, int(i)) for i in indices] for indices in batches])

    def eval_batches(self, batches: Iterable[Indices]) -> Iterator[Batch]:
        """Yield batches with central crops."""
        return self._load_batches(
            [[(0, _EVAL_EPOCH, int(i)) for i in indices] for indices in batches]
        )

    def to(self, device: torch.device) -> FolderImages:
        """Return the same set: its images go to the device batch by batch."""
        return self

    def digest(self) -> str:
        """Return the sha256 of the names and sizes of the files; of packed ones, of all bytes."""
        hasher = hashlib.sha256()
        for file, label in self.files:
            path = Path(file.name if isinstance(file, PackedImage) else file)
            bytes_sha256 = f" {file.sha256}" if isinstance(file, PackedImage) else ""
            name = f"{path.parent.name}/{path.name}"
            line = f"{name} {file_size(file)} {label}{bytes_sha256}\n"
            hasher.update(line.encode(errors="surrogateescape"))  # any bytes may name a file
        return hasher.hexdigest()

    def content_digest(self) -> str:
        """Return the sha256 of the files' bytes as well; of very many that of their last changes.

        A file that another has taken the place of, of the same name and size, is another image.
        """
        hasher = hashlib.sha256(self.digest().encode())
        loose = [file for file, _ in self.files if not isinstance(file, PackedImage)]
        reads_bytes = sum(map(file_size, loose)) <= MAX_HASHED_BYTES
        for file in loose:
            path = Path(file)
            hasher.update(path.read_bytes() if reads_bytes else b"%d" % path.stat().st_mtime_ns)
        return hasher.hexdigest()

    def _load_batches(self, items: list[list[SampleKey]]) -> Iterator[Batch]:
        loader: DataLoader[object] = DataLoader(
            _DecodedImages(self.files, self.data),
            batch_sampler=items,
            num_workers=self.num_workers,
            timeout=_WORKER_TIMEOUT_SECONDS if self.num_workers else 0,
            generator=torch.Generator(),  # or the loader would draw from the global one
            worker_init_fn=_end_by_the_parent_alone,
        )
        try:
            with _sigterm_held_back():  # the processes that are started keep it so
                batches = iter(loader)
            yield from batches
        except DataError as error:  # from another process it comes with a whole traceback
            raise DataError(_last_line(error).removeprefix(_DATA_ERROR)) from None
        except RuntimeError as error:
            raise _explain_loader_error(error, self.num_workers) from None


@contextmanager
def _sigterm_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_by_the_parent_alone(_: int) -> None:
    """End a decoding process at SIGTERM only where its parent sends it.

    A scheduler signals every process of an attempt, whose ranks go on until they have saved.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _explain_loader_error(error: RuntimeError, num_workers: int) -> Exception:
    """Return what a loader's error means: a machine's fault, or the error itself."""
    text, last = str(error), _last_line(error)
    if "shared memory" in text or "Bus error" in text:
        size = format_bytes(shutil.disk_usage(_SHARED_MEMORY).total)
        return OSError(
            f"{_SHARED_MEMORY} is too small ({size}) for "
            f"{num_workers} decoding processes: "
            "give the container more (--ipc=host, or --shm-size), or work with more --slots, so "
            f"that each has fewer processes ({last})"
        )
    if "DataLoader" in text:
        return DecoderEnded(f"a process that decodes images ended or hangs: {last}")
    return error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


_TORCHCODEC_FORMATS = (
    *JPEG_FORMATS,
    "PNG",
    "WEBP",
)  # of those that lsqctl takes; the rest is Pillow's
_ORIENTATION = 0x0112  # the tag of EXIF


def decode(file: ImageFile, decoder: str) -> Tensor:
    """Return an image (3, H, W), uint8; raises DataError where it does not open.

    Pillow reads the header, and so bounds the size, also where torchcodec decodes.
    """
    from torchvision.transforms.v2 import functional as tv

    data = None
    if decoder == "torchcodec":
        data = file.read() if isinstance(file, PackedImage) else Path(file).read_bytes()
    with open_image(file, data) as opened:
        if data is not None and opened.format in _TORCHCODEC_FORMATS and not _is_turned(opened):
            return _torchcodec_decode(file, data)
        image: Tensor = tv.pil_to_tensor(opened.convert("RGB"))
    return image


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF says that an image is to be turned: torchcodec does, Pillow does not."""
    return "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1


def _torchcodec_decode(file: ImageFile, data: bytes) -> Tensor:
    from torchcodec.decoders import decode_image

    try:
        image: Tensor = decode_image(data, mode="RGB")
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{file} does not decode: {str(error).splitlines()[0]}") from None
    return image if image.ndim == 3 else image[0]  # the first of a moving one, as Pillow's


def resize(image: Tensor, data: DataSection) -> Tensor:
    """Return (C, H, W) with its shorter side, or both sides, at ``data.resize``."""
    size = [data.resize] * (2 if data.resize_mode == "square" else 1)
    return _interpolate(image, size, data)


def crop_and_mirror(image: Tensor, data: DataSection, key: SampleKey) -> Tensor:
    """Return a random crop (C, crop, crop), mirrored at random if the recipe says so."""
    from torchvision.transforms.v2 import functional as tv

    if data.train_crop == "random_resized":
        top, left, height, width = _random_resized_crop(image.shape[-2:], key)
        image = _interpolate(
            image[:, top : top + height, left : left + width], [data.crop] * 2, data
        )
    else:
        image = resize(image, data)
        top = _randint(image.shape[-2] - data.crop + 1, Stream.CROP_Y, key)
        left = _randint(image.shape[-1] - data.crop + 1, Stream.CROP_X, key)
        image = image[:, top : top + data.crop, left : left + data.crop]
    seed, epoch, index = key
    alternating = data.flip_order == "alternating"
    if (
        data.flip
        and mirrored(np.array([index]), seed=seed, epoch=epoch, alternating=alternating).any()
    ):
        image = tv.horizontal_flip(image)
    return image.contiguous()


def _interpolate(image: Tensor, size: list[int], data: DataSection) -> Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    mode = InterpolationMode(data.interpolation)
    out: Tensor = tv.resize(image, size, interpolation=mode, antialias=True)
    return out


def _random_resized_crop(shape: Iterable[int], key: SampleKey) -> tuple[int, int, int, int]:
    """Return (top, left, height, width): 8 to 100 % of the area, sides 3:4 to 4:3."""
    height, width = shape
    for attempt in range(_CROP_ATTEMPTS):
        area = height * width * (0.08 + 0.92 * _uniform(Stream.SCALE, key, attempt))
        ratio = math.exp((2 * _uniform(Stream.RATIO, key, attempt) - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = _randint(height - h + 1, Stream.CROP_Y, key)
            left = _randint(width - w + 1, Stream.CROP_X, key)
            return top, left, h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _randint(limit: int, stream: int, key: SampleKey) -> int:
    seed, epoch, index = key
    return int(randint(limit, bits(seed, epoch, stream, np.array([index])))[0])


def _uniform(stream: int, key: SampleKey, attempt: int) -> float:
    seed, epoch, index = key
    counter = np.array([index * _CROP_ATTEMPTS + attempt])
    return float(uniform(bits(seed, epoch, stream, counter))[0])
