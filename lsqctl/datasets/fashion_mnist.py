"""Fashion-MNIST: articles of clothing (Xiao et al. 2017), in the form and number of MNIST."""

from lsqctl.datasets import dataset
from lsqctl.datasets.idx_files import IdxDataset


@dataset(
    "fashion_mnist",
    title="Fashion-MNIST",
    classes=10,
    channels=1,
    image_size=28,
    mean=(0.2860,),
    std=(0.3530,),
    pad=2,
    flip=True,
    paths=("FashionMNIST/raw",),
    eval_images=10_000,
)
class FashionMnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "FashionMNIST"
