"""Convolution and linear layers that LSQ quantizes, called as modules or used by their weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lsqctl.quant.integer import Geometry, pad_unevenly
from lsqctl.quant.integer_function import Product, integer_product
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec

Kernel = Literal["integer", "float"]
_INTEGER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class QuantLayer(nn.Module):
    """What every quantized layer has: quantizers for its input and its weight, None at 32 bits.

    ``channel_axis`` is where the channels of its input lie, ``weight_axis`` where the output
    channels of its weight do.
    """

    input_quantizer: LsqQuantizer | None
    weight_quantizer: LsqQuantizer | None
    channel_axis = -1
    weight_axis = 0
    kernel: Kernel = "float"
    position = ""  # "first" or "last", where ``prepare`` gave it the bits of that
    no_integer_kernel = ""  # why there is none for this kind of layer

    @property
    def master_weight(self) -> Tensor:
        """The float weight that the optimizer moves, or what pruning or a parametrization makes."""
        parameter = self._parameters.get("weight")
        weight = self.weight if parameter is None else parameter
        assert isinstance(weight, Tensor)
        return weight

    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        """Set an attribute; refuse another weight than the one that the step size was made for.

        So does ``torch.nn.utils.fusion``: a folded weight has another scale.

        Raises:
            ValueError: the weight's quantizer is calibrated, and ``value`` is another Parameter.
        """
        if name == "weight" and isinstance(value, nn.Parameter) and self._rejects_weight(value):
            raise ValueError(
                "the weight's step size was calibrated for the weight that is here: fuse or "
                "replace weights before prepare, or copy into layer.weight.data and call "
                "calibrate(model, batch, force=True)"
            )
        super().__setattr__(name, value)

    def _rejects_weight(self, value: nn.Parameter) -> bool:
        quantizer = self.__dict__.get("_modules", {}).get("weight_quantizer")
        current = self.__dict__.get("_parameters", {}).get("weight")
        calibrated = quantizer is not None and quantizer.calibrated
        return calibrated and current is not None and value is not current

    def add_quantizers(self, weight_spec: TensorSpec, input_spec: TensorSpec) -> None:
        """Make the quantizers, their step sizes in their final shape, on the weight's device."""
        weight = self.master_weight
        # An optimizer step on a bf16 step size would be lost to rounding.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        channel_shape = [1] * weight.dim()
        channel_shape[self.weight_axis] = weight.shape[self.weight_axis]
        self.input_quantizer = self.weight_quantizer = None
        if input_spec.quantized:
            axis = self.channel_axis
            self.input_quantizer = LsqQuantizer(
                input_spec, batched=True, channel_axis=axis, device=weight.device, dtype=dtype
            )
        if weight_spec.quantized:
            step_shape = tuple(channel_shape) if weight_spec.per_channel else ()
            self.weight_quantizer = LsqQuantizer(
                weight_spec, step_shape=step_shape, device=weight.device, dtype=dtype
            )

    def quantized_operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input and the weight on their grids."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return x, self.quantized_weight()

    def quantized_weight(self) -> Tensor:
        """Return the weight on its grid."""
        if self.weight_quantizer is None:
            return self.master_weight
        weight: Tensor = self.weight_quantizer(self.master_weight)
        return weight

    def float_reason(self) -> str:
        """Return why this layer computes in floats whatever its kernel, or nothing.

        A sign that is still open may turn out unsigned, where a learned offset is not in use.
        """
        for quantizer, tensor in (
            (self.weight_quantizer, "weight"),
            (self.input_quantizer, "input"),
        ):
            if quantizer is None:
                return f"its {tensor} has 32 bits"
        quantizer = self.input_quantizer
        assert quantizer is not None
        if quantizer.signed is not None and quantizer.active_offset is not None:
            return "its input has a learned offset"
        return self.no_integer_kernel

    def _computes_in_integers(self, x: Tensor) -> bool:
        """Return whether ``x`` is multiplied as codes: not on a GPU, in fp64 or in an export."""
        if self.kernel == "float" or x.device.type != "cpu" or x.dtype not in _INTEGER_DTYPES:
            return False
        exporting = torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()
        return not exporting and x.numel() > 0 and not self.float_reason()

    def _integer_product(
        self, x: Tensor, bias: Tensor | None, geometry: Geometry | None, numel: int
    ) -> Tensor:
        """Return the layer's output for ``x``, of which ``numel`` values are counted."""
        quantizer, weight_quantizer = self.input_quantizer, self.weight_quantizer
        assert quantizer is not None
        assert weight_quantizer is not None
        x = quantizer(x, on_grid=False)
        weight = weight_quantizer(self.master_weight, on_grid=False)
        product = Product(
            quantizer.bounds,
            quantizer.grad_scale(numel),
            weight_quantizer.bounds,
            weight_quantizer.grad_scale(weight_quantizer.grad_scale_numel(weight)),
            geometry,
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype,
        )
        # of a network in half precision (model.half()), steps are so too: the kernel takes fp32
        steps = (quantizer.step_size.float(), weight_quantizer.step_size.float())
        return integer_product(x, weight, steps, bias, product)

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x`` times the weight's transpose, both quantized, plus the bias."""
        if self._computes_in_integers(x):
            assert self.input_quantizer is not None
            return self._integer_product(x, bias, None, self.input_quantizer.grad_scale_numel(x))
        x, weight = self.quantized_operands(x)
        return F.linear(x, weight, bias)


