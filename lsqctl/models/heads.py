"""The classifier of a network: the layer that it executes last, found by executing it on zeros."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lsqctl.quant.surgery import eval_mode
from lsqctl.quant.torch_faults import layer_input


def classifier_name(model: nn.Module, input_shape: tuple[int, int, int]) -> str:
    """Return the name of the layer that ``classifier_of`` finds."""
    return classifier_of(model, input_shape)[0]


def classifier_of(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[str, tuple[int, ...]]:
    """Return the last linear or convolutional layer that sees an image's features, and their shape.

    ``input_shape`` is (C, H, W). The network may lie on the meta device; it stays as it is. The
    name is empty for a network without such a layer.
    """
    executed: list[tuple[str, tuple[int, ...]]] = [("", ())]

    def remember(name: str) -> Callable[..., None]:
        return lambda _, inputs, by_name, output: executed.append(
            (name, tuple(layer_input(inputs, by_name).shape[1:]))
        )

    hooks = [
        module.register_forward_hook(remember(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(example_of(model, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return executed[-1]


def example_of(model: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    """Return an image of zeros for a network, (1, C, H, W), where its parameters lie."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, *input_shape, device=device)
