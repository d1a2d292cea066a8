"""Statistics of each quantizer by epoch: measured beside the training, never a part of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from torch import Tensor

from lsqctl.events import QuantizerStats
from lsqctl.quant import QuantizerReading, collect_stats
from lsqctl.run import JsonObject
from lsqctl.training.precision import autocast
from lsqctl.training.session import TrainingSession

_UPDATES_PER_READING = 10  # of the weights' codes, between two readings
_MIN_STEPS_PER_READING = (
    100  # between two readings: less would cost a small net more than 1 % of its steps
)
_SAMPLE_VALUES = 100_000  # of the input: 32 images of CIFAR, 8 of ImageNet are enough
_MIN_IMAGES, _MAX_IMAGES = 8, 32


def initial_stats(session: TrainingSession) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers right after calibration, as epoch 0."""
    if session.oscillations is None:
        return
    count = sample_size(session.pipeline.input_shape)
    for images in session.pipeline.calibration_batches(count):
        yield from _collect_stats(session, images[:count], epoch=0)
        return


def start_oscillations(session: TrainingSession) -> None:
    """Remember the weights' first codes, unless a checkpoint brought them."""
    if session.oscillations is not None and not session.oscillations.started:
        session.oscillations.update()


def update_oscillations(session: TrainingSession) -> None:
    """Compare the weights' codes with the last ones, after a step where that is due."""
    steps = _epochs_per_reading(session) * session.pipeline.steps_per_epoch
    due = session.train_state.step % max(1, steps // _UPDATES_PER_READING) == 0
    if session.oscillations is not None and due:
        session.oscillations.update()


def epoch_stats(session: TrainingSession, images: Tensor) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers at an epoch's end, and begin the next ones.

    ``images`` is its last training batch, of which a few are measured in evaluation mode. Where
    epochs are very short, only at the end of every few, and of the last.
    """
    epochs_done, epochs = session.train_state.epoch + 1, session.recipe.train.epochs
    due = epochs_done % _epochs_per_reading(session) == 0 or epochs_done == epochs
    if session.oscillations is None or not due:
        return
    yield from _collect_stats(
        session,
        images[: sample_size(session.pipeline.input_shape)],
        epoch=epochs_done,
        rates=session.oscillations.rates(),
        clamped=session.train_state.clamped,
    )
    session.oscillations.reset()


def _collect_stats(
    session: TrainingSession,
    images: Tensor,
    *,
    epoch: int,
    rates: Mapping[str, float] | None = None,
    clamped: Mapping[str, int] | None = None,
) -> Iterator[QuantizerStats]:
    rates, clamped = rates or {}, clamped or {}
    with autocast(session.recipe.train.precision, images.device):
        readings = collect_stats(session.model, images)
    for reading in readings:
        rate = rates.get(reading.name)
        yield QuantizerStats(
            **_rounded(reading),
            epoch=epoch,
            step=session.train_state.step,
            oscillation_rate=None if rate is None else _six_digits(rate),
            clamped=clamped.get(reading.name, 0),
        )


def _rounded(reading: QuantizerReading) -> JsonObject:
    """Return a reading's values, to six digits: they are stored a hundred thousand times."""
    values = asdict(reading)
    return {
        key: _six_digits(value) if type(value) is float else value for key, value in values.items()
    }


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _epochs_per_reading(session: TrainingSession) -> int:
    """Return how many epochs lie between two readings: 1 where an epoch has steps enough."""
    return math.ceil(_MIN_STEPS_PER_READING / session.pipeline.steps_per_epoch)


def sample_size(shape: tuple[int, int, int]) -> int:
    """Return how many images of (C, H, W) are measured."""
    channels, height, width = shape
    return min(max(_SAMPLE_VALUES // (channels * height * width), _MIN_IMAGES), _MAX_IMAGES)
