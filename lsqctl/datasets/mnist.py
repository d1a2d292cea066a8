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
)
class Mnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "MNIST"
