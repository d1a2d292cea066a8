"""Laws of a run on several ranks: whoever computes a piece, each bit of the run is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.models.factory import build_model
from lsqctl.services.pack import PackOptions, pack_folder
from lsqctl.settings import load_settings
from lsqctl.training.pieces import deal, piece_statistics
from lsqctl.training.reduction import take_gradients, tree_sum
from tests.services.test_data_folder import make_folder

ROOT = Path(__file__).resolve().parents[2]
ranks_of = st.sampled_from([1, 2, 4, 8])
# All that could tell a rank from another: dropout, clipping, averages, N_F of a piece, a last
# batch of 10 images, which has its own pieces.
ALL = {
    "model": {"name": "small_dropout_resnet"},
    "data": {"batch_size": 61},
    "quant": {"n_features": "numel"},
    "train": {"epochs": 1, "clip_norm": 1.0, "ema_decay": 0.9, "label_smoothing": 0.1},
}


def world(rank: int, size: int) -> Any:
    return SimpleNamespace(rank=rank, size=size)


@given(st.integers(1, 70), st.integers(1, 16), ranks_of)
def test_every_image_of_a_batch_of_any_size_is_computed_once_or_by_every_rank(images, count, size):
    shares = [deal(images, count, world(rank, size)) for rank in range(size)]
    assert len({share.sizes for share in shares}) == 1
    places = list(range(images))
    parts = [places[share.images] for share in shares]
    together = [place for part in parts for place in part]
    assert [sum(share.own_sizes) for share in shares] == list(map(len, parts))
    if shares[0].is_whole:
        assert parts == [places] * size
    else:
        assert together == places


@given(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]), ranks_of, st.integers(0, 2**31))
def test_sums_of_ranks_in_pairs_are_the_sum_of_one_process_to_the_bit(pieces, size, seed):
    values = torch.randn(pieces, 5, generator=torch.Generator().manual_seed(seed)) ** 7

    def leaf(piece: int) -> list[Tensor | None]:
        return [values[piece].clone(), None]

    shares = [deal(2 * pieces, pieces, world(rank, size)) for rank in range(size)]
    if shares[0].is_whole:
        return
    sums = [tree_sum(leaf, share.own)[0] for share in shares]
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
    assert torch.equal(sums[0], tree_sum(leaf, range(pieces))[0])


def test_a_parameter_without_a_gradient_in_some_pieces_keeps_that_of_the_others():
    parameter = nn.Parameter(torch.zeros(2))
    given_by = {0: None, 1: torch.tensor([1.0, 2.0]), 2: None, 3: torch.tensor([4.0, 8.0])}

    def leaf(piece: int) -> list[Tensor | None]:
        parameter.grad = None if given_by[piece] is None else given_by[piece].clone()
        return take_gradients([parameter])

    assert tree_sum(leaf, range(4))[0].tolist() == [5.0, 10.0]
    assert tree_sum(leaf, range(1)) == [None]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_by_each_piece_as_if_the_pieces_were_batches(momentum):
    torch.manual_seed(3)
    plain, ours = (nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    batches = torch.randn(4, 5, 3, 2, 2) + 1
    for batch in batches:
        plain(batch)
    with piece_statistics(ours) as statistics:
        table = []
        for batch in batches:
            ours(batch)
            table.append(statistics.read())
        statistics.move(torch.stack(table))
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))
    assert ours.momentum == momentum


def test_a_network_without_batch_norm_has_no_statistics_to_move():
    with piece_statistics(nn.Linear(2, 2)) as statistics:
        statistics.move(torch.stack([statistics.read(), statistics.read()]))


def test_a_batch_norm_that_a_piece_leaves_out_stays_where_it_was():
    norm, batch = nn.BatchNorm2d(3), torch.randn(5, 3, 2, 2) + 1
    with piece_statistics(norm) as statistics:
        norm(batch)
        table = [statistics.read(), statistics.read()]  # the second piece left it out
        statistics.move(torch.stack(table))
    plain = nn.BatchNorm2d(3)
    plain(batch)
    torch.testing.assert_close(dict(norm.state_dict()), dict(plain.state_dict()))


class UncountedNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, None, None, self.training, self.momentum or 0.0)


def test_a_batch_norm_that_counts_no_batches_moves_by_the_pieces_that_it_computes():
    norm, plain, batches = UncountedNorm(3), nn.BatchNorm2d(3), torch.randn(2, 5, 3, 2, 2) + 1
    with piece_statistics(norm) as statistics:
        table = []
        for batch in batches:
            norm(batch)
            table += [statistics.read(), statistics.read()]  # each second piece left it out
        statistics.move(torch.stack(table))
    for batch in batches:
        plain(batch)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)


def digests(folder: Path, cases: list[Any]) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.ranks_run"],
        check=False,
        input=json.dumps([str(folder), cases]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def case(
    name: str, changes: dict[str, Any], pieces: int, *attempts: Any, **context: Any
) -> list[Any]:
    train = {"epochs": 2, **changes.get("train", {}), "accumulate": pieces}
    return [name, {**changes, "train": train}, list(attempts), context]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_weights_steps_statistics_counts_and_rows_are_those_of_one_process(tmp_path, ranks):
    cases = [case("one", ALL, 4, (1, None)), case("several", ALL, 4, (ranks, None))]
    found = digests(tmp_path, cases)
    assert found["several"] == found["one"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 32], ids=["w3a3", "fp32"])
def test_the_same_for_as_many_pieces_as_ranks_and_a_resume_on_other_numbers(tmp_path, bits):
    quant = {"weight_bits": bits, "act_bits": bits}
    if bits == 32:
        kinds = ("first_weight_bits", "first_act_bits", "last_weight_bits", "last_act_bits")
        quant |= dict.fromkeys(kinds, 32)
    plain = {"quant": quant}
    pairs = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
    cases = [case(f"{p} on {w}", plain, p, (w, None)) for p, w in pairs]
    cases.append(case("resumed", plain, 4, (1, 3), (4, 4), (2, None)))
    cases.append(case("stopped in evaluation", plain, 4, (2, 6), (4, 0), (1, None)))
    found = digests(tmp_path, cases)
    assert found["2 on 2"] == found["2 on 1"]
    assert found["4 on 2"] == found["4 on 4"] == found["4 on 1"]
    assert found["resumed"][0] == found["4 on 1"][0]
    assert found["stopped in evaluation"][0] == found["4 on 1"][0]
    assert len({found[f"{p} on 1"][0] for p in (1, 2, 4)}) == 3, "pieces belong to the numbers"


FOLDER = {"name": "imagefolder", "batch_size": 12, "resize": 36, "crop": 32, "pad": 0, "flip": True}


def folder_of_images(root: Path) -> dict[str, Any]:
    make_folder(root / "data", "flowers", images=13)
    return {"data": FOLDER | {"path": "flowers", "eval_batch_size": 5}}


def packed_images(root: Path) -> dict[str, Any]:
    changes = folder_of_images(root)
    folder, options = str(root / "data" / "flowers"), PackOptions(resize=36)
    pack_folder(folder, None, options, load_settings(), notify=print)
    return {"data": changes["data"] | {"path": "flowers.pack"}}


def teacher(root: Path) -> Path:
    torch.manual_seed(5)
    network = build_model("small_resnet", num_classes=10, in_channels=1)
    torch.save(network.state_dict(), root / "teacher.pt")
    return root / "teacher.pt"


def several_of(kind: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a kind of run changes in the recipe, and in the context."""
    if kind in ("features", "cache"):
        option = {"features": 0.5} if kind == "features" else {"cache": True}
        changes = {"distill": {"teacher": "teacher.pt", **option}, "data": {"views": 2}}
        return changes, {"inputs": {"distill.teacher": str(teacher(root))}}
    if kind == "bf16":
        return {"train": {"precision": "bf16"}}, {}
    if kind == "compiled":
        return {}, {"compile": "on"}
    changes = packed_images(root) if kind == "packed" else folder_of_images(root)
    return changes, {"data_dir": str(root / "data"), "threads": 2}  # one more process decodes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "packed", "features", "cache", "bf16", "compiled"])
def test_whatever_a_run_does_besides_two_ranks_do_it_as_one(tmp_path, kind):
    changes, context = several_of(kind, tmp_path)
    cases = [case(f"on {w}", changes, 4, (w, None), **context) for w in (1, 2)]
    cases.append(case("resumed", changes, 4, (2, 3), (1, 4), (2, None), **context))
    plain = case("plain", {}, 4, (1, None))
    found = digests(tmp_path, [*cases, plain])
    assert found["on 2"] == found["on 1"]
    assert found["resumed"][0] == found["on 1"][0]
    assert found["plain"][0] != found["on 1"][0], "nothing was done besides"
