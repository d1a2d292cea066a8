"""The Recipe: one complete experiment as a frozen value that checks itself.  No I/O, no torch.

A recipe says *what* is trained. Where data lies, devices, threads and workers are never part of
it. ``recipe_file`` makes recipes from YAML; every key's type, default, unit and meaning stands
here once and is printed by ``lsqctl recipe schema`` and in ``recipes/README.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from lsqctl.quant.spec import NONE_BITS, QuantSpec

# A change of a default, or of a key's meaning, must raise this: it is part of every hash.
HASH_SCHEMA = 1

NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

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
OWN_MODELS: tuple[str, ...] = (
    "resnet8",
    *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)),
)
MODEL_NAMES: tuple[str, ...] = tuple(sorted((*TORCHVISION_MODELS, *OWN_MODELS)))


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known of a dataset before it is opened.

    ``classes`` is None where the folder decides. ``mean`` and ``std`` are per channel of pixels
    in 0..1. ``defaults`` fill ``data.*`` keys that a recipe leaves out.
    """

    classes: int | None
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: bool = False
    defaults: Mapping[str, Any] = dataclass_field(default_factory=dict)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP_FLIP = {"pad": 4, "flip": True}

DATASETS: Mapping[str, DatasetFacts] = {
    "digits": DatasetFacts(10, 1, 8, (0.3053,), (0.3761,), defaults={"pad": 1, "flip": False}),
    "mnist": DatasetFacts(10, 1, 28, (0.1307,), (0.3081,), defaults={"pad": 2, "flip": False}),
    "fashion_mnist": DatasetFacts(
        10, 1, 28, (0.2860,), (0.3530,), defaults={"pad": 2, "flip": True}
    ),
    "cifar10": DatasetFacts(
        *(10, 3, 32),
        (0.49139966, 0.48215827, 0.44653080),
        (0.24702950, 0.24348449, 0.26158695),
        defaults=_CROP_FLIP,
    ),
    "cifar100": DatasetFacts(
        *(100, 3, 32),
        (0.50707516, 0.48654887, 0.44091784),
        (0.26733429, 0.25643846, 0.27615047),
        defaults=_CROP_FLIP,
    ),
    "imagenet": DatasetFacts(
        *(1000, 3, 224, IMAGENET_MEAN, IMAGENET_STD, True), defaults={"pad": 0, "flip": True}
    ),
    "imagefolder": DatasetFacts(
        *(None, 3, 224, IMAGENET_MEAN, IMAGENET_STD, True), defaults={"pad": 0, "flip": True}
    ),
}


def valid_name(text: str) -> bool:
    """Return whether ``text`` can name a recipe: at most four safe parts joined by ``/``."""
    parts = text.split("/")
    return len(parts) <= 4 and all(
        NAME_PART.fullmatch(part) and ".." not in part and not _RESERVED.fullmatch(part)
        for part in parts
    )


