"""Training methods of other papers beside LSQ's own, each one module on one small interface.

A method acts at the optimizer's step: on the gradients before it, on weights and step sizes after
it. Another paper is a module with a subclass of ``Method``, a line in ``METHODS``, and a key of
recipes (``lsqctl.recipe.quant_section``). No torch here, so that a recipe is checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from lsqctl.quant.optim import ParamGroup

MethodState = dict[str, object]  # tensors and plain values, as torch.save takes them


class Method:
    """What a method may do; by default nothing.

    A method is made for a prepared model, its optimizer, and the value of its key. The model is
    calibrated, or loaded, by the first ``before_step``. ``progress`` is the share of the training
    that is over, from 0 to 1, and is set before each step.
    """

    progress = 0.0

    def __init__(self, model: nn.Module, optimizer: Optimizer, value: object) -> None:
        """Take what is needed of the model, and change the optimizer's groups where that is it."""

    def before_step(self) -> None:
        """Act on gradients, as the optimizer will see them: scaled back and clipped."""

    def after_step(self) -> None:
        """Act on weights and step sizes, after those were clamped."""

    def metrics(self) -> dict[str, float]:
        """Return what is worth seeing at an epoch's end, by name."""
        return {}

    def state_dict(self) -> MethodState:
        """Return what an exact resume needs."""
        return {}

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""

    @property
    def half_cosine(self) -> float:
        """1 at the start of training, 0 at its end, as the learning rate of the paper."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))

    @property
    def annealed(self) -> float:
        """0 for the first quarter of training, then by half a cosine to 1 at its end.

        As in the code of Nagel et al. (2022), where an annealing starts at 0.25.
        """
        late = max(0.0, self.progress - ANNEAL_START) / (1 - ANNEAL_START)
        return 0.5 * (1 - math.cos(math.pi * min(1.0, late)))


METHODS: Mapping[str, str] = {
    "weight_steps": "weight_steps.WeightSteps",
    "transition_rate": "transition_rate.TransitionRate",
    "dampening": "dampening.Dampening",
    "freezing": "freezing.Freezing",
    "step_optimizer": "step_optimizer.AdamSteps",
}
"""Key and class of each method, in the order in which they act."""

OFF: Mapping[str, object] = {
    "weight_steps": "learned",
    "transition_rate": None,
    "dampening": None,
    "freezing": None,
    "step_optimizer": "sgd",
}
"""The value of each key with which its method does nothing: plain LSQ."""


ANNEAL_START = 0.25  # of the training

FREEZABLE_BITS = 4
"""Layers of more bits are never frozen, as in the authors' code: their codes are close together."""


class MethodConflict(NamedTuple):
    """Two methods that exclude each other: their keys, why, and what to do."""

    key: str
    other_key: str
    message: str
    hint: str


class MethodError(ValueError):
    """The method of ``key`` cannot be used so; ``reason`` says why."""

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"{key}: {reason}")


def conflicts(values: Mapping[str, object]) -> Iterator[MethodConflict]:
    """Yield which of the methods that are on, by key, exclude each other."""
    is_on = {key for key, value in values.items() if value != OFF[key]}
    if "transition_rate" in is_on and "weight_steps" not in is_on:
        yield MethodConflict(
            "transition_rate",
            "weight_steps",
            "a learned step size changes codes too, so their rate would not follow the weights",
            "set weight_steps to statistic or fixed",
        )
    if {"transition_rate", "freezing"} <= is_on:
        yield MethodConflict(
            "freezing",
            "transition_rate",
            "both decide how many codes change: what one freezes, the other makes up for",
            "leave one of them out",
        )
    if "freezing" in is_on and values.get("weight_steps") == "statistic":
        yield MethodConflict(
            "freezing",
            "weight_steps",
            "a frozen weight follows its step size, which would follow the weights in turn",
            "set weight_steps to learned or fixed",
        )


def find_group(optimizer: Optimizer, name: str) -> ParamGroup:
    """Return the group of that name; to be asked anew, for loading a state replaces the groups.

    Raises:
        ValueError: there is none.
    """
    for group in optimizer.param_groups:
        if group.get("name") == name:
            found: ParamGroup = group
            return found
    raise ValueError(f"the optimizer has no group {name}: make it from param_groups(model, ...)")


class Methods:
    """The methods of one training, as the optimizer's hooks."""

    def __init__(self, by_key: Mapping[str, Method]) -> None:
        self._by_key = dict(by_key)

    def attach(self, optimizer: Optimizer) -> None:
        """Act at each step that the optimizer takes from now on, after the hooks it has."""
        optimizer.register_step_pre_hook(lambda *_: self._act("before_step"))
        optimizer.register_step_post_hook(lambda *_: self._act("after_step"))

    def set_progress(self, progress: float) -> None:
        """Say which share of the training is over."""
        for method in self._by_key.values():
            method.progress = progress

    def metrics(self) -> dict[str, float]:
        """Return the metrics of all."""
        found: dict[str, float] = {}
        for method in self._by_key.values():
            found |= method.metrics()
        return found

    def state_dict(self) -> MethodState:
        """Return the state of each, by key."""
        return {key: method.state_dict() for key, method in self._by_key.items()}

    def load_state_dict(self, state: MethodState) -> None:
        """Take what ``state_dict`` returned."""
        for key, method in self._by_key.items():
            method.load_state_dict(cast("MethodState", state[key]))

    def _act(self, moment: str) -> None:
        for method in self._by_key.values():
            getattr(method, moment)()


def build_methods(model: nn.Module, optimizer: Optimizer, values: Mapping[str, object]) -> Methods:
    """Return the methods whose keys are on, made for a prepared model and its optimizer.

    ``values`` are by key, as in a recipe's quant section: ``{"dampening": 0.01}``.

    Raises:
        ValueError: a key is unknown.
        MethodError: two of them exclude each other, or nothing of the model is what a method is
            about.
    """
    if unknown := values.keys() - METHODS.keys():
        raise ValueError(f"unknown method {min(unknown)}; known are {', '.join(METHODS)}")
    for key, other_key, message, hint in conflicts({**OFF, **values}):
        raise MethodError(key, f"beside {other_key}: {message}; {hint}")
    by_key = {}
    for key, path in METHODS.items():
        if values.get(key, OFF[key]) != OFF[key]:
            module, _, name = path.partition(".")
            make: type[Method] = getattr(import_module(f"{__name__}.{module}"), name)
            try:
                by_key[key] = make(model, optimizer, values[key])
            except ValueError as error:
                raise MethodError(key, str(error)) from error
    return Methods(by_key)
