"""The laws that what a plugin declares must keep, to be asked in the plugin's tests:

    @pytest.mark.parametrize("law", model_laws("flowers/tinynet"), ids=str)
    def test_tinynet_keeps(law):
        law()

A law that is broken raises PluginError, which says what was wanted and what came. What lsqctl ships
keeps the same laws, by the same names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lsqctl.discovery import plugin_faults
from lsqctl.errors import DataError, PluginError
from lsqctl.events import BoardRow
from lsqctl.run import RunState
from lsqctl.settings import load_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lsqctl.leaderboard.board import Board
    from lsqctl.trackers import Tracker
    from lsqctl.training.data_pipeline import DatasetSplits

__all__ = [
    "Law",
    "board_format_laws",
    "dataset_laws",
    "launcher_laws",
    "model_laws",
    "tracker_laws",
]


@dataclass(frozen=True, slots=True)
class Law:
    """One law of one name: a sentence, and a check that raises PluginError where it is broken."""

    sentence: str
    check: Callable[[], None]

    def __call__(self) -> None:
        """Ask whether it is kept."""
        self.check()

    def __str__(self) -> str:
        return self.sentence


def model_laws(name: str, *, image_size: int | None = None) -> tuple[Law, ...]:
    """Return the laws of a model, tried on images of ``image_size`` pixels a side.

    None tries 32, and 224 where the network cannot take 32.
    """
    sizes = (32, 224) if image_size is None else (image_size,)
    laws: dict[str, Callable[[_ModelTrial], None]] = {
        "it gives one logit a class, for any number of classes": _gives_logits,
        "the same seed gives the same first weights": _is_seeded,
        "in evaluation, an image is judged without the others of its batch": _judges_alone,
        "its state is all that it is: loaded into another, it computes the same": _has_state,
        "quantized to 4 bits, every step size and weight is trained": _trains_quantized,
        "it declares depthwise convolutions where it has some": _declares_depthwise,
    }
    return tuple(
        Law(sentence, partial(_try_model, check, name, sizes)) for sentence, check in laws.items()
    )


def dataset_laws(name: str, data_dir: Path | None = None) -> tuple[Law, ...]:
    """Return the laws of a dataset that lies in ``data_dir``, by default the workspace's."""
    folder = data_dir or load_settings().data_dir
    laws = {
        "it is read as it declares": _opens,
        "read twice, it is the same": _is_stable,
        "every class has an image to train on": _has_all_classes,
        "an augmented image is decided by seed, epoch and index alone": _is_pure,
    }
    return tuple(Law(sentence, partial(check, name, folder)) for sentence, check in laws.items())


def board_format_laws(name: str) -> tuple[Law, ...]:
    """Return the laws of a format of the board."""
    laws = {
        "the same board gives the same text": _writes_the_same,
        "a board without a row is written": _writes_an_empty_board,
        "its text ends a line, and no control character of a name is in it": _writes_safe_text,
    }
    return tuple(Law(sentence, partial(check, name)) for sentence, check in laws.items())


def _require(kept: bool, wanted: str) -> None:
    if not kept:
        raise PluginError(wanted)


@dataclass(frozen=True, slots=True)
class _ModelTrial:
    """A model to try: ``build`` makes it, with the weights of seed 0, for so many classes."""

    name: str
    image_size: int
    in_channels: int

    def build(self, num_classes: int = 10) -> nn.Module:
        import torch

        from lsqctl.models.factory import build_model

        torch.manual_seed(0)
        return build_model(
            self.name,
            num_classes=num_classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
        )

    def images(self, count: int) -> Tensor:
        import torch

        generator = torch.Generator().manual_seed(1)
        shape = (count, self.in_channels, self.image_size, self.image_size)
        return torch.randn(shape, generator=generator)


def _try_model(check: Callable[[_ModelTrial], None], name: str, sizes: tuple[int, ...]) -> None:
    """Check at the first size that the network takes."""
    import torch

    from lsqctl.models import input_channels

    channels = input_channels(name, 3)
    for size in sizes:
        trial = _ModelTrial(name, size, channels)
        try:
            with torch.random.fork_rng(devices=[]):
                return check(trial)
        except DataError:
            if size == sizes[-1]:
                raise
    return None


def _gives_logits(trial: _ModelTrial) -> None:
    for num_classes in (2, 10):
        logits = trial.build(num_classes).eval()(trial.images(2))
        _require(
            tuple(logits.shape) == (2, num_classes),
            f"of 2 images and {num_classes} classes it gives {tuple(logits.shape)}",
        )


