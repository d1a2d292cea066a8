"""Bits for each layer within a budget of bytes or bit operations, from the learned step sizes.

Tang, Ouyang, Wang, Zhu, Ji, Wang, Zhu, "Mixed-Precision Neural Network Quantization via Learned
Layer-wise Importance" (LIMPQ), ECCV 2022 (arXiv 2203.08368): the step size that a layer learns at
some bits says how much it loses there, and an integer program picks bits for each layer:

    min sum over layers of s_act(bits) + 2 s_weight(bits),  so that  the cost is within the budget.

The 2 is the default of the authors' code (1hunters/LIMPQ). There, too, bits whose step size is
smaller than that of more bits count as an outlier and are taken where nothing else fits. They learn
the steps of all bits in one joint training; here they are those of runs that are there already, as
of a ladder or a sweep over bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import dropwhile, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lsqctl.errors import NotFound, UsageError
from lsqctl.events import QuantizerStats
from lsqctl.recipe import MAX_NAME_PART, OverrideSection, Recipe
from lsqctl.recipe_file import flatten_recipe
from lsqctl.run import RunState
from lsqctl.services.cost import recipe_cost
from lsqctl.services.layer_findings import last_epoch_stats
from lsqctl.services.loading import load_in_workspace, single_recipe
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import Settings
from lsqctl.text import format_bops, format_bytes, pluralize

if TYPE_CHECKING:
    from lsqctl.quant.cost import LayerCost
    from lsqctl.store import Store

_WEIGHT_FACTOR = 2.0  # of the steps of weights beside those of activations
_OUTLIER = 1e4  # added to the importance of an outlier: far above any sum of step sizes
_EVERY_LAYER = "?*"  # beside a recipe's own "*", whose other keys hold as well
_MAX_RUNS = 500  # the newest succeeded ones that are looked at
# What says nothing of how a layer's step size was learned beside another run's at other bits.
_OF_NO_ACCOUNT = {"name", "description", "seed", "quant.weight_bits", "quant.act_bits"}
CostKind = Literal["size", "bops"]
StepSizes = Mapping[tuple[str, str, int], float]  # by layer, kind (weight, input) and bits


@dataclass(frozen=True, slots=True)
class LayerBits:
    """One choice for one layer: its bits, what it costs, and the step sizes it would have."""

    layer: str
    weight_bits: int
    act_bits: int
    cost: int
    importance: float


@dataclass(frozen=True, slots=True)
class BitPlan:
    """A recipe with bits for each layer, their cost, and how it came about.

    ``smallest`` and ``largest`` are the costs of the fewest and the most bits; ``run_ids`` are the
    runs whose step sizes were taken.
    """

    recipe: Recipe
    kind: CostKind
    layers: tuple[LayerBits, ...]
    cost: int
    smallest: int
    largest: int
    run_ids: tuple[str, ...]


def plan_bits(recipe: Recipe, kind: CostKind, budget: float, settings: Settings) -> BitPlan:
    """Return the bits of least importance lost that cost at most ``budget`` bytes or BOPs.

    With ``size``, activations keep the recipe's bits. A layer keeps its own where runs are there
    with one number of bits alone, as of the first and the last layer.

    Raises UsageError, saying the smallest possible, for a budget that no bits meet; NotFound where
    no two runs tell steps of different bits.
    """
    with open_workspace(settings) as store:
        steps, run_ids = learned_steps(recipe, store)
    fixed, choices = _choices(recipe, steps, kind, settings)
    smallest, largest = (
        fixed + sum(end(option.cost for option in options) for options in choices)
        for end in (min, max)
    )
    if budget < smallest:
        form = format_bytes if kind == "size" else format_bops
        raise UsageError(
            f"--{kind} {budget:.12g}: no bits that the runs here were trained with meet it; the "
            f"smallest possible is {form(smallest)}: --{kind} {smallest}"
        )
    picked = pick(choices, budget - fixed)
    cost = fixed + sum(option.cost for option in picked)
    planned = _with_bits(recipe, picked)
    return BitPlan(planned, kind, tuple(picked), cost, smallest, largest, run_ids)


def default_file(recipe: Recipe) -> Path:
    """Return what the written recipe is called unless told: ``NAME-bits.yaml``.

    A long name is cut, so that a recipe may have it.
    """
    suffix = "-bits"
    name = recipe.name.rpartition("/")[2]
    return Path(f"{name[: MAX_NAME_PART - len(suffix)]}{suffix}.yaml")


def pick(choices: Sequence[Sequence[LayerBits]], budget: float) -> list[LayerBits]:
    """Return one option for each layer: least sum of importances, costs within the budget.

    Exact, by SciPy's branch and bound (HiGHS). The budget must be within reach.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    options = [option for layer in choices for option in layer]
    owner = np.repeat(np.arange(len(choices)), [len(layer) for layer in choices])
    one_each = (owner == np.arange(len(choices))[:, None]).astype(float)
    costs = np.array([option.cost for option in options], dtype=float)
    unit = max(1.0, costs.max())  # so that tolerances mean the same for bytes and operations
    found = milp(
        [option.importance for option in options],
        integrality=1,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(costs / unit, ub=budget / unit),
        ],
    )
    return [option for option, taken in zip(options, found.x, strict=True) if taken > 0.5]


