"""How tensors and whole models are quantized: frozen values that check themselves, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NONE_BITS = 32
"""The number of bits that means: not quantized."""

StepInit = Literal["paper", "mse", "lsq_plus", "percentile"]
FeatureCount = Literal["per_sample", "numel", "channels"]


def check_bits(bits: int, what: str = "bits") -> None:
    """Raise ValueError unless ``bits`` is 2..8, or 32 for not quantized."""
    if type(bits) is not int or not (2 <= bits <= 8 or bits == NONE_BITS):
        raise ValueError(f"{what} must be 2..8, or 32 for not quantized, got {bits!r}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How one kind of tensor is quantized.

    ``signed=None`` lets calibration decide from the data: signed where a value is negative.
    ``per_channel`` gives each output channel of a weight its own step. ``narrow_range`` drops the
    lowest code of a signed tensor, which makes the grid symmetric. ``init`` is the rule of the
    step's first value, ``n_features`` the reading of N_F in the gradient scale 1/sqrt(N_F * Q_P)
    (Esser et al. 2020, section 2.2; they say "features in a layer").

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

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must be above 50 and at most 100, got {self.percentile}")
        for name, value, known in (
            ("init", self.init, ("paper", "mse", "lsq_plus", "percentile")),
            ("n_features", self.n_features, ("per_sample", "numel", "channels")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    @property
    def quantized(self) -> bool:
        """Whether anything is done at all."""
        return self.bits != NONE_BITS

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
class QuantSpec:
    """How a whole model is quantized.

    Every convolution and linear layer has its weights at ``weight_bits`` and its input
    activations at ``act_bits``; the first and the last layer have fields of their own (8 bits in
    the paper). 32 bits means: not quantized.
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
    init: StepInit = "paper"
    percentile: float = 99.9
    n_features: FeatureCount = "per_sample"

    def __post_init__(self) -> None:
        for name in ("weight_bits", "act_bits", "first_weight_bits", "first_act_bits"):
            check_bits(getattr(self, name), name)
        for name in ("last_weight_bits", "last_act_bits"):
            check_bits(getattr(self, name), name)
        self.weight(self.weight_bits)
        self.activation(self.act_bits)

    @property
    def quantized(self) -> bool:
        """Whether any layer is quantized."""
        return any(
            bits != NONE_BITS
            for bits in (
                *(self.weight_bits, self.act_bits),
                *(self.first_weight_bits, self.first_act_bits),
                *(self.last_weight_bits, self.last_act_bits),
            )
        )

    def weight(self, bits: int) -> TensorSpec:
        """Return the spec of a weight tensor with ``bits``: always signed."""
        return TensorSpec(
            bits=bits,
            signed=True,
            per_channel=self.per_channel,
            narrow_range=self.narrow_range,
            init=self.init,
            percentile=self.percentile,
        )

    def activation(self, bits: int) -> TensorSpec:
        """Return the spec of an input activation with ``bits``: always per tensor."""
        return TensorSpec(
            bits=bits,
            signed=self.act_signed,
            narrow_range=self.narrow_range,
            init=self.init,
            percentile=self.percentile,
            n_features=self.n_features,
        )

    def layer(self, *, first: bool = False, last: bool = False) -> tuple[TensorSpec, TensorSpec]:
        """Return the (weight, input activation) specs of a layer by its place in the model."""
        if first:
            return self.weight(self.first_weight_bits), self.activation(self.first_act_bits)
        if last:
            return self.weight(self.last_weight_bits), self.activation(self.last_act_bits)
        return self.weight(self.weight_bits), self.activation(self.act_bits)
