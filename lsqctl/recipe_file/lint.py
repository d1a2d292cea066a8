"""Likely mistakes in a recipe that can be run: warnings, never errors."""

from __future__ import annotations

from collections.abc import Sequence

from lsqctl.errors import Diagnostic
from lsqctl.models import MODELS
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import Recipe
from lsqctl.recipe_file.nodes import Node
from lsqctl.recipe_file.validation import Validation

_BITS_SUFFIX = "_bits"
_FEW_WEIGHT_BITS = 4


def lint(recipe: Recipe, validation: Validation, start: Node) -> list[Diagnostic]:
    """Return what is probably not meant in a recipe."""
    nodes = validation.nodes
    warnings = []
    if recipe.train.lr > 1:
        message = f"a learning rate of {recipe.train.lr:g} rarely converges"
        node = nodes.get("train.lr", start)
        warnings.append(
            node.diagnostic("W001", "high learning rate", message, "the paper takes 0.01")
        )
    if recipe.train.epochs == 0 and recipe.model.weights is None:
        node = nodes.get("train.epochs", start)
        message = "evaluates random weights: nothing is trained and none are given"
        warnings.append(
            node.diagnostic("W004", "nothing to evaluate", message, "set `model.weights`")
        )
    warnings += _lint_depthwise(recipe, nodes, start)
    return warnings + _lint_unused(recipe, nodes) + _lint_teacher(recipe, nodes)


def _lint_depthwise(recipe: Recipe, nodes: dict[str, Node], start: Node) -> list[Diagnostic]:
    """Warn of few bits with one step a tensor where channels of a layer differ most in size."""
    quant = recipe.quant
    has_override = any(
        override.per_channel or override.weight_bits for override in quant.overrides.values()
    )
    info = MODELS.get(recipe.model.name)  # of a network of timm nothing is known
    if info is None or not info.depthwise or quant.per_channel or has_override:
        return []
    if quant.weight_bits > _FEW_WEIGHT_BITS:
        return []
    node = nodes.get("quant.weight_bits", start)
    message = f"`{recipe.model.name}` has depthwise convolutions, which collapse with one step each"
    hints = (
        "set `quant.per_channel: true`, or give those layers more bits by `quant.overrides`",
        "their channels differ in size, and the small ones round to zero",
    )
    return [node.diagnostic("W005", "few bits for depthwise convolutions", message, *hints)]


def _lint_unused(recipe: Recipe, nodes: dict[str, Node]) -> list[Diagnostic]:
    quant = recipe.quant
    explicit_keys = [
        key for key in nodes if key.startswith("quant.") and not key.endswith(_BITS_SUFFIX)
    ]
    if not explicit_keys:
        return []
    if not quant.to_spec().quantized:
        hint = "set `quant.weight_bits` or `quant.act_bits` below 32"
        message = "has no effect while all bits are 32"
        return [
            nodes[explicit_keys[0]].diagnostic(
                "W003", f"`{explicit_keys[0]}` is not used", message, hint
            )
        ]
    inits = {quant.init, *(override.init for override in quant.overrides.values())}
    is_default = quant.percentile == type(quant).model_fields["percentile"].default
    if "quant.percentile" in explicit_keys and "percentile" not in inits and not is_default:
        message = f"is read only with `init: percentile`; it is `{quant.init}`"
        node = nodes["quant.percentile"]
        return [node.diagnostic("W003", "`quant.percentile` is not used", message)]
    only_weights = quant.to_spec().bits_of("act") == {FLOAT_BITS} == {quant.residual_bits}
    if quant.act_offset == "learned" and only_weights:
        message = "has no effect while activations have 32 bits"
        return [
            nodes["quant.act_offset"].diagnostic("W003", "`quant.act_offset` is not used", message)
        ]
    return []


def _lint_teacher(recipe: Recipe, nodes: dict[str, Node]) -> list[Diagnostic]:
    """Warn of a teacher who is asked, and whose answers have no weight."""
    distill = recipe.distill
    if distill is None or distill.soft_weight or distill.features is not None:
        return []
    message = "the teacher's outputs are computed and have no weight in the loss"
    node = nodes["distill.soft_weight"]
    hint = "give them some, set `distill.features`, or leave `distill` out"
    return [node.diagnostic("W003", "`distill.teacher` is not used", message, hint)]


def repeated_seeds(seeds: Sequence[Node]) -> list[Diagnostic]:
    """Return a warning for each seed that stands in a list a second time."""
    warnings, seen = [], set()
    for node in seeds:
        if repr(node.value) in seen:
            message = f"seed {node.text} is in the list already; it runs once"
            warnings.append(node.diagnostic("W002", "seed given twice", message))
        seen.add(repr(node.value))
    return warnings
