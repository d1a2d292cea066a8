"""`data pack`: write a folder of images as one indexed file that recipes read like the folder."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lsqctl.atomic_write import atomic_file, check_overwrite
from lsqctl.datasets.image_files import JPEG_FORMATS, ImageFile, open_image
from lsqctl.datasets.image_folders import FolderDataset, FolderSplit, check_class_folders
from lsqctl.datasets.image_pack import SPLITS, SUFFIX, SourceImage, write_pack
from lsqctl.datasets.presence import image_folders
from lsqctl.errors import NotFound, UsageError
from lsqctl.settings import Settings, expand_home
from lsqctl.text import did_you_mean

_TOGETHER = 256  # images that wait in memory for their turn to be written
_REPORT_EVERY = 10_000  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """How to pack: pixels of the shorter side, quality of JPEG, threads; whether to overwrite."""

    resize: int = 256
    quality: int = 95
    threads: int = 1
    force: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed into which file, its bytes, and what was passed over in the folder."""

    file: Path
    classes: int
    train: int
    val: int
    size_bytes: int
    notes: tuple[str, ...]


def pack_folder(
    folder: str,
    output: Path | None,
    options: PackOptions,
    settings: Settings,
    *,
    notify: Callable[[str], None],
) -> Packed:
    """Write a folder's images, those with a longer shorter side reduced, into one file.

    The file is FOLDER.pack unless ``output`` names it. The same images, options and version of
    Pillow give the same bytes. Raises NotFound and DataError for a folder that cannot be packed,
    UsageError for a file that cannot be written; then there is none.
    """
    root = _find(folder, settings)
    file = output or _file_beside(root)
    _check_writable(file, force=options.force)
    for split in SPLITS:
        check_class_folders(root / split)
    splits = FolderDataset("imagefolder", str(root.absolute())).list_splits(settings.data_dir)
    with atomic_file(file, force=options.force) as target:
        write_pack(
            target,
            _sources(root, splits, options, notify),
            classes=splits[0].classes,
            resize=options.resize,
            encoder=_encoder(options),
        )
    train, val = (len(split.files) for split in splits)
    notes = splits[0].notes + splits[1].notes
    for note in notes:
        notify(note)
    return Packed(file, len(splits[0].classes), train, val, file.stat().st_size, notes)


def _file_beside(folder: Path) -> Path:
    """Return FOLDER.pack, whatever the folder was called by: `.` has its own name."""
    named = folder.resolve() if folder.name in ("", "..") else folder
    if not named.name:
        raise UsageError(f"{folder} has no name to call the file by: say -o FILE{SUFFIX}")
    return named.with_name(named.name + SUFFIX)


def _check_writable(file: Path, *, force: bool) -> None:
    if file.suffix != SUFFIX:
        raise UsageError(f"{file}: the name of packed images ends in {SUFFIX}")
    check_overwrite(file, force=force)


def _find(folder: str, settings: Settings) -> Path:
    """Return the folder that a path names, or that lies in the data folder."""
    path = expand_home(Path(folder))
    for candidate in (path, settings.data_dir / path):
        if candidate.is_file():
            raise UsageError(f"{candidate} is a file: name a folder of images")
        if candidate.is_dir():
            return candidate
    near = did_you_mean(folder, image_folders(settings.data_dir))
    raise NotFound(f"there is no folder {path}, nor one in {settings.data_dir}{near}")


def _sources(
    root: Path,
    splits: Sequence[FolderSplit],
    options: PackOptions,
    notify: Callable[[str], None],
) -> Iterator[SourceImage]:
    """Yield the images in the order of the folder, encoded by several threads."""
    named = zip(SPLITS, splits, strict=True)
    images = [(name, *image) for name, split in named for image in split.files]
    with ThreadPoolExecutor(options.threads) as pool:
        for start in range(0, len(images), _TOGETHER):
            part = images[start : start + _TOGETHER]
            encoded = pool.map(lambda image: _encode(image[1], options), part)
            for (split, file, label), data in zip(part, encoded, strict=True):
                name = os.path.relpath(str(file), root / split)
                yield SourceImage(split, name, label, data)
            if start // _REPORT_EVERY != (start + _TOGETHER) // _REPORT_EVERY:
                notify(f"{start + len(part):,} of {len(images):,} images")


def _encode(file: ImageFile, options: PackOptions) -> bytes:
    """Return the bytes of a file that is small enough; else a JPEG of a JPEG, of others a PNG."""
    from PIL.Image import Resampling

    with open_image(file) as opened:
        short = min(opened.size)
        if short <= options.resize:
            opened.load()  # a damaged one is refused, not packed
            return Path(str(file)).read_bytes()
        size = [side * options.resize // short for side in opened.size]
        reduced = opened.convert("RGB").resize((size[0], size[1]), Resampling.BILINEAR)
        buffer = io.BytesIO()
        if opened.format in JPEG_FORMATS:
            reduced.save(buffer, "JPEG", quality=options.quality, subsampling=0)
        else:
            reduced.save(buffer, "PNG")
    return buffer.getvalue()


def _encoder(options: PackOptions) -> str:
    import PIL

    return f"Pillow {PIL.__version__}, JPEG quality {options.quality} 4:4:4"
