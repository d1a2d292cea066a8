"""What a loop of somebody's own says of itself, checked: names, metrics, counts, hits."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lsqctl.errors import Diverged, LsqctlError, UsageError
from lsqctl.events import COST_FIELDS, Evaluation, Result
from lsqctl.quant.spec import BIT_WIDTHS
from lsqctl.run import RECORDED, JsonObject
from lsqctl.services.recorded_model import ModelSummary

if TYPE_CHECKING:
    from torch import Tensor


_METRIC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,63}")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what a database takes for no text
_NO_TEXT_IN_JSON = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")
_MOST = 2**53  # of steps and images
MOST_EPOCHS = 2**31 - 1
_PERCENT = re.compile(r"(?:^|[_./-])top[15](?:$|[_./-])")


@dataclass(frozen=True, slots=True)
class Loop:
    """What is said of a loop before it begins: it names the run and, without the seed, the row.

    ``recipe`` is what the loop was told, in plain values; ``epochs`` how many are planned, 0 where
    nobody knows. Raises UsageError for what could not stand on a board.
    """

    name: str
    dataset: str
    seed: int = 0
    arch: str = ""
    weight_bits: int = 32
    act_bits: int = 32
    method: str = ""
    epochs: int = 0
    recipe: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_loop(self.name, self.dataset, self.seed, self.weight_bits, self.act_bits)
        for what, text in (("arch", self.arch), ("method", self.method)):
            checked_text(what, text)
        checked_count("epochs", self.epochs, most=MOST_EPOCHS)

    def stored(self) -> JsonObject:
        """Return what stands in the place of a recipe; no recipe has the key ``recorded``."""
        return {
            "recorded": dict(self.recipe),
            "name": self.name,
            "model": {"name": self.arch},
            "data": {"name": self.dataset},
            "quant": {"weight_bits": self.weight_bits, "act_bits": self.act_bits},
            "method": self.method,
            "seed": self.seed,
        }

    def sha256(self, *, with_seed: bool) -> str:
        """Return what names the run, or the group of its seeds; it is never a recipe's."""
        values = self.stored()
        if not with_seed:
            del values["seed"]
        return hashlib.sha256(json.dumps([RECORDED, values], sort_keys=True).encode()).hexdigest()


def _check_loop(name: str, dataset: str, seed: int, weight_bits: int, act_bits: int) -> None:
    """Raise UsageError for what cannot name or describe a run."""
    from lsqctl.recipe.recipe import is_valid_name

    for what, text in (("name", name), ("dataset", dataset)):
        if not isinstance(text, str) or not is_valid_name(text):
            raise UsageError(
                f"{what}={text!r}: one to four parts joined by `/`, each of letters, digits, `.`, "
                "`_` and `-`"
            )
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise UsageError(f"seed={seed!r}: a whole number from 0 to {2**31 - 1}")
    for what, bits in (("weight_bits", weight_bits), ("act_bits", act_bits)):
        if type(bits) is not int or bits not in BIT_WIDTHS:
            raise UsageError(f"{what}={bits!r}: 2 to 8, or 32 for not quantized")


def plain_seed(seed: object) -> int:
    """Return a seed as Python's int, of numpy's and torch's whole numbers too; else as it is."""
    is_number = hasattr(seed, "__index__") and not isinstance(seed, bool)
    return operator.index(seed) if is_number else seed  # type: ignore[return-value,arg-type]  # Loop refuses it


