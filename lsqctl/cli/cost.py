"""Print what a network costs: in one line, or layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from lsqctl.cli.render import print_table
from lsqctl.facts import Result
from lsqctl.leaderboard.view import bops_text, bytes_text
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.api.cost import RecipeCost

_COST_FIELDS = ("params", "size_bytes", "naive_bytes", "macs", "bops")


class CostTotals(Protocol):
    """What a result and a counted model both have: bytes, and operations for one image."""

    @property
    def size_bytes(self) -> int:
        """Bytes as deployed."""

    @property
    def naive_bytes(self) -> int:
        """Parameters times bits over 8."""

    @property
    def macs(self) -> int:
        """Multiplications with accumulation."""

    @property
    def bops(self) -> int:
        """MACs times weight bits times activation bits."""


def cost_line(cost: CostTotals) -> str:
    """Return the sums in one line."""
    return (
        f"{bytes_text(cost.size_bytes)} (naive {bytes_text(cost.naive_bytes)}), "
        f"{bops_text(cost.macs)}MAC, {bops_text(cost.bops)}BOP"
    )


def result_cost_json(result: Result | None) -> dict[str, int] | None:
    """Return the sums that a finished run was stored with, for JSON."""
    return {name: getattr(result, name) for name in _COST_FIELDS} if result else None


def stored_recipe_cost(recipe: Mapping[str, Any], settings: Settings) -> RecipeCost:
    """Return what the network of a stored recipe costs, layer by layer."""
    from lsqctl.api.cost import recipe_cost
    from lsqctl.recipe import load_stored

    return recipe_cost(load_stored(recipe), settings)


def print_layer_costs(recipe_cost: RecipeCost | None) -> None:
    """Print a line for each layer; nothing where none was counted."""
    if recipe_cost is None:
        return
    print()
    print_table(
        ("layer", "W", "A", "params", "size", "MACs", "BOPs"),
        [
            (
                layer.name,
                str(layer.weight_bits),
                str(layer.act_bits),
                f"{layer.params:,}",
                bytes_text(layer.size_bytes),
                bops_text(layer.macs),
                bops_text(layer.bops),
            )
            for layer in recipe_cost.cost.layers
        ],
        right_aligned=("W", "A", "params", "size", "MACs", "BOPs"),
        hide_first=("params", "MACs"),
    )