def learned_steps(recipe: Recipe, store: Store) -> tuple[StepSizes, tuple[str, ...]]:
    """Return the last step sizes of runs of the recipe's network and dataset, and those runs.

    Of several runs that have a layer at some bits, the one whose recipe differs least from this
    one, bits aside, tells its step size; of those that differ alike, the newest.
    """
    steps: dict[tuple[str, str, int], float] = {}
    run_ids: list[str] = []
    for run_id in _nearest_first(recipe, store):
        stats = last_epoch_stats(store.metrics.quantizer_stats(run_id))
        new = {key: s.step_size for s in stats if (key := _step_key(s)) not in steps}
        if new:
            steps |= new
            run_ids.append(run_id)
    return steps, tuple(run_ids)


def _nearest_first(recipe: Recipe, store: Store) -> list[str]:
    """Return succeeded runs of the recipe's network and dataset, the most alike first."""
    wanted = flatten_recipe(recipe)
    differences: dict[str, int] = {}
    for run in store.runs.list(states=[RunState.SUCCEEDED], limit=_MAX_RUNS):
        trained = flatten_recipe(store.runs.detail(run.id).recipe)
        different = {key for key in wanted.keys() & trained.keys() if wanted[key] != trained[key]}
        if not different & {"model.name", "data.name", "data.path"}:
            differences[run.id] = len(different - _OF_NO_ACCOUNT)
    return sorted(differences, key=lambda run_id: differences[run_id])


def _step_key(stats: QuantizerStats) -> tuple[str, str, int]:
    return stats.layer, stats.kind, stats.bits


def one_recipe(ref: str, settings: Settings) -> Recipe:
    """Return the recipe of a file, a name, a cell or a run.

    Raises UsageError for several that differ in more than their seeds.
    """
    recipes: dict[str, Recipe] = {}
    for cell in load_in_workspace(ref, settings).cells:
        recipes.setdefault(cell.recipe.name, cell.recipe)
    return single_recipe(ref, recipes)


def _choices(
    recipe: Recipe, steps: StepSizes, kind: CostKind, settings: Settings
) -> tuple[int, list[list[LayerBits]]]:
    """Return the cost of all that keeps its bits, and the options of each layer that does not."""
    own = recipe_cost(recipe, settings).cost
    weight_bits = sorted({bits for _, tensor, bits in steps if tensor == "weight"})
    costs = {bits: _uniform_costs(recipe, bits, settings) for bits in weight_bits}
    fixed, choices = own.size_bytes if kind == "size" else own.bops, []
    for layer in own.layers:
        options = [
            LayerBits(layer.name, bits, act, _cost(costs[bits][layer.name], act, kind), importance)
            for bits, act, importance in _options(layer.name, layer.act_bits, steps, kind)
        ]
        if len(options) > 1:
            fixed -= layer.size_bytes if kind == "size" else layer.bops
            choices.append(options)
    if not choices:
        raise NotFound(
            f"no layer of {recipe.model.name} on {recipe.data.name} has learned step sizes at two "
            "numbers of bits here: run the recipe at several first, as with `lsqctl submit RECIPE "
            "--grid quant.weight_bits=2,3,4`"
        )
    return fixed, choices


