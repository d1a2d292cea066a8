"""The main path of one run: data, model, weights, steps, epochs, result.

``finetune`` yields each fact as it becomes known and keeps no books: the caller records, and stops
a run through ``Job.stop`` or by ceasing to iterate. No queue, no database, no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from lsqctl.errors import DataError, Preempted
from lsqctl.facts import Compiled, Fact, Note, Resumed
from lsqctl.failpoint import failpoint
from lsqctl.quant import Oscillations, calibrate, keep_positive, prepare
from lsqctl.recipe import Recipe
from lsqctl.training.average import WeightAverage
from lsqctl.training.batchnorm import norms
from lsqctl.training.checkpoint import read_state
from lsqctl.training.compiled import Network, channels_last, compile_for, decide
from lsqctl.training.cursor import Cursor, Tally
from lsqctl.training.datasets import open_dataset
from lsqctl.training.distill import freeze
from lsqctl.training.epoch import evaluate_epoch, train_epoch
from lsqctl.training.evaluate import evaluate
from lsqctl.training.feed import Feed
from lsqctl.training.models import build_model, input_channels
from lsqctl.training.models.weights import identity, load_weights
from lsqctl.training.optim import build_optimizer
from lsqctl.training.outcome import result, suspect
from lsqctl.training.resume_point import resume_point
from lsqctl.training.runtime import Job, circumstances, determinism, enter
from lsqctl.training.session import Session, check_stop, recipe_hash, taken_up
from lsqctl.training.step import Stepper, piece_sizes
from lsqctl.training.telemetry import first_stats


def finetune(recipe: Recipe, job: Job) -> Iterator[Fact]:
    """Train as the recipe says, from the newest good checkpoint in ``job.run_dir`` if there is one.

    The first fact is Resumed, the last one Result. Stopped and resumed anywhere, a run yields the
    same metrics (but ``seconds``) and tensors as in one go, to the bit on a CPU.

    Raises:
        Preempted: ``job.stop`` said so; the state is saved and its Checkpoint was yielded (before
            calibration there is nothing to save yet).
        Diverged: a loss, weight or step size is NaN or infinite; the last checkpoint is finite.
        DataError: data or weights are missing, damaged or do not fit.
        OSError: a checkpoint could not be written; the one before it is intact.
    """
    device = enter(job, recipe.seed)
    snapshot, complaints = resume_point(job.run_dir, job.recorded, job.owning)
    yield Resumed(snapshot.step if snapshot else None)
    feed = open_feed(recipe, job, device)
    model = build(recipe.model.name, feed)
    if snapshot:
        cursor, changes = taken_up(snapshot, recipe, job)
    else:
        cursor = first_cursor(recipe, job)
        changes = decide(cursor, recipe=recipe, job=job, feed=feed, model=model)
    teacher = load_teacher(recipe, job, feed, cursor) if recipe.distill else None
    if not snapshot:
        load_start(model, recipe, job, feed=feed, cursor=cursor)
    yield Compiled(*(cursor.circumstances[name] for name in ("compile", "channels_last")))
    yield from map(Note, (*complaints, *changes, *feed.dataset.notes))
    model = quantize(model, recipe, feed, first_values=snapshot is None)
    session = assemble(model, teacher, recipe, job, feed=feed, cursor=cursor)
    if snapshot:
        session.restore(snapshot)
    else:  # right after calibration
        yield from first_stats(session)
        yield from session.save()
        failpoint("train.calibrated")
    try:
        while not session.done:
            yield from train_epoch(session)
            yield from evaluate_epoch(session)
            yield from session.save()
    except Preempted:
        yield from session.save()
        raise
    yield from map(Note, suspect(session))
    yield result(session)


def open_feed(recipe: Recipe, job: Job, device: torch.device) -> Feed:
    """Return the batches of the recipe's dataset, with the channels that its network takes."""
    dataset = open_dataset(recipe.data, job.data_dir, workers=job.threads - 1)
    channels = input_channels(recipe.model.name, dataset.channels)
    return Feed(dataset, recipe, device, channels=channels)


def build(name: str, feed: Feed) -> nn.Module:
    """Return the network with random weights, on the device."""
    return build_model(name, **feed.network).to(feed.device)


