"""Give the step sizes of a prepared model their first values, once, from real inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lsqctl.quant.layers import QuantLayer
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import quantized_layers, quantizers

Batch = Tensor | Sequence[Any]


def calibrate(model: nn.Module, data: Tensor | Iterable[Batch], *, force: bool = False) -> None:
    """Set every step size of ``model`` from ``data``, and the sign where the spec leaves it open.

    ``data`` is one batch of inputs, or an iterable of batches (inputs, or sequences that begin
    with them). Several batches are joined into one, so the result is that of one large batch;
    an iterable is read to its end, so give it a few batches, not an epoch.

    One forward pass in eval mode without gradients: each quantizer sees what reaches its layer in
    the net as quantized so far, and BN statistics, training flags and random generators stay as
    they were. A model that is calibrated already is left alone unless ``force``. In a process
    group, every rank must call this and gets the values of rank 0.

    Raises:
        ValueError: the model is not prepared, a layer is never reached, or values are not finite.
    """
    layers = quantized_layers(model)
    if not layers:
        raise ValueError("the model has no quantized layers: call prepare(model, spec) first")
    pending = {name for name, layer in layers.items() if force or not _calibrated(layer)}
    if not pending:
        return
    inputs = _joined(data)
    with evaluating(model), torch.no_grad(), _hooked(layers, pending):
        model(inputs)
    if pending:
        names = ", ".join([name for name in layers if name in pending][:5])
        raise ValueError(
            f"{len(pending)} layers were not reached by the forward pass in eval mode: {names}; "
            "remove them from the model (e.g. aux_logits=False), or reach them"
        )
    _as_on_rank_0(list(quantizers(model).values()))


def _calibrated(layer: QuantLayer) -> bool:
    return all(quantizer.calibrated for quantizer in quantizers(layer).values())


def _joined(data: Tensor | Iterable[Batch]) -> Tensor:
    if isinstance(data, Tensor):
        return data
    batches = [batch if isinstance(batch, Tensor) else batch[0] for batch in data]
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    if len(shapes) != 1:
        raise ValueError(
            f"calibration needs batches of one shape, got {sorted(shapes) or 'no batch'}: of an "
            "(images, labels) pair, pass the images"
        )
    return torch.cat(batches)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode for a while; each module gets its own training flag back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def _hooked(layers: dict[str, QuantLayer], pending: set[str]) -> Iterator[None]:
    handles = [
        layers[name].register_forward_pre_hook(partial(_calibrate_layer, name, pending))
        for name in pending
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calibrate_layer(
    name: str, pending: set[str], layer: QuantLayer, inputs: tuple[Tensor, ...]
) -> None:
    if name not in pending:  # a shared layer: its first place decides
        return
    for quantizer, x, what in (
        (layer.input_quantizer, inputs[0], "input activations"),
        (layer.weight_quantizer, layer.master_weight, "weights"),
    ):
        if quantizer is not None:
            _calibrate_one(quantizer, x, f"{what} of layer {name!r}")
    pending.discard(name)


def _calibrate_one(quantizer: LsqQuantizer, x: Tensor, what: str) -> None:
    try:
        quantizer.calibrate(x)
    except ValueError as error:
        raise ValueError(f"cannot calibrate on the {what}: {error}") from error


def _as_on_rank_0(found: list[LsqQuantizer]) -> None:
    """Take the step sizes and signs of rank 0: each rank has seen a batch of its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for quantizer in found:
        step_size = quantizer.step_size
        distributed.broadcast(step_size.data, 0)
        state = quantizer.get_extra_state().to(step_size.device)
        distributed.broadcast(state, 0)
        quantizer.set_extra_state(state)
