"""One run in memory: model, optimizer and training state, to a checkpoint and back."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from lsqctl.errors import DataError, Diverged, Preempted, UnfitKey
from lsqctl.events import Checkpoint, Progress
from lsqctl.failpoint import failpoint
from lsqctl.models.factory import package_of
from lsqctl.quant import OscillationTracker, StepSizeClamp, clamp_step_sizes
from lsqctl.quant.methods import MethodError, Methods, build_methods
from lsqctl.quant.torch_faults import avoid_unsafe_channels_last
from lsqctl.recipe import Recipe, fingerprint, plugins_of
from lsqctl.run import JsonObject
from lsqctl.training import compilation, runtime
from lsqctl.training.checkpoint import CheckpointContent, write_checkpoint
from lsqctl.training.checkpoint_files import remove_checkpoints
from lsqctl.training.data_pipeline import DataPipeline, DatasetSplits, Indices
from lsqctl.training.evaluation import ModelEma, check_reestimation
from lsqctl.training.feature_distillation import FeatureDistillation, feature_layers
from lsqctl.training.image_folder import FolderImages
from lsqctl.training.optimizer_step import OptimizerStepper, build_optimizer
from lsqctl.training.pieces import Share, deal
from lsqctl.training.ranks import STOPPED, any_rank, check_replicas
from lsqctl.training.runtime import ExecutionContext
from lsqctl.training.teacher_logits import TeacherLogits, View
from lsqctl.training.train_state import OLDER_ENVIRONMENT, TrainState


@dataclass(slots=True)
class TrainingSession:
    """All that changes while a run trains.

    ``ema`` follows the weights where the recipe wants it, and ``bn_statistics`` are those of batch
    norm, estimated again at the end. ``pending_losses`` holds what may still be on the device,
    (step, loss, n_correct, images), and ``clamps_counted`` the clamps that ``train_state`` has
    counted, by quantizer. ``model_forward`` and ``teacher_forward`` are what a step calls for the
    model and the teacher. With ``distill.cache``, ``teacher_logits`` is their store,
    ``teacher_view`` the view of this epoch, and the teacher computes what is missing only.
    ``save_due`` says that a checkpoint is due after the step that has begun.
    """

    recipe: Recipe
    context: ExecutionContext
    pipeline: DataPipeline
    model: nn.Module
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    step_clamp: StepSizeClamp | None
    methods: Methods
    train_state: TrainState
    model_forward: compilation.Forward
    teacher_forward: compilation.Forward | None
    stepper: OptimizerStepper
    ema: ModelEma | None = None
    bn_statistics: dict[str, Tensor] | None = None
    pending_losses: list[tuple[int, Tensor, Tensor, int]] = field(default_factory=list)
    clamps_counted: dict[str, int] = field(default_factory=dict)
    oscillations: OscillationTracker | None = None
    saved_at: float = field(default_factory=time.monotonic)
    save_due: bool = False
    teacher_logits: TeacherLogits | None = None
    teacher_view: View | None = None
    features: FeatureDistillation | None = None

    @property
    def done(self) -> bool:
        """Whether every epoch is trained and evaluated."""
        return self.trained and not self.train_state.evaluation_pending

    @property
    def trained(self) -> bool:
        """Whether every epoch is trained, or those that ``train.stop`` leaves."""
        return self.stopped_early or self.train_state.epoch >= self.recipe.train.epochs

    @property
    def paused(self) -> bool:
        """Whether this attempt has come as far as it was to, with more to be trained."""
        epoch, train_state = self.context.pause_epoch, self.train_state
        has_come = epoch is not None and train_state.epoch >= epoch
        return has_come and not train_state.evaluation_pending and not self.done

    @property
    def stopped_early(self) -> bool:
        """Whether ``train.stop`` has ended the training."""
        stop = self.recipe.train.stop
        return stop is not None and self.train_state.stale_epochs >= stop.patience

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        epochs = self.recipe.train.epochs
        steps = epochs * self.pipeline.steps_per_epoch
        return Progress(self.train_state.step, steps, self.train_state.epoch, epochs)

    def check_stop(self) -> None:
        """Raise Preempted, at all ranks at once, when one is asked to stop; see what is due.

        Whether a checkpoint is due is for the clock of rank 0 to say.
        """
        world, age = self.context.world, time.monotonic() - self.saved_at
        due = world.rank == 0 and age >= self.context.checkpoint_seconds
        stop, self.save_due = any_rank(world, self.context.stop(), due)
        if stop:
            raise Preempted(STOPPED)

    def share_of(self, images: int) -> Share:
        """Return what this rank computes of a batch of so many images."""
        return deal(images, self.recipe.train.accumulate, self.context.world)

    def own_part(self, indices: Indices) -> Indices:
        """Return the images of a batch that this rank computes."""
        return indices[self.share_of(len(indices)).images]

    def flush_losses(self) -> None:
        """Add the pending losses to the training state; raises Diverged when one is not finite."""
        for step, loss, n_correct, images in self.pending_losses:
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", step)
            self.train_state.window.append((value, int(n_correct), images))
        self.pending_losses.clear()

    def check_loss_scale(self) -> None:
        """Raise Diverged when fp16 overflows however small the loss is made."""
        if self.stepper.loss_scale_exhausted:
            raise self._diverged("gradients overflow fp16 at any loss scale", self.train_state.step)

    def update_step_counts(self) -> None:
        """Bring up to date how often steps were clamped and gradients clipped in this epoch."""
        self.train_state.clipped += self.stepper.pop_clipped()
        if self.step_clamp is not None:
            total, counts = self.step_clamp.clamped, Counter(self.train_state.clamped)
            counts.update(total)
            counts.subtract(self.clamps_counted)
            self.train_state.clamped = {name: count for name, count in counts.items() if count}
            self.clamps_counted = total

    def save(self) -> Iterator[Checkpoint]:
        """Write and yield a checkpoint of this moment; once it is taken, remove what it replaces.

        Raises Diverged rather than save NaN or infinity, OSError when it cannot be written or
        the run's folder has vanished, and RankFailed when another rank holds other bits. Rank 0
        alone writes.
        """
        failpoint("checkpoint.begin")
        self.flush_losses()
        self.update_step_counts()
        if not self.context.run_dir.is_dir():
            raise OSError(
                f"the run's folder {self.context.run_dir} has vanished, checkpoints and all"
            )
        if (name := first_non_finite(self.model)) is not None:
            raise self._diverged(f"{name} holds NaN or infinity", self.train_state.step)
        self._check_replicas()
        if self.context.world.rank > 0:
            return
        train_state = self.train_state
        content = CheckpointContent(
            train_state.step,
            train_state.epoch,
            model=self.model.state_dict(),
            training=self._training_state(),
            state={
                "cursor": train_state.to_state(),
                "random": runtime.python_rng_states(),
                "network": self.pipeline.model_args,
                "data": self.pipeline.dataset.digest,
                "variant": self.recipe.train.headline_variant,
            },
            best_step=train_state.best.step if train_state.best else None,
        )
        checkpoint = write_checkpoint(
            self.context.run_dir,
            content,
            fence=self.context.fence,
            with_lease=self.context.with_lease,
        )
        self.saved_at = time.monotonic()
        yield checkpoint
        failpoint("checkpoint.recorded")
        if checkpoint.replaces:
            self.context.with_lease(lambda: remove_checkpoints(checkpoint.replaces))

    def _check_replicas(self) -> None:
        averages = self.ema.model.state_dict() if self.ema else {}
        state = (self.model.state_dict(), self.optimizer.state_dict()["state"], averages)
        check_replicas(self.context.world, state, step=self.train_state.step)

    def _training_state(self) -> JsonObject:
        """Return the tensors beside the model; of what is off, nothing."""
        optional = {
            "scaler": self.stepper.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "bn": self.bn_statistics,
            "methods": self.methods.state_dict(),
        }
        return {
            "optimizer": self.optimizer.state_dict(),
            "random": runtime.torch_rng_states(),
            "oscillations": self.oscillations.state_dict() if self.oscillations else {},
            **{name: state for name, state in optional.items() if state},
        }

    def restore(self, checkpoint: CheckpointContent, *, own: bool = True) -> None:
        """Load a checkpoint's tensors and RNG states; ``restore_state`` has loaded the rest.

        Of a checkpoint that is not this run's ``own`` the learning rate and its like stay here.
        """
        self.model.load_state_dict(checkpoint.model)
        optimizer = dict(checkpoint.training["optimizer"])
        if not own:
            optimizer |= {"param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(optimizer)
        self.stepper.load_state_dict(checkpoint.training.get("scaler", {}))
        if self.ema is not None:  # a run of no epochs has none: its average is what it is
            self.ema.model.load_state_dict(checkpoint.training.get("ema", checkpoint.model))
        self.methods.load_state_dict(checkpoint.training.get("methods", {}))
        self.bn_statistics = checkpoint.training.get("bn") if own else None
        if self.oscillations is not None:
            self.oscillations.load_state_dict(checkpoint.training.get("oscillations", {}))
        runtime.restore_rng_states(checkpoint.training["random"], checkpoint.state["random"])

    def _diverged(self, reason: str, step: int) -> Diverged:
        layer = first_non_finite(self.model)
        where = f"first in layer {layer}" if layer else "all weights are still finite"
        return Diverged(
            f"{reason} in epoch {self.train_state.epoch + 1}, step {step} ({where}); "
            "the last checkpoint "
            "is finite: lower train.lr, or set train.warmup_epochs"
        )


def first_non_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter, step size or buffer with NaN or infinity."""
    tensors = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    if not tensors:
        return None
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    return next(
        (name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite), None
    )


