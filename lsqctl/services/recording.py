"""Put a training loop of somebody's own onto the board: a run that lsqctl records and did not run.

The run is real: it has state, lease, attempt, metrics, result and provenance, and its ``origin`` is
``recorded``. A thread renews its lease and stores metrics, so that a loop that is killed loses one
second of them and ends as ``worker_lost``.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from lsqctl.errors import LeaseLost, LsqctlError, StoreError, UsageError
from lsqctl.events import Metric, Progress, Result
from lsqctl.run import (
    RECORDED,
    EndReason,
    IfExists,
    JsonObject,
    Lease,
    NewRun,
    check_tag,
)
from lsqctl.services.recorded_model import ModelSummary
from lsqctl.services.recorded_values import (
    Loop,
    check_tensors,
    checked_metric,
    checked_seconds,
    checked_split,
    checked_step,
    checked_text,
    counted_evaluation,
    recorded_result,
)
from lsqctl.settings import Settings, current_user
from lsqctl.text import closest_name, edit_distance

if TYPE_CHECKING:
    from torch import Tensor

    from lsqctl.store import Store

T = TypeVar("T")

FLUSH_SECONDS = 1.0
_MISSPELLED = 2  # edits at most: a name further off is a dataset of somebody's own


class Recording:
    """A run whose loop calls ``log`` as it goes and ``finish`` at its end.

    As a context manager it ends with its block: by an error as failed, by Ctrl-C as cancelled.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        worker_id: str,
        described: tuple[Loop, ModelSummary],
        settings: Settings,
    ) -> None:
        self._loop, self._model = described
        self.id, self.name = lease.run_id, self._loop.name
        self._store, self._lease, self._worker_id = store, lease, worker_id
        self._settings = settings
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._started = time.monotonic()
        self._metrics: list[Metric] = []
        self._step = self._epoch = 0
        self._flushed_at = self._renewed_at = time.monotonic()
        self._warned = False
        self._ended = threading.Event()
        self._end_message = ""
        atexit.register(self._at_exit)
        threading.Thread(target=self._keep_alive, daemon=True, name=f"record {self.id}").start()

    def __repr__(self) -> str:
        return f"<recording of `{self.name}` as run {self.id}: {self._end_message or 'running'}>"

    def log(
        self,
        *,
        step: int | None = None,
        epoch: int | None = None,
        split: str = "val",
        **metrics: object,
    ) -> None:
        """Store numbers of this moment, all of them or, where one is wrong, none.

        ``step`` counts optimizer steps and is the epoch, or one more than the last, where it is
        left out. ``split`` is what they were measured on: ``train`` keeps a Top-1 out of the list
        of runs. Names with top1 or top5 are in percent. Raises UsageError for text and for what is
        beyond 100 %, Diverged for NaN and infinity, LeaseLost once the run is no longer the loop's.
        """
        with self._lock:
            self._check_open()
            split = checked_split(split)
            at = checked_step("step", step, default=self._step + 1 if epoch is None else epoch)
            now_epoch = checked_step("epoch", epoch, default=self._epoch)
            values = {name: checked_metric(name, value, at) for name, value in metrics.items()}
            self._metrics += [Metric(name, split, at, value) for name, value in values.items()]
            self._step, self._epoch = max(at, self._step), max(now_epoch, self._epoch)
            if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self._flush()

    def finish(
        self,
        *,
        n_correct: int | None = None,
        n_total: int | None = None,
        n_correct_top5: int | None = None,
        hits: Iterable[object] | None = None,
        loss: float | None = None,
        checkpoint: Mapping[str, Tensor] | None = None,
        split: str = "test",
        selected_on_test: bool = False,
        train_seconds: float | None = None,
        notes: str = "",
    ) -> None:
        """Put the run onto the board: ``n_correct`` of ``n_total`` images were right.

        ``hits`` says of each image, in the order of the dataset, whether it was right: with them
        ``compare`` works, and the counts need not be given. ``checkpoint`` is a state dict, kept
        and hashed in the run's folder. ``selected_on_test`` says that the epoch was chosen by these
        images; ``train_seconds`` is since ``record`` unless given. Raises UsageError for counts
        that do not fit each other.
        """
        with self._lock:
            self._check_open()
            split, notes = checked_split(split), checked_text("notes", notes)
            if train_seconds is not None:
                train_seconds = checked_seconds("train_seconds", train_seconds)
            evaluation = counted_evaluation(
                (n_correct, n_correct_top5, n_total), hits=hits, loss=loss, step=self._step
            )
            evaluation = replace(evaluation, selection="best" if selected_on_test else "last")
            result = recorded_result(self._loop, self._model, evaluation, self._settings.data_dir)
            if checkpoint is not None:
                evaluation = replace(evaluation, checkpoint=self._save(check_tensors(checkpoint)))
            if train_seconds is None:
                train_seconds = time.monotonic() - self._started
            notes = "; ".join(filter(None, (notes, result.notes)))
            result = replace(result, evaluations=(evaluation,), split=split, notes=notes)
            epochs = max(self._epoch, self._loop.epochs)
            self._finish(replace(result, epochs=epochs, train_seconds=float(train_seconds)))

    def fail(self, message: str = "", reason: EndReason = EndReason.CODE) -> None:
        """End the run without a result; nothing where it has ended already."""
        with self._lock:
            if self._ended.is_set() or os.getpid() != self._pid:
                return
            try:
                self._retry(self._write_pending)
                self._retry(partial(self._store.queue.fail, self._lease, reason, message))
            except LeaseLost:
                pass  # somebody else has ended it, or we have, and only the answer was lost
            finally:
                self._close(str(reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._ended.is_set() or os.getpid() != self._pid:
            return
        if error is None:
            message = "the loop ended without run.finish(n_correct=…, n_total=…)"
            self.fail(message)
            raise UsageError(f"run {self.id} (`{self.name}`) is on no board: {message}")
        from lsqctl.worker.reasons import end_reason_of, error_message

        if isinstance(error, Exception):
            reason = end_reason_of(error)
            self.fail(error_message(error, reason), reason)
        else:
            self.fail(type(error).__name__, EndReason.CANCELLED)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError(
                f"run {self.id} is of the process that called record, not of its forks"
            )
        if self._ended.is_set():
            raise UsageError(f"run {self.id} (`{self.name}`) has ended: {self._end_message}")

    def _finish(self, result: Result) -> None:
        def write() -> None:
            self._write_pending()
            self._store.queue.finish(self._lease, result)

        try:
            self._retry(write)
        except LeaseLost as error:
            if not self._is_finished():
                self._close(str(error))
                raise
        self._close("finished")

    def _is_finished(self) -> bool:
        from lsqctl.worker.recorder import is_finished_by

        return self._retry(lambda: is_finished_by(self._store, self._lease))

    def _save(self, tensors: Mapping[str, Tensor]) -> str:
        """Write a checkpoint into the run's folder, record it, and return where it lies."""
        from lsqctl.training.checkpoint import CheckpointContent, write_checkpoint

        content = CheckpointContent(self._step, self._epoch, dict(tensors), {}, {RECORDED: True})
        written = write_checkpoint(
            self._settings.run_dir(self.id),
            content,
            fence=self._lease.fence,
            with_lease=lambda work: self._retry(
                partial(self._store.queue.run_with_lease, self._lease, work)
            ),
        )
        self._retry(partial(self._store.checkpoints.record, self._lease, written))
        return str(written.directory)

    def _retry(self, work: Callable[[], T]) -> T:
        """Do what must not be lost: a database that is away is waited for."""
        from lsqctl.worker.retry import retry_store

        return retry_store(work, lease_seconds=self._store.lease_seconds)

    def _write_pending(self) -> None:
        progress = Progress(
            self._step, self._step, self._epoch, max(self._loop.epochs, self._epoch)
        )
        self._store.metrics.log(self._lease, self._metrics, progress=progress)
        self._metrics = []

    def _flush(self) -> None:
        """Store what waits; what the database does not take waits on, and is warned of once."""
        self._flushed_at = time.monotonic()
        try:
            if self._metrics:
                self._write_pending()
        except StoreError as error:
            if not self._warned:
                warnings.warn(f"lsqctl: {error}; metrics wait in memory", stacklevel=3)
            self._warned = True
        except LeaseLost as error:
            self._close(str(error))
            raise

    def _keep_alive(self) -> None:
        """Renew the lease and store metrics until the run has ended."""
        heartbeat = self._store.lease_seconds / 6
        while not self._ended.wait(min(FLUSH_SECONDS, heartbeat)):
            with self._lock:
                if not self._ended.is_set():
                    self._tick(heartbeat)

    def _tick(self, heartbeat: float) -> None:
        try:
            self._flush()
            if time.monotonic() - self._renewed_at >= heartbeat:
                self._renewed_at = time.monotonic()
                self._store.workers.heartbeat(self._worker_id)
                if self._store.queue.renew(self._lease).cancel_requested:
                    self.fail("cancelled", EndReason.CANCELLED)
        except StoreError:
            return  # the next renewal may succeed: the lease is six of them long
        except LeaseLost as error:
            self._close(str(error))

    def _close(self, message: str) -> None:
        self._end_message = message
        self._ended.set()
        atexit.unregister(self._at_exit)
        try:
            self._store.workers.deregister(self._worker_id)
        except LsqctlError:
            pass  # it is stale before long
        finally:
            self._store.close()

    def _at_exit(self) -> None:
        self.fail("the process ended without run.finish(n_correct=…, n_total=…)")


def begin(
    loop: Loop,
    model: ModelSummary,
    settings: Settings,
    *,
    tags: tuple[str, ...] = (),
    if_exists: IfExists = "error",
) -> Recording:
    """Begin the run of a loop; raises UsageError where its name and seed are recorded already."""
    from lsqctl.services.workspace import open_workspace

    for tag in tags:
        check_tag(checked_text("a tag", tag))
    _warn_of_misspelled(loop.dataset)
    store = open_workspace(settings, create=True)
    try:
        worker_id, lease = _begin_run(store, _new_run(loop, tags), model, if_exists)
    except LsqctlError:
        store.close()
        raise
    return Recording(store, lease, worker_id, (loop, model), settings)


def _warn_of_misspelled(dataset: str) -> None:
    """Warn of a dataset that nobody knows and that is called nearly as one of lsqctl's."""
    from lsqctl.datasets import DATASETS

    near = closest_name(dataset, DATASETS)
    if near and dataset not in DATASETS and edit_distance(dataset, near) <= _MISSPELLED:
        said = f"no dataset of lsqctl is called `{dataset}`; did you mean `{near}`?"
        warnings.warn(f"lsqctl: {said} Its rows get a board of their own", stacklevel=4)


def _begin_run(
    store: Store, new: NewRun, model: ModelSummary, if_exists: IfExists
) -> tuple[str, Lease]:
    """Return the worker that this process is now, and its lease of the run that was added."""
    from lsqctl.worker.identity import is_dead, this_worker

    worker = this_worker("record", 1, model.device)
    store.workers.register(worker)
    try:
        lease = store.queue.begin_recording(
            new, worker.id, _environment(model), if_exists=if_exists, is_dead=is_dead
        )
    except LsqctlError:
        store.workers.deregister(worker.id)
        raise
    return worker.id, lease


def _new_run(loop: Loop, tags: tuple[str, ...]) -> NewRun:
    from lsqctl.services.provenance import collect_provenance, script_provenance

    return NewRun(
        name=loop.name,
        recipe=loop.stored(),
        recipe_sha256=loop.sha256(with_seed=False),
        run_sha256=loop.sha256(with_seed=True),
        seed=loop.seed,
        provenance=collect_provenance(Path.cwd()) | script_provenance(),
        epochs=loop.epochs,
        tags=tags,
        user=current_user(),
        origin=RECORDED,
    )


def _environment(model: ModelSummary) -> JsonObject:
    import platform

    import torch

    from lsqctl import __version__

    return {
        "device": model.device.partition(":")[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "lsqctl": __version__,
    }
