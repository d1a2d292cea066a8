"""What a recipe refers to: which seed of a parent, and weights by a torchvision name."""

from __future__ import annotations

from lsqctl.errors import UsageError
from lsqctl.recipe import Recipe


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
    """Return a torchvision weights name that exists for the recipe's model."""
    from lsqctl.training.models.weights import check_torchvision_weights

    model = recipe.model.name
    if key == "distill.teacher" and recipe.distill and recipe.distill.teacher_model:
        model = recipe.distill.teacher_model
    check_torchvision_weights(reference, model)
    return reference
