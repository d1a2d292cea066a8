"""What ``import lsqctl`` offers in Python: submit, record, wait, runs, board, models.

Each function opens the workspace that ``lsqctl`` would use in the current folder, and closes it;
``settings`` (of ``lsqctl.settings.load_settings``) names another. What is wrong is raised as one of
``lsqctl.errors``, with the message that the command line prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, UsageError
from lsqctl.run import IfExists, Run, RunState
from lsqctl.settings import Settings, load_settings

if TYPE_CHECKING:
    from torch import nn

    from lsqctl.leaderboard.board import DataFrame
    from lsqctl.leaderboard.comparison import Comparison
    from lsqctl.services.recording import Recording
    from lsqctl.services.wait import WaitResult


def submit(
    *recipes: str | Path,
    set: Mapping[str, object] | None = None,
    grid: Mapping[str, Iterable[object]] | None = None,
    tags: Iterable[str] = (),
    seeds: Iterable[int] = (),
    name: str | None = None,
    priority: int = 0,
    held: bool = False,
    if_exists: IfExists = "skip",
    settings: Settings | None = None,
) -> list[Run]:
    """Check recipes, queue a run for each (and for each parent that is missing), return them.

    ``recipes`` are names, files, or ids of runs, ``set`` overrides their keys, ``grid`` makes a run
    of each combination of its values, ``seeds`` of each seed, ``name`` is what one recipe is
    called. A run that is there already is
    returned and not doubled, unless ``if_exists`` is ``"rerun"``. A worker trains them:
    ``lsqctl worker`` in a shell. Raises RecipeError, with every mistake, before anything is queued.

    >>> submit("digits/resnet8-w4a4", set={"train.epochs": 2}, seeds=[0, 1])  # doctest: +SKIP
    """
    from lsqctl.services import submit as service
    from lsqctl.services.submit_planner import SubmitOptions
    from lsqctl.services.workspace import open_workspace

    resolved = _in_use(settings)
    options = SubmitOptions(
        overrides=tuple(f"{key}={_override_text(value)}" for key, value in (set or {}).items()),
        grids=tuple(f"{key}={_override_text([*values])}" for key, values in (grid or {}).items()),
        tags=_words(tags),
        seeds=tuple(seeds),
        name=name,
        priority=priority,
        held=held,
    )
    plan = service.plan_in_workspace([str(recipe) for recipe in recipes], resolved, options)
    with open_workspace(resolved, create=True) as store:
        return [item.run for item in service.submit(plan, store, if_exists=if_exists)]


def _in_use(settings: Settings | None) -> Settings:
    """Return the settings of a call; names of plugins mean those of their workspace."""
    from lsqctl.discovery import use_workspace

    use_workspace(settings.home if settings else None)
    return settings or load_settings()


def _override_text(value: object) -> str:
    """Return a value as ``--set`` takes it: JSON is YAML."""
    return json.dumps(value, default=str, ensure_ascii=False)


def wait(
    *runs: str | Run | Sequence[str | Run],
    sweep: str | None = None,
    timeout: float | None = None,
    fail_fast: bool = False,
    settings: Settings | None = None,
) -> WaitResult:
    """Return once runs have ended, or ``timeout`` seconds have passed; 0 checks once.

    ``runs`` are what ``submit`` returned, ids, unique prefixes, names or ``"@last"``; ``sweep``
    adds the cells of one. A run that failed raises nothing: look at ``failed``. Raises NotFound
    for what is not there.

    >>> wait(submit("digits/resnet8-w4a4"), timeout=3600).failed  # doctest: +SKIP
    ()
    """
    from lsqctl.services import wait as service
    from lsqctl.services.workspace import open_workspace

    refs = [ref for item in runs for ref in ([item] if isinstance(item, str | Run) else item)]
    names = [ref.id if isinstance(ref, Run) else ref for ref in refs]
    with open_workspace(_in_use(settings)) as store:
        ids = service.run_ids(store, names, sweep)
        return service.wait(store, ids, timeout=timeout, fail_fast=fail_fast)


def runs(
    *,
    where: str | None = None,
    states: Iterable[RunState | str] | None = None,
    name: str | None = None,
    sweep: str | None = None,
    tag: str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
) -> list[Run]:
    """Return the runs that are so, newest first; ``pandas.DataFrame`` takes the list as rows.

    ``where`` is a filter as ``lsqctl runs ls --where`` takes it. Raises NotFound without a
    workspace or for an unknown sweep, FilterError for a filter that is none.

    >>> [run.id for run in runs(where="state = 'failed'", limit=10)]  # doctest: +SKIP
    """
    from lsqctl.filters.parser import parse
    from lsqctl.filters.run_columns import RUN_COLUMN_KINDS
    from lsqctl.services.run_control import resolve_sweep
    from lsqctl.services.workspace import open_workspace

    expression = None if where is None else parse(where, RUN_COLUMN_KINDS)
    with open_workspace(_in_use(settings)) as store:
        selected = store.runs.list(
            states=None if states is None else [RunState(state) for state in states],
            name=name,
            sweep=None if sweep is None else resolve_sweep(store, sweep),
            tag=tag,
            where=expression,
            limit=limit,
        )
    return list(selected)


def compare(left: str | Run, right: str | Run, *, settings: Settings | None = None) -> Comparison:
    """Answer whether ``left`` is better than ``right``; ``answer`` is the sentence.

    Each is a run, its id, a name (all seeds of the newest recipe of that name) or a sweep. Raises
    NotFound for what is not there or has no result, UsageError for sides that were not evaluated on
    the same images.

    >>> compare("digits/resnet8-w4a4", "digits/resnet8-w3a3").p  # doctest: +SKIP
    0.25
    """
    from lsqctl.services.compare import compare as compare_in_store
    from lsqctl.services.workspace import open_workspace

    left_ref, right_ref = (side.id if isinstance(side, Run) else side for side in (left, right))
    with open_workspace(_in_use(settings)) as store:
        return compare_in_store(store, left_ref, right_ref)


def record(
    name: str,
    *,
    dataset: str,
    seed: int = 0,
    model: nn.Module | None = None,
    input_shape: tuple[int, ...] | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    arch: str = "",
    method: str = "",
    epochs: int = 0,
    recipe: Mapping[str, object] | None = None,
    tags: Iterable[str] = (),
    if_exists: IfExists = "error",
    settings: Settings | None = None,
) -> Recording:
    """Begin a run of your own training loop, and return what it logs to and finishes with.

    It stands on the board beside lsqctl's own, marked as recorded: runs of one name that differ in
    nothing but the seed are one row. ``model`` tells its bits (where ``lsqctl.quant.prepare`` made
    it) and, with ``input_shape`` (C, H, W), what it costs; ``recipe`` is what your loop was told,
    in plain values. Raises UsageError for what cannot stand on a board, and where this name and
    seed are recorded already, unless ``if_exists`` is ``"rerun"``.

    >>> with record("mine/net-w4a4", dataset="cifar10", model=net) as run:  # doctest: +SKIP
    ...     run.log(epoch=1, loss=0.5, top1=80.0)
    ...     run.finish(n_correct=8000, n_total=10000, checkpoint=net.state_dict())
    """
    from lsqctl.services import recorded_model, recorded_values, recording

    known = recorded_model.summarize_model(model, input_shape)
    loop = recorded_values.Loop(
        name=name,
        dataset=dataset,
        seed=recorded_values.plain_seed(seed),
        arch=arch or known.arch,
        weight_bits=known.weight_bits if weight_bits is None else weight_bits,
        act_bits=known.act_bits if act_bits is None else act_bits,
        method=method,
        epochs=epochs,
        recipe=recorded_values.plain_recipe(name, recipe),
    )
    labels = _words(tags)
    return recording.begin(loop, known, _in_use(settings), tags=labels, if_exists=if_exists)


def _words(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags; raises UsageError for a text, whose letters would be taken for tags."""
    if isinstance(tags, str):
        raise UsageError(f"tags={tags!r}: a list of words, as [{tags!r}]")
    return tuple(tags)


