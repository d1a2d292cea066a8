"""What an epoch shows of its quantizers: looked at beside the training, never a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from lsqctl.facts import QuantizerStats
from lsqctl.quant import Reading, read_quantizers
from lsqctl.training.runtime import autocast
from lsqctl.training.session import Session

_VALUES = 100_000  # of the input: 32 images of CIFAR, 8 of ImageNet are enough for shares and codes
_FEWEST, _MOST = 8, 32


def first_stats(session: Session) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers right after calibration, as epoch 0."""
    if session.oscillations is None:
        return
    count = _sample_size(session.feed.input_shape)
    for images in session.feed.calibration(count):
        yield from _stats(session, images[:count], epoch=0)
        return


def epoch_stats(session: Session, images: Tensor) -> Iterator[QuantizerStats]:
    """Yield each quantizer's numbers at an epoch's end, and begin the next epoch's.

    ``images`` is its last training batch, of which a few are looked at in evaluation mode.
    """
    if session.oscillations is None:
        return
    yield from _stats(
        session,
        images[: _sample_size(session.feed.input_shape)],
        epoch=session.cursor.epoch + 1,
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


def _sample_size(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return min(max(_VALUES // (channels * height * width), _FEWEST), _MOST)