def recipe_hash(recipe: Recipe) -> str:
    """Return what a checkpoint is compared by: the recipe without the bytes of its inputs."""
    return fingerprint(recipe, dict.fromkeys(recipe.input_refs(), "-"), with_seed=True)


def restore_state(
    checkpoint: CheckpointContent,
    recipe: Recipe,
    context: ExecutionContext,
    packages: Mapping[str, object],
) -> tuple[TrainState, list[str]]:
    """Return a checkpoint's training state, and notes on what differs from the attempt before.

    Of ``packages``, which build the networks, older checkpoints say nothing. Raises DataError
    when the checkpoint is of another recipe.
    """
    train_state = TrainState.from_state(checkpoint.state["cursor"])
    if train_state.recipe_hash != recipe_hash(recipe):
        raise DataError(f"the checkpoints in {context.run_dir} are of another recipe or seed")
    older = OLDER_ENVIRONMENT | {"precision": recipe.train.precision}
    before = train_state.environment = {**packages, **older, **train_state.environment}
    compile_enabled, notes = compilation.resume_compile(train_state, context)
    kept = {name: before[name] for name in older.keys() - {"compile"}}
    current = {**runtime.execution_environment(context, recipe), **kept, **packages}
    current["compile"] = compile_enabled
    changed = [name for name in current if current[name] != before.get(name)]
    if changed:
        train_state.deterministic = "statistical"
        differences = ", ".join(f"{name} {before.get(name)} → {current[name]}" for name in changed)
        train_state.environment = dict(current)  # the next attempt is compared with this one
        notes.append(f"resumed elsewhere ({differences}): numbers are no longer exact to the bit")
    return train_state, notes