def _options(
    layer: str, act_bits: int, steps: StepSizes, kind: CostKind
) -> Iterable[tuple[int, int, float]]:
    """Yield (weight bits, activation bits, importance) of a layer that runs tell of."""
    known = {
        tensor: [bits for name, of, bits in steps if (name, of) == (layer, tensor)]
        for tensor in ("weight", "input")
    }
    sizes = {
        tensor: _outliers_last({bits: steps[layer, tensor, bits] for bits in sorted(known[tensor])})
        for tensor in ("weight", "input")
    }
    for bits, act in product(known["weight"], known["input"] if kind == "bops" else [act_bits]):
        yield bits, act, _WEIGHT_FACTOR * sizes["weight"][bits] + sizes["input"].get(act, 0.0)


def _outliers_last(sizes: Mapping[int, float]) -> dict[int, float]:
    """Return step sizes by bits, ascending, with what makes outliers the last choice."""
    following = dict(pairwise(sizes))
    return {
        bits: size + (_OUTLIER if bits in following and size < sizes[following[bits]] else 0.0)
        for bits, size in sizes.items()
    }


def _uniform_costs(recipe: Recipe, bits: int, settings: Settings) -> dict[str, LayerCost]:
    """Return the cost of each layer by name; layers that ``recipe`` leaves float are new ones."""
    uniform = _override(recipe, {_EVERY_LAYER: {"weight_bits": bits}})
    return {layer.name: layer for layer in recipe_cost(uniform, settings).cost.layers}


def _cost(layer: LayerCost, act_bits: int, kind: CostKind) -> int:
    return layer.size_bytes if kind == "size" else layer.macs * layer.weight_bits * act_bits


def _with_bits(recipe: Recipe, picked: Iterable[LayerBits]) -> Recipe:
    return _override(
        recipe,
        {
            option.layer: {"weight_bits": option.weight_bits, "act_bits": option.act_bits}
            for option in picked
        },
    )


def _override(recipe: Recipe, bits: Mapping[str, Mapping[str, int]]) -> Recipe:
    """Return the recipe with overrides after its own, which they win over in these keys alone.

    An own one of the same glob goes with it, and so do those after it that hold for its layers.
    """
    own = recipe.quant.overrides
    added = {}
    for glob, keys in bits.items():
        kept = [own[name] for name in _from(glob, own) if fnmatchcase(glob, name)]
        changes = (*(one.model_dump(exclude_none=True) for one in kept), keys)
        added[glob] = OverrideSection(**{k: v for change in changes for k, v in change.items()})
    overrides = {k: v for k, v in recipe.quant.overrides.items() if k not in added} | added
    quant = recipe.quant.model_copy(update={"overrides": overrides})
    return recipe.model_copy(update={"quant": quant})


def describe(plan: BitPlan) -> str:
    """Return one sentence on a plan's cost and source."""
    form = format_bytes if plan.kind == "size" else format_bops
    return (
        f"{form(plan.cost)}, between {form(plan.smallest)} and {form(plan.largest)}; step sizes of "
        f"{pluralize(len(plan.run_ids), 'run')}: {', '.join(plan.run_ids[:8])}"
    )


def _from(glob: str, globs: Iterable[str]) -> Iterable[str]:
    """Return those from ``glob`` on; nothing where it is not among them."""
    return dropwhile(lambda name: name != glob, globs)
