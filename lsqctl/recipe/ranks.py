"""How many processes may share a run: asked when it is submitted, and again by its worker.

Apart because a recipe says nothing of it: the number changes no bit of what is computed.
"""

from __future__ import annotations

from lsqctl.errors import UsageError
from lsqctl.recipe.recipe import Recipe


def possible_ranks(recipe: Recipe, most: int) -> list[int]:
    """Return how many processes may share a run: powers of two that divide a batch's pieces."""
    pieces = max(1, min(recipe.train.accumulate, recipe.data.batch_size // 2))
    powers = (1 << exponent for exponent in range(most.bit_length()))
    return [ranks for ranks in powers if ranks <= most and pieces % ranks == 0]


def check_ranks(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError, which names the numbers that would do, where so many cannot share a run."""
    if ranks in possible_ranks(recipe, ranks):
        return
    accumulate, batch = recipe.train.accumulate, recipe.data.batch_size
    fitting = " or ".join(map(str, possible_ranks(recipe, max(ranks, accumulate))))
    if ranks & (ranks - 1):
        reason = f"{ranks} is no power of two"
        advice = f"{fitting} would do with train.accumulate: {accumulate}"
    elif 2 * ranks > batch:
        reason = f"a batch of {batch} images has no {ranks} pieces of two images"
        advice = f"{fitting} would do, or a larger data.batch_size"
    else:
        reason = (
            f"train.accumulate: {accumulate} cuts a batch into pieces that {ranks} cannot share"
        )
        advice = f"{fitting} would do, or set train.accumulate: {_next_multiple(accumulate, ranks)}"
    raise UsageError(f"`{recipe.name}` on {ranks} processes (--gpus): {reason}; {advice}")


def _next_multiple(accumulate: int, ranks: int) -> int:
    return -(-accumulate // ranks) * ranks
