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
    labels="o, ki, su, tsu, na, ha, ma, ya, re, wo",
)
class Kmnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "KMNIST"
    md5s = (
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    )
