"""What a training must not meet where channels lie last on a CPU, and the ways around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FULL_BLOCK = 16  # input channels


def is_unsafe_channels_last(weight: Tensor, stride: Sequence[int]) -> bool:
    """Return whether the gradient of a convolution's weight may write beyond its memory.

    So it does with torch 2.15 on a CPU where channels are last, kernels are 1 × 1 with a stride,
    and input channels are fewer than 16. With AVX-512 a batch of 15 on two threads ends the
    process, or damages what lies next to it; with AVX2 any batch does below 8 channels.
    """
    pointwise = weight.dim() == 4 and set(weight.shape[2:]) == {1}
    return pointwise and max(stride) > 1 and weight.shape[1] < _FULL_BLOCK


def unsafe_layers(model: nn.Module) -> list[str]:
    """Return the names of a network's layers that are such convolutions."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and is_unsafe_channels_last(module.weight, module.stride)
    ]


def avoid_unsafe_channels_last(model: nn.Module) -> None:
    """Have such layers compute on plain images while they are trained, step by step.

    A compiled step lays out its images itself: with such layers nothing is compiled.
    """
    for name in unsafe_layers(model):
        model.get_submodule(name).register_forward_pre_hook(_plain_input, with_kwargs=True)


def _plain_input(
    module: nn.Module, inputs: tuple[Tensor, ...], by_name: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
    x = layer_input(inputs, by_name)
    if not module.training or x.device.type != "cpu":
        return None
    return (x.contiguous(),), {}  # a convolution takes nothing else


def layer_input(inputs: tuple[Tensor, ...], by_name: Mapping[str, Tensor]) -> Tensor:
    """Return what a layer is called with, of what a hook of it is told: ``layer(input=x)``, too."""
    if inputs:
        return inputs[0]
    return by_name["input"] if "input" in by_name else next(iter(by_name.values()))


def views_may_copy(
    model: nn.Module, *, channels_last: bool = False
) -> AbstractContextManager[object]:
    """Return what lets a network flatten by ``view`` where channels lie last, to be entered often.

    They do of images that lie so, and behind the integer kernels. Elsewhere nothing looks at the
    calls of torch, for that is slow. Torch computes attention by other kernels where anything
    does: networks that have some are left as they are.
    """
    attention = nn.MultiheadAttention, nn.TransformerEncoderLayer
    modules = list(model.modules())
    lie_last = channels_last or any(_has_integer_kernel(module) for module in modules)
    has_attention = any(isinstance(module, attention) for module in modules)
    return ViewsMayCopy() if lie_last and not has_attention else nullcontext()


def _has_integer_kernel(module: nn.Module) -> bool:
    kernel = getattr(module, "kernel", None)  # of a QuantLayer, which is built upon this
    return isinstance(kernel, str) and kernel == "integer"


class ViewsMayCopy(TorchFunctionMode):
    """Takes ``x.view(len(x), -1)`` as a copy, which torch refuses where channels lie last."""

    def __init__(self) -> None:
        super().__init__()
        self.were_refused = False

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation of torch; a view that is refused is taken by ``reshape``."""
        is_view = func is torch.Tensor.view and len(args) > 1 and not kwargs
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError:
            if not is_view or isinstance(args[1], torch.dtype):
                raise
            reshape: Callable[..., object] = torch.Tensor.reshape
            self.were_refused = True
            return reshape(*args)
