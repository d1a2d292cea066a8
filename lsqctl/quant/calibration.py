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
CalibrationTarget = QuantLayer | LsqQuantizer


def calibrate(model: nn.Module, data: Tensor | Iterable[Batch], *, force: bool = False) -> None:
    """Set every step size of ``model`` from ``data``, the sign where it is open, and the offset.

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
    targets = _calibration_targets(model)
    if not targets:
        raise ValueError("the model has no quantized layers: call prepare(model, spec) first")
    pending = {name for name, target in targets.items() if force or not _is_calibrated(target)}
    if not pending:
        return
    inputs = _concatenate(data)
    with eval_mode(model), torch.no_grad(), _calibration_hooks(targets, pending):
        model(inputs)
    if pending:
        names = ", ".join([name for name in targets if name in pending][:5])
        raise ValueError(
            f"{len(pending)} layers were not reached by the forward pass in eval mode: {names}; "
            "remove them from the model (e.g. aux_logits=False), or reach them"
        )
    _broadcast_from_rank_0(list(quantizers(model).values()))


def _calibration_targets(model: nn.Module) -> dict[str, CalibrationTarget]:
    """Return the quantized layers, and the quantizers that are in none of them."""
    layers = quantized_layers(model)
    layer_quantizers = {
        module for layer in layers.values() for module in quantizers(layer).values()
    }
    standalone = {
        name: module for name, module in quantizers(model).items() if module not in layer_quantizers
    }
    return {**layers, **standalone}


def _is_calibrated(target: CalibrationTarget) -> bool:
    return all(quantizer.calibrated for quantizer in quantizers(target).values())


def _concatenate(data: Tensor | Iterable[Batch]) -> Tensor:
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
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode for a while; each module gets its own training flag back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def _calibration_hooks(targets: dict[str, CalibrationTarget], pending: set[str]) -> Iterator[None]:
    handles = [
        targets[name].register_forward_pre_hook(partial(_calibrate_target, name, pending))
        for name in pending
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calibrate_target(
    name: str, pending: set[str], target: CalibrationTarget, inputs: tuple[Tensor, ...]
) -> None:
    if name not in pending:  # a shared layer: its first use decides
        return
    if isinstance(target, LsqQuantizer):
        _calibrate_quantizer(target, inputs[0], f"values at {name!r}")
    else:
        if target.input_quantizer is not None:
            _calibrate_quantizer(
                target.input_quantizer, inputs[0], f"input activations of layer {name!r}"
            )
        if target.weight_quantizer is not None:
            _calibrate_quantizer(
                target.weight_quantizer, target.master_weight, f"weights of layer {name!r}"
            )
    pending.discard(name)


def _calibrate_quantizer(quantizer: LsqQuantizer, x: Tensor, description: str) -> None:
    try:
        quantizer.calibrate(x)
    except ValueError as error:
        raise ValueError(f"cannot calibrate on the {description}: {error}") from error


def _broadcast_from_rank_0(model_quantizers: list[LsqQuantizer]) -> None:
    """Take the step sizes, offsets and signs of rank 0: each rank has seen a batch of its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for quantizer in model_quantizers:
        for parameter in quantizer.parameters():
            distributed.broadcast(parameter.data, 0)
        state = quantizer.get_extra_state().to(quantizer.step_size.device)
        distributed.broadcast(state, 0)
        quantizer.set_extra_state(state)
