"""Measure a stored checkpoint again: the same network, the same images, counted anew."""

from __future__ import annotations

from pathlib import Path

from lsqctl.errors import DataError
from lsqctl.recipe import Recipe
from lsqctl.training.batchnorm import reestimated
from lsqctl.training.checkpoint import verify_checkpoint
from lsqctl.training.evaluate import Counts, evaluate
from lsqctl.training.finetuning import open_feed
from lsqctl.training.restore import restore_model
from lsqctl.training.runtime import Job, autocast, enter


def check_bytes(directory: Path, sha256: str) -> None:
    """Check every byte of a checkpoint against the manifest, and the manifest against ``sha256``.

    Raises DataError in one line that names the file, what was expected and what was found.
    """
    found = verify_checkpoint(directory)
    if found != sha256:
        manifest = directory / "manifest.json"
        raise DataError(
            f"{manifest} is of another checkpoint: its sha256 is {found}, the database says "
            f"{sha256 or 'none'}"
        )


def reevaluate(
    recipe: Recipe, directory: Path, job: Job, *, data_digest: str, variant: str = "raw"
) -> Counts:
    """Return the counts of a checkpoint's variant on the recipe's evaluation split.

    ``bn`` is estimated again from the raw weights, by the images that the training took for it.

    On the same machine, with as many threads, they are those of the training to the last image.
    Raises DataError for a dataset that is missing, damaged, or not the one of ``data_digest``.
    """
    device = enter(job, recipe.seed)
    feed = open_feed(recipe, job, device)
    if (found := feed.dataset.digest) != data_digest:
        raise DataError(
            f"{recipe.data.name} in {job.data_dir} is not the dataset of the training: its digest "
            f"is {found}, the database says {data_digest}"
        )
    model = restore_model(recipe, directory, "raw" if variant == "bn" else variant).to(device)
    with autocast(recipe.train.precision, device):
        if variant == "bn":
            model = reestimated(model, feed.reestimation(recipe.train.bn_reestimate_images))
        return evaluate(model, feed.evaluation())
