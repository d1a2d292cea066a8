"""What lies in the data folder, and which of it a recipe would use.  Nothing is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.datasets.image_folders import FolderDataset, ImageWalk, class_names, images_root
from lsqctl.datasets.image_lists import is_list
from lsqctl.datasets.image_pack import SPLITS, read_pack
from lsqctl.datasets.presence import image_folders, is_dataset_present
from lsqctl.errors import DataError, LsqctlError
from lsqctl.recipe import WEIGHT_SUFFIXES
from lsqctl.settings import Settings

MAX_COUNTED = 100_000  # images of a split; counting ImageNet's takes seconds


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder that ``data.path`` may name; of more than MAX_COUNTED images so many are counted.

    ``resize`` is that of a packed one, else None. Of a list whatever it names is counted. One that
    cannot be read, as a submit would refuse it, is ``damaged``, counts 0 and has its ``problem``.
    """

    path: str
    classes: int
    train: int
    val: int
    resize: int | None = None
    damaged: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file that ``model.weights`` may name, by its path in the data folder."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RecipeData:
    """What a recipe would use: where it looks, whether that is there, and how much of it.

    ``limits`` are those of training and evaluation, None for all images.
    """

    recipe: str
    dataset: str
    location: str
    present: bool
    limits: tuple[int | None, int | None]


def find_image_folders(settings: Settings) -> list[ImageFolder]:
    """Return the folders of images in the data folder, packed ones and lists."""
    return [_count(settings.data_dir, name) for name in image_folders(settings.data_dir)]


def _count(data_dir: Path, name: str) -> ImageFolder:
    try:
        if is_list(data_dir / name):
            return _count_listed(data_dir, name)
        if (data_dir / name).is_file():
            return _count_packed(data_dir, name)
        return _count_by_class(data_dir, name)
    except DataError as error:
        return ImageFolder(name, 0, 0, 0, damaged=True, problem=str(error))


def _count_by_class(data_dir: Path, name: str) -> ImageFolder:
    train, val = (_count_images(data_dir / name / split) for split in SPLITS)
    return ImageFolder(name, len(class_names(data_dir / name / SPLITS[0])), train, val)


def _count_listed(data_dir: Path, name: str) -> ImageFolder:
    train, val = FolderDataset("imagefolder", name).list_splits(data_dir)
    return ImageFolder(name, len(train.classes), len(train.files), len(val.files))


def _count_packed(data_dir: Path, name: str) -> ImageFolder:
    pack = read_pack(data_dir / name)
    train, val = (len(pack.files[split]) for split in SPLITS)
    return ImageFolder(name, len(pack.classes), train, val, resize=pack.resize)


def _count_images(split: Path) -> int:
    names = class_names(split)
    walk = ImageWalk.of_classes(split, names)
    images = (image for name in names for image in walk.images(split / name))
    return sum(1 for _ in islice(images, MAX_COUNTED))


def find_weights_files(settings: Settings) -> list[WeightsFile]:
    """Return the weights files in the data folder and the folders in it, sorted."""
    data_dir = settings.data_dir
    if not data_dir.is_dir():
        return []
    paths = [*data_dir.iterdir(), *data_dir.glob("*/*")]
    return [
        WeightsFile(str(path.relative_to(data_dir)), path.stat().st_size)
        for path in sorted(paths)
        if path.suffix in WEIGHT_SUFFIXES and path.is_file()
    ]


def data_of_recipes(names: Sequence[str], settings: Settings) -> Iterator[RecipeData]:
    """Yield what each recipe would use, each once; of a sweep, what any of its cells would.

    Raises NotFound and RecipeError for a recipe that cannot be read.
    """
    from lsqctl.recipe_file import load

    for name in names:
        loaded = load(name)
        for data in dict.fromkeys(cell.recipe.data for cell in loaded.cells):
            folder = images_root(settings.data_dir, data.path or data.name)
            paths = DATASETS[data.name].paths
            location = "installed with lsqctl"
            if data.path or paths:
                location = str(folder if data.path else settings.data_dir / paths[0])
            yield RecipeData(
                loaded.name,
                data.name,
                location,
                is_dataset_present(data.name, settings.data_dir, data.path),
                (data.limit_train, data.limit_eval),
            )


def all_recipes() -> list[str]:
    """Return the names of the recipes here and of the bundled ones that can be run and read."""
    from lsqctl.recipe_file import load
    from lsqctl.recipe_file.find import bundled_recipes

    names = []
    for name in (*(f"./{path.name}" for path in sorted(Path().glob("*.yaml"))), *bundled_recipes()):
        try:
            load(name)
        except LsqctlError:
            continue
        names.append(name)
    return names
