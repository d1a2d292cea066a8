"""What an epoch shows of its quantizers: looked at beside the training, never a part of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from lsqctl.facts import QuantizerStats
from lsqctl.quant import Reading, read_quantizers
from lsqctl.training.runtime import autocast
from lsqctl.training.session import Session

_LOOKS = 10  # at the weights' codes, between two readings
_MIN_STEPS = 100  # between two readings: less would cost a small net more than 1 % of its steps
_VALUES = 100_000  # of the input: 32 images of CIFAR, 8 of ImageNet are enough for shares and codes
_FEWEST, _MOST = 8, 32


def first_stats(session: Session) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers right after calibration, as epoch 0."""
    if session.oscillations is None:
        return
    count = sample_size(session.feed.input_shape)
    for images in session.feed.calibration(count):
        yield from _stats(session, images[:count], epoch=0)
        return


def begin_watch(session: Session) -> None:
    """Take the first look at the weights' codes, unless a checkpoint brought it."""
    if session.oscillations is not None and not session.oscillations.begun:
        session.oscillations.look()


def watch(session: Session) -> None:
    """Look at the weights' codes after a step where a look is due."""
    steps = _stride(session) * session.feed.steps_per_epoch
    due = session.cursor.step % max(1, steps // _LOOKS) == 0
    if session.oscillations is not None and due:
        session.oscillations.look()


def epoch_stats(session: Session, images: Tensor) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers at an epoch's end, and begin the next ones.

    ``images`` is its last training batch, of which a few are looked at in evaluation mode. Where
    epochs are very short, only at the end of every few, and of the last.
    """
    ended, epochs = session.cursor.epoch + 1, session.recipe.train.epochs
    due = ended % _stride(session) == 0 or ended == epochs
    if session.oscillations is None or not due:
        return
    yield from _stats(
        session,
        images[: sample_size(session.feed.input_shape)],
        epoch=ended,
        rates=session.oscillations.rates(),
        clamped=session.cursor.clamped,
    )
    session.oscillations.forget()


def _stats(
    session: Session,
    images: Tensor,
    *,
    epoch: int,
    rates: Mapping[str, float] | None = None,
    clamped: Mapping[str, int] | None = None,
) -> Iterator[QuantizerStats]:
    rates, clamped = rates or {}, clamped or {}
    with autocast(session.recipe.train.precision, images.device):
        readings = read_quantizers(session.model, images)
    for one in readings:
        rate = rates.get(one.name)
        yield QuantizerStats(
            **_short(one),
            epoch=epoch,
            step=session.cursor.step,
            oscillation_rate=None if rate is None else _six(rate),
            clamped=clamped.get(one.name, 0),
        )


def _short(reading: Reading) -> dict[str, Any]:
    """Return a reading's values, to six digits: they are stored a hundred thousand times."""
    values = asdict(reading)
    return {key: _six(one) if type(one) is float else one for key, one in values.items()}


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _stride(session: Session) -> int:
    """Return how many epochs lie between two readings: 1 where an epoch has steps enough."""
    return math.ceil(_MIN_STEPS / session.feed.steps_per_epoch)


def sample_size(shape: tuple[int, int, int]) -> int:
    """Return how many images of (C, H, W) are looked at."""
    channels, height, width = shape
    return min(max(_VALUES // (channels * height * width), _FEWEST), _MOST)
