"""Kuzushiji-MNIST: cursive Japanese characters (Clanuwat et al. 2018), in MNIST's form and number.

Ten characters, one of each row of hiragana. Mean and deviation are those of the training images.
"""

from lsqctl.datasets import dataset
from lsqctl.datasets.idx_files import IdxDataset


@dataset(
    "kmnist",
    title="Kuzushiji-MNIST",
    classes=10,
    channels=1,
    image_size=28,
    mean=(0.1918,),
    std=(0.3483,),
    pad=2,
    flip=False,
    paths=("KMNIST/raw",),
    eval_images=10_000,
)
class Kmnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "KMNIST"
