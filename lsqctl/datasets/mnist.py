"""MNIST: handwritten digits (LeCun, Cortes, Burges 1998), 60,000 and 10,000 images of 28x28."""

from lsqctl.datasets import dataset
from lsqctl.datasets.idx_files import IdxDataset


@dataset(
    "mnist",
    title="MNIST",
    classes=10,
    channels=1,
    image_size=28,
    mean=(0.1307,),
    std=(0.3081,),
    pad=2,
    flip=False,
    paths=("MNIST/raw",),
    eval_images=10_000,
    labels="0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
)
class Mnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "MNIST"
    md5s = (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    )
    content_md5s = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
