"""A whole network by LSQ's integer arithmetic: what its deployed file computes, to the last bit.

docs/arithmetic.md says it in equations, ``lsqctl.quant.arithmetic`` has one layer of it. Here the
batch norms that go into layers are found, and a copy of a prepared network computes by it: one
function, whatever the batch, the threads or the kernels of the machine. It has no gradients.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lsqctl.quant.arithmetic import (
    EXACT_INT32,
    IntegerLayer,
    has_integer_form,
    integer_layer,
    norm_affine,
    window_of_mean,
    window_of_pool,
)
from lsqctl.quant.integer import (
    Geometry,
    Limits,
    Operands,
    convolve,
    multiply,
    pad_unevenly,
    rounds_twice,
)
from lsqctl.quant.integer_function import operand_codes
from lsqctl.quant.layers import QuantLayer
from lsqctl.quant.surgery import quantized_layers

Forward = Callable[..., Tensor]
_FOLDED = "folded_gain", "folded_bias"
_TRIED = 4  # images; one of ResNet-20 has 188 thousand codes


def integer_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Return the layers of a prepared model whose weight and input are both quantized, by name."""
    return {
        name: layer
        for name, layer in quantized_layers(model).items()
        if layer.input_quantizer is not None and layer.weight_quantizer is not None
    }


def no_integer_network(model: nn.Module) -> str:
    """Return why a prepared model cannot be computed in integers, or nothing.

    What follows from its layers alone, whatever values their weights will have.
    """
    layers = integer_layers(model)
    if not layers:
        return "no layer of it has both its weight and its input quantized"
    for name, layer in layers.items():
        if not has_integer_form(layer):
            return f"its layer {name} is a {type(layer).__name__}, which has no integer form"
        limits = _limits(layer)
        if limits.code * limits.weight * layer.master_weight[0].numel() >= EXACT_INT32:
            return f"the sums of its layer {name} may pass 32 bits"
    return ""


def no_integers_on(
    device: torch.device, model: nn.Module, input_shape: tuple[int, int, int]
) -> str:
    """Return why a device does not compute a calibrated model in integers, or nothing.

    Elsewhere than on a CPU it is tried with images (C, H, W).
    """
    if device.type == "cpu" or computes_alike(device, model, input_shape):
        return ""
    return f"its logits on {device.type} are not those of a CPU to the last bit"


@torch.no_grad()
def computes_alike(
    device: torch.device, model: nn.Module, input_shape: tuple[int, int, int]
) -> bool:
    """Return whether integers on a device give every bit of a CPU's logits of random images."""
    images = torch.randn(_TRIED, *input_shape, generator=torch.Generator().manual_seed(0))
    expected, found = (
        integer_network(model, images[:1].to(place))(images.to(place)).cpu()
        for place in (torch.device("cpu"), device)
    )
    return torch.equal(expected, found)


