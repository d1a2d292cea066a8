"""Convolution and linear layers that LSQ quantizes, called as modules or used by their weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec


class QuantLayer(nn.Module):
    """What every quantized layer has: quantizers for its input and its weight, None at 32 bits.

    ``channel_axis`` is where the channels of its input lie, ``weight_axis`` where the output
    channels of its weight do.
    """

    input_quantizer: LsqQuantizer | None
    weight_quantizer: LsqQuantizer | None
    channel_axis = -1
    weight_axis = 0

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


class _QuantTransposedConv(_QuantConv):
    """A transposed convolution; its weight is (in channels, out channels / groups, …)."""

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
        x, weight = self.quantized_operands(input)
        return F.linear(x, weight, self.bias)


# Owners that pass the weights of these layers to a function: by class name, for quant knows torch
# only. What stands in their other layers, but for those they call, is computed from constants.
FUNCTIONAL_OWNERS: Mapping[str, Sequence[str]] = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": ("qkv", "proj"),
    "timm.models.swin_transformer_v2.WindowAttention": ("qkv",),
    "timm.models.beit.Attention": ("qkv",),
    "timm.models.eva.EvaAttention": ("qkv",),
}
_CALLED_LAYERS = ("proj", "q_proj", "k_proj", "v_proj", "gate")


def functional_layers(owner: nn.Module) -> Sequence[str]:
    """Return the names of the layers whose weights ``owner`` passes to a function."""
    owner_class = type(owner)
    return FUNCTIONAL_OWNERS.get(f"{owner_class.__module__}.{owner_class.__qualname__}", ())


def data_layers(owner: nn.Module) -> Sequence[str]:
    """Return the names of ``owner``'s layers that see data, by their weight or called."""
    return (*functional_layers(owner), *_CALLED_LAYERS) if functional_layers(owner) else ()


class FunctionalLinear(QuantLinear):
    """A ``QuantLinear`` whose ``weight``, passed to ``F.linear``, calls the layer.

    ``master_weight`` and ``parameters()`` give the Parameter itself.
    """

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Return what the module holds, and a proxy for its weight."""
        value = super().__getattr__(name)
        if name == "weight" and isinstance(value, Tensor):
            return cast("Tensor", _WeightProxy(self, value))
        return value

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the given bias."""
        x, weight = self.quantized_operands(input)
        return F.linear(x, weight, bias)


class _WeightProxy:
    """Looks like the weight, and calls its layer where it is multiplied with."""

    def __init__(self, layer: FunctionalLinear, weight: Tensor) -> None:
        self._layer = layer
        self._weight = weight

    def __getattr__(self, name: str) -> object:
        return getattr(self._weight, name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if function is F.linear:
            linear: Callable[..., object] = cls._linear
            return linear(*args, **kwargs)
        unwrapped = [cls._unwrap(argument) for argument in args]
        return function(
            *unwrapped, **{key: cls._unwrap(argument) for key, argument in kwargs.items()}
        )

    @classmethod
    def _unwrap(cls, value: object) -> object:
        return value._weight if isinstance(value, cls) else value

    @staticmethod
    def _linear(input: Tensor, weight: _WeightProxy, bias: Tensor | None = None) -> object:
        return weight._layer(input, bias)


QUANTIZED_CONVOLUTIONS: Mapping[type[_ConvNd], type[_QuantConv]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
}