class Section(BaseModel):
    """A group of keys: strict types, no unknown key, no NaN, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


def _bits(value: int) -> int:
    if not (2 <= value <= 8 or value == NONE_BITS):
        raise PydanticCustomError("out_of_range", "must be 2..8, or 32 for not quantized")
    return value


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise PydanticCustomError("choice", "is not one of the choices")
        return value

    return AfterValidator(check)


BIT_WIDTHS = (2, 3, 4, 5, 6, 7, 8, NONE_BITS)
Bits = Annotated[
    int,
    AfterValidator(_bits),
    Field(json_schema_extra={"unit": "bits", "choices": list(BIT_WIDTHS)}),
]
ModelName = Annotated[str, _one_of(MODEL_NAMES)]
DatasetName = Annotated[str, _one_of(DATASETS)]


class RunRef(Section):
    """The trained weights of another run, named by its recipe; this run waits for it."""

    run: str = Field(min_length=1, description="name of the recipe whose weights are taken")


Weights = RunRef | Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ModelSection(Section):
    """The network and where its first weights come from."""

    name: ModelName = Field(
        description="network: a torchvision classifier, resnet8, or cifar_resnet20/32/44/56/110",
        json_schema_extra={"choices": list(MODEL_NAMES)},
    )
    weights: Weights | None = Field(
        None,
        description="first weights: a file (.safetensors, .pth, .pt, .th) looked up beside the "
        "recipe and in the data folder, a torchvision weights name, or {run: NAME}; "
        "null starts from random ones",
    )


class DataSection(Section):
    """The images, their batches and their augmentation."""

    name: DatasetName = Field(description="dataset", json_schema_extra={"choices": list(DATASETS)})
    batch_size: int = Field(
        128, ge=1, le=65536, description="images a training step", json_schema_extra=_unit("images")
    )
    eval_batch_size: int = Field(
        250,
        ge=1,
        le=65536,
        description="images an evaluation step; never changes a count",
        json_schema_extra=_unit("images"),
    )
    normalize: Literal["dataset", "imagenet", "none"] = Field(
        "dataset",
        description="mean and deviation the pixels are normalized by: the dataset's own, "
        "ImageNet's, or none (0..1)",
    )
    pad: int = Field(
        0,
        ge=0,
        le=64,
        description="random crop after zero padding by so much on each side (sets in memory)",
        json_schema_extra=_unit("pixels"),
    )
    flip: bool = Field(False, description="mirror every second training image, at random")
    resize: int = Field(
        256,
        ge=1,
        le=4096,
        description="resize before the crop (image folders)",
        json_schema_extra=_unit("pixels"),
    )
    resize_mode: Literal["shorter", "square"] = Field(
        "shorter", description="resize the shorter side, or both sides, to data.resize"
    )
    crop: int = Field(
        224,
        ge=1,
        le=4096,
        description="side of the crop: random in training, central in evaluation (image folders)",
        json_schema_extra=_unit("pixels"),
    )
    train_crop: Literal["random", "random_resized"] = Field(
        "random", description="training crop: a random place (the paper), or a random size as well"
    )
    interpolation: Literal["bilinear", "bicubic", "nearest"] = Field(
        "bilinear", description="how images are resized (with antialiasing)"
    )


class QuantSection(Section):
    """Bits, and how the steps of LSQ begin and learn."""

    weight_bits: Bits = Field(NONE_BITS, description="bits of weights; 32 is not quantized")
    act_bits: Bits = Field(
        NONE_BITS, description="bits of the activations that enter a layer; 32 is not quantized"
    )
    first_weight_bits: Bits = Field(
        NONE_BITS,
        description="the first layer's weight bits; left out, 8 if quant.weight_bits is below 32",
    )
    first_act_bits: Bits = Field(
        NONE_BITS,
        description="bits of the network's input; left out, 8 if quant.act_bits is below 32",
    )
    last_weight_bits: Bits = Field(
        NONE_BITS,
        description="the last layer's weight bits; left out, 8 if quant.weight_bits is below 32",
    )
    last_act_bits: Bits = Field(
        NONE_BITS,
        description="the last layer's input bits; left out, 8 if quant.act_bits is below 32",
    )
    per_channel: bool = Field(False, description="a step for each output channel of a weight")
    narrow_range: bool = Field(False, description="drop the lowest signed code: a symmetric grid")
    act_signed: Literal["auto", "signed", "unsigned"] = Field(
        "auto", description="sign of activations; auto looks at the calibration batch, per layer"
    )
    init: Literal["paper", "mse", "lsq_plus", "percentile"] = Field(
        "paper",
        description="first step size: 2<|v|>/sqrt(Q_P), least squared error, LSQ+'s three "
        "deviations, or a percentile",
    )
    percentile: float = Field(
        99.9,
        gt=50,
        le=100,
        description="used by init: percentile",
        json_schema_extra=_unit("% of |v|"),
    )
    n_features: Literal["per_sample", "numel", "channels"] = Field(
        "per_sample", description="the reading of N_F in the gradient scale 1/sqrt(N_F Q_P)"
    )
    calibration_images: int = Field(
        512,
        ge=1,
        le=65536,
        description="training images, shuffled, that give activation steps their first value",
        json_schema_extra=_unit("images"),
    )
    step_weight_decay: float = Field(
        0.0, ge=0, le=1, description="weight decay of the step sizes", json_schema_extra=_unit("1")
    )
    step_lr_scale: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="learning rate of the step sizes over train.lr",
        json_schema_extra=_unit("ratio"),
    )

    def spec(self) -> QuantSpec:
        """Return the same settings as the quantization library takes them."""
        shared = QuantSpec.__dataclass_fields__.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared - {"act_signed"}}
        signed = {"auto": None, "signed": True, "unsigned": False}[self.act_signed]
        return QuantSpec(**values, act_signed=signed)


class TrainSection(Section):
    """The optimizer and its schedule."""

    epochs: int = Field(
        90,
        ge=0,
        le=100_000,
        description="passes over the training images; 0 evaluates and trains nothing",
        json_schema_extra=_unit("epochs"),
    )
    lr: float = Field(
        0.01, gt=0, le=1000, description="first learning rate of SGD", json_schema_extra=_unit("1")
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="momentum of SGD", json_schema_extra=_unit("1")
    )
    nesterov: bool = Field(False, description="Nesterov's form of momentum")
    weight_decay: float = Field(
        1e-4,
        ge=0,
        le=1,
        description="weight decay of convolution and linear weights; never of biases and norms",
        json_schema_extra=_unit("1"),
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate a step: half a cosine down to 0, or constant"
    )
    warmup_epochs: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="linear warm-up of the learning rate",
        json_schema_extra=_unit("epochs"),
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weight of the uniform distribution in the targets",
        json_schema_extra=_unit("1"),
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="arithmetic of layers: fp32, or bf16 autocast (quantizers stay in fp32)",
    )
    headline: Literal["last", "best"] = Field(
        "last",
        description="the result that counts: last epoch, or best (which is selected on the "
        "test set and says so)",
    )


class DistillSection(Section):
    """A teacher whose softened outputs join the loss."""

    teacher: Weights = Field(
        description="the teacher's weights: a file, a torchvision weights name, or {run: NAME}"
    )
    teacher_model: ModelName | None = Field(
        None,
        description="the teacher's network; null is the student's own, in full precision",
        json_schema_extra={"choices": list(MODEL_NAMES)},
    )
    hard_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the loss on the labels",
        json_schema_extra=_unit("1"),
    )
    soft_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the loss on the teacher",
        json_schema_extra=_unit("1"),
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="divides both nets' outputs",
        json_schema_extra=_unit("1"),
    )


def _checked_name(value: object) -> object:
    if isinstance(value, str) and not valid_name(value):
        raise ValueError(
            "must be one to four parts joined by `/`, each of at most 64 letters, digits, `.`, `_` "
            "and `-`, beginning with a letter or digit, and none a device of Windows such as `con`"
        )
    return value


RecipeName = Annotated[str, BeforeValidator(_checked_name)]


class Recipe(Section):
    """One complete experiment; the same recipe and seed give the same run."""

    name: RecipeName = Field(description="what runs and the board call it")
    description: str = Field("", max_length=1000, description="one line for `recipe ls`")
    model: ModelSection
    data: DataSection
    quant: QuantSection = QuantSection()
    train: TrainSection = TrainSection()
    distill: DistillSection | None = Field(None, description="left out: no teacher")
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="decides data order, augmentation and first weights"
    )

    def references(self) -> dict[str, str | RunRef]:
        """Return what must exist before the run starts, by key: files, names or other runs."""
        found: dict[str, str | RunRef] = {}
        if self.model.weights is not None:
            found["model.weights"] = self.model.weights
        if self.distill is not None:
            found["distill.teacher"] = self.distill.teacher
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """Keys that are each fine but do not fit together. ``key`` is dotted; ``other`` too."""

    key: str
    label: str
    help: str
    other: str | None = None


def derived_defaults(raw: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return the defaults that depend on other keys: dotted key to (value, origin).

    ``raw`` is a recipe as written, possibly wrong in places; wrong places derive nothing.
    """
    derived: dict[str, tuple[Any, str]] = {}
    dataset = _part(raw, "data").get("name")
    if isinstance(dataset, str) and dataset in DATASETS:
        for key, value in DATASETS[dataset].defaults.items():
            derived[f"data.{key}"] = (value, f"default of {dataset}")
    quant = _part(raw, "quant")
    for kind in ("weight", "act"):
        bits = quant.get(f"{kind}_bits", NONE_BITS)
        value = 8 if type(bits) is int and bits < NONE_BITS else NONE_BITS
        for place in ("first", "last"):
            derived[f"quant.{place}_{kind}_bits"] = (value, f"follows quant.{kind}_bits")
    return derived


