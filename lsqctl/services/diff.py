"""Say how two recipes or two runs differ, and where runs deviate from the paper: key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, PluginError, UsageError
from lsqctl.leaderboard.board import Board, Deviations
from lsqctl.leaderboard.schema import Entry
from lsqctl.recipe import load_stored
from lsqctl.recipe_file import (
    Cell,
    LoadedRecipe,
    flatten_base,
    flatten_recipe,
    load,
)
from lsqctl.recipe_file.serialization import dump_scalar
from lsqctl.run import RunDetail
from lsqctl.services.loading import single_recipe
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.store import Store

_IGNORED_RECIPE_KEYS = frozenset({"name", "description"})


@dataclass(frozen=True, slots=True)
class Deviation:
    """One key in which two recipes differ; None where a side has no such key.

    ``*_source`` says where a value stands: ``recipes/x.yaml:12``, ``base paper/w4a4``, ``default``.
    """

    key: str
    left: object
    right: object
    left_source: str
    right_source: str


@dataclass(frozen=True, slots=True)
class RecipeDiff:
    """One recipe, or one cell of a sweep, beside another; the seeds of a cell are compared once."""

    left: str
    right: str
    deviations: tuple[Deviation, ...]


@dataclass(frozen=True, slots=True)
class DiffSide:
    """The keys of a recipe or of a run, and where each value stands."""

    name: str
    values: Mapping[str, object]
    sources: Mapping[str, str]
    base: str | None = None  # what it extends
    open_keys: frozenset[str] = field(default_factory=frozenset)
    abstract: bool = False


def diff_recipes(left_ref: str, right_ref: str | None, settings: Settings) -> list[RecipeDiff]:
    """Return the deviations of ``left_ref`` from ``right_ref``, for each cell of ``left_ref``.

    Each is a file, the name of a bundled recipe or of a cell of one, or a run: its id or ``@last``.
    Without ``right_ref`` a cell is compared with the recipe it extends. What a base leaves open is
    no deviation, and against a base neither is the seed. Raises NotFound, RecipeError, and
    UsageError where there is nothing to compare with.
    """
    left_sides = _sides_of_ref(left_ref, settings)
    if right_ref is not None:
        right_side = _single_side(right_ref, _sides_of_ref(right_ref, settings))
        return [diff_sides(side, right_side) for side in left_sides]
    bases: dict[str, DiffSide] = {}
    for side in left_sides:
        if side.base is None:
            raise UsageError(
                f"{side.name} extends no recipe: name the one to compare it with, as in "
                f"`lsqctl recipe diff {left_ref} paper/w4a4`"
            )
        if side.base not in bases:
            bases[side.base] = _single_side(side.base, _sides_of_ref(side.base, settings))
    return [diff_sides(side, bases[str(side.base)]) for side in left_sides]


def diff_sides(left: DiffSide, right: DiffSide) -> RecipeDiff:
    """Return where one side deviates from the other."""
    ignored = _IGNORED_RECIPE_KEYS | left.open_keys | right.open_keys
    if left.abstract or right.abstract:
        ignored |= {"seed"}
    keys = [*left.values, *(key for key in right.values if key not in left.values)]
    return RecipeDiff(
        left.name,
        right.name,
        tuple(
            Deviation(
                key,
                left.values.get(key),
                right.values.get(key),
                left.sources.get(key, "") if key in left.values else "",
                right.sources.get(key, "") if key in right.values else "",
            )
            for key in keys
            if key not in ignored and left.values.get(key) != right.values.get(key)
        ),
    )


def _single_side(ref: str, sides: Sequence[DiffSide]) -> DiffSide:
    return single_recipe(ref, {side.name: side for side in sides})


def _sides_of_ref(ref: str, settings: Settings) -> list[DiffSide]:
    if ref.startswith("@"):
        return [_side_of_stored_run(ref, settings)]
    try:
        loaded = load(ref, abstract_ok=True)
    except NotFound as error:
        return [_side_of_run_called(ref, settings, error)]
    return _sides_of_recipe(loaded)


def _sides_of_recipe(loaded: LoadedRecipe) -> list[DiffSide]:
    if loaded.abstract:
        values, open_keys = flatten_base(loaded)
        return [
            DiffSide(loaded.name, values, loaded.origins, loaded.base, open_keys, abstract=True)
        ]
    return _sides_of_cells(loaded.cells)


def _side_of_run_called(ref: str, settings: Settings, not_found: NotFound) -> DiffSide:
    try:
        return _side_of_stored_run(ref, settings)
    except NotFound:
        raise not_found from None


def _sides_of_cells(cells: tuple[Cell, ...]) -> list[DiffSide]:
    """Return a side for each name among ``cells``: seeds do not make a recipe another one."""
    by_name = {cell.recipe.name: cell for cell in reversed(cells)}
    return [
        DiffSide(cell.recipe.name, flatten_recipe(cell.recipe), cell.origins, cell.base)
        for cell in reversed(by_name.values())
    ]


def base_side(name: str) -> DiffSide:
    """Return a bundled base recipe.  Raises NotFound."""
    return _single_side(name, _sides_of_recipe(load(name, abstract_ok=True)))


def run_side(detail: RunDetail) -> DiffSide:
    """Return what a run was asked to do."""
    values = flatten_recipe(load_stored(detail.recipe))
    return DiffSide(detail.run.id, values, dict.fromkeys(values, f"run {detail.run.id}"))


def _side_of_stored_run(run_ref: str, settings: Settings) -> DiffSide:
    from lsqctl.services.workspace import open_workspace

    store = open_workspace(settings)
    try:
        return run_side(store.runs.detail(store.runs.resolve(run_ref).id))
    finally:
        store.close()


_IGNORED_RUN_KEYS = frozenset({"recipe.name", "recipe.description"})


@dataclass(frozen=True, slots=True)
class RunDeviation:
    """One key and its two values; None where a side has none."""

    key: str
    left: object
    right: object


def diff_runs(store: Store, left_run_id: str, right_run_id: str) -> list[RunDeviation]:
    """Return what differs in recipe, provenance, environment and results, by dotted key."""
    left, right = _comparable_values(store, left_run_id), _comparable_values(store, right_run_id)
    keys = [*left, *(key for key in right if key not in left)]
    return [
        RunDeviation(key, left.get(key), right.get(key))
        for key in keys
        if left.get(key) != right.get(key) and key not in _IGNORED_RUN_KEYS
    ]


def _comparable_values(store: Store, run_id: str) -> dict[str, object]:
    detail = store.runs.detail(run_id)
    values: dict[str, object] = flatten({"recipe": detail.recipe, "submit": detail.provenance})
    values |= flatten({"attempt": detail.environment})
    for evaluation in store.results.evaluations(run_id):
        values[f"result.{evaluation.variant}.{evaluation.selection}.top1"] = (
            100 * evaluation.n_correct / evaluation.n_total
        )
    return values


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_deviations(board: Board, store: Store) -> Board:
    """Return the board with the deviations of each of its local rows from the paper's recipe.

    A row is compared by the run that stands for it. Of bits for which the paper has no recipe,
    ``base`` is empty; of a run that was recorded, or whose plugin is gone, nothing is told.
    """
    deviations = {}
    for entry in board.entries:
        if entry.is_local and entry.best_run and not entry.is_recorded:
            with suppress(PluginError):
                deviations[entry.best_run] = _deviations_from_paper(entry, store)
    return replace(board, deviations=deviations)


def _deviations_from_paper(entry: Entry, store: Store) -> Deviations:
    paper = _paper_side(
        "fp32" if entry.is_full_precision else f"w{entry.weight_bits}a{entry.act_bits}"
    )
    if paper is None:
        return Deviations("", ())
    deviations = diff_sides(run_side(store.runs.detail(str(entry.best_run))), paper).deviations
    texts = (
        (deviation.key, _value_text(deviation.left), _value_text(deviation.right))
        for deviation in deviations
    )
    return Deviations(paper.name, tuple(texts))


@lru_cache(maxsize=64)
def _paper_side(bits: str) -> DiffSide | None:
    try:
        return base_side(f"paper/{bits}")
    except NotFound:
        return None


def _value_text(value: object) -> str:
    return "none" if value is None else dump_scalar(value)
