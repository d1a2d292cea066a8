"""How tensors and whole models are quantized: frozen values that check themselves, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

FLOAT_BITS = 32
"""The number of bits that means: not quantized."""

StepInit = Literal["paper", "mse", "lsq_plus", "percentile"]
FeatureCount = Literal["per_sample", "numel", "channels"]
Offset = Literal["none", "learned"]
Sign = Literal["auto", "signed", "unsigned"]
SIGN_TO_SIGNED: Mapping[Sign, bool | None] = {"auto": None, "signed": True, "unsigned": False}

SpecChanges: TypeAlias = dict[str, Any]  # fields of a QuantSpec


def check_bits(bits: int, name: str = "bits") -> None:
    """Raise ValueError unless ``bits`` is 2..8, or 32 for not quantized."""
    if type(bits) is not int or not (2 <= bits <= 8 or bits == FLOAT_BITS):
        raise ValueError(f"{name} must be 2..8, or 32 for not quantized, got {bits!r}")


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
        for name, value, allowed in (
            ("init", self.init, ("paper", "mse", "lsq_plus", "percentile")),
            ("n_features", self.n_features, ("per_sample", "numel", "channels")),
            ("offset", self.offset, ("none", "learned")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")

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


@dataclass(frozen=True, slots=True)
class LayerOverride:
    """What some layers have instead of their model's settings; None leaves a setting as it is."""

    weight_bits: int | None = None
    act_bits: int | None = None
    per_channel: bool | None = None
    narrow_range: bool | None = None
    act_signed: Sign | None = None
    act_offset: Offset | None = None
    init: StepInit | None = None
    percentile: float | None = None

    def changes(self) -> SpecChanges:
        """Return what it sets, as fields of a QuantSpec."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        changes = {name: value for name, value in settings.items() if value is not None}
        if self.act_signed is not None:
            changes["act_signed"] = SIGN_TO_SIGNED[self.act_signed]
        return changes


@dataclass(frozen=True, slots=True)
class QuantSpec:
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

    weight_bits: int = 4
    act_bits: int = 4
    first_weight_bits: int = 8
    first_act_bits: int = 8
    last_weight_bits: int = 8
    last_act_bits: int = 8
    per_channel: bool = False
    narrow_range: bool = False
    act_signed: bool | None = None
    act_offset: Offset = "none"
    init: StepInit = "paper"
    percentile: float = 99.9
    n_features: FeatureCount = "per_sample"
    residual_bits: int = FLOAT_BITS
    overrides: Mapping[str, LayerOverride] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = (f"{prefix}{kind}_bits" for prefix in _LAYER_PREFIXES for kind in ("weight", "act"))
        for name in (*names, "residual_bits"):
            check_bits(getattr(self, name), name)
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
            signed=self.act_signed,
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
