"""LSQ's integer arithmetic: what a quantized layer computes, as one function on every machine.

docs/arithmetic.md says it in equations. Activations are codes, an accumulator is an exact integer,
and two fp32 operations make the output of it: no order of summation, number of threads, batch size
or kernel can change a bit. A fake-quantized network in fp32 is not one function: its sums round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lsqctl.quant.functional import lsq_codes
from lsqctl.quant.integer import accumulator_bound, exact_dtype, exact_sums
from lsqctl.quant.layers import QuantConv1d, QuantConv2d, QuantLayer
from lsqctl.quant.offset import lsq_plus_codes
from lsqctl.quant.quantizer import LsqQuantizer

EXACT_INT32 = 1 << 31
"""What an accumulator of 32 bits holds; runtimes have no wider one."""

PAD_MODES: Mapping[str, str] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


class NotInteger(ValueError):
    """A layer that this arithmetic cannot compute; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one activation tensor: ``code * step + offset``, code in quant_min..quant_max.

    ``step`` and ``offset`` are fp32 tensors (); ``offset`` is None without LSQ+.
    """

    step: Tensor
    offset: Tensor | None
    quant_min: int
    quant_max: int

    @classmethod
    def of(cls, quantizer: LsqQuantizer) -> Grid:
        """Return the grid of a calibrated quantizer of activations."""
        step, offset = quantizer.step_size, quantizer.active_offset
        return cls(
            step.detach().float().cpu().clone(),
            None if offset is None else offset.detach().float().cpu().clone(),
            *quantizer.bounds,
        )

    def codes(self, x: Tensor) -> Tensor:
        """Return rne(clip((x - offset) / step)) as whole numbers in fp32, of the shape of ``x``."""
        bounds = self.quant_min, self.quant_max
        if self.offset is None:
            return lsq_codes(x, self.step, *bounds).float()
        return lsq_plus_codes(x, self.step, self.offset, bounds).float()

    def values(self, codes: Tensor) -> Tensor:
        """Return what the codes stand for, in fp32: one product, and one sum with an offset."""
        scaled = codes * self.step
        return scaled if self.offset is None else scaled + self.offset

    def to(self, device: torch.device) -> Grid:
        """Return the grid of tensors on a device.

        A step that stays on the CPU will not do: a GPU takes a product with its reciprocal for a
        division by it.
        """
        offset = None if self.offset is None else self.offset.to(device)
        return replace(self, step=self.step.to(device), offset=offset)

    @property
    def zero_code(self) -> int:
        """The code of zero, which is what padding holds; 0 without an offset."""
        return int(self.codes(torch.zeros((), device=self.step.device)))

    @property
    def largest(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.quant_min, self.quant_max)


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution moves: all per spatial dimension, ``padding`` as (before, after)."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    pad_mode: str


_TENSORS = "weight_codes", "scale", "shift"


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """One layer in integers: y = fl(fl(acc) * scale) + shift, acc = sum of code * weight code.

    ``weight_codes`` is int8, (O, I/groups, k, …) or (O, I) without a ``window`` (a linear layer);
    ``scale`` and ``shift`` are fp32 (O), the batch norm behind the layer folded into both.
    """

    name: str
    grid: Grid
    weight_codes: Tensor
    weight_bits: int
    scale: Tensor
    shift: Tensor
    window: Window | None = None

    def to(self, device: torch.device) -> IntegerLayer:
        """Return the layer for inputs on a device."""
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, grid=self.grid.to(device), **tensors)

    @property
    def accumulator_bound(self) -> int:
        """The largest magnitude that an accumulator can reach, or any partial sum of one."""
        return accumulator_bound(self.weight_codes, self.grid.largest)

    def accumulators(self, codes: Tensor) -> Tensor:
        """Return the exact accumulators of ``codes``, as whole numbers.

        ``codes`` is (B, C, …) for a convolution, (…, I) for a linear layer. They are fp32 below the
        bound 2**24 and fp64 above it, where each product and sum is a whole number that fits.
        """
        dtype = exact_dtype(self.accumulator_bound)
        with exact_sums(codes.device.type):
            return self._accumulate(codes.to(dtype), self.weight_codes.to(dtype))

    def _accumulate(self, codes: Tensor, weight: Tensor) -> Tensor:
        if (window := self.window) is None:
            return F.linear(codes, weight)
        padded = pad_codes(codes, window, self.grid.zero_code)
        if codes.device.type != "cpu":
            return convolve_by_columns(padded, weight, window)
        convolve = F.conv2d if weight.dim() == 4 else F.conv1d
        return convolve(padded, weight, None, window.stride, 0, window.dilation, window.groups)

    def outputs(self, accumulators: Tensor) -> Tensor:
        """Return fl(fl(acc) * scale) + shift in fp32; channels are last without a window."""
        shape = (-1,) if self.window is None else (-1, *(1,) * len(self.window.stride))
        return accumulators.float() * self.scale.view(shape) + self.shift.view(shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's output for fp32 ``x``."""
        return self.outputs(self.accumulators(self.grid.codes(x)))


_COLUMNS = 1 << 27
"""How many numbers of columns are held at once: half a gigabyte of fp32."""