def check_together(recipe: Recipe) -> list[Problem]:
    """Return what is wrong between keys that are each valid."""
    problems = []
    train = recipe.train
    if train.warmup_epochs > train.epochs:
        problems.append(
            Problem(
                "train.warmup_epochs",
                f"warm-up of {train.warmup_epochs:g} epochs is longer than the training",
                "make it at most train.epochs",
                "train.epochs",
            )
        )
    if train.nesterov and train.momentum == 0:
        problems.append(
            Problem("train.nesterov", "needs momentum", "set train.momentum", "train.momentum")
        )
    if DATASETS[recipe.data.name].folder and recipe.data.crop > recipe.data.resize:
        problems.append(
            Problem(
                "data.crop",
                f"a crop of {recipe.data.crop} pixels does not fit into {recipe.data.resize}",
                "make it at most data.resize",
                "data.resize",
            )
        )
    if DATASETS[recipe.data.name].channels == 1 and recipe.data.normalize == "imagenet":
        problems.append(
            Problem(
                "data.normalize",
                f"`{recipe.data.name}` is grey; ImageNet's mean and deviation are for colour",
                "use `dataset`",
                "data.name",
            )
        )
    if recipe.distill and recipe.distill.hard_weight + recipe.distill.soft_weight == 0:
        problems.append(
            Problem("distill.hard_weight", "both losses weigh 0", "give one of them a weight")
        )
    return problems


def fingerprint(recipe: Recipe, inputs: Mapping[str, str], *, with_seed: bool) -> str:
    """Return the sha256 that identifies a recipe's training semantics.

    ``inputs`` names, by key, the bytes behind ``model.weights`` and ``distill.teacher``
    (``file:SHA256``, ``torchvision:NAME`` or ``run:RECIPE_SHA256``), for a path says nothing of
    its content. Name and description are left out, and so is every key at its default: a key
    that a later version adds leaves the hashes of older recipes as they were.
    """
    data = recipe.model_dump(mode="json", exclude_defaults=True)
    for key in ("name", "description", *(() if with_seed else ("seed",))):
        data.pop(key, None)
    for key, identity in inputs.items():
        section, field = key.split(".")
        data[section][field] = identity
    missing = recipe.references().keys() - inputs.keys()
    if missing:
        raise ValueError(f"the bytes behind {', '.join(sorted(missing))} are not known")
    text = json.dumps([HASH_SCHEMA, data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_stored(data: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a run was stored with."""
    return Recipe.model_validate(dict(data))


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = raw.get(name)
    return part if isinstance(part, Mapping) else {}
