"""What a comparison counts, batch by batch: every code, image, prediction and bit of a logit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsqctl.deploy.checking import Comparison, check_alike, differing_bits, reference_answers
from lsqctl.deploy.folder import unlike_images
from lsqctl.deploy.forms import Answers
from lsqctl.errors import DataError
from tests.deploy.networks import Chain, images, prepared, traced

PLACE = 4  # of the code that is changed


def spoilt(network, reference: Answers) -> Answers:
    """What a file might say: image 1 begins to differ at one code, image 2 has other logits."""
    codes = {
        edge: (found - network.grid(edge.partition("#")[0]).quant_min).copy()
        for edge, found in reference.codes.items()
    }
    first, *_, last = codes.values()
    first[1].reshape(-1)[PLACE] += 1
    last[1].reshape(-1)[:2] += 1
    logits = reference.logits.copy()
    logits[2] *= -1
    return Answers(logits, codes)


def test_differences_add_up_over_batches_and_are_told_by_the_image_of_the_whole():
    network = traced(prepared(Chain()))
    comparison = Comparison(network)
    for batch in images(6).split(3):
        reference = reference_answers(network, batch)
        labels = torch.from_numpy(reference.logits.argmax(1))
        comparison.compare(reference, spoilt(network, reference), labels)
    counts = comparison.counts
    assert not counts.equal
    assert (counts.n_images, counts.n_images_differing, counts.n_predictions_differing) == (6, 2, 2)
    assert counts.n_codes == 2 * sum(codes.size for codes in reference.codes.values())
    assert (counts.n_codes_differing, counts.n_beginnings) == (2 * 3, 2)
    assert counts.n_logits_differing == 2 * reference.logits.shape[1]
    edge = next(iter(reference.codes))
    place = tuple(map(int, np.unravel_index(PLACE, reference.codes[edge][0].shape)))
    firsts = counts.first_differences
    assert [(one.image, one.edge, one.index) for one in firsts] == [
        (1, edge, place),
        (4, edge, place),
    ]
    assert all(one.found == one.expected + 1 for one in firsts)
    assert [hits.tolist() for hits in counts.hits] == [[True, True, False]] * 2
    assert [hits.tolist() for hits in counts.reference_hits] == [[True] * 3] * 2


def test_logits_or_codes_of_another_shape_or_type_are_no_answer():
    logits, codes = np.zeros((2, 5), np.float32), {"conv": np.zeros((2, 3, 4, 4), np.int16)}
    reference = Answers(logits, codes)
    check_alike(reference, Answers(logits), "it")
    check_alike(reference, reference, "it")
    for found, said in (
        (Answers(logits[:, :4]), r"logits as float32 \(2, 4\), expected float32 \(2, 5\)"),
        (Answers(logits.astype("f8")), r"logits as float64 \(2, 5\), expected float32"),
        (
            Answers(logits, {"conv": codes["conv"][..., :3]}),
            r"codes of conv as int16 \(2, 3, 4, 3\)",
        ),
    ):
        with pytest.raises(DataError, match=f"model.onnx in openvino gives {said}"):
            check_alike(reference, found, "model.onnx in openvino")


@pytest.mark.parametrize("bits", [False, True])
def test_what_is_no_number_is_not_near(bits):
    expected = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = expected.copy()
    found[1, 0], found[2, 1] = np.nan, np.inf
    assert unlike_images(expected, found, bits=bits).tolist() == [False, True, True]


def test_a_zero_of_the_other_sign_is_another_logit():
    zeros = np.zeros((1, 2), np.float32)
    assert differing_bits(zeros, -zeros).tolist() == [[True, True]]
    assert not differing_bits(zeros, zeros).any()
