"""``calibrate`` gives each step its first value once, from the net as quantized so far."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.utils.data import DataLoader, TensorDataset

from lsqctl.quant import (
    QuantSpec,
    calibrate,
    initial_step_size,
    prepare,
    quantizers,
)


def steps(model):
    return {name: q.step_size.detach().clone() for name, q in quantizers(model).items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_every_step_gets_its_first_value_in_the_parameter_it_has(small_net, images):
    prepare(small_net, QuantSpec())
    before = {name: q.step_size for name, q in quantizers(small_net).items()}
    calibrate(small_net, images)
    for name, quantizer in quantizers(small_net).items():
        assert quantizer.calibrated
        assert quantizer.step_size is before[name]
    assert all(step != 1 for step in steps(small_net).values())


def test_activations_are_those_of_the_net_quantized_so_far(small_net, images):
    prepare(small_net, QuantSpec(weight_bits=2, act_bits=2))
    calibrate(small_net, images)
    x = images
    small_net.eval()
    for layer in small_net:
        if getattr(layer, "input_quantizer", None):
            quantizer = layer.input_quantizer
            assert torch.equal(quantizer.step_size, initial_step_size(x, *quantizer.bounds))
        x = layer(x)


def test_nothing_else_of_the_model_changes(small_net, images):
    prepare(small_net, QuantSpec()).train()
    small_net[4].eval()  # a frozen norm
    flags = [module.training for module in small_net.modules()]
    state = {k: v.clone() for k, v in small_net.state_dict().items() if "quantizer" not in k}
    random = torch.get_rng_state()
    calibrate(small_net, images)
    assert [module.training for module in small_net.modules()] == flags
    assert same(state, {k: v for k, v in small_net.state_dict().items() if "quantizer" not in k})
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not module._forward_pre_hooks for module in small_net.modules())
    assert all(p.grad is None for p in small_net.parameters())


def test_calibrating_twice_changes_nothing_unless_forced(small_net, images):
    prepare(small_net, QuantSpec())
    calibrate(small_net, images)
    first = steps(small_net)
    calibrate(small_net, images * 3)
    assert same(steps(small_net), first)
    calibrate(small_net, images.abs() * 3, force=True)
    assert not same(steps(small_net), first)
    assert quantizers(small_net)["0.input_quantizer"].signed is False


def test_only_what_is_not_calibrated_yet_is_calibrated(small_net, images):
    prepare(small_net, QuantSpec())
    calibrate(small_net, images)
    first = steps(small_net)
    for quantizer in quantizers(small_net[6]).values():
        quantizer.calibrated = False
        with torch.no_grad():
            quantizer.step_size.fill_(9)
    calibrate(small_net, images)
    assert same(steps(small_net), first)


def test_several_batches_count_as_one_large_batch(small_net, images):
    labels = torch.zeros(len(images), dtype=torch.int64)
    loader = DataLoader(TensorDataset(images, labels), batch_size=5)
    results = []
    for data in (images, loader, images.split(3), iter([(images,)])):
        model = prepare(copy.deepcopy(small_net), QuantSpec())
        calibrate(model, data)
        results.append(steps(model))
    assert all(same(result, results[0]) for result in results)


def test_a_pair_of_images_and_labels_is_refused_with_what_to_pass(small_net, images):
    prepare(small_net, QuantSpec())
    with pytest.raises(ValueError, match="pass the images"):
        calibrate(small_net, [images, torch.zeros(16)])
    with pytest.raises(ValueError, match="no batch"):
        calibrate(small_net, [])


def test_layers_that_are_never_reached_are_named_the_first_five():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(3, 3)
            self.idle = nn.ModuleList(nn.Linear(3, 3) for _ in range(7))

        def forward(self, x):
            return self.used(x)

    model = prepare(Partial(), QuantSpec())
    with pytest.raises(ValueError, match=r"reach idle\.0, idle\.1, .*, idle\.4 and 2 more:"):
        calibrate(model, torch.randn(2, 3))


def test_activations_that_are_not_finite_are_refused_with_the_layers_name(small_net, images):
    prepare(small_net, QuantSpec())
    small_net[1].running_var.fill_(math.nan)
    with pytest.raises(ValueError, match=r"input activations of layer '3': .* NaN"):
        calibrate(small_net, images)
    assert all(not module._forward_pre_hooks for module in small_net.modules())


def test_weights_that_are_not_finite_are_refused_with_the_layers_name(small_net, images):
    prepare(small_net, QuantSpec())
    small_net[6].weight.data[0] = math.inf
    with pytest.raises(ValueError, match="weights of layer '6'"):
        calibrate(small_net, images)


def test_a_shared_layer_is_calibrated_on_the_values_of_all_its_uses():
    shared = nn.Linear(4, 4)
    model = prepare(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2)), QuantSpec())
    x = torch.randn(8, 4)
    seen = []
    calibrate(model, x)
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten()))
    quantizer = model[0].input_quantizer
    with torch.no_grad():  # the second use sees what the first one makes of it
        model(x)
    step = initial_step_size(torch.cat(seen), *quantizer.bounds)
    torch.testing.assert_close(quantizer.step_size.detach(), step, rtol=0.01, atol=0)


def test_a_float_model_is_refused(small_net, images):
    with pytest.raises(ValueError, match="call prepare"):
        calibrate(small_net, images)


def test_a_checkpoint_of_the_whole_model_restores_steps_signs_and_flags(
    small_net, images, tmp_path
):
    spec = QuantSpec(per_channel=True)
    fresh = prepare(copy.deepcopy(small_net), spec).eval()
    trained = prepare(small_net, spec).eval()
    calibrate(trained, images)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(fresh(images), trained(images))
    calibrate(fresh, images * 9)  # is calibrated: nothing happens
    assert same(steps(fresh), steps(trained))


def _calibrate_on(rank, folder):
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = prepare(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)), QuantSpec())
    torch.manual_seed(rank)
    x = torch.randn(8, 6) if rank == 0 else torch.rand(8, 6)  # another size, another sign
    calibrate(model, x)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_every_rank_of_a_process_group_gets_the_steps_and_signs_of_rank_0(tmp_path):
    multiprocessing.spawn(_calibrate_on, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)
    assert first["0.input_quantizer._extra_state"].tolist()[:2] == [1, 1]
