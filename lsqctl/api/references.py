"""What a recipe refers to: which seed of a parent, and weights by a torchvision name."""

from __future__ import annotations

from lsqctl.errors import DataError, UsageError
from lsqctl.recipe import DATASETS, Recipe


def pick_seed(name: str, seeds: set[int], wanted: int) -> int:
    """Return the child's own seed if the parent has it, else the parent's only one."""
    if wanted in seeds:
        return wanted
    if len(seeds) == 1:
        return next(iter(seeds))
    listed = ", ".join(map(str, sorted(seeds)))
    raise UsageError(
        f"{{run: {name}}}: it has seeds {listed}, none of them {wanted}; submit it with "
        f"--seed {wanted}"
    )


def checked_weights(key: str, reference: str, recipe: Recipe) -> str:
    """Return a torchvision weights name that exists for the recipe's model and its classes."""
    from lsqctl.training.models.weights import torchvision_classes

    model = recipe.model.name
    if key == "distill.teacher" and recipe.distill and recipe.distill.teacher_model:
        model = recipe.distill.teacher_model
    check_classes(key, reference, torchvision_classes(reference, model), recipe)
    return reference


def check_parent(key: str, parent: Recipe, child: Recipe) -> None:
    """Raise DataError when a parent was trained to tell other classes apart than its child is."""
    check_classes(key, f"{{run: {parent.name}}}", DATASETS[parent.data.name].classes, child)


def check_classes(key: str, source: str, classes: int | None, recipe: Recipe) -> None:
    """Raise DataError when weights know another number of classes; None is not known."""
    needed = DATASETS[recipe.data.name].classes
    if None not in (classes, needed) and classes != needed:
        raise DataError(
            f"{recipe.name}: {key}: {source} knows {classes} classes, {recipe.data.name} has "
            f"{needed}; take weights trained on {recipe.data.name}"
        )