def _is_seeded(trial: _ModelTrial) -> None:
    first, second = trial.build().state_dict(), trial.build().state_dict()
    differing = [key for key, value in first.items() if not value.equal(second[key])]
    _require(not differing, f"built twice with one seed, {differing[:1]} differs")


def _judges_alone(trial: _ModelTrial) -> None:
    import torch

    model, images = trial.build().eval(), trial.images(4)
    with torch.no_grad():
        together, alone = model(images), model(images[:1])
    gap = (together[:1] - alone).abs().max().item()
    _require(
        torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-4),
        f"one image's logits differ by {gap:.3g} when three others are beside it",
    )


def _has_state(trial: _ModelTrial) -> None:
    import torch

    model, images = trial.build().eval(), trial.images(2)
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.01)
    other = trial.build().eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        same = torch.equal(model(images), other(images))
    _require(same, "a network with the same state dict computes other logits")


def _trains_quantized(trial: _ModelTrial) -> None:
    import torch
    from torch.nn import functional as F

    from lsqctl.quant import QuantSpec, calibrate, prepare, quantizers

    images = trial.images(4)
    model = prepare(trial.build(), QuantSpec(weight_bits=4, act_bits=4), images)
    try:
        calibrate(model, [images])
    except ValueError as error:
        raise PluginError(str(error)) from None
    _require(bool(quantizers(model)), "it has no convolution or linear layer to quantize")
    torch.autograd.backward(F.cross_entropy(model.train()(images), torch.arange(4)))
    untrained = [key for key, value in model.named_parameters() if value.grad is None]
    _require(not untrained, f"no gradient reaches {', '.join(untrained[:3])}")


def _declares_depthwise(trial: _ModelTrial) -> None:
    from torch import nn

    from lsqctl.models import MODELS

    info = MODELS.get(trial.name)
    convolutions = [module for module in trial.build().modules() if isinstance(module, nn.Conv2d)]
    found = any(1 < layer.groups == layer.in_channels for layer in convolutions)
    _require(
        info is None or info.depthwise == found,
        f"it {'has' if found else 'has no'} depthwise convolutions; declare `depthwise={found}`",
    )


def _open(name: str, data_dir: Path) -> DatasetSplits:
    from lsqctl.recipe import DataSection
    from lsqctl.training.dataset_loader import open_dataset

    return open_dataset(DataSection(name=name), data_dir)


def _opens(name: str, data_dir: Path) -> None:
    splits = _open(name, data_dir)
    for split in (splits.train, splits.evaluation):
        _require(len(split) >= 2, f"a split has {len(split)} images, and batch norm needs 2")


def _is_stable(name: str, data_dir: Path) -> None:
    first, second = _open(name, data_dir).digest, _open(name, data_dir).digest
    _require(first == second, "two readings have different digests")


def _has_all_classes(name: str, data_dir: Path) -> None:
    import numpy as np

    splits = _open(name, data_dir)
    indices = np.arange(len(splits.train))
    batches = (indices[start : start + 256] for start in range(0, len(indices), 256))
    found = {int(label) for _, labels in splits.train.eval_batches(batches) for label in labels}
    missing = sorted(set(range(splits.num_classes)) - found)
    _require(not missing, f"no image to train on is of the classes {missing[:5]}")


def _is_pure(name: str, data_dir: Path) -> None:
    import numpy as np
    import torch

    train = _open(name, data_dir).train
    indices = np.arange(min(4, len(train)))
    (together, _), *_ = train.train_batches([indices], seed=3, epoch=1)
    for position, index in enumerate(indices):
        (alone, _), *_ = train.train_batches([np.array([index])], seed=3, epoch=1)
        _require(torch.equal(alone[0], together[position]), f"image {index} depends on its batch")


def _row(**changes: object) -> BoardRow:
    """Return a row of a run that nobody trained: it exists to be written, never to be shown."""
    values: dict[str, object] = {
        "run_id": "22222222",
        "name": "sample/net-w4a4",
        "state": RunState.SUCCEEDED,
        "seed": 0,
        "recipe_sha256": "0" * 64,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "dataset": "digits",
        "arch": "resnet8",
        "weight_bits": 4,
        "act_bits": 4,
        "n_correct": 500,
        "n_total": 540,
        "split": "test",
    }
    return BoardRow(**(values | changes))  # type: ignore[arg-type]  # as the fields are typed