def plain_recipe(name: str, recipe: Mapping[str, object] | None) -> dict[str, object]:
    """Return what a loop was told as JSON holds it; raises UsageError for what it does not hold."""
    if recipe is not None and not isinstance(recipe, Mapping):
        raise UsageError(
            f"recipe of `{name}` must map names to plain values, got {type(recipe).__name__}; of "
            "an argparse.Namespace, vars() makes such a mapping"
        )
    try:
        text = json.dumps(dict(recipe or {}), allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise UsageError(f"recipe of `{name}` must be plain values: {error}") from None
    if _NO_TEXT_IN_JSON.search(text):
        raise UsageError(f"recipe of `{name}` holds a character that no text has")
    plain: dict[str, object] = json.loads(text)
    return plain


def _plain(value: object) -> object:
    """Return the number that numpy's or torch's holds."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is none")


def checked_text(what: str, text: object) -> str:
    """Return a text; raises UsageError for anything else, and for what no database holds."""
    if not isinstance(text, str) or _NO_TEXT.search(text):
        raise UsageError(f"{what} must be a text, got {text!r:.60}")
    return text


def checked_split(split: object) -> str:
    """Return what numbers were measured on; raises UsageError for what cannot name it."""
    if not isinstance(split, str) or not _METRIC_NAME.fullmatch(split):
        raise UsageError(f"split={split!r:.60}: letters, digits and _ . / -, as `val` or `test`")
    return split


def checked_seconds(what: str, value: object) -> float:
    """Return a time; raises UsageError for what is none."""
    seconds = _to_float(what, value)
    if not 0 <= seconds < math.inf:
        raise UsageError(f"{what} must be seconds, at least 0, got {seconds:g}")
    return seconds


def checked_metric(name: str, value: object, step: int) -> float:
    """Return a metric's value; raises UsageError for what is none, Diverged for NaN, infinity."""
    if not _METRIC_NAME.fullmatch(name):
        raise UsageError(f"`{name}` cannot name a metric: letters, digits and _ . / -")
    number = _to_float(name, value)
    if not math.isfinite(number):
        raise Diverged(
            f"metric `{name}` is {number} at step {step}; nothing of this call was stored"
        )
    if _PERCENT.search(name) and not 0 <= number <= 100:
        raise UsageError(f"metric `{name}` is in percent, 0 to 100; got {number:g}")
    return number


def _to_float(name: str, value: object) -> float:
    """Return the float of a number, or of an array or tensor that holds a single one."""
    if not isinstance(value, bool | str | bytes | None):
        plain = value.detach() if hasattr(value, "detach") else value  # a loss with gradients
        try:
            return float(plain)  # type: ignore[arg-type]  # or it raises
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise UsageError(f"metric `{name}` must be one number, got {str(value)[:40]!r}")


def checked_step(name: str, value: object, *, default: int) -> int:
    """Return a count of steps or epochs; raises UsageError for what is no whole number from 0."""
    most = MOST_EPOCHS if name == "epoch" else _MOST
    return checked_count(name, default if value is None else value, most=most)


def checked_count(name: str, value: object, *, most: int = _MOST) -> int:
    """Return a whole number, of Python, numpy or torch; raises UsageError for what is none."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # or it raises
    except TypeError:
        number = -1
    if not 0 <= number <= most:
        bound = f", {most} at most" if number > most else ""
        raise UsageError(f"{name} must be a whole number of at least 0{bound}, got {value!r:.60}")
    return number


def check_counts(n_correct: int, n_total: int, n_correct_top5: int | None) -> None:
    """Raise UsageError unless 0 <= n_correct <= n_correct_top5 <= n_total, which is at least 1."""
    counts = {"n_correct": n_correct, "n_total": n_total, "n_correct_top5": n_correct_top5}
    top5 = n_total if n_correct_top5 is None else n_correct_top5
    if not n_correct <= top5 <= n_total or n_total < 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items() if count is not None)
        raise UsageError(f"these counts cannot be ({said}): no more is right than was evaluated")


def packed_hits(hits: Sequence[bool] | None, n_correct: int, n_total: int) -> bytes:
    """Return one bit an image, most significant first; empty where ``hits`` is None.

    Raises UsageError where they are not ``n_total``, or do not add up to ``n_correct``.
    """
    import numpy as np

    if hits is None:
        return b""
    right = np.asarray(hits, dtype=bool)
    if len(right) != n_total or right.sum() != n_correct:
        raise UsageError(
            f"hits say {int(right.sum())} of {len(right)} images, the counts {n_correct} of "
            f"{n_total}: one truth value an image, in the order of the dataset"
        )
    return np.packbits(right).tobytes()


def check_tensors(checkpoint: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict whose values are tensors; raises UsageError for another one."""
    import torch

    if not isinstance(checkpoint, Mapping):
        raise UsageError(
            f"checkpoint must be a state dict, got {type(checkpoint).__name__}; of a network, its "
            "state_dict()"
        )
    others = [name for name, value in checkpoint.items() if not isinstance(value, torch.Tensor)]
    if others or not checkpoint:
        raise UsageError(
            "checkpoint must be a state dict of tensors"
            + (f"; `{others[0]}` is none" if others else ", and this one is empty")
        )
    return checkpoint


def counted_evaluation(
    counts: tuple[int | None, int | None, int | None],
    *,
    hits: Iterable[object] | None,
    loss: float | None,
    step: int,
) -> Evaluation:
    """Return the one evaluation of a loop; ``counts`` are right, right within five, and all.

    The first and the last are those of ``hits`` where they are None. Raises UsageError for counts
    and hits that do not fit each other, and where neither is there.
    """
    right = None if hits is None else checked_hits(hits)
    names = ("n_correct", "n_correct_top5", "n_total")
    n_correct, n_correct_top5, n_total = (
        None if count is None else checked_count(name, count)
        for name, count in zip(names, counts, strict=True)
    )
    n_correct, n_total = _counts_of(right, n_correct, n_total)
    check_counts(n_correct, n_total, n_correct_top5)
    return Evaluation(
        variant="raw",
        selection="last",
        headline=True,
        n_correct=n_correct,
        n_correct_top5=n_correct_top5,
        n_total=n_total,
        hits=packed_hits(right, n_correct, n_total),
        step=step,
        loss=None if loss is None else checked_metric("loss", loss, step),
    )


def checked_hits(hits: object) -> list[bool]:
    """Return whether each image was right; raises UsageError for what says that of none."""
    values = cast("Iterable[object]", hits.tolist() if hasattr(hits, "tolist") else hits)
    right: list[bool] = []
    try:
        for value in values:
            if value not in (0, 1):
                raise ValueError
            right.append(bool(value))
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"hits must hold one truth value an image, in the order of the dataset; number "
            f"{len(right)} is none, in {type(hits).__name__} {str(hits)[:40]!r}"
        ) from None
    return right


