"""`recipe bits`: the best bits within a budget, by step sizes that runs have learned."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import pytest

from lsqctl.events import QuantizerStats
from lsqctl.recipe_file import load
from lsqctl.services.bits import LayerBits, _options, learned_steps, pick
from lsqctl.settings import sqlite_url
from lsqctl.store import open_store
from tests.store.samples import identity, new, result, submit, take

LAYERS = ("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1")
STEPS = {2: 0.4, 3: 0.2, 4: 0.1}


def stats(layer, kind, bits, step_size):
    counts = {"clip_fraction": 0.0, "codes_used": 4, "n_codes": 4, "n_values": 9}
    sizes = dict.fromkeys(("step_size", "step_size_min", "step_size_max"), step_size)
    return QuantizerStats(
        f"{layer}.{kind}_quantizer", kind, 1, 10, bits, signed=True, **sizes, **counts
    )


def test_the_choice_is_the_best_of_all_that_fit():
    random.seed(3)
    for _ in range(20):
        choices = [
            [
                LayerBits(str(layer), bits, 4, random.randint(1, 40), random.random())
                for bits in (2, 3, 4)
            ]
            for layer in range(5)
        ]
        budget = sum(sorted(option.cost for option in layer)[1] for layer in choices)
        fitting = [
            choice
            for choice in itertools.product(*choices)
            if sum(option.cost for option in choice) <= budget
        ]
        best = min(sum(option.importance for option in choice) for choice in fitting)
        picked = pick(choices, budget)
        assert sum(option.importance for option in picked) == pytest.approx(best)
        assert sum(option.cost for option in picked) <= budget


@pytest.fixture
def ladder(here):
    """Three runs at 2, 3 and 4 bits, of which the second layer loses the most."""
    (here.folder / "mine.yaml").write_text(
        "model: {name: resnet8}\ndata: {name: digits}\nquant: {weight_bits: 4, act_bits: 4}\n"
    )
    (cell,) = load(here.folder / "mine.yaml").cells
    home = here.folder / ".lsqctl"
    home.mkdir(mode=0o700)
    with open_store(sqlite_url(home / "lsqctl.db")) as store:
        store.workers.register(identity("w1"))
        for bits, step_size in STEPS.items():
            run = replace(new(f"w{bits}"), recipe=cell.recipe.model_dump(mode="json"))
            submit(store, run)
            lease = take(store).lease
            factors = zip(LAYERS, (1, 5, 1), strict=True)
            rows = [
                stats(layer, kind, bits, factor * step_size)
                for layer, factor in factors
                for kind in ("weight", "input")
            ]
            store.metrics.log(lease, [*rows, stats("conv1", "weight", 8, 0.1)])
            store.queue.finish(lease, result())
    return here


def bits_of(path):
    return {
        layer: (override.weight_bits, override.act_bits)
        for layer, override in load(path).cells[0].recipe.quant.overrides.items()
    }


def test_of_runs_at_the_same_bits_the_one_that_was_trained_most_alike_tells_the_steps(ladder):
    (cell,) = load(ladder.folder / "mine.yaml").cells
    with open_store(sqlite_url(ladder.folder / ".lsqctl" / "lsqctl.db")) as store:
        of_all = learned_steps(cell.recipe, store)[1]
        train = cell.recipe.train.model_copy(update={"lr": 9.0})
        other = cell.recipe.model_copy(update={"train": train})
        submit(store, replace(new("newer"), recipe=other.model_dump(mode="json")))
        lease = take(store).lease
        learned = [stats(LAYERS[0], "weight", 4, 7.0), stats(LAYERS[1], "weight", 5, 7.0)]
        store.metrics.log(lease, learned)
        store.queue.finish(lease, result())
        steps, run_ids = learned_steps(cell.recipe, store)
        assert (steps[LAYERS[0], "weight", 4], steps[LAYERS[1], "weight", 5]) == (0.1, 7.0)
        assert run_ids == (*of_all, lease.run_id)
        assert learned_steps(other, store)[0][LAYERS[0], "weight", 4] == 7.0


def test_the_layer_that_loses_most_keeps_its_bits_and_the_file_is_a_recipe(ladder):
    plan = json.loads(ladder("recipe", "bits", "mine.yaml", "--size", "1MB", "--json").stdout)
    largest, smallest = plan["largest"], plan["smallest"]
    path = ladder.folder / "mine-bits.yaml"
    assert plan["cost"] == largest
    assert bits_of(path) == dict.fromkeys(LAYERS, (4, 4))
    half = (largest + smallest) // 2
    out = ladder("recipe", "bits", "mine.yaml", "--size", f"{half}B", "-o", "half.yaml").stdout
    chosen = bits_of(ladder.folder / "half.yaml")
    assert chosen["layer1.0.conv2"] == (4, 4)
    assert min(bits for bits, _ in chosen.values()) < 4
    assert len(out.splitlines()) == len(LAYERS)
    shown = json.loads(ladder("recipe", "show", "half.yaml", "--json").stdout)
    assert smallest <= shown["cells"][0]["cost"]["size_bytes"] <= half


def test_weights_count_twice_and_fewer_bits_with_a_smaller_step_are_the_last_choice():
    steps = {("one", "weight", 2): 0.1, ("one", "weight", 3): 0.3, ("one", "weight", 4): 0.2}
    steps |= {("one", "input", 2): 0.5, ("one", "input", 4): 0.25}
    found = {(bits, act): value for bits, act, value in _options("one", 4, steps, "bops")}
    assert found[4, 4] == pytest.approx(2 * 0.2 + 0.25)
    assert found[3, 2] == pytest.approx(2 * 0.3 + 0.5)
    assert min(found[2, 2], found[2, 4]) > 1e4
    assert {act for _, act, _ in _options("one", 4, steps, "size")} == {4}


@pytest.mark.slow
def test_bit_operations_choose_activations_too(ladder):
    plan = json.loads(ladder("recipe", "bits", "mine.yaml", "--bops", "1T", "--json").stdout)
    budget = (plan["largest"] + plan["smallest"]) / 2
    ladder("recipe", "bits", "mine.yaml", "--bops", f"{budget / 1e6}M", "-o", "half.yaml")
    chosen = bits_of(ladder.folder / "half.yaml")
    assert {act for _, act in chosen.values()} != {4}
    shown = json.loads(ladder("recipe", "show", "half.yaml", "--json").stdout)
    assert shown["cells"][0]["cost"]["bops"] <= budget


def test_a_network_with_bits_by_layer_is_told_on_the_board(ladder):
    largest = json.loads(ladder("recipe", "bits", "mine.yaml", "--size", "1MB", "--json").stdout)
    recipe = load(ladder.folder / "mine-bits.yaml").cells[0].recipe
    per_channel = json.loads(json.dumps(largest["recipe"]))
    per_channel["quant"]["overrides"] = [["layer1.*", {"per_channel": True}]]
    with open_store(sqlite_url(ladder.folder / ".lsqctl" / "lsqctl.db")) as store:
        stored = {"mixed": recipe.model_dump(mode="json"), "channels": per_channel}
        for name, values in stored.items():
            submit(store, replace(new(name), recipe=values))
            store.queue.finish(take(store).lease, result())
        rows = {row.name: row.mixed for row in store.results.board_rows()}
    assert rows == {"w2": False, "w3": False, "w4": False, "mixed": True, "channels": False}


def test_a_budget_that_no_bits_meet_says_the_smallest_possible_and_writes_nothing(ladder):
    told = ladder("recipe", "bits", "mine.yaml", "--size", "1kB", code=2).stderr
    assert "--size 1000: no bits that the runs here were trained with meet it" in told
    assert len(told.splitlines()) == 1
    assert not (ladder.folder / "mine-bits.yaml").exists()
    smallest = told.split()[-2:]
    assert smallest[0] == "--size"
    ladder("recipe", "bits", "mine.yaml", *smallest)
    assert set(bits_of(ladder.folder / "mine-bits.yaml").values()) == {(2, 4)}


def test_what_a_recipe_says_of_layers_beside_their_bits_is_kept_and_counted(ladder):
    own = (
        'overrides: {"*": {per_channel: true}, layer1.0.conv1: {act_signed: signed, init: paper}, '
        "layer1.*: {init: mse}}"
    )
    text = (ladder.folder / "mine.yaml").read_text().replace("act_bits: 4", f"act_bits: 4, {own}")
    (ladder.folder / "own.yaml").write_text(text)
    plan = json.loads(ladder("recipe", "bits", "own.yaml", "--size", "1MB", "--json").stdout)
    overrides = load(ladder.folder / "own-bits.yaml").cells[0].recipe.quant.overrides
    assert overrides["*"].per_channel
    assert overrides["layer1.0.conv1"].act_signed == "signed"
    assert overrides["layer1.0.conv1"].init == "mse"  # as the later one had it
    shown = json.loads(ladder("recipe", "show", "own-bits.yaml", "--json").stdout)
    assert shown["cells"][0]["cost"]["size_bytes"] == plan["cost"]


REFUSED = {
    "name one budget: --size 120kB, or --bops 0.5G": (),
    "name one budget": ("--size", "1MB", "--bops", "1G"),
    "must be an amount such as 120kB or 1.5MB, got `much`": ("--size", "much"),
    "must be an amount such as 0.5G or 800M, got `0G`": ("--bops", "0G"),
    "x.txt: a recipe's file ends in .yaml": ("--size", "1MB", "-o", "x.txt"),
    "mine.yaml exists; --force overwrites it": ("--size", "1MB", "-o", "mine.yaml"),
}


def test_what_cannot_be_meant_is_refused_in_one_line(ladder):
    for said, words in REFUSED.items():
        assert said in ladder("recipe", "bits", "mine.yaml", *words, code=2).stderr


def test_the_file_is_refused_before_the_search(ladder):
    (ladder.folder / "mine-bits.yaml").write_text("mine")
    told = ladder("recipe", "bits", "mine.yaml", "--size", "1kB", code=2).stderr
    assert "mine-bits.yaml exists; --force overwrites it" in told
    assert "--size" not in told


def test_the_command_that_comes_next_can_be_pasted_whatever_the_folder_is_called(ladder):
    (ladder.folder / "my nets").mkdir()
    bits = ladder("recipe", "bits", "mine.yaml", "--size", "1MB", "-o", "my nets/small.yaml").stderr
    assert bits.endswith("next: lsqctl submit 'my nets/small.yaml'\n")
    new = ladder("recipe", "new", "my nets/new.yaml").stderr
    quoted = "'my nets/new.yaml'"
    assert new.endswith(f"next: lsqctl recipe check {quoted}, lsqctl run {quoted}\n")


def test_the_recipe_of_a_long_name_is_called_so_that_a_recipe_may_be(ladder):
    name = "n" * 60 + "-w4a"
    (ladder.folder / f"{name}.yaml").write_text((ladder.folder / "mine.yaml").read_text())
    ladder("recipe", "bits", f"{name}.yaml", "--size", "1MB")
    assert load(ladder.folder / f"{'n' * 59}-bits.yaml").cells[0].recipe.name == "n" * 59 + "-bits"


def test_without_runs_at_several_bits_it_says_what_to_run(ladder):
    (ladder.folder / "other.yaml").write_text(
        "model: {name: cifar_resnet20}\ndata: {name: digits}\nquant: {weight_bits: 4}\n"
    )
    told = ladder("recipe", "bits", "other.yaml", "--size", "1MB", code=3).stderr
    assert "no layer of cifar_resnet20 on digits has learned step sizes" in told
    assert "--grid quant.weight_bits=2,3,4" in told
