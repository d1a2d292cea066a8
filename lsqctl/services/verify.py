"""Verify results: hash-check the stored checkpoint, measure it again, and compare every image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets.data_digest import DataDigest
from lsqctl.errors import DataError, NotFound, UsageError
from lsqctl.events import DEPLOYED, Evaluation
from lsqctl.run import RECORDED, Run, RunDetail, RunState
from lsqctl.services.run_control import resolve_sweep
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from lsqctl.recipe import Recipe
    from lsqctl.store import Store
    from lsqctl.training.evaluation import EvalCounts
    from lsqctl.training.runtime import ExecutionContext


# Of results of before 0.2, the bytes of the evaluated files of a folder are not part.
_UNKNOWN_IMAGES = (
    "; it may be the checkpoint or the images, of which only names and sizes were recorded: "
    "neither confirmed nor refuted"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What measuring one result again has shown.

    ``verified`` is None where it could not be tried (no data, no GPU): nothing was marked then.
    ``message`` is one line that names the file, what was expected and what was found.
    """

    run_id: str
    name: str
    variant: str
    selection: str
    n_correct: int
    n_total: int
    measured: int | None
    verified: bool | None
    checkpoint: str
    message: str = ""
    recorded: bool = False  # of a loop of its own, which nothing here can measure again


class CannotVerify(DataError):
    """The result could be neither confirmed nor refuted here."""


def runs_to_verify(
    store: Store, run_refs: Sequence[str], *, sweep: str | None = None, all_succeeded: bool = False
) -> list[Run]:
    """Return the runs that are named, of a sweep, or all: succeeded ones, for only they have a
    result. A run that is named and has none raises NotFound.
    """
    runs = [store.runs.resolve(run_ref) for run_ref in run_refs]
    for run in runs:
        if run.state is not RunState.SUCCEEDED:
            raise NotFound(
                f"run {run.id} ({run.name}) is {run.state}: only a succeeded run has a result "
                "to verify"
            )
    if sweep is not None:
        cells = store.sweeps.cells(resolve_sweep(store, sweep) or sweep)
        runs += [cell.run for cell in cells if cell.run and cell.run.state is RunState.SUCCEEDED]
    if all_succeeded:
        runs += reversed(store.runs.list(states=[RunState.SUCCEEDED]))
    return list({run.id: run for run in runs}.values())


def verify_run(
    store: Store,
    settings: Settings,
    run_id: str,
    *,
    threads: int | None = None,
    device: str | None = None,
) -> Iterator[Verdict]:
    """Verify each result of a run, mark it, and yield the verdict.

    ``threads`` and ``device`` are those of the training unless given: another device may round
    differently. A checkpoint that is gone, damaged or replaced, and other counts, mark the result
    as not verified. Of a recorded run only the checkpoint's bytes can be checked, which verifies
    nothing that was counted.
    """
    detail = store.runs.detail(run_id)
    result = store.results.get(run_id)
    if result is None:
        raise NotFound(f"run {run_id} ({detail.run.name}) has no result to verify")
    if detail.run.origin == RECORDED:
        yield _recorded_verdict(store, detail.run, result.evaluations[0], settings)
        return
    context = _execution_context(detail, settings, threads, device)
    anywhere = device is None and detail.environment.get("evaluation") == "integer"
    reevaluator = _reevaluator(store, detail, context, result.data_digest, anywhere=anywhere)
    images_known = bool(DataDigest.parse(result.data_digest).images)
    for stored in result.evaluations:
        key = stored.variant, stored.selection
        sha256 = store.results.manifest_sha256(run_id, key)
        remeasure = partial(reevaluator, sha256=sha256, variant=stored.variant)
        verdict = _verdict(detail.run, stored, remeasure, settings)
        if verdict.verified is False and verdict.measured is not None and not images_known:
            verdict = replace(verdict, verified=None, message=f"{verdict.message}{_UNKNOWN_IMAGES}")
        if verdict.verified is not None:
            store.results.mark_verified(run_id, key, verified=verdict.verified)
        yield verdict