def _counts_of(
    right: Sequence[bool] | None, n_correct: int | None, n_total: int | None
) -> tuple[int, int]:
    """Return how many are right, and of how many: as they were given, else of the hits."""
    if right is not None:
        n_total = len(right) if n_total is None else n_total
        n_correct = sum(right) if n_correct is None else n_correct
    if n_correct is None or n_total is None:
        raise UsageError("finish needs n_correct and n_total, or hits, which tell both")
    return n_correct, n_total


def recorded_result(
    loop: Loop, model: ModelSummary, evaluation: Evaluation, data_dir: Path
) -> Result:
    """Return the result of a loop, with the digest of its images where its hits follow them."""
    import torch

    from lsqctl.training.runtime import peak_memory_bytes

    return Result(
        dataset=loop.dataset,
        arch=loop.arch,
        weight_bits=loop.weight_bits,
        act_bits=loop.act_bits,
        method=loop.method,
        first_last_bits=model.first_last_bits,
        granularity=model.granularity,
        peak_mem_bytes=peak_memory_bytes(torch.device(model.device)),
        device=model.device,
        torch=torch.__version__,
        data_digest=_images_digest(loop.dataset, evaluation, data_dir),
        notes="recorded: as its own loop counted",
        evaluations=(evaluation,),
        **{name: getattr(model, name) for name in COST_FIELDS},
    )


def _images_digest(dataset: str, evaluation: Evaluation, data_dir: Path) -> str:
    """Return the digest of a dataset that lsqctl has, empty without hits in its order.

    Raises UsageError where there is another number of images in it than the loop evaluated.
    """
    from lsqctl.datasets import DATASETS
    from lsqctl.recipe import DataSection
    from lsqctl.training.dataset_loader import open_dataset

    info = DATASETS.get(dataset)
    if not evaluation.hits or info is None or info.is_image_folder:
        return ""
    try:
        splits = open_dataset(DataSection(name=dataset), data_dir)
    except LsqctlError:
        return ""  # it lies elsewhere; what cannot be checked is not claimed
    if len(splits.evaluation) != evaluation.n_total:
        raise UsageError(
            f"{dataset} has {len(splits.evaluation)} images to evaluate, hits were given for "
            f"{evaluation.n_total}"
        )
    return splits.digest
