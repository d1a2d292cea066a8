"""CIFAR-100: CIFAR-10's photographs of a hundred things, 500 and 100 of each (Krizhevsky 2009)."""

from lsqctl.datasets import dataset
from lsqctl.datasets.cifar_files import CifarDataset


@dataset(
    "cifar100",
    title="CIFAR-100",
    classes=100,
    channels=3,
    image_size=32,
    mean=(0.50707516, 0.48654887, 0.44091784),
    std=(0.26733429, 0.25643846, 0.27615047),
    pad=4,
    flip=True,
    paths=("cifar-100-binary.tar.gz", "cifar-100-binary", "cifar-100-python.tar.gz"),
    eval_images=10_000,
    hub_id="uoft-cs/cifar100",
)
class Cifar100(CifarDataset):
    """One training file; a record begins with its coarse and its fine label."""

    md5 = "03b5dce01913d631647c71ecec9e9cb8"
    python_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train_files = ("train.bin",)
    test_file = "test.bin"
    label_bytes = 2
    records_per_file = 50_000
    torchvision_class = "CIFAR100"
