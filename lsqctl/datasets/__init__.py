"""The datasets that a recipe may name, one module each: all that is known of one stands there.

``@dataset(NAME, …)`` declares a class that reads it: a subclass of ``InMemoryDataset``
(``idx_files`` and ``cifar_files`` read two layouts) or of ``FolderDataset``. ``DATASETS`` knows
names, classes, sizes and paths without importing it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lsqctl.registry import Registry

__all__ = ["DATASETS", "DatasetInfo", "dataset", "dataset_title"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What is known of a dataset before it is opened.

    ``title`` is what people call it. ``classes`` is None where the folder decides.
    ``image_size`` is in pixels a side; ``mean`` and ``std`` are per channel of pixels in 0..1.
    ``pad`` (pixels) and ``flip`` fill these keys of ``data`` where a recipe leaves them out.
    ``eval_images`` counts the usual test set, ``hub_id`` is the name on the Hugging Face Hub.
    ``paths`` lie in the data folder, any one of them will do, and the first is what a download
    makes; a dataset that is installed with a library has none. ``labels`` name the classes in their
    order, between commas, where they have names.
    """

    title: str
    classes: int | None
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    paths: tuple[str, ...] = ()
    eval_images: int | None = None
    hub_id: str = ""
    is_image_folder: bool = False
    labels: str = ""

    def __post_init__(self) -> None:
        for key, value, least in (
            ("classes", 2 if self.classes is None else self.classes, 2),
            ("channels", self.channels, 1),
            ("image_size", self.image_size, 1),
            ("pad", self.pad, 0),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f"{key} is a whole number of at least {least}, got {value!r}")
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if not isinstance(numbers, tuple | list) or len(numbers) != self.channels:
                raise ValueError(f"mean and std need {self.channels} numbers, one a channel")
            lowest = 0.0 if key == "mean" else 1e-6
            if not all(isinstance(n, int | float) and lowest <= n <= 1 for n in numbers):
                raise ValueError(f"{key} is of pixels in 0..1, as (0.5,), got {numbers!r}")
        if self.labels and len(self.label_names) != self.classes:
            raise ValueError(f"{len(self.label_names)} labels, {self.classes} classes")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes; () where they have none here."""
        return tuple(self.labels.split(", ")) if self.labels else ()


ANY_CLASSES = 7  # where a folder decides how many, and a network must take any number

DATASETS = Registry(__name__, "dataset", DatasetInfo, noun="dataset", group="lsqctl.datasets")
dataset = DATASETS.declare


def dataset_title(name: str) -> str:
    """Return what people call a dataset; of one that nobody declared, its name."""
    info = DATASETS.get(name)
    return info.title if info else name
