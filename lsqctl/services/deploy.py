"""Turn a run into a folder of integer files that other runtimes execute, and check it there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsqctl.datasets.data_digest import same_data
from lsqctl.errors import DataError, NotFound
from lsqctl.run import RunDetail, RunState
from lsqctl.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lsqctl.deploy import Conversion, Options, Pixels
    from lsqctl.deploy.card import Card
    from lsqctl.events import DeployedResult, Evaluation, Result
    from lsqctl.recipe import Recipe
    from lsqctl.store import Store
    from lsqctl.training.data_pipeline import DataPipeline
    from lsqctl.training.evaluation import EvalCounts, RunningCounts
    from lsqctl.training.runtime import ExecutionContext


@dataclass(frozen=True, slots=True)
class Deployment:
    """What came of it: the run, its headline evaluation, and the conversion with its counts.

    ``deployed`` is what the board has of the file; None where only a part of the images was
    compared.
    """

    run_id: str
    name: str
    headline: Evaluation
    conversion: Conversion
    deployed: DeployedResult | None


def deploy_run(
    store: Store,
    settings: Settings,
    run_ref: str,
    directory: Path,
    options: Options,
    *,
    check: int | None = None,
) -> Deployment:
    """Write the network of a run's headline result as a folder of files, and check them.

    Their card and who listens come from the run, whatever ``options`` say; ``check`` is how many
    images of the evaluation split are compared, None all. Raises NotFound for a run without a
    result, DataError for a damaged checkpoint, a missing dataset or a layer that has no integer
    form, UsageError where the folder exists; nothing is written then.
    """
    from lsqctl.deploy import convert
    from lsqctl.deploy.conversion import check_forms
    from lsqctl.deploy.folder import check_free
    from lsqctl.recipe import load_stored
    from lsqctl.training.evaluation import RunningCounts

    check_free(directory)
    check_forms(options.forms)
    detail = store.runs.detail(store.runs.resolve(run_ref).id)
    result, headline = _headline(store, detail)
    recipe = load_stored(detail.recipe)
    model = _restore(store, settings, detail, recipe, headline)
    pipeline = _pipeline(recipe, detail, settings, options.threads)
    _check_dataset(pipeline, recipe, result.data_digest)
    card = replace(_card(recipe, detail, result, headline), labels=pipeline.dataset.labels)
    running = RunningCounts()
    options = replace(options, card=card, listeners={"exact": running.add})
    batches = _batches(pipeline, check)
    conversion = convert(model, directory, batches, pixels=_pixels(pipeline), options=options)
    deployed = _deployed_result(directory, headline, running, len(pipeline.dataset.evaluation))
    if deployed is not None:
        store.results.put_deployed(detail.run.id, deployed)
    return Deployment(detail.run.id, detail.run.name, headline, conversion, deployed)


def _restore(
    store: Store, settings: Settings, detail: RunDetail, recipe: Recipe, headline: Evaluation
) -> nn.Module:
    """Return the network that the headline counted; raises DataError for a damaged checkpoint."""
    from lsqctl.training.restore import restore_model, verify_recorded_checkpoint
    from lsqctl.worker.inputs import current_location

    checkpoint = current_location(settings.run_dir(detail.run.id), headline.checkpoint)
    key = headline.variant, headline.selection
    verify_recorded_checkpoint(checkpoint, store.results.manifest_sha256(detail.run.id, key))
    return restore_model(recipe, checkpoint, headline.variant)


def _deployed_result(
    directory: Path, headline: Evaluation, running: RunningCounts, n_images: int
) -> DeployedResult | None:
    """Return what the exact form's file answered by itself over the evaluation split.

    That is what the check heard of it; None unless it was compared on the whole split.
    """
    from lsqctl.deploy.folder import exact_entry, exactness, read_report
    from lsqctl.events import DEPLOYED, DeployedResult

    report = read_report(directory)
    entry = exact_entry(report, n_images)
    if entry is None:
        return None
    counts = running.counts()
    evaluation = replace(
        headline,
        variant=DEPLOYED,
        headline=False,
        n_correct=counts.n_correct,
        n_correct_top5=counts.n_correct_top5,
        n_total=counts.n_total,
        hits=counts.hits,
        loss=counts.loss,
    )
    return DeployedResult(evaluation, exactness(report), entry["bytes"])


def _count(file: bytes, pipeline: DataPipeline, threads: int) -> EvalCounts:
    from lsqctl.deploy.checking import DeployedModel
    from lsqctl.training.evaluation import evaluate

    return evaluate(DeployedModel(file, threads=threads), pipeline.eval_pixels())


def remeasure_deployed(
    recipe: Recipe, directory: Path, context: ExecutionContext, data_digest: str, *, settled: bool
) -> EvalCounts:
    """Deploy a checkpoint's headline network once more, and count what the file answers.

    Raises DataError for another dataset, UsageError where a package is missing.
    """
    from lsqctl.deploy.conversion import check_forms, exact_file
    from lsqctl.deploy.tracing import trace
    from lsqctl.training.beginning import open_pipeline
    from lsqctl.training.restore import restore_model
    from lsqctl.training.runtime import setup_torch

    check_forms(["exact"])
    context = replace(context, device="cpu")
    pipeline = open_pipeline(recipe, context, setup_torch(context, recipe.seed))
    _check_dataset(pipeline, recipe, data_digest)
    shape = tuple(next(pipeline.eval_pixels())[0].shape[1:])
    network = trace(restore_model(recipe, directory, None), shape, _pixels(pipeline))
    return _count(exact_file(network, settled=settled), pipeline, context.threads)


def _headline(store: Store, detail: RunDetail) -> tuple[Result, Evaluation]:
    run = detail.run
    if run.state is not RunState.SUCCEEDED:
        raise NotFound(
            f"run {run.id} ({run.name}) is {run.state}: only a succeeded run can be deployed"
        )
    result = store.results.get(run.id)
    headline = next((one for one in result.evaluations if one.headline), None) if result else None
    if result is None or headline is None:
        raise NotFound(f"run {run.id} ({run.name}) has no result to deploy")
    return result, headline


def _pipeline(recipe: Recipe, detail: RunDetail, settings: Settings, threads: int) -> DataPipeline:
    from lsqctl.training.beginning import open_pipeline
    from lsqctl.training.runtime import ExecutionContext, setup_torch

    data_dir = settings.data_dir_of(detail.provenance.get("data_dir"))
    context = ExecutionContext(settings.run_dir(detail.run.id), data_dir, threads=threads)
    return open_pipeline(recipe, context, setup_torch(context, recipe.seed))


def _check_dataset(pipeline: DataPipeline, recipe: Recipe, expected: str) -> None:
    if same_data(expected, digest := pipeline.dataset.digest) is False:
        raise DataError(
            f"{recipe.data.name} here is not the dataset of the training: its digest is {digest}, "
            f"the database says {expected}"
        )


def _pixels(pipeline: DataPipeline) -> Pixels:
    from lsqctl.deploy import Pixels

    return Pixels(pipeline.dataset.mean, pipeline.dataset.std, pipeline.channels)


def _batches(pipeline: DataPipeline, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of the evaluation split as bytes, and their labels, up to a limit."""
    rest = len(pipeline.dataset.evaluation) if limit is None else limit
    for pixels, labels in pipeline.eval_pixels():
        if rest <= 0:
            return
        yield pixels[:rest], labels[:rest]
        rest -= len(labels)


def _card(recipe: Recipe, detail: RunDetail, result: Result, headline: Evaluation) -> Card:
    from lsqctl.deploy.card import Card

    top1 = 100 * headline.n_correct / headline.n_total
    details = {
        "run": f"{detail.run.id} ({recipe.name}, seed {recipe.seed})",
        "recipe sha256": detail.run.recipe_sha256,
        "network": recipe.model.name,
        "bits": f"W{result.weight_bits}A{result.act_bits}, first and last {result.first_last_bits}",
        "method": result.method,
        "board": f"Top-1 {top1:.2f} % ({headline.n_correct} of {headline.n_total} of the "
        f"{result.split} split of {result.dataset}), {headline.variant} weights, "
        f"{headline.selection} epoch",
        "preprocessing": result.preprocessing,
        "data digest": result.data_digest,
    }
    data = recipe.data
    return Card(
        title=recipe.name,
        dataset=result.dataset,
        architecture=recipe.model.name.removeprefix("timm/"),
        details=details,
        interpolation=data.interpolation,
        crop_pct=1.0 if result.split == "test" else round(data.crop / data.resize, 6),
    )
