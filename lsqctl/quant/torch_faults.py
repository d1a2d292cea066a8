"""What a training must not meet where channels lie last on a CPU, and the ways around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        model.get_submodule(name).register_forward_pre_hook(_plain_input)


def _plain_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if not module.training or inputs[0].device.type != "cpu":
        return None
    return inputs[0].contiguous(), *inputs[1:]


class ViewsMayCopy(TorchFunctionMode):
    """Takes ``x.view(len(x), -1)`` as a copy, which torch refuses where channels lie last."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation of torch; where a view is one, ``reshape`` gives it, too."""
        is_shape = len(args) > 1 and not isinstance(args[1], torch.dtype) and not kwargs
        if func is torch.Tensor.view and is_shape:
            func = torch.Tensor.reshape
        return func(*args, **(kwargs or {}))
