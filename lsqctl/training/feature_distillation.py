"""Feature distillation: what enters the last layer is drawn to the teacher's, on one grid.

Zhu, He, Wu, "Quantized Feature Distillation for Network Quantization", AAAI 2023 (arXiv
2307.10638): the teacher's features are quantized, and the loss is H(y, p) + lambda L(f_T^q, f_S).
That the grid is the student's own is from SQuaT (AISTATS 2026, arXiv 2608.10709), whose argument is
that a teacher's feature beyond the student's range leaves a residual that nothing can take away.
That L is the mean squared error is ours: neither text was to be had in full.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsqctl.datasets import ANY_CLASSES, DATASETS
from lsqctl.errors import DataError
from lsqctl.models import input_channels
from lsqctl.models.factory import build_on_meta
from lsqctl.models.heads import classifier_of, example_of
from lsqctl.quant import LsqQuantizer, prepare
from lsqctl.quant.torch_faults import layer_input
from lsqctl.recipe import Recipe


def feature_loss(student: Tensor, teacher: Tensor, quantizer: LsqQuantizer) -> Tensor:
    """Return the mean of (Q(f_S) - Q(f_T))^2 over features of equal shape (B, ...), in fp32.

    Q is the student's quantizer. Through Q(f_S) go the gradients of LSQ, to the feature and to the
    step size; Q(f_T) is a constant.
    """
    with torch.no_grad():
        target = quantizer(teacher.float())
    difference: Tensor = quantizer(student.float()) - target
    return difference.square().mean()


class FeatureDistillation:
    """Hears what enters the last layers of a prepared student and of its teacher.

    To be asked for the loss after a forward pass of both. ``layers`` are those that
    ``feature_layers`` has found.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: tuple[str, str]) -> None:
        self._features: dict[str, Tensor] = {}
        layer = student.get_submodule(layers[0])
        quantizer = layer.input_quantizer
        assert isinstance(quantizer, LsqQuantizer)
        self._quantizer = quantizer
        self._listen(layer, "student")
        self._listen(teacher.get_submodule(layers[1]), "teacher")

    def loss(self) -> Tensor:
        """Return the loss of the features of the last forward passes, which it forgets."""
        student, teacher = self._features.pop("student"), self._features.pop("teacher")
        return feature_loss(student, teacher, self._quantizer)

    def _listen(self, layer: nn.Module, name: str) -> None:
        layer.register_forward_pre_hook(
            lambda _, inputs, by_name: self._features.__setitem__(
                name, layer_input(inputs, by_name)
            ),
            with_kwargs=True,
        )


def feature_layers(recipe: Recipe, channels: int, num_classes: int) -> tuple[str, str]:
    """Return the last layers of student and teacher, by name; neither needs weights.

    ``channels`` are those of the images. Raises DataError where the features differ in shape, or
    the student's are not quantized.
    """
    student, teacher = recipe.model.name, recipe.network_of("distill.teacher")
    (name, shape), (teacher_name, teacher_shape) = (
        _last_layer(network, recipe, channels, num_classes) for network in (student, teacher)
    )
    if shape != teacher_shape:
        raise DataError(
            f"distill.features: {student} has features {shape} before its last layer and {teacher} "
            f"{teacher_shape}: take a teacher of the same width, or leave `features` out"
        )
    model = _on_meta(student, recipe, channels, num_classes)
    size = recipe.data.image_size
    example = example_of(model, (input_channels(student, channels), size, size))
    model = prepare(model, recipe.quant.to_spec(), example)
    if getattr(model.get_submodule(name), "input_quantizer", None) is None:
        raise DataError(
            f"distill.features: the input of {name}, the last layer of {student}, has 32 bits, so "
            "there is no grid to put features on: set quant.last_act_bits, or leave `features` out"
        )
    return name, teacher_name


def check_features(recipe: Recipe) -> None:
    """Raise DataError where a worker could not compare the features that a recipe names."""
    if recipe.distill is not None and recipe.distill.features is not None:
        info = DATASETS[recipe.data.name]
        feature_layers(recipe, info.channels, info.classes or ANY_CLASSES)


def _last_layer(
    network: str, recipe: Recipe, channels: int, num_classes: int
) -> tuple[str, tuple[int, ...]]:
    model = _on_meta(network, recipe, channels, num_classes)
    size = recipe.data.image_size
    return classifier_of(model, (input_channels(network, channels), size, size))


def _on_meta(network: str, recipe: Recipe, channels: int, num_classes: int) -> nn.Module:
    return build_on_meta(
        network,
        num_classes=num_classes,
        in_channels=input_channels(network, channels),
        image_size=recipe.data.image_size,
    )
