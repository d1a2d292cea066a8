"""CIFAR-10: 32x32 photographs of ten things (Krizhevsky 2009), 50,000 and 10,000 of them."""

from typing import ClassVar

from lsqctl.datasets import dataset
from lsqctl.datasets.cifar_files import CifarDataset


@dataset(
    "cifar10",
    title="CIFAR-10",
    classes=10,
    channels=3,
    image_size=32,
    mean=(0.49139966, 0.48215827, 0.44653080),
    std=(0.24702950, 0.24348449, 0.26158695),
    pad=4,
    flip=True,
    paths=("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz"),
    eval_images=10_000,
    hub_id="uoft-cs/cifar10",
    labels="airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
)
class Cifar10(CifarDataset):
    """Five training files; a record begins with its label."""

    md5 = "c32a1d4ab5d03f1284b67883e8d87530"
    python_md5 = "c58f30108f718f92721af3b95e74349a"
    train_files = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
    test_file = "test_batch.bin"
    label_bytes = 1
    records_per_file = 10_000
    torchvision_class = "CIFAR10"
    content_md5s: ClassVar = {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    }