def build_session(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    context: ExecutionContext,
    *,
    pipeline: DataPipeline,
    train_state: TrainState,
) -> TrainingSession:
    """Return the session: optimizer, clamp of step sizes, EMA, compiled forward passes."""
    train, optimizer = recipe.train, build_optimizer(model, recipe)
    methods = build_methods_of(model, optimizer, recipe)
    if train.bn_reestimate_images:
        check_reestimation(model, recipe.model.name)
    quantized = recipe.quant.to_spec().quantized
    model_forward, teacher_forward = _forwards(model, teacher, recipe, pipeline, train_state)
    use_ema = train.ema_decay is not None and train.epochs > 0
    step_clamp = clamp_step_sizes(optimizer, model) if quantized else None
    methods.attach(optimizer)
    avoid_unsafe_channels_last(model)
    session = TrainingSession(
        recipe=recipe,
        context=context,
        pipeline=pipeline,
        model=model,
        teacher=teacher,
        optimizer=optimizer,
        step_clamp=step_clamp,
        methods=methods,
        train_state=train_state,
        model_forward=model_forward,
        teacher_forward=teacher_forward,
        stepper=OptimizerStepper(optimizer, train, pipeline.device),
        ema=ModelEma(model, train.ema_decay or 0.0) if use_ema else None,
        oscillations=OscillationTracker(model) if quantized else None,
        features=_feature_distillation(model, teacher, recipe, pipeline),
    )
    session.teacher_logits = _logit_store(session)
    return session


