"""Images of one's own: a folder for each class, as many as there are, normalized as ImageNet."""

from lsqctl.datasets import dataset
from lsqctl.datasets.image_folders import FolderDataset


@dataset(
    "imagefolder",
    title="own images",
    classes=None,
    channels=3,
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pad=0,
    flip=True,
    paths=("imagefolder/train",),
    is_image_folder=True,
)
class OwnImages(FolderDataset):
    """The folders ``train`` and ``val`` decide the classes."""
