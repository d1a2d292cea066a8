"""CIFAR-10: 32x32 photographs of ten things (Krizhevsky 2009), 50,000 and 10,000 of them."""

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
