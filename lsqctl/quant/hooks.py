"""What the hooks of layers share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def layer_input(inputs: tuple[Tensor, ...], by_name: Mapping[str, Tensor]) -> Tensor:
    """Return what a layer is called with, of what a hook of it is told: ``layer(input=x)``, too."""
    if inputs:
        return inputs[0]
    return by_name["input"] if "input" in by_name else next(iter(by_name.values()))
