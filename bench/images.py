"""Images per second and core: folders and packed files, decoded by Pillow or torchcodec.

    python bench/images.py [FOLDER] [--rounds N] [--images N]

FOLDER is an image folder of one's own, its ``train`` and ``val`` or class folders alone; without
one, JPEGs of 500 x 375 pixels are generated: smoothed noise, of about as many bytes a pixel as
photographs. In each round every variant reads, decodes, crops and mirrors the same training images
in this process, one thread, and processor time is counted; ratios are taken to Pillow on the folder
in the same round, and medians are printed. Files are in the page cache: what a disk costs is not in
it. "torchcodec alone" and "Pillow alone" only decode.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.datasets.image_files import ImageFile  # noqa: E402
from lsqctl.recipe import DataSection  # noqa: E402
from lsqctl.services.pack import PackOptions, pack_folder  # noqa: E402
from lsqctl.settings import load_settings  # noqa: E402
from lsqctl.training.dataset_loader import open_dataset  # noqa: E402
from lsqctl.training.image_folder import FolderImages, decode  # noqa: E402

VARIANTS = {
    f"{decoder}, {kind}": (kind, decoder)
    for kind in ("folder", "packed 256", "packed as they are")
    for decoder in ("pil", "torchcodec")
}
RESIZE = {"packed 256": 256, "packed as they are": 4096}


def generate(root: Path, images: int) -> None:
    """Write an image folder of two classes."""
    from PIL import Image, ImageFilter

    draw = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2)):
        for number in range(count):
            folder = root / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (375, 500, 3), dtype=np.uint8)
            smooth = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))
            smooth.save(folder / f"{number:06}.jpg", quality=92)


def as_image_folder(source: Path, root: Path) -> None:
    """Make ``root`` an image folder of ``source``: itself, or its classes as both splits."""
    if (source / "train").is_dir() and (source / "val").is_dir():
        root.symlink_to(source.resolve())
        return
    classes = source / "val" if (source / "val").is_dir() else source
    root.mkdir()
    for split in ("train", "val"):
        (root / split).symlink_to(classes.resolve())


def reader(data_dir: Path, path: str, decoder: str, count: int) -> Callable[[], int]:
    """Return what reads so many training images of a dataset, and tells how many it read."""
    section = DataSection(name="imagefolder", path=path, decoder=decoder, flip=True)
    splits = open_dataset(section, data_dir)
    order = np.random.default_rng(1).permutation(len(splits.train))[:count]
    batches = [order[start : start + 32] for start in range(0, len(order), 32)]

    def read() -> int:
        taken = splits.train.train_batches(batches, seed=0, epoch=0)
        return sum(len(labels) for _, labels in taken)

    return read


def decoding(data_dir: Path, path: str, decoder: str, count: int) -> Callable[[], int]:
    """Return what only decodes so many training images of a dataset."""
    splits = open_dataset(DataSection(name="imagefolder", path=path), data_dir)
    assert isinstance(splits.train, FolderImages)
    order = np.random.default_rng(1).permutation(len(splits.train))[:count]
    files: list[ImageFile] = [splits.train.files[index][0] for index in order]

    def read() -> int:
        return sum(len(decode(file, decoder)[:0]) + 1 for file in files)

    return read


def prepare(folder: Path | None, data_dir: Path, count: int) -> None:
    """Fill the data folder: the image folder, and both packed files."""
    root = data_dir / "folder"
    if folder is None:
        generate(root, count)
    else:
        as_image_folder(folder, root)
    for name, resize in RESIZE.items():
        target, options = data_dir / f"{name}.pack", PackOptions(resize=resize)
        pack_folder(str(root), target, options, load_settings(), notify=print)


def path_of(kind: str) -> str:
    return f"{kind}.pack" if kind in RESIZE else kind


def main(words: list[str] | None = None) -> None:
    """Print images per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        data_dir, count = Path(name), arguments.images
        prepare(arguments.folder, data_dir, count)
        readers = {
            variant: reader(data_dir, path_of(kind), decoder, count)
            for variant, (kind, decoder) in VARIANTS.items()
        } | {
            f"{decoder} alone, folder": decoding(data_dir, "folder", decoder, count)
            for decoder in ("pil", "torchcodec")
        }
        print_rates(measure(readers, arguments.rounds))
        for kind in RESIZE:
            print(f"{kind}: {(data_dir / path_of(kind)).stat().st_size / 1e6:.1f} MB")


def measure(readers: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Return images per second of processor time, by variant, a number a round."""
    rates: dict[str, list[float]] = {variant: [] for variant in readers}
    for round_number in range(rounds + 1):
        names = list(readers)
        np.random.default_rng(round_number).shuffle(names)
        for variant in names:
            started = time.process_time()
            images = readers[variant]()
            if round_number:  # the first warms up
                rates[variant].append(images / (time.process_time() - started))
    return rates


def print_rates(rates: dict[str, list[float]]) -> None:
    for variant, found in rates.items():
        base = rates["pil, folder"]
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"{variant:32} {statistics.median(found):8.0f} images/s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