@torch.no_grad()
def integer_network(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a prepared, calibrated model in evaluation mode, that computes in integers.

    ``example`` is an image (1, C, H, W), whatever its values, on the device where the copy is to
    compute. Layers with a float operand, and what is no layer, stay as they are, in fp32.

    Raises:
        NotInteger: a layer has no integer form; ``no_integer_network`` says so before.
    """
    copied = copy.deepcopy(model).cpu().eval().float().requires_grad_(False)
    layers = {name: layer for name, layer in integer_layers(copied).items() if _calibrated(layer)}
    norms = fold_norms(copied, layers, example.cpu())
    for name, layer in layers.items():
        integer = integer_layer(name, layer, norms.get(name)).to(example.device)
        replace_forward(layer, _IntegerForward(layer, integer))
    return _WithOrderedMeans(copied).to(example.device)


def _calibrated(layer: QuantLayer) -> bool:
    """Return whether a layer has step sizes: one that is never called has none."""
    quantizers = layer.input_quantizer, layer.weight_quantizer
    return all(one is not None and one.calibrated for one in quantizers)


def fold_norms(
    model: nn.Module, layers: Mapping[str, QuantLayer], example: Tensor
) -> dict[str, _BatchNorm]:
    """Return the batch norm that goes into each layer, and let it pass on what it gets.

    Every other batch norm of ``model`` becomes a product and a sum. Those that know no running
    statistics stay as they are.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    folded = foldable_norms(model, layers, norms, example) if norms else {}
    for name, norm in norms.items():
        replace_forward(norm, _same if name in folded.values() else _NormForward(norm))
    return {layer: norms[norm] for layer, norm in folded.items()}


def replace_forward(module: nn.Module, forward: Forward) -> None:
    """Compute otherwise; hooks, as those that quantize residual additions, stay."""
    module.forward = forward


@torch.no_grad()
def foldable_norms(
    model: nn.Module,
    layers: Mapping[str, QuantLayer],
    norms: Mapping[str, _BatchNorm],
    example: Tensor,
) -> dict[str, str]:
    """Return, by layer, the batch norm that reads it and nothing else does; each used once.

    The model is run once on ``example``, in evaluation mode; it is left as it was.
    """
    readers = _Readers()
    watched: Iterable[tuple[nn.Module, Forward]] = [
        *((layer, readers.of_layer(name, layer)) for name, layer in layers.items()),
        *((norm, readers.of_norm(name, norm)) for name, norm in norms.items()),
    ]
    own_forwards = [(module, vars(module).get("forward")) for module, _ in watched]
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for module, forward in watched:
            replace_forward(module, forward)
        with readers:
            model(example)
    finally:
        for module, own in own_forwards:
            del module.forward
            if own is not None:
                replace_forward(module, own)
        for module, mode in was_training.items():
            module.training = mode
    return readers.pairs()


class _Readers(TorchFunctionMode):
    """Counts the operations of torch that read what a layer has computed."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # held: an id is of a living tensor
        self._reads: Counter[str] = Counter()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._norms: dict[str, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation; one that gives tensors has read those that it was given."""
        result = func(*args, **(kwargs or {}))
        if any(isinstance(one, Tensor) for one in tree_leaves(result)):
            names = {self._layer_of(one) for one in tree_leaves((args, kwargs))}
            self._reads.update(name for name in names if name is not None)
        return result

    def _layer_of(self, value: object) -> str | None:
        name, output = self._outputs.get(id(value), (None, None))
        return name if output is value else None

    def of_layer(self, name: str, layer: QuantLayer) -> Forward:
        """Return a layer's forward pass that makes its output known."""
        forward = layer.forward

        def watched(x: Tensor, *rest: Tensor) -> Tensor:
            out: Tensor = forward(x, *rest)
            self._calls["layer", name] += 1
            if not any(one is not None for one in rest):  # no bias that is added behind it
                self._outputs[id(out)] = (name, out)
            return out

        return watched

    def of_norm(self, name: str, norm: _BatchNorm) -> Forward:
        """Return a batch norm's forward pass that tells which layer's output it has read."""
        forward = norm.forward

        def watched(x: Tensor) -> Tensor:
            self._calls["norm", name] += 1
            if (layer := self._layer_of(x)) is not None:
                self._norms[layer] = name
            return forward(x)

        return watched

    def pairs(self) -> dict[str, str]:
        """Return, by layer, the norm that alone has read it."""
        return {
            layer: norm
            for layer, norm in self._norms.items()
            if self._reads[layer] == self._calls["layer", layer] == self._calls["norm", norm] == 1
        }


def _same(x: Tensor) -> Tensor:
    return x


class _NormForward:
    """A batch norm of its own: one product and one sum in fp32."""

    def __init__(self, norm: _BatchNorm) -> None:
        for name, value in zip(_FOLDED, norm_affine(norm, norm.num_features), strict=True):
            norm.register_buffer(name, value.float())
        self._norm = (norm,)  # in a tuple: it belongs to the model

    def __call__(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        gain, bias = (self._norm[0].get_buffer(name).view(shape) for name in _FOLDED)
        return x * gain + bias


class _IntegerForward:
    """A layer by integer kernels where there are any for it, else by the arithmetic's definition.

    The sums are exact in both, and the two fp32 operations behind them are the same.
    """

    def __init__(self, layer: QuantLayer, integer: IntegerLayer) -> None:
        self._integer = integer
        self._limits = _limits(layer)
        self._shape = (-1,) if integer.window is None else (-1, 1, 1)
        dims = integer.weight_codes.dim()
        on_cpu = integer.scale.device.type == "cpu"
        self._has_kernel = on_cpu and dims in (2, 4) and integer.grid.offset is None

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        window = self._integer.window
        if not self._has_kernel or x.numel() == 0 or (window is not None and x.dim() != 4):
            out = self._integer(x)
        elif window is None:
            out = self._affine(multiply, x)
        else:
            out = self._convolution(x)
        return out if bias is None else out + bias

    def _convolution(self, x: Tensor) -> Tensor:
        window = self._integer.window
        assert window is not None
        (top, bottom), (left, right) = window.padding
        x, padding = pad_unevenly(x, (left, right, top, bottom), window.pad_mode)
        geometry = Geometry(window.stride, padding, window.dilation, window.groups)
        x = x.contiguous(memory_format=torch.channels_last)
        return self._affine(lambda operands: convolve(operands, geometry), x)

    def _affine(self, product: Callable[[Operands], Tensor], x: Tensor) -> Tensor:
        """Return fl(fl(sums) * scale) + shift, NaN where a value of ``x`` is."""
        layer, grid = self._integer, self._integer.grid
        bounds = grid.quant_min, grid.quant_max
        _, codes, mark, _ = operand_codes(x, grid.step, bounds, first=0)
        scale, place = layer.scale + mark, (-bounds[0], self._limits, torch.float32)
        if rounds_twice():
            return product(Operands(codes, layer.weight_codes, scale, layer.shift, *place))
        sums = product(Operands(codes, layer.weight_codes, torch.ones(1), None, *place))
        return sums.mul_(scale.view(self._shape)).add_(layer.shift.view(self._shape))


def _limits(layer: QuantLayer) -> Limits:
    assert layer.input_quantizer is not None
    assert layer.weight_quantizer is not None
    low, high = layer.input_quantizer.bounds
    return Limits(high - low, -layer.weight_quantizer.bounds[0])


class _WithOrderedMeans(nn.Module):
    """A network whose means over images are added row by row, as runtimes add a window."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) in fp32 of images (B, C, H, W)."""
        with _OrderedMeans():  # type: ignore[no-untyped-call]
            logits: Tensor = self.network(images.float())
        return logits


class _OrderedMeans(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes means over images as means over windows: ``avg_pool2d`` adds one number by one.

    A view of what lies in the order of the integer kernels, channels last, becomes a copy.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation of torch, a mean or a view in another way."""
        if func is torch.ops.aten.view.default:
            viewed, shape = cast("tuple[Tensor, list[int]]", args)
            return viewed.reshape(shape)
        is_pool = func is torch.ops.aten._adaptive_avg_pool2d.default
        if is_pool or (func is torch.ops.aten.mean.dim and not kwargs):
            source, sizes = cast("tuple[Tensor, list[int]]", args[:2])
            window = (window_of_pool if is_pool else window_of_mean)(source.shape, sizes)
            if window is not None:
                mean = F.avg_pool2d(source, window)
                return mean if is_pool or args[2:3] == (True,) else mean.flatten(1)
        return func(*args, **(kwargs or {}))
