"""The networks and datasets that a recipe may name, as plain data: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TORCHVISION_MODELS: tuple[str, ...] = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
    densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
    efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
    efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
    mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf
    regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf
    regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
    resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
    shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t
    swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
    vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()
)
BUILTIN_MODELS: tuple[str, ...] = (
    "resnet8",
    *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"preact_resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "squeezenext23_2x",
)
MODEL_NAMES: tuple[str, ...] = tuple(sorted((*TORCHVISION_MODELS, *BUILTIN_MODELS)))
# Networks of convolutions with one channel a group; a test holds them equal to what is built.
DEPTHWISE_MODELS: tuple[str, ...] = tuple(
    name
    for name in MODEL_NAMES
    if name.startswith(("convnext", "efficientnet", "maxvit", "mnasnet", "mobilenet", "shufflenet"))
)
# Networks of the timm library, which a recipe may name besides: which there are, only timm knows.
TIMM_PREFIX = "timm/"
TIMM_PATTERN = r"timm/[A-Za-z0-9_]+"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a dataset before it is opened.

    ``classes`` is None where the folder decides. ``mean`` and ``std`` are per channel of pixels
    in 0..1. ``defaults`` fill ``data.*`` keys that a recipe leaves out.
    """

    classes: int | None
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_image_folder: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP_FLIP = {"pad": 4, "flip": True}

DATASETS: Mapping[str, DatasetInfo] = {
    "digits": DatasetInfo(10, 1, 8, (0.3053,), (0.3761,), defaults={"pad": 1, "flip": False}),
    "mnist": DatasetInfo(10, 1, 28, (0.1307,), (0.3081,), defaults={"pad": 2, "flip": False}),
    "fashion_mnist": DatasetInfo(
        10, 1, 28, (0.2860,), (0.3530,), defaults={"pad": 2, "flip": True}
    ),
    "cifar10": DatasetInfo(
        *(10, 3, 32),
        (0.49139966, 0.48215827, 0.44653080),
        (0.24702950, 0.24348449, 0.26158695),
        defaults=_CROP_FLIP,
    ),
    "cifar100": DatasetInfo(
        *(100, 3, 32),
        (0.50707516, 0.48654887, 0.44091784),
        (0.26733429, 0.25643846, 0.27615047),
        defaults=_CROP_FLIP,
    ),
    "imagenet": DatasetInfo(
        *(1000, 3, 224, IMAGENET_MEAN, IMAGENET_STD, True), defaults={"pad": 0, "flip": True}
    ),
    "imagefolder": DatasetInfo(
        *(None, 3, 224, IMAGENET_MEAN, IMAGENET_STD, True), defaults={"pad": 0, "flip": True}
    ),
}

# Where the weights files that the bundled recipes name come from, by their folder.
_WEIGHTS_HINTS: Mapping[str, str] = {
    "cifar-resnet/": "it is published on GitHub in akamaster/pytorch_resnet_cifar10 (BSD-2) under "
    "pretrained_models; the recipes cifar10/…-scratch need no file",
    "timm/": "timm has it: save timm.create_model(NAME, pretrained=True).state_dict() there with "
    "safetensors.torch.save_file",
}


def weights_hint(weights_name: str) -> str:
    """Return where a weights file that a bundled recipe names can be had; empty if not known."""
    return next(
        (hint for prefix, hint in _WEIGHTS_HINTS.items() if weights_name.startswith(prefix)), ""
    )
