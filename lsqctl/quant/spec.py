"""How tensors and whole models are quantized: frozen values that check themselves, no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Generic, Literal, Never, TypeAlias, TypeVar, get_args

FLOAT_BITS = 32
"""The number of bits that means: not quantized."""

BIT_WIDTHS = (2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
BitWidth = Annotated[int, BIT_WIDTHS]
T = TypeVar("T")
Unset = TypeVar("Unset")
StepInit = Literal["paper", "mse", "lsq_plus", "percentile"]
FeatureCount = Literal["per_sample", "numel", "channels"]
Offset = Literal["none", "learned"]
Sign = Literal["auto", "signed", "unsigned"]
Kernel = Literal["auto", "integer", "float"]
SIGN_TO_SIGNED: Mapping[Sign, bool | None] = {"auto": None, "signed": True, "unsigned": False}

SpecChanges: TypeAlias = dict[str, Any]  # fields of a QuantSpec


def check_bits(bits: int, name: str = "bits") -> None:
    """Raise ValueError unless ``bits`` is 2..8, or 32 for not quantized."""
    if type(bits) is not int or not (2 <= bits <= 8 or bits == FLOAT_BITS):
        raise ValueError(f"{name} must be 2..8, or 32 for not quantized, got {bits!r}")


def _check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How one kind of tensor is quantized.

    ``signed=None`` lets calibration decide from the data: signed where a value is negative.
    ``per_channel`` gives each output channel of a weight its own step. ``narrow_range`` drops the
    lowest code of a signed tensor, which makes the grid symmetric. ``init`` is the rule of the
    step's first value, ``n_features`` the reading of N_F in the gradient scale 1/sqrt(N_F * Q_P)
    (Esser et al. 2020, section 2.2; they say "features in a layer"). A learned ``offset`` moves
    the grid (Bhalgat et al. 2020); with an open sign only where values are negative.

    >>> TensorSpec(bits=3, signed=True).quant_min, TensorSpec(bits=3, signed=True).quant_max
    (-4, 3)
    >>> TensorSpec(bits=3, signed=False).quant_max
    7
    """

    bits: int = 8
    signed: bool | None = True
    per_channel: bool = False
    narrow_range: bool = False
    init: StepInit = "paper"
    percentile: float = 99.9
    n_features: FeatureCount = "per_sample"
    offset: Offset = "none"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must be above 50 and at most 100, got {self.percentile}")
        _check_choice("init", self.init, get_args(StepInit))
        _check_choice("n_features", self.n_features, get_args(FeatureCount))
        _check_choice("offset", self.offset, get_args(Offset))

    @property
    def quantized(self) -> bool:
        """Whether anything is done at all."""
        return self.bits != FLOAT_BITS

    def bounds(self, signed: bool) -> tuple[int, int]:
        """Return (quant_min, quant_max), that is (-Q_N, Q_P), for a tensor of known sign."""
        if not signed:
            return 0, (1 << self.bits) - 1
        highest = (1 << (self.bits - 1)) - 1
        return -highest - (not self.narrow_range), highest

    @property
    def quant_min(self) -> int:
        """The lowest code, -Q_N of the paper; for ``signed=None``, as if signed."""
        return self.bounds(self.signed is not False)[0]

    @property
    def quant_max(self) -> int:
        """The highest code, Q_P of the paper; for ``signed=None``, as if signed."""
        return self.bounds(self.signed is not False)[1]


def key(
    default: T,
    description: str,
    *,
    unit: str = "",
    above: float | None = None,
    at_most: float | None = None,
) -> T:
    """Declare a key of quantization: its default here, its meaning, unit and bounds.

    It is declared here alone: recipes, overrides, the JSON Schema and the table of all keys take
    it from the fields of ``ModelKeys`` and ``LayerKeys``.
    """
    meaning = {"description": description, "unit": unit, "above": above, "at_most": at_most}
    declared: T = field(default=default, metadata=meaning)
    return declared


@dataclass(frozen=True, slots=True)
class LayerKeys(Generic[Unset]):
    """The keys that single layers may have otherwise than their model.

    ``Unset`` is the type of a key that is left out: there is none in a model, and None in an
    override.
    """

    weight_bits: BitWidth | Unset = key(4, "bits of weights; 32 is not quantized")
    act_bits: BitWidth | Unset = key(
        4, "bits of the activations that enter a layer; 32 is not quantized"
    )
    _: KW_ONLY
    per_channel: bool | Unset = key(
        False, "a step for each output channel of a weight; activations have one"
    )
    narrow_range: bool | Unset = key(False, "drop the lowest signed code: a symmetric grid")
    act_signed: Sign | Unset = key(
        "auto", "sign of activations; auto looks at the calibration batch, per layer"
    )
    act_offset: Offset | Unset = key(
        "none",
        "learned moves the grid of activations by a learned offset (LSQ+), with act_signed: auto "
        "only where the calibration batch is negative somewhere",
    )
    init: StepInit | Unset = key(
        "paper",
        "first step size: 2<|v|>/sqrt(Q_P), least squared error, LSQ+'s three deviations, or a "
        "percentile",
    )
    percentile: float | Unset = key(
        99.9, "used by init: percentile", unit="% of |v|", above=50, at_most=100
    )


def _unset_by_default(cls: type[T]) -> type[T]:
    """Make None the default of each key; ``dataclass`` comes after it."""
    cls.__annotations__ = {declared.name: declared.type for declared in fields(LayerKeys)}
    for declared in fields(LayerKeys):
        setattr(cls, declared.name, field(default=None, metadata=declared.metadata))
    return cls