def _board(rows: int = 2) -> Board:
    from lsqctl.leaderboard.rank import rank

    hostile = _row(run_id="33333333", recipe_sha256="1" * 64, name="a\x1b[31m|b", notes="<i>\x07")
    return rank([_row(), hostile][:rows])


def _written(name: str, board: Board) -> str:
    from lsqctl.leaderboard.output import format_board

    return format_board(board, name)


def _writes_the_same(name: str) -> None:
    _require(_written(name, _board()) == _written(name, _board()), "two texts of one board differ")


def _writes_an_empty_board(name: str) -> None:
    _written(name, _board(rows=0))


def _writes_safe_text(name: str) -> None:
    text = _written(name, _board())
    _require(text.endswith("\n"), "its text does not end with a line's end")
    _require(
        not any(character in text for character in "\x1b\x07"),
        "it writes control characters of names as they are; lsqctl.text.sanitize writes them out",
    )


def tracker_laws(name: str) -> tuple[Law, ...]:
    """Return the laws of a tracker, tried in a folder that is then removed."""
    laws = {
        "it takes numbers, NaN and infinity among them, and ends": 1,
        "an attempt that goes on may follow one that was cut off": 2,
    }
    return tuple(
        Law(sentence, partial(_try_tracker, name, attempts)) for sentence, attempts in laws.items()
    )


def _logged(name: str, folder: Path, attempt: int) -> Tracker:
    """Return a tracker of an attempt that has been given numbers."""
    from lsqctl.trackers import TRACKERS, Number, TrackedRun

    recipe = {"model": {"name": "resnet8"}, "data": {"name": "digits"}}
    resumed = 1 if attempt > 1 else None
    run = TrackedRun("22222222", "sample/net-w4a4", 0, attempt, recipe, folder, resumed)
    tried: Tracker = TRACKERS.load(name)(run)
    values = (1.5, float("nan"), float("inf"), -1e300)
    tried.log([Number("test/top1", step, value, 1e9) for step, value in enumerate(values)])
    return tried


def _try_tracker(name: str, attempts: int) -> None:
    """Log numbers of so many attempts, each of which begins while the one before is not ended."""
    from lsqctl.trackers import TRACKERS

    plugin = TRACKERS.plugin_of(name)
    with TemporaryDirectory() as folder, plugin_faults(plugin):
        tried = [_logged(name, Path(folder), attempt + 1) for attempt in range(attempts)]
        for one in reversed(tried):
            one.close()


_ANSWER_SECONDS = 60.0
_ANSWERS = "import os, sys; os.write(int(sys.argv[1]), sys.stdin.buffer.read()); sys.exit(75)"
_ENDS_ITSELF = "import os, signal; os.killpg(os.getpgrp(), signal.SIGTERM); signal.pause()"


def launcher_laws(name: str) -> tuple[Law, ...]:
    """Return the laws of a launcher, tried on a Python that answers in an attempt's place."""
    laws = {
        "what it starts reads its input, writes to its pipe, and gives its exit code": (
            partial(_try_launcher, name, _ANSWERS, (75, b"asked"))
        ),
        "a signal to the group of what it starts ends it": (
            partial(_try_launcher, name, _ENDS_ITSELF, (-signal.SIGTERM, b""))
        ),
    }
    return tuple(Law(sentence, check) for sentence, check in laws.items())


def _try_launcher(name: str, code: str, wanted: tuple[int, bytes]) -> None:
    from lsqctl.launchers import launched_words

    (reading, writing), (asking, asked) = os.pipe(), os.pipe()
    os.write(asked, b"asked")  # now: one that does not read it would end this process by SIGPIPE
    os.close(asked)
    with os.fdopen(reading, "rb") as pipe, os.fdopen(asking, "rb") as question:
        try:
            words = launched_words(name, (sys.executable, "-c", code, str(writing)), {})
            started = subprocess.Popen(
                words,
                stdin=question,
                stdout=subprocess.DEVNULL,
                pass_fds=(writing,),
                start_new_session=True,
            )
        except OSError as error:
            raise PluginError(f"what the launcher {name} made does not start: {error}") from None
        finally:
            os.close(writing)
        try:
            started.wait(_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
        if (found := (started.wait(), pipe.read())) != wanted:
            raise PluginError(f"the launcher {name}: exit code and answer {wanted} became {found}")
