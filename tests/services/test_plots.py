"""Which charts `plot` draws of a board with several datasets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lsqctl.errors import NotFound
from lsqctl.services.plots import plot_ablation, plot_bits, plot_cost
from lsqctl.store import open_store
from tests.store.samples import RECIPE, identity, new, result, submit, take

DATASETS = ("digits", "mnist")


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'lsqctl.db'}") as opened:
        opened.workers.register(identity("w1"))
        for dataset in DATASETS:
            for bits in (2, 4):
                quant = {"weight_bits": bits, "act_bits": bits}
                recipe = RECIPE | {"data": {"name": dataset}, "quant": quant}
                submit(opened, replace(new(f"{dataset}-w{bits}"), recipe=recipe))
                done = replace(result(), dataset=dataset, weight_bits=bits, act_bits=bits)
                opened.queue.finish(take(opened).lease, done)
        yield opened


def titles(charts):
    return [chart.title.partition(":")[0] for chart in charts]


def test_each_dataset_with_local_runs_has_a_chart_of_its_own(store):
    for draw in (
        lambda dataset: plot_ablation(store, "quant.weight_bits", dataset=dataset),
        lambda dataset: plot_cost(store, "size_bytes", dataset=dataset),
        lambda dataset: plot_bits(store, dataset=dataset)[0],
    ):
        assert sorted(titles(draw(None))) == [*DATASETS]
        assert len(draw("mnist")) == 1
    with pytest.raises(NotFound, match=r"did you mean `mnist`\?"):
        plot_ablation(store, "quant.weight_bits", dataset="mnits")


def test_networks_that_are_left_out_for_want_of_room_are_counted(store):
    charts, left_out = plot_bits(store, dataset="imagenet")
    assert len(charts) == 6
    assert left_out.startswith("6 of ")
    assert plot_bits(store)[1] == ""
