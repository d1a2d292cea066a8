"""Give the step sizes of a prepared model their first values, once, from real inputs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, distributed, nn

from lsqctl.quant.layers import QuantLayer
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.surgery import eval_mode, quantized_layers, quantizers
from lsqctl.quant.torch_faults import layer_input, views_may_copy

Batch = Tensor | Sequence[object] | Mapping[str, object]
CalibrationTarget = QuantLayer | LsqQuantizer


def calibrate(
    model: nn.Module, data: Tensor | Mapping[str, object] | Iterable[Batch], *, force: bool = False
) -> None:
    """Set every step size of ``model`` from ``data``, the sign where it is open, and the offset.

    ``data`` is one batch of inputs, or an iterable of batches (inputs, or sequences that begin
    with them). Inputs are a tensor, a sequence of tensors inside such a batch (``model(*inputs)``),
    or a mapping (``model(**inputs)``). Several batches are joined into one, so the result is that
    of one large batch; an iterable is read to its end, so give it a few batches, not an epoch.

    One forward pass in eval mode without gradients, and two more where a layer is used several
    times, whose step size is that of the values of all its uses: each quantizer sees what reaches
    its layer in the net as quantized so far, and BN statistics, training flags and random
    generators stay as they were. Quantizers that are calibrated already are left alone unless
    ``force``. A warning says where another layer runs first or last than ``prepare`` took for it.
    In a process group, every rank must call this and gets the values of rank 0.

    Raises:
        ValueError: the model is not prepared, a layer is never reached, or values are not finite.
    """
    targets = _calibration_targets(model)
    if not targets:
        raise ValueError("the model has no quantized layers: call prepare(model, spec) first")
    pending = {name for name, target in targets.items() if force or not _is_calibrated(target)}
    if not pending:
        return
    args, kwargs = _join_batches(data)
    calibration = _Calibration(targets, pending, keep_calibrated=not force)
    with eval_mode(model), torch.no_grad(), views_may_copy(model):  # kernels lay channels last
        calibration.run(lambda: model(*args, **kwargs))
    if pending == set(targets):
        _warn_of_order(quantized_layers(model), calibration.run_order)
    _broadcast_from_rank_0(list(quantizers(model).values()))


def _warn_of_order(layers: Mapping[str, QuantLayer], run_order: Sequence[str]) -> None:
    """Warn where the layer that runs first, or last, has other bits than the one prepared so.

    ``prepare`` without an example gives the bits of a first and a last layer by registration.
    """
    prepared = {layer.position: name for name, layer in layers.items()}
    ran = [name for name in run_order if name in layers]
    for position, actual in zip(("first", "last"), (*ran[:1], *ran[-1:]), strict=False):
        name = prepared.get(position, actual)
        if _bits(layers[name]) != _bits(layers[actual]):
            warnings.warn(
                f"layer {actual!r} runs {position}, but {name!r} is registered {position} and has "
                f"the bits of a {position} layer: give prepare a batch of inputs as its example",
                stacklevel=3,
            )


def _bits(layer: QuantLayer) -> list[int]:
    return [
        0 if quantizer is None else quantizer.spec.bits
        for quantizer in (layer.weight_quantizer, layer.input_quantizer)
    ]


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


def _join_batches(
    data: Tensor | Mapping[str, object] | Iterable[Batch],
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return all batches as one, as positional and keyword arguments of the model."""
    batches = [_named_inputs(b) for b in ([data] if isinstance(data, Tensor | Mapping) else data)]
    names = list(batches[0]) if batches else []
    for name in names or [0]:
        shapes = {tuple(batch[name].shape[1:]) for batch in batches if name in batch}
        if len(shapes) != 1 or any(list(batch) != names for batch in batches):
            raise ValueError(
                f"calibration needs batches of one shape, got {sorted(shapes) or 'no batch'}: of "
                "an (images, labels) pair, pass the images"
            )
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    positional = [value for name, value in joined.items() if isinstance(name, int)]
    return positional, {name: value for name, value in joined.items() if isinstance(name, str)}