def first_cursor(recipe: Recipe, job: Job) -> Cursor:
    """Return the cursor of a run that begins; without epochs, only an evaluation is to come."""
    return Cursor(
        recipe=recipe_hash(recipe),
        evaluation_pending=recipe.train.epochs == 0,
        digests={key: identity(source) for key, source in job.inputs.items()},
        circumstances=dict(circumstances(job)),
        deterministic=determinism(job),
    )


def load_start(model: nn.Module, recipe: Recipe, job: Job, *, feed: Feed, cursor: Cursor) -> None:
    """Load the first weights and, before they are quantized, count what they get right.

    The weights of a quantized parent are no full-precision network any more: what its own start
    got right is taken over, so that a chain is compared with where it began.
    """
    if recipe.model.weights is None:
        return
    source = job.inputs["model.weights"]
    load_weights(model, source, model_name=recipe.model.name)
    if recipe.quant.spec().quantized:
        cursor.fp32 = full_precision_start(source, feed)
    if recipe.quant.spec().quantized and cursor.fp32 is None:
        counts = evaluate(model, feed.evaluation(), before_batch=lambda: check_stop(job))
        cursor.fp32 = Tally.of(counts, 0)


def full_precision_start(source: str | Path, feed: Feed) -> Tally | None:
    """Return what a parent's full-precision start got right, if that was on the same images."""
    if not isinstance(source, Path) or not source.is_dir():
        return None
    state = read_state(source)
    same_images = state.get("data") == feed.dataset.digest
    return Cursor.from_state(state["cursor"]).fp32 if same_images else None


def quantize(model: nn.Module, recipe: Recipe, feed: Feed, *, first_values: bool) -> nn.Module:
    """Swap the layers and give the steps their first values, unless a checkpoint brings them."""
    spec = recipe.quant.spec()
    if not spec.quantized:
        return model
    try:
        model = prepare(model, spec)
        if first_values:
            calibrate(model, feed.calibration(recipe.quant.calibration_images))
    except ValueError as error:
        raise DataError(f"{recipe.model.name} cannot be quantized: {error}") from None
    return model


def assemble(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    job: Job,
    *,
    feed: Feed,
    cursor: Cursor,
) -> Session:
    """Return the session: optimizer, steps that stay positive, averages, what is compiled."""
    train, optimizer = recipe.train, build_optimizer(model, recipe)
    if train.bn_reestimate_images and not norms(model):
        raise DataError(f"train.bn_reestimate_images: {recipe.model.name} has no batch norm")
    quantized = recipe.quant.spec().quantized
    network: Network = model
    tutor: Network | None = teacher
    if cursor.circumstances.get("compile"):
        batch = min(recipe.data.batch_size, len(feed.dataset.train))
        size = piece_sizes(batch, train.accumulate)[0]
        network = compile_for(model, batch_size=size)
        tutor = compile_for(teacher, batch_size=size) if teacher else None
    elif cursor.circumstances.get("channels_last"):
        network, tutor = channels_last(model), channels_last(teacher) if teacher else None
    averaged = train.ema_decay is not None and train.epochs > 0
    return Session(
        *(recipe, job, feed, model, teacher, optimizer),
        positive=keep_positive(optimizer, model) if quantized else None,
        cursor=cursor,
        network=network,
        tutor=tutor,
        stepper=Stepper(optimizer, train, feed.device),
        average=WeightAverage(model, train.ema_decay or 0.0) if averaged else None,
        oscillations=Oscillations(model) if quantized else None,
    )


def load_teacher(recipe: Recipe, job: Job, feed: Feed, cursor: Cursor) -> nn.Module:
    """Return the frozen teacher; raises DataError when its bytes are not those of the start."""
    assert recipe.distill is not None
    source = job.inputs["distill.teacher"]
    if identity(source) != cursor.digests["distill.teacher"]:
        raise DataError(f"the teacher {source} has changed since the run began")
    name = recipe.network_of("distill.teacher")
    teacher = build(name, feed)
    load_weights(teacher, source, model_name=name, key="distill.teacher")
    return freeze(teacher)
