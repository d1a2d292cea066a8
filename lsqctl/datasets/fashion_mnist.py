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
    labels="T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot",
)
class FashionMnist(IdxDataset):
    """The files as torchvision has them."""

    torchvision_class = "FashionMNIST"
    md5s = (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )
    content_md5s = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