def _feature_distillation(
    model: nn.Module, teacher: nn.Module | None, recipe: Recipe, pipeline: DataPipeline
) -> FeatureDistillation | None:
    """Return what compares features, where the recipe wants it."""
    if teacher is None or recipe.distill is None or recipe.distill.features is None:
        return None
    dataset = pipeline.dataset
    layers = feature_layers(recipe, dataset.channels, dataset.num_classes)
    return FeatureDistillation(model, teacher, layers)


def build_methods_of(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Methods:
    """Return the methods that a recipe trains a quantized model with.

    Raises UnfitKey where nothing of the model is what one is about.
    """
    try:
        return build_methods(model, optimizer, recipe.quant.method_values())
    except MethodError as error:
        hint = f"leave `{error.key}` out, or quantize what it would act on"
        raise UnfitKey(f"quant.{error.key}", error.reason, hint) from None


def _logit_store(session: TrainingSession) -> TeacherLogits | None:
    """Return the store of the teacher's logits, where the recipe keeps them."""
    recipe, pipeline, teacher = session.recipe, session.pipeline, session.teacher
    if teacher is None or recipe.distill is None or not recipe.distill.cache:
        return None
    dataset, data = pipeline.dataset, recipe.data
    network = recipe.network_of("distill.teacher")
    plugin = plugins_of(recipe).get(f"model {network}")
    about = {
        "teacher": session.train_state.input_digests["distill.teacher"],
        "network": network,
        **({"plugin": plugin.sha256()} if plugin else {}),
        **({"package": package} if (package := package_of(teacher)) else {}),
        "dataset": data.name,
        "images": _training_images(dataset),
        "channels": pipeline.channels,
        "augmentation": data.augmentation,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    shape = (len(dataset.train), dataset.num_classes)
    return TeacherLogits(session.context.data_dir, about, shape)


def _training_images(dataset: DatasetSplits) -> str:
    """Return what names the very images that a teacher sees; those of evaluation are not asked."""
    if isinstance(dataset.train, FolderImages):
        return dataset.train.content_digest()
    return dataset.digest[: -len(dataset.digest.partition(":")[2]) // 2]


def _forwards(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    pipeline: DataPipeline,
    train_state: TrainState,
) -> tuple[compilation.Forward, compilation.Forward | None]:
    """Return what a step calls for the model and the teacher: compiled, channels last or plain."""
    if train_state.environment.get("compile"):
        compile_forward = partial(
            compilation.compile_forward,
            batch_size=compilation.compiled_batch_size(recipe, pipeline),
        )
        return compile_forward(model), compile_forward(teacher) if teacher else None
    channels_last = bool(train_state.environment.get("channels_last"))
    eager_forward = partial(compilation.eager_forward, channels_last=channels_last)
    return eager_forward(model), eager_forward(teacher) if teacher else None
