"""A module that fake-quantizes one tensor with a learned step size, and knows when it may."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lsqctl.quant.functional import grad_scale_factor, lsq_codes, lsq_fake_quantize
from lsqctl.quant.offset import (
    initial_step_and_offset,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
)
from lsqctl.quant.spec import TensorSpec
from lsqctl.quant.step_init import check_sample, initial_step_size

_SIGN_UNKNOWN = -1


def _grid(spec: TensorSpec) -> tuple[int, int, int, int]:
    """Return what decides, beside the sign, which values a step size gives."""
    return spec.bits, int(spec.per_channel), int(spec.narrow_range), int(spec.offset == "learned")


@dataclass(frozen=True, slots=True)
class QuantizerState:
    """What a checkpoint says of a quantizer beside its step size.

    ``grid`` is (bits, per channel, narrow range, learned offset), None in checkpoints of versions
    that did not store it. The rule of the first value and the gradient's scale are not in it: a
    learned step size is worth the same under any of them.
    """

    calibrated: bool
    signed: bool | None
    grid: tuple[int, ...] | None

    @classmethod
    def from_tensor(cls, state: Tensor) -> QuantizerState:
        """Read [calibrated, signed or -1] and the grid; raises ValueError where it is no such."""
        flags = state.tolist()
        valid = isinstance(flags, list) and len(flags) in (2, 6)
        if not valid or flags[0] not in (0, 1) or flags[1] not in (_SIGN_UNKNOWN, 0, 1):
            raise ValueError(
                f"the quantizer's state must be [calibrated, signed] and its grid, got {flags!r}"
            )
        signed = None if flags[1] == _SIGN_UNKNOWN else bool(flags[1])
        return cls(bool(flags[0]), signed, tuple(flags[2:]) or None)

    def fits(self, spec: TensorSpec) -> bool:
        """Return whether a step size of this state means the same under ``spec``."""
        same_sign = spec.signed is None or self.signed is spec.signed
        return same_sign and self.grid in (None, _grid(spec))

    def check_fits(self, spec: TensorSpec, name: str = "") -> None:
        """Raise ValueError, naming both, unless the state ``fits``."""
        if self.fits(spec):
            return
        where = f" {name}" if name else ""
        own = _describe(spec.signed, _grid(spec) if self.grid else None)
        raise ValueError(
            f"the checkpoint's quantizer{where} has {_describe(self.signed, self.grid)}, this one "
            f"demands {own}: prepare the model with the spec it was trained with"
        )


def _describe(signed: bool | None, grid: tuple[int, ...] | None) -> str:
    sign = "an open sign" if signed is None else f"signed={signed}"
    if grid is None:
        return sign
    bits, per_channel, narrow_range, offset = grid
    flags = {"per-channel": per_channel, "narrow range": narrow_range, "learned offset": offset}
    return ", ".join([f"{bits} bits", sign, *(n for n, on in flags.items() if on)])


class LsqQuantizer(nn.Module):
    """Fake-quantizes a tensor with a learned ``step_size`` (Esser et al. 2020, section 2).

    ``step_size`` has its final shape from the start, and calibration writes into it, so an
    optimizer may be made before or after. ``batched`` says that dimension 0 of what comes in is a
    batch (activations); ``channel_axis`` is where their channels lie: -3 for a convolution's
    input and -1 for a linear layer's, which may both come without a batch.

    With ``spec.offset`` it also has a learned ``offset`` () that moves the grid (Bhalgat et al.
    2020), from the start as well; where an open sign turns out unsigned, it stays 0 and unused.

    Whether it is calibrated and which sign it found are Python attributes, so that ``forward``
    never waits for the device; ``state_dict`` carries them as a small tensor.

    >>> quantizer = LsqQuantizer(TensorSpec(bits=2))
    >>> quantizer.calibrate(torch.tensor([-1.0, 1.0]))
    >>> quantizer(torch.tensor([-9.0, 0.1, 9.0])).tolist()
    [-4.0, 0.0, 2.0]
    """

    offset: nn.Parameter | None

    def __init__(
        self,
        spec: TensorSpec,
        *,
        step_shape: tuple[int, ...] = (),
        batched: bool = False,
        channel_axis: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not spec.quantized:
            raise ValueError("32 bits is not quantized: use no quantizer (None) instead")
        if spec.per_channel and not step_shape:
            raise ValueError("a step per channel needs its shape: step_shape=(C, 1, 1, 1)")
        if batched and (spec.per_channel or step_shape):
            raise ValueError("activations have one step a tensor; per_channel is of weights")
        self.spec = spec
        self.batched = batched
        self.channel_axis = channel_axis
        self.calibrated = False
        self.signed = spec.signed
        self.step_size = nn.Parameter(torch.ones(step_shape, device=device, dtype=dtype))
        self.register_parameter("offset", None)
        if spec.offset == "learned":
            self.offset = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    @property
    def bounds(self) -> tuple[int, int]:
        """(quant_min, quant_max); as if signed while the sign is not known."""
        return self.spec.bounds(self.signed is not False)

    @property
    def active_offset(self) -> nn.Parameter | None:
        """The offset where it is in use: not where an open sign turned out unsigned."""
        unsigned = self.spec.signed is None and self.signed is False
        return None if unsigned else self.offset

    @property
    def learned_parameters(self) -> list[nn.Parameter]:
        """What it learns and stores: the step size, and the offset where it is in use."""
        return [
            parameter for parameter in (self.step_size, self.active_offset) if parameter is not None
        ]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Give the step its first value, and decide the sign where the spec leaves it open.

        Raises:
            ValueError: ``x`` is empty, not of real floats, or holds NaN or infinity; nothing has
                changed then.
        """
        check_sample(x)
        signed = self.spec.signed
        if signed is None:
            signed = bool((x < 0).any())
        step, offset = self._initial_values(x, signed=signed)
        self.step_size.copy_(step)
        if self.offset is not None:
            self.offset.copy_(offset)
        self._set_flags(calibrated=True, signed=signed)

    def _initial_values(self, x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
        bounds, spec = self.spec.bounds(signed), self.spec
        if self.offset is not None and (signed or spec.signed is not None):
            return initial_step_and_offset(x, *bounds, init=spec.init, percentile=spec.percentile)
        step = initial_step_size(
            x,
            *bounds,
            init=spec.init,
            step_shape=tuple(self.step_size.shape),
            percentile=spec.percentile,
            activation=self.batched,
        )
        return step, torch.zeros_like(self.step_size)

    def forward(self, x: Tensor, numel: int | None = None, *, on_grid: bool = True) -> Tensor:
        """Return ``x`` on the grid, same shape and dtype.

        ``numel`` is N of the gradient scale where ``x`` is not what is to be counted (padding).
        ``on_grid=False`` returns ``x`` as it is, for a layer whose kernel quantizes for itself:
        hooks see what comes in all the same.

        Raises:
            RuntimeError: the step size has no first value yet.
        """
        self._check_calibrated(x)
        if not on_grid:
            return x
        quant_min, quant_max = self.bounds
        scale = self.grad_scale(self.grad_scale_numel(x) if numel is None else numel)
        if (offset := self.active_offset) is not None:
            bounds = (quant_min, quant_max)
            return lsq_plus_fake_quantize(x, self.step_size, offset, bounds, scale)
        return lsq_fake_quantize(x, self.step_size, quant_min, quant_max, scale)

    def codes(self, x: Tensor) -> Tensor:
        """Return the integer codes of ``x``, int32; ``codes * step_size`` is ``forward(x)``.

        With an offset, ``codes * step_size + active_offset`` is.
        """
        self._check_calibrated(x)
        if (offset := self.active_offset) is not None:
            return lsq_plus_codes(x, self.step_size, offset, self.bounds)
        return lsq_codes(x, self.step_size, *self.bounds)

    def grad_scale(self, numel: int) -> float:
        """Return the scale of the step's gradient for N = ``numel`` (section 2.2)."""
        return grad_scale_factor(numel, self.bounds[1])

    def grad_scale_numel(self, x: Tensor) -> int:
        """Return N of the gradient scale: N_W for weights (of one step), N_F for activations."""
        if not self.batched:
            return x.numel() // self.step_size.numel()
        if self.spec.n_features == "numel":
            return x.numel()
        if self.spec.n_features == "channels":
            return x.shape[self.channel_axis]
        has_batch = x.dim() > abs(self.channel_axis)
        return math.prod(x.shape[1:] if has_batch else x.shape)

    def get_extra_state(self) -> Tensor:
        """Return what ``QuantizerState`` reads, as int8, which every checkpoint format can hold."""
        signed = _SIGN_UNKNOWN if self.signed is None else int(self.signed)
        return torch.tensor([int(self.calibrated), signed, *_grid(self.spec)], dtype=torch.int8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the flags of a checkpoint; those of earlier versions hold no grid.

        Raises:
            ValueError: they are no quantizer's, or its grid is not the one that this spec demands.
        """
        stored = QuantizerState.from_tensor(state)
        stored.check_fits(self.spec)
        self._set_flags(calibrated=stored.calibrated, signed=stored.signed)

    def _load_from_state_dict(
        self, state_dict: dict[str, object], prefix: str, *args: object, **kwargs: object
    ) -> None:
        """Refuse another grid before anything of this quantizer is overwritten."""
        state = state_dict.get(f"{prefix}_extra_state")
        if isinstance(state, Tensor):
            QuantizerState.from_tensor(state).check_fits(self.spec, prefix.removesuffix("."))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _set_flags(self, *, calibrated: bool, signed: bool | None) -> None:
        """Set both; an offset that falls out of use needs no gradient, or DDP waits for it."""
        was_active = self.active_offset is not None
        self.calibrated, self.signed = calibrated, signed
        is_active = self.active_offset is not None
        if self.offset is not None and was_active != is_active:
            self.offset.requires_grad_(is_active)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        sign = {None: "sign open", True: "signed", False: "unsigned"}[self.signed]
        shape = tuple(self.step_size.shape)
        state = "" if self.calibrated else ", not calibrated"
        offset = "" if self.active_offset is None else ", learned offset"
        return f"{self.spec.bits} bits, {sign}, step {shape}{offset}{state}"

    def _check_calibrated(self, x: Tensor) -> None:
        if not self.calibrated and not x.is_meta:  # on meta there are no values to get wrong
            raise RuntimeError(
                "the quantizer's step size has no value yet: call calibrate(model, batch), or "
                "load a checkpoint of a calibrated model"
            )
