"""Counts are integers, and the same for any batch size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lsqctl.training.evaluation import evaluate

from .conftest import session_of, small


def batches(logits, labels, size):
    return zip(logits.split(size), labels.split(size), strict=True)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60), st.integers(2, 12))
def test_counts_and_hits_equal_a_plain_count_for_any_batch_size(seed, count, size, classes):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=random)
    labels = torch.randint(classes, (count,), generator=random)
    found = evaluate(nn.Identity(), batches(logits, labels, size))

    ranks = logits.argsort(1, descending=True)
    right = [int(labels[i]) == int(ranks[i, 0]) for i in range(count)]
    assert (found.n_correct, found.n_total) == (sum(right), count)
    assert np.unpackbits(np.frombuffer(found.hits, np.uint8))[:count].tolist() == right
    if classes < 6:
        assert found.n_correct_top5 is None
        assert found.top5 is None
    else:
        five = sum(int(labels[i]) in ranks[i, :5].tolist() for i in range(count))
        assert found.n_correct_top5 == five


def test_evaluation_uses_evaluation_mode_and_puts_training_back():
    model = nn.Sequential(nn.Dropout(0.9))
    logits = torch.eye(8)
    assert evaluate(model, batches(logits, torch.arange(8), 3)).n_correct == 8
    assert model.training


def test_what_is_called_before_a_batch_may_end_the_evaluation():
    def enough() -> None:
        raise KeyboardInterrupt

    model = nn.Identity()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, batches(torch.eye(8), torch.arange(8), 3), before_batch=enough)
    assert model.training


def test_a_net_gets_the_same_images_right_one_by_one_in_odd_batches_and_all_at_once(job):
    found = []
    for size in (1, 7, 60, 135):
        session = session_of(small(data={"eval_batch_size": size}), job())
        counts = evaluate(session.model, session.pipeline.eval_batches())
        assert (counts.n_total, len(counts.hits)) == (135, 17)
        found.append((counts.n_correct, counts.n_correct_top5, counts.hits))
    assert len(set(found)) == 1
    assert isinstance(found[0][0], int)