@dataclass(frozen=True, slots=True, kw_only=True)
@_unset_by_default
class LayerOverride(LayerKeys[None]):
    """What some layers have instead of their model's settings; None leaves a setting as it is."""

    def changes(self) -> SpecChanges:
        """Return what it sets, as fields of a QuantSpec."""
        settings = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKeys(LayerKeys[Never]):
    """The keys of a whole model, but for the overrides."""

    first_weight_bits: BitWidth = key(
        8, "the first layer's weight bits; left out of a recipe, 8 if quant.weight_bits is below 32"
    )
    first_act_bits: BitWidth = key(
        8, "bits of the network's input; left out of a recipe, 8 if quant.act_bits is below 32"
    )
    last_weight_bits: BitWidth = key(
        8, "the last layer's weight bits; left out of a recipe, 8 if quant.weight_bits is below 32"
    )
    last_act_bits: BitWidth = key(
        8, "the last layer's input bits; left out of a recipe, 8 if quant.act_bits is below 32"
    )
    n_features: FeatureCount = key(
        "per_sample", "the reading of N_F in the gradient scale 1/sqrt(N_F Q_P)"
    )
    residual_bits: BitWidth = key(
        FLOAT_BITS,
        "bits of both inputs of residual additions; 32 leaves them alone, as the paper",
    )
    kernel: Kernel = key(
        "auto",
        "what layers compute with: integer multiplies codes and adds them exactly, float "
        "multiplies values; auto is decided at a run's first attempt",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec(ModelKeys):
    """How a whole model is quantized.

    Every convolution and linear layer has its weights at ``weight_bits`` and its input
    activations at ``act_bits``; the first and the last layer have fields of their own (8 bits in
    the paper). 32 bits means: not quantized. ``residual_bits`` quantizes both inputs of residual
    additions, which the paper leaves alone.

    ``overrides`` maps globs on layer names, as ``"layer1.*"`` (``*`` also spans dots), to other
    settings. All that match apply in their order, so the later one wins; what they say also holds
    for the first and the last layer.

    >>> spec = QuantSpec(overrides={"layer1.*": LayerOverride(weight_bits=8)})
    >>> [spec.layer_specs(name)[0].bits for name in ("layer1.0.conv1", "layer2.0.conv1")]
    [8, 4]
    """

    overrides: Mapping[str, LayerOverride] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for declared in fields(self):
            if declared.name.endswith("_bits"):
                check_bits(getattr(self, declared.name), declared.name)
        _check_choice("act_signed", self.act_signed, SIGN_TO_SIGNED)
        _check_choice("kernel", self.kernel, get_args(Kernel))
        self.weight_spec(self.weight_bits)
        self.activation_spec(self.act_bits)
        for glob in self.overrides:
            self._with_changes(self.overrides[glob].changes())

    @property
    def quantized(self) -> bool:
        """Whether anything is quantized."""
        all_bits = self.bits_of("weight") | self.bits_of("act") | {self.residual_bits}
        return all_bits != {FLOAT_BITS}

    def bits_of(self, kind: Literal["weight", "act"]) -> set[int]:
        """Return the bits that weights, or activations, have anywhere in the model."""
        override_bits = (getattr(override, f"{kind}_bits") for override in self.overrides.values())
        model_bits = {getattr(self, f"{prefix}{kind}_bits") for prefix in _LAYER_PREFIXES}
        return model_bits | {bits for bits in override_bits if bits is not None}

    def weight_spec(self, bits: int) -> TensorSpec:
        """Return the spec of a weight tensor with ``bits``: always signed."""
        return TensorSpec(
            bits=bits,
            signed=True,
            per_channel=self.per_channel,
            narrow_range=self.narrow_range,
            init=self.init,
            percentile=self.percentile,
        )

    def activation_spec(self, bits: int) -> TensorSpec:
        """Return the spec of an input activation with ``bits``: always per tensor."""
        return TensorSpec(
            bits=bits,
            signed=SIGN_TO_SIGNED[self.act_signed],
            narrow_range=self.narrow_range,
            init=self.init,
            percentile=self.percentile,
            n_features=self.n_features,
            offset=self.act_offset,
        )

    def layer_specs(
        self, name: str = "", *, first: bool = False, last: bool = False
    ) -> tuple[TensorSpec, TensorSpec]:
        """Return the (weight, input activation) specs of a layer by its name and its position."""
        prefix = "first_" if first else "last_" if last else ""
        bits = {kind: getattr(self, f"{prefix}{kind}") for kind in ("weight_bits", "act_bits")}
        changes: SpecChanges = {}
        for glob, override in self.overrides.items():
            if fnmatchcase(name, glob):
                changes |= override.changes()
        resolved = self._with_changes(bits | changes)
        return resolved.weight_spec(resolved.weight_bits), resolved.activation_spec(
            resolved.act_bits
        )

    def unmatched_overrides(self, names: Sequence[str]) -> list[str]:
        """Return the globs of the overrides that match none of ``names``."""
        return [glob for glob in self.overrides if not any(fnmatchcase(n, glob) for n in names)]

    def _with_changes(self, changes: SpecChanges) -> QuantSpec:
        return replace(self, **changes, overrides={})


_LAYER_PREFIXES = ("", "first_", "last_")