class _QuantModule(QuantLayer):
    """A quantized layer that is a float one besides, with the same keys of weight and bias."""

    def __init__(
        self, *args: object, weight_spec: TensorSpec, input_spec: TensorSpec, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(weight_spec, input_spec)

    def _take_over(self, source: Any, weight_spec: TensorSpec, input_spec: TensorSpec) -> Self:
        """Take the very Parameters of the float layer, which this one was made like."""
        self.weight, self.bias = source.weight, source.bias
        self.add_quantizers(weight_spec, input_spec)
        return self.train(source.training)


class _QuantConv(_QuantModule):
    """What the quantized convolutions have in common.

    What is padded lies on the grid of the input too: code 0 is zero, so padding follows. With an
    offset it need not be, so the zeros are padded first and quantized with the rest.
    """

    @classmethod
    def from_float(cls, conv: _ConvNd, weight_spec: TensorSpec, input_spec: TensorSpec) -> Self:
        """Return ``conv`` as a quantized layer; its Parameters are the very same objects."""
        more = {"output_padding": conv.output_padding} if conv.transposed else {}
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",  # no memory, and no draw from the random generators
            weight_spec=weight_spec,
            input_spec=input_spec,
            **more,
        )
        return layer._take_over(conv, weight_spec, input_spec)


class _QuantForwardConv(_QuantConv):
    """A convolution that may have to pad before it quantizes."""

    convolve: Callable[..., Tensor]
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of the quantized input with the quantized weight."""
        layer = cast("nn.Conv2d", self)
        if self._computes_in_integers(input):
            return self._forward_integer(input)
        if (quantizer := self._padding_quantizer()) is not None:
            return self._forward_padded(input, quantizer)
        x, weight = self.quantized_operands(input)
        out: Tensor = layer._conv_forward(x, weight, layer.bias)
        return out

    def _padding_quantizer(self) -> LsqQuantizer | None:
        """Return the input's quantizer where zeros are padded that are not on its grid."""
        quantizer = self.input_quantizer
        if quantizer is None or quantizer.active_offset is None or self.padding_mode != "zeros":
            return None
        return quantizer if any(self._reversed_padding_repeated_twice) else None

    def _forward_padded(self, input: Tensor, quantizer: LsqQuantizer) -> Tensor:
        layer = cast("nn.Conv2d", self)
        padded = F.pad(input, self._reversed_padding_repeated_twice)
        x = quantizer(padded, quantizer.grad_scale_numel(input))
        weight = self.quantized_weight()
        out: Tensor = self.convolve(
            x, weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
        )
        return out

    def _forward_integer(self, input: Tensor) -> Tensor:
        layer, quantizer = cast("nn.Conv2d", self), self.input_quantizer
        assert quantizer is not None
        left, right, top, bottom = self._reversed_padding_repeated_twice
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = input if input.dim() == 4 else input[None]
        x, padding = pad_unevenly(x, (left, right, top, bottom), mode)
        geometry = Geometry(layer.stride, padding, layer.dilation, layer.groups)
        out = self._integer_product(x, layer.bias, geometry, quantizer.grad_scale_numel(input))
        return out if input.dim() == 4 else out[0]


class _QuantTransposedConv(_QuantConv):
    """A transposed convolution; its weight is (in channels, out channels / groups, …)."""

    no_integer_kernel = "transposed convolutions have no integer kernel"
    convolve: Callable[..., Tensor]
    weight_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of the quantized input with the quantized weight."""
        layer: Any = self
        size, dims = (layer.stride, layer.padding, layer.kernel_size), len(layer.kernel_size)
        output_padding = layer._output_padding(input, output_size, *size, dims, layer.dilation)
        x, weight = self.quantized_operands(input)
        out: Tensor = self.convolve(
            x,
            weight,
            layer.bias,
            layer.stride,
            layer.padding,
            output_padding,
            layer.groups,
            layer.dilation,
        )
        return out


class QuantConv1d(_QuantForwardConv, nn.Conv1d):
    """An ``nn.Conv1d`` with quantized input and weight; a quantizer is None where bits are 32."""

    channel_axis = -2
    no_integer_kernel = "convolutions of one dimension have no integer kernel"
    convolve = staticmethod(F.conv1d)


class QuantConv2d(_QuantForwardConv, nn.Conv2d):
    """An ``nn.Conv2d`` with quantized input and weight; a quantizer is None where bits are 32."""

    channel_axis = -3
    convolve = staticmethod(F.conv2d)


class QuantConvTranspose1d(_QuantTransposedConv, nn.ConvTranspose1d):
    """An ``nn.ConvTranspose1d`` with quantized input and weight."""

    channel_axis = -2
    convolve = staticmethod(F.conv_transpose1d)


class QuantConvTranspose2d(_QuantTransposedConv, nn.ConvTranspose2d):
    """An ``nn.ConvTranspose2d`` with quantized input and weight."""

    channel_axis = -3
    convolve = staticmethod(F.conv_transpose2d)


class QuantLinear(_QuantModule, nn.Linear):
    """An ``nn.Linear`` with quantized input and weight; a quantizer is None where bits are 32."""

    @classmethod
    def from_float(cls, linear: nn.Linear, weight_spec: TensorSpec, input_spec: TensorSpec) -> Self:
        """Return ``linear`` as a quantized layer; its Parameters are the very same objects."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device="meta",
            weight_spec=weight_spec,
            input_spec=input_spec,
        )
        return layer._take_over(linear, weight_spec, input_spec)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the bias."""
        return self._linear(input, self.bias)


QUANTIZED_CONVOLUTIONS: Mapping[type[_ConvNd], type[_QuantConv]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
}