def convolve_by_columns(codes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Return a convolution of padded ``codes`` (B, C, …) as a product of matrices.

    For a GPU, whose kernels of convolutions may be Winograd's: its transforms round.
    """
    if weight.dim() == 3:  # of a signal (B, C, L)
        flat = replace(window, stride=(1, *window.stride), dilation=(1, *window.dilation))
        return convolve_by_columns(codes.unsqueeze(2), weight.unsqueeze(2), flat).squeeze(2)
    size = weight.shape[2:]
    height, width = (
        (length - step * (taps - 1) - 1) // stride + 1
        for length, taps, step, stride in zip(
            codes.shape[2:], size, window.dilation, window.stride, strict=True
        )
    )
    kernel = weight.reshape(window.groups, weight.shape[0] // window.groups, -1)
    an_image = codes.shape[1] * size.numel() * height * width
    sums = []
    for part in torch.split(codes, max(1, _COLUMNS // an_image)):
        columns = F.unfold(part, size, window.dilation, 0, window.stride)
        shape = (len(part), window.groups, kernel.shape[2], height * width)
        sums.append(kernel @ columns.view(shape))
    return torch.cat(sums).view(len(codes), len(weight), height, width)


def pad_codes(codes: Tensor, window: Window, zero_code: int) -> Tensor:
    """Return ``codes`` padded: with the code of zero, or with codes of the image itself."""
    amounts = [amount for pair in reversed(window.padding) for amount in pair]
    if not any(amounts):
        return codes
    if window.pad_mode == "constant":
        return F.pad(codes, amounts, value=float(zero_code))
    return F.pad(codes, amounts, mode=window.pad_mode)


def has_integer_form(layer: QuantLayer) -> bool:
    """Return whether this arithmetic knows a layer's kind: linear, or a convolution."""
    return layer.master_weight.dim() <= 2 or isinstance(layer, QuantConv1d | QuantConv2d)


@torch.no_grad()
def integer_layer(name: str, layer: QuantLayer, norm: _BatchNorm | None = None) -> IntegerLayer:
    """Return a quantized layer in integers, with the batch norm that alone reads its output.

    Raises:
        NotInteger: the layer has no quantizer on one side, is of a kind that this arithmetic does
            not know, or its accumulators may pass 32 bits.
    """
    if layer.input_quantizer is None or layer.weight_quantizer is None:
        raise NotInteger(f"layer {name!r} has a float operand: its weight or input has 32 bits")
    if not has_integer_form(layer):
        raise NotInteger(f"layer {name!r} is a {type(layer).__name__}, which has no integer form")
    grid = Grid.of(layer.input_quantizer)
    codes = layer.weight_quantizer.codes(layer.master_weight.detach().float()).cpu()
    scale, shift = _affine(layer, grid, codes, norm)
    integer = IntegerLayer(
        name,
        grid,
        codes.to(torch.int8),
        layer.weight_quantizer.spec.bits,
        scale.float(),
        shift.float(),
        _window(layer) if codes.dim() > 2 else None,
    )
    if integer.accumulator_bound >= EXACT_INT32:
        raise NotInteger(
            f"layer {name!r} may accumulate {integer.accumulator_bound}, which passes 32 bits: "
            "give it fewer bits with an override"
        )
    return integer


def _affine(
    layer: QuantLayer, grid: Grid, codes: Tensor, norm: _BatchNorm | None
) -> tuple[Tensor, Tensor]:
    """Return scale and shift (O) in fp64: steps, offset, bias and batch norm in one."""
    assert layer.weight_quantizer is not None
    n_channels = codes.shape[0]
    weight_step = layer.weight_quantizer.step_size.detach().double().cpu().flatten()
    gain, bias = norm_affine(norm, n_channels)
    own_bias = cast("Tensor | None", layer.bias)
    shift = torch.zeros(n_channels, dtype=torch.float64)
    if own_bias is not None:
        shift = own_bias.detach().double().cpu()
    if grid.offset is not None:  # the offset is in every input, padding included
        shift = shift + grid.offset.double() * weight_step * codes.double().flatten(1).sum(1)
    scale = (grid.step.double() * weight_step).expand(n_channels) * gain
    return scale, shift * gain + bias


def norm_affine(norm: _BatchNorm | None, n_channels: int) -> tuple[Tensor, Tensor]:
    """Return a batch norm in evaluation as (gain, bias), each (C) in fp64: y = x * gain + bias."""
    if norm is None:
        ones = torch.ones(n_channels, dtype=torch.float64)
        return ones, torch.zeros_like(ones)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = (t.detach().double().cpu() for t in (norm.running_mean, norm.running_var))
    gain, bias = torch.ones_like(mean), torch.zeros_like(mean)
    if norm.affine:
        gain, bias = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    gain = gain / torch.sqrt(variance + norm.eps)
    return gain, bias - mean * gain


def window_of_mean(shape: Sequence[int], dims: Sequence[int]) -> list[int] | None:
    """Return the window (height, width) that a mean over ``dims`` of images is; None for others."""
    is_whole = len(shape) == 4 and {dim % 4 for dim in dims} == {2, 3}
    return list(shape[2:]) if is_whole else None


def window_of_pool(shape: Sequence[int], output_size: Sequence[int]) -> list[int] | None:
    """Return the window of an adaptive mean over (B, C, H, W); None where windows differ."""
    if len(shape) != 4:
        return None
    pairs = list(zip(shape[2:], output_size, strict=True))
    return [size // n for size, n in pairs] if all(size % n == 0 for size, n in pairs) else None


def _window(layer: nn.Module) -> Window:
    convolution = cast("nn.Conv2d", layer)
    both: list[int] = list(convolution._reversed_padding_repeated_twice)
    pairs = [(both[i], both[i + 1]) for i in range(0, len(both), 2)]
    return Window(
        convolution.stride,
        tuple(reversed(pairs)),
        convolution.dilation,
        convolution.groups,
        PAD_MODES[convolution.padding_mode],
    )
