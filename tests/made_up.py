"""A workspace with made-up results in a second: recipes, seeds, a failed run, no training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lsqctl.recipe import Recipe
from lsqctl.run import EndReason, NewRun
from lsqctl.store import open_store
from tests.store.samples import RECIPE, evaluation, identity, new, result, take

FP32 = 533  # of 540 images
CORRECT = {2: (470, 468, 475), 3: (520, 522, 519), 4: (530, 531, 529), 32: (533, 533, 532)}


def fill(folder: Path) -> None:
    """Put `digits/resnet8-…` in four precisions and three seeds each, and a failure of 2 bits."""
    with open_store(f"sqlite:///{folder}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        for bits, counts in CORRECT.items():
            name = f"digits/resnet8-{'fp32' if bits == 32 else f'w{bits}a{bits}'}"
            for seed, n_correct in enumerate(counts):
                store.queue.enqueue([_new(name, bits, seed)])
                counted = evaluation(n_correct=n_correct, n_correct_top5=539, n_total=540)
                quantized = {} if bits == 32 else {"fp32_n_correct": FP32, "fp32_n_total": 540}
                found = replace(
                    result(counted),
                    weight_bits=bits,
                    act_bits=bits,
                    size_bytes=9_000 * bits,
                    bops=12_000_000 * bits * bits,
                    device=f"gpu {seed}",
                    **({"fp32_n_correct": None, "fp32_n_total": None} | quantized),
                )
                store.queue.finish(take(store).lease, found)
        store.queue.enqueue([_new("digits/resnet8-w2a2", 2, 3)])
        store.queue.fail(take(store).lease, EndReason.DIVERGED, "loss is NaN at step 7")


def _new(name: str, bits: int, seed: int) -> NewRun:
    quant = {"weight_bits": bits, "act_bits": bits}
    recipe = Recipe.model_validate(RECIPE | {"name": name, "seed": seed, "quant": quant})
    return replace(new(name, seed=seed), recipe=recipe.model_dump(mode="json"))
