"""ImageNet, the classification task of 2012: a folder of photographs for each of 1,000 classes."""

from lsqctl.datasets import dataset
from lsqctl.datasets.image_folders import FolderDataset


@dataset(
    "imagenet",
    title="ImageNet",
    classes=1000,
    channels=3,
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pad=0,
    flip=True,
    paths=("imagenet/train",),
    eval_images=50_000,
    hub_id="ILSVRC/imagenet-1k",
    is_image_folder=True,
)
class Imagenet(FolderDataset):
    """It may not be given away: everybody gets it from its owners."""
