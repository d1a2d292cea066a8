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
    labels="apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, "
    "boy, bridge, bus, butterfly, camel, can, castle, caterpillar, cattle, chair, "
    "chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur, dolphin, "
    "elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, "
    "lawn_mower, leopard, lion, lizard, lobster, man, maple_tree, motorcycle, mountain, "
    "mouse, mushroom, oak_tree, orange, orchid, otter, palm_tree, pear, pickup_truck, "
    "pine_tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, "
    "rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, "
    "squirrel, streetcar, sunflower, sweet_pepper, table, tank, telephone, television, "
    "tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow_tree, wolf, "
    "woman, worm",
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