def _named_inputs(batch: Batch) -> dict[int | str, Tensor]:
    """Return the inputs of one batch by position or by name."""
    inputs: object = batch
    if not isinstance(batch, Tensor | Mapping | str) and isinstance(batch, Sequence) and batch:
        inputs = batch[0]
    if isinstance(inputs, Tensor):
        return {0: inputs}
    if isinstance(inputs, Mapping):
        named: dict[int | str, object] = dict(inputs)
    else:
        named = dict(enumerate(inputs)) if isinstance(inputs, list | tuple) else {}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if not named or len(tensors) < len(named):
        raise ValueError(
            "a batch for calibration is a tensor, a sequence that begins with the inputs, or a "
            f"mapping of names to tensors, got {type(batch).__name__} of "
            f"{', '.join(sorted({type(v).__name__ for v in named.values()})) or 'nothing usable'}"
        )
    return tensors


class _Calibration:
    """The forward passes of one calibration, and what was seen in them."""

    def __init__(
        self, targets: dict[str, CalibrationTarget], pending: set[str], *, keep_calibrated: bool
    ) -> None:
        self.targets = {name: target for name, target in targets.items() if name in pending}
        self.kept = {
            quantizer
            for target in targets.values()
            for quantizer in quantizers(target).values()
            if keep_calibrated and quantizer.calibrated
        }
        self.uses: Counter[str] = Counter()
        self.run_order: list[str] = []  # a name for each use
        self.inputs: dict[str, list[Tensor]] = {}

    def run(self, forward: Callable[[], object]) -> None:
        """Calibrate each layer at its first use, then those used again on all of their uses.

        What lies behind a layer used again sees other values then, and is calibrated once more.
        """
        self._pass(forward, self._calibrate_first_use, list(self.targets))
        if unreached := [name for name in self.targets if not self.uses[name]]:
            more = f" and {len(unreached) - 5} more" if len(unreached) > 5 else ""
            raise ValueError(
                "the forward pass in eval mode does not reach "
                f"{', '.join(unreached[:5])}{more}: remove what it leaves out from the model (e.g. "
                "aux_logits=False), or reach it"
            )
        reused = [name for name, count in self.uses.items() if count > 1]
        if not reused:
            return
        self._pass(forward, self._collect_input, reused)
        for name in reused:
            self._calibrate(name, torch.cat(self.inputs.pop(name)))
        self.uses.clear()
        others = [name for name in self.targets if name not in reused]
        run_order = list(self.run_order)
        self._pass(forward, self._calibrate_first_use, others)
        self.run_order = run_order  # of all layers

    def _pass(
        self, forward: Callable[[], object], hook: Callable[..., None], names: list[str]
    ) -> None:
        handles = [
            self.targets[name].register_forward_pre_hook(partial(hook, name), with_kwargs=True)
            for name in names
        ]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()

    def _calibrate_first_use(
        self, name: str, _: nn.Module, inputs: tuple[Tensor, ...], by_name: Mapping[str, Tensor]
    ) -> None:
        self.uses[name] += 1
        self.run_order.append(name)
        if self.uses[name] == 1:
            self._calibrate(name, layer_input(inputs, by_name))

    def _collect_input(
        self, name: str, _: nn.Module, inputs: tuple[Tensor, ...], by_name: Mapping[str, Tensor]
    ) -> None:
        x = layer_input(inputs, by_name)
        self.inputs.setdefault(name, []).append(x.detach().flatten())

    def _calibrate(self, name: str, x: Tensor) -> None:
        target = self.targets[name]
        if isinstance(target, LsqQuantizer):
            self._calibrate_quantizer(target, x, f"values at {name!r}")
            return
        self._calibrate_quantizer(target.input_quantizer, x, f"input activations of layer {name!r}")
        self._calibrate_quantizer(
            target.weight_quantizer, target.master_weight, f"weights of layer {name!r}"
        )

    def _calibrate_quantizer(
        self, quantizer: LsqQuantizer | None, x: Tensor, description: str
    ) -> None:
        if quantizer is None or quantizer in self.kept:
            return
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