def load_board(
    *,
    where: str | None = None,
    dataset: str | None = None,
    per_run: bool = False,
    include_published: bool = True,
    settings: Settings | None = None,
) -> DataFrame:
    """Return the board's rows, best first, with the columns of docs/csv.md; missing is ``pd.NA``.

    ``where`` is a filter as ``lsqctl leaderboard --where`` takes it, ``per_run`` makes a row of
    each run, ``include_published`` adds published rows of its datasets. Raises NotFound without a
    workspace, FilterError for a filter that is none.

    >>> load_board(where="weight_bits <= 4")[["model", "top1_mean"]]  # doctest: +SKIP
    """
    from lsqctl.leaderboard.board import to_frame
    from lsqctl.leaderboard.board_query import BoardQuery
    from lsqctl.services.board import BoardSelection, board_filter, build_board
    from lsqctl.services.workspace import open_workspace

    resolved = _in_use(settings)
    selection = BoardSelection(dataset, "auto" if include_published else "none", per_run)
    with open_workspace(resolved) as store:
        query = BoardQuery(board_filter(where))
        return to_frame(build_board(store, selection, query, settings=resolved))


def load_model(run: str | Run, *, settings: Settings | None = None) -> nn.Module:
    """Return the model of a run in evaluation mode, on the CPU, with its trained weights.

    ``run`` is a run, an id, a unique prefix, a name or ``@last``. The weights are those of the
    headline result, read from hash-checked bytes; the model's attribute ``headline`` says which
    (an ``Evaluation``: variant, selection, counts; None before the run has a result). Raises
    NotFound for a run without a checkpoint, DataError for one whose bytes are damaged or gone.

    >>> load_model("digits/resnet8-w4a4").training  # doctest: +SKIP
    False
    """
    from lsqctl.recipe import load_stored
    from lsqctl.services.workspace import open_workspace
    from lsqctl.training.restore import restore_model
    from lsqctl.worker.inputs import parent_checkpoint

    resolved = _in_use(settings)
    with open_workspace(resolved) as store:
        detail = store.runs.detail(run.id if isinstance(run, Run) else store.runs.resolve(run).id)
        if not store.checkpoints.list(detail.run.id):
            raise NotFound(f"run {detail.run.id} ({detail.run.state}) has no checkpoint yet")
        checkpoint_dir = parent_checkpoint(store, detail.run.id, resolved.run_dir(detail.run.id))
        evaluations = store.results.evaluations(detail.run.id)
    headline = next((one for one in evaluations if one.headline), None)
    variant = headline.variant if headline else None
    model = restore_model(load_stored(detail.recipe), checkpoint_dir, variant)
    object.__setattr__(model, "headline", headline)  # no module and no tensor
    return model
