"""The gradient of one batch: its pieces added in one fixed binary tree, whoever computes them.

The tree halves the pieces, the larger half first, down to single ones. Where W ranks compute as
many pieces each, a rank's own pieces are one subtree, and the ranks' pairwise sums are the rest of
it: the same additions in the same order for W of 1, 2, 4 …, so the same bits. Losses, right answers
and statistics of batch norm go along in the same flat vector, each in its piece's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lsqctl.training.pieces import Share, piece_statistics, piece_streams
from lsqctl.training.ranks import World, any_rank

Gradients = list[Tensor | None]
Piece = Callable[[int], tuple[Tensor, Tensor]]


def sum_pieces(
    model: nn.Module, share: Share, world: World, compute: Piece
) -> tuple[Tensor, Tensor]:
    """Give each parameter its gradient of the batch; return (losses, right answers), each (P).

    ``compute`` does a piece forward and backward, from no gradients, and returns its part of the
    batch's loss and how many images of it are right. A batch of one piece is done as it is.
    """
    if len(share.sizes) == 1:
        loss, n_correct = compute(0)
        return loss[None], n_correct[None]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    figures: dict[int, Tensor] = {}  # of each piece: loss, right answers, statistics (2 + S)

    with piece_statistics(model) as statistics, piece_streams(device) as base:

        def gradients_of(piece: int) -> Gradients:
            torch.manual_seed(base + piece)
            loss, n_correct = compute(piece)
            figures[piece] = torch.cat([loss[None], n_correct[None], statistics.read().to(device)])
            return take_gradients(parameters)

        own = tree_sum(gradients_of, share.own)
        gradients = completed(parameters, own, world)
        none = torch.zeros_like(figures[share.own[0]])
        table = [figures.get(piece, none) for piece in range(len(share.sizes))]
        flat = torch.cat([*(g.flatten() for g in gradients if g is not None), *table])
        if not share.is_whole:
            world.sum(flat)
        give_gradients(parameters, gradients, flat)
        results = flat[-len(table) * len(none) :].view(len(table), len(none))  # (P, 2 + S)
        statistics.move(results[:, 2:])
    return results[:, 0], results[:, 1].long()


def tree_sum(leaf: Callable[[int], Gradients], pieces: range) -> Gradients:
    """Return the sum of what ``leaf`` gives for each piece, asked for in order."""
    if len(pieces) == 1:
        return leaf(pieces[0])
    middle = (len(pieces) + 1) // 2
    left = tree_sum(leaf, pieces[:middle])
    return _added(left, tree_sum(leaf, pieces[middle:]))


def take_gradients(parameters: Sequence[nn.Parameter]) -> Gradients:
    """Return each parameter's gradient, and leave it none."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


def completed(parameters: Sequence[nn.Parameter], gradients: Gradients, world: World) -> Gradients:
    """Return a rank's gradients, with one that adds nothing where only other ranks have one.

    So it is where a piece leaves layers out at random. Else each rank's vector would have its own
    order. What adds nothing to the last bit is −0.
    """
    needed = any_rank(world, *(gradient is not None for gradient in gradients))
    return [
        torch.full_like(parameter, -0.0) if gradient is None and is_needed else gradient
        for parameter, gradient, is_needed in zip(parameters, gradients, needed, strict=True)
    ]


def give_gradients(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], flat: Tensor
) -> None:
    """Give each parameter that has a gradient its part of the flat vector, in its own shape."""
    start = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = flat[start : start + gradient.numel()].view(gradient.shape)
            start += gradient.numel()


def _added(left: Gradients, right: Gradients) -> Gradients:
    """Return left + right, into ``left``; a parameter without a gradient adds nothing."""
    both = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(left, right, strict=True)]