class _Reevaluator:
    """Measures the checkpoints of one run, each variant once.

    What was counted in integers may be counted ``anywhere``: on a CPU where the GPU is missing.
    """

    def __init__(
        self,
        recipe: Recipe,
        context: ExecutionContext,
        data_digest: str,
        *,
        settled: bool,
        anywhere: bool,
    ) -> None:
        self._recipe, self._context, self._data_digest = recipe, context, data_digest
        self._settled, self._anywhere = settled, anywhere
        self._cache: dict[tuple[str, str], EvalCounts] = {}

    def __call__(self, directory: Path, sha256: str, variant: str) -> EvalCounts:
        """Return the counts of a variant of a checkpoint.

        Raises DataError when its bytes are not the stored, and CannotVerify when they are, but
        cannot be measured here.
        """
        from lsqctl.training.restore import verify_recorded_checkpoint

        verify_recorded_checkpoint(directory, sha256)
        key = sha256, variant
        if key not in self._cache:
            try:
                self._cache[key] = self._measure(directory, variant)
            except (DataError, UsageError) as error:
                raise CannotVerify(str(error)) from None
        return self._cache[key]

    def _measure(self, directory: Path, variant: str) -> EvalCounts:
        from lsqctl.services.deploy import remeasure_deployed
        from lsqctl.training.restore import reevaluate

        recipe, context, digest = self._recipe, self._context, self._data_digest
        if variant == DEPLOYED:
            return remeasure_deployed(recipe, directory, context, digest, settled=self._settled)
        if self._anywhere and variant != "bn" and not _is_here(context.device):
            context = replace(context, device="cpu")  # bn is of statistics that the GPU took
        _check_device(context.device)
        return reevaluate(recipe, directory, context, data_digest=digest, variant=variant)


def _reevaluator(
    store: Store,
    detail: RunDetail,
    context: ExecutionContext,
    data_digest: str,
    *,
    anywhere: bool,
) -> _Reevaluator:
    from lsqctl.recipe import load_stored

    deployed = store.results.deployed(detail.run.id)
    settled = deployed is not None and deployed.exactness == "settled"
    return _Reevaluator(
        load_stored(detail.recipe), context, data_digest, settled=settled, anywhere=anywhere
    )


def _verdict(
    run: Run, stored: Evaluation, measure: Callable[[Path], EvalCounts], settings: Settings
) -> Verdict:
    from lsqctl.worker.inputs import current_location

    directory = current_location(settings.run_dir(run.id), stored.checkpoint)
    measured: int | None = None
    verified: bool | None = True
    message = ""
    try:
        counts = measure(directory)
        measured = counts.n_correct
        if mismatch := _mismatch(stored, counts):
            verified, message = False, f"{directory}: {mismatch}"
    except CannotVerify as error:
        verified, message = None, str(error)
    except DataError as error:
        verified, message = False, str(error)
    return Verdict(
        run_id=run.id,
        name=run.name,
        variant=stored.variant,
        selection=stored.selection,
        n_correct=stored.n_correct,
        n_total=stored.n_total,
        measured=measured,
        verified=verified,
        checkpoint=str(directory),
        message=message,
    )


def _recorded_verdict(store: Store, run: Run, stored: Evaluation, settings: Settings) -> Verdict:
    from lsqctl.training.restore import verify_recorded_checkpoint

    key = stored.variant, stored.selection
    sha256 = store.results.manifest_sha256(run.id, key)

    def check_bytes(directory: Path) -> EvalCounts:
        if stored.checkpoint:
            verify_recorded_checkpoint(directory, sha256)
        kept = (
            "the checkpoint holds the bytes that were recorded"
            if stored.checkpoint
            else ("no checkpoint was recorded")
        )
        raise CannotVerify(
            f"recorded of a loop that lsqctl did not run, which it cannot measure again; {kept}"
        )

    verdict = replace(_verdict(run, stored, check_bytes, settings), recorded=True)
    if verdict.verified is False:
        store.results.mark_verified(run.id, key, verified=False)
    return verdict


def _mismatch(stored: Evaluation, counts: EvalCounts) -> str:
    """Return what differs between a stored evaluation and the new counts, or nothing."""
    pairs = {
        "images": (stored.n_total, counts.n_total),
        "right answers": (stored.n_correct, counts.n_correct),
        "right within the first five": (stored.n_correct_top5, counts.n_correct_top5),
    }
    for quantity, (expected, measured) in pairs.items():
        if expected != measured:
            return f"expected {expected} {quantity}, found {measured}"
    if stored.hits != counts.hits:
        pairs_of_bytes = zip(stored.hits, counts.hits, strict=False)
        differing = sum((a ^ b).bit_count() for a, b in pairs_of_bytes)
        return f"expected the same images to be right, found {differing} of them different"
    return ""


def _execution_context(
    detail: RunDetail, settings: Settings, threads: int | None, device: str | None
) -> ExecutionContext:
    """Return the execution environment of the run's last attempt, perhaps changed."""
    from lsqctl.training.runtime import ExecutionContext

    environment = detail.environment
    return ExecutionContext(
        run_dir=settings.run_dir(detail.run.id),
        data_dir=settings.data_dir_of(detail.provenance.get("data_dir")),
        device=device or str(environment.get("device", "cpu")),
        threads=threads or int(environment.get("threads", 1)),
    )


def _is_here(device: str) -> bool:
    import torch

    return not device.startswith("cuda") or torch.cuda.is_available()


def _check_device(device: str) -> None:
    if not _is_here(device):
        raise CannotVerify(
            "it was trained on a GPU and there is none here; --device cpu measures it all the "
            "same, and may round differently"
        )
