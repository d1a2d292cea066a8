"""Laws of a submission: parents, seeds, identity, and nothing queued unless all is right."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lsqctl.errors import DataError, NotFound, RecipeError, UsageError
from lsqctl.models.factory import build_model
from lsqctl.run import EnqueueOutcome
from lsqctl.services.submit import plan_submit, submit
from lsqctl.services.submit_planner import SubmitOptions
from lsqctl.settings import Settings
from lsqctl.store import open_store

BASE = "model: {name: resnet8}\ndata: {name: digits}\n"
CHILD = "model: {name: resnet8, weights: {run: base}}\ndata: {name: digits}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(CHILD)
    url = f"sqlite:///{tmp_path / 'home' / 'lsqctl.db'}"
    return Settings(tmp_path / "home", url, tmp_path / "data")


@pytest.fixture
def store(here):
    with open_store(here.db_url) as opened:
        yield opened


def save_resnet8(path, seed=0, **network):
    torch.manual_seed(seed)
    torch.save(
        build_model("resnet8", **{"num_classes": 10, "in_channels": 1} | network).state_dict(), path
    )


def planned(here, *references, store=None, sets=(), seeds=(), **options):
    options = SubmitOptions(overrides=tuple(sets), seeds=tuple(seeds), **options)
    return plan_submit(references, settings=here, store=store, options=options).runs


def test_a_missing_parent_is_planned_before_its_child(here):
    parent, child = planned(here, "child.yaml")
    assert (parent.name, child.name) == ("base", "child")
    assert child.parents == {"model.weights": parent.run_sha256}
    assert parent.parents == {}


def test_a_name_is_given_to_one_recipe_and_not_to_its_parents(here):
    runs = planned(here, "child.yaml", sets=["train.lr=0.3"], name="mine/short")
    assert [run.name for run in runs] == ["base", "mine/short"]
    (bundled,) = planned(here, "digits/resnet8-fp32", sets=["train.lr=0.3"], name="base2")
    assert bundled.name == "base2"
    with pytest.raises(UsageError, match="--name calls one recipe, not 2"):
        planned(here, "base.yaml", "child.yaml", name="mine")


def test_each_child_waits_for_the_parent_of_its_own_seed(here):
    runs = planned(here, "base.yaml", "child.yaml", seeds=(0, 1, 2))
    by_seed = {run.seed: run.run_sha256 for run in runs if run.name == "base"}
    children = [run for run in runs if run.name == "child"]
    assert len(by_seed) == len(children) == 3
    assert all(run.parents["model.weights"] == by_seed[run.seed] for run in children)


def test_a_parent_with_one_seed_serves_children_of_every_seed(here):
    runs = planned(here, "child.yaml", seeds=(4, 5))
    parents = [run for run in runs if run.name == "base"]
    assert [run.seed for run in parents] == [0]
    assert {run.parents["model.weights"] for run in runs if run.name == "child"} == {
        parents[0].run_sha256
    }


def test_a_parent_with_other_seeds_only_is_an_error_that_says_what_to_do(here):
    Path("base.yaml").write_text(BASE + "sweep: {grid: {seed: [1, 2]}}\n")
    with pytest.raises(UsageError, match="--seed 7"):
        planned(here, "child.yaml", seeds=(7,))


def test_a_parent_that_ran_already_is_reused(here, store):
    submit(plan_submit(["base.yaml"], settings=here, store=store), store)
    enqueued = submit(plan_submit(["child.yaml"], settings=here, store=store), store)
    assert len(store.runs.list(name="base")) == 1
    assert [one.outcome for one in enqueued] == [EnqueueOutcome.WAITING]


def test_an_override_of_both_makes_the_child_wait_for_the_overridden_parent(here):
    parent, child = planned(here, "base.yaml", "child.yaml", sets=["train.epochs=3"])
    assert parent.recipe["train"]["epochs"] == 3
    assert child.parents["model.weights"] == parent.run_sha256


def test_a_parent_whose_recipe_is_gone_is_found_by_its_runs(here, store):
    submit(plan_submit(["base.yaml"], settings=here, store=store), store)
    Path("base.yaml").unlink()
    (child,) = planned(here, "child.yaml", store=store)
    assert child.parents["model.weights"] == store.runs.list(name="base")[0].run_sha256


def test_what_the_parent_was_is_part_of_what_the_child_is(here):
    before = planned(here, "child.yaml")[1]
    Path("base.yaml").write_text(BASE + "train: {lr: 0.2}\n")
    after = planned(here, "child.yaml")[1]
    assert before.recipe == after.recipe
    assert before.recipe_sha256 != after.recipe_sha256


def test_the_seed_is_part_of_a_run_and_not_of_its_recipe(here):
    first, second = planned(here, "base.yaml", seeds=(0, 1))
    assert first.recipe_sha256 == second.recipe_sha256
    assert first.run_sha256 != second.run_sha256


def test_a_weights_file_counts_by_its_bytes_not_by_its_path(here):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        save_resnet8(Path(folder) / "w.pth")
    digest = hashlib.sha256(Path("a/w.pth").read_bytes()).hexdigest()
    runs = []
    for folder in ("a", "b"):
        Path("w.yaml").write_text(BASE.replace("resnet8", f"resnet8, weights: {folder}/w.pth"))
        runs += planned(here, "w.yaml")
    assert runs[0].provenance["inputs"]["model.weights"]["sha256"] == digest
    assert runs[0].recipe_sha256 == runs[1].recipe_sha256
    save_resnet8(Path("b/w.pth"), seed=1)
    assert planned(here, "w.yaml")[0].recipe_sha256 != runs[0].recipe_sha256


def test_a_weights_file_is_found_beside_the_recipe_and_in_the_data_folder(here):
    Path("w.yaml").write_text(BASE.replace("resnet8", "resnet8, weights: some/w.pth"))
    with pytest.raises(DataError, match=r"some/w.pth.*--data-dir"):
        planned(here, "w.yaml")
    (here.data_dir / "some").mkdir(parents=True)
    save_resnet8(here.data_dir / "some" / "w.pth")
    assert planned(here, "w.yaml")[0].provenance["inputs"]["model.weights"]["path"] == str(
        here.data_dir / "some" / "w.pth"
    )


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("model: {name: resnet8, weights: w.pt}", "w: model.weights: .*w.pt into resnet8: "),
        ("model: {name: resnet8}\ndistill: {teacher: w.pt}", "w: distill.teacher: .*w.pt into "),
    ],
)
def test_a_file_that_does_not_fit_its_network_is_refused_before_anything_is_queued(
    here, where, told
):
    Path("w.yaml").write_text(f"{where}\ndata: {{name: digits}}\n")
    save_resnet8("w.pt", num_classes=12)
    with pytest.raises(
        DataError, match=rf"^w.yaml:\d:\d+: {told}.*trained for 12 classes, and the data have 10"
    ):
        planned(here, "w.yaml")
    torch.save({"fc": torch.ones(1)}, "w.pt")
    with pytest.raises(
        DataError, match=rf"^w.yaml:\d:\d+: {told}.*lacks in the file: conv1.weight, .* and 32 more"
    ):
        planned(here, "w.yaml")
    Path("w.pt").write_text("no tensors")
    with pytest.raises(DataError, match=r"w\.pt does not read as weights"):
        planned(here, "w.yaml")
    save_resnet8("w.pt")
    assert len(planned(here, "w.yaml")) == 1


def make_images(root, *classes):
    """Write an image folder with an image, of few bytes, for each class and split."""
    for split in ("train", "val"):
        for name in classes:
            (root / "imagefolder" / split / name).mkdir(parents=True)
            (root / "imagefolder" / split / name / "a.png").write_bytes(one_pixel("a"))


def one_pixel(value):
    """Return an image of one pixel."""
    return b"P5 1 1 255\n" + value.encode()


def test_weights_are_compared_with_the_classes_of_a_folder_of_images(here):
    Path("w.yaml").write_text("model: {name: resnet8, weights: w.pt}\ndata: {name: imagefolder}\n")
    save_resnet8("w.pt", num_classes=2, in_channels=3)
    assert planned(here, "w.yaml", check_data=False), "no folder says how many there are"
    make_images(here.data_dir, "cat", "dog")
    assert planned(here, "w.yaml")
    save_resnet8("w.pt", num_classes=3, in_channels=3)
    with pytest.raises(DataError, match="trained for 3 classes, and the data have 2"):
        planned(here, "w.yaml")


def test_a_folder_of_images_that_a_worker_would_refuse_is_refused(here):
    Path("i.yaml").write_text(BASE.replace("digits", "imagefolder"))
    make_images(here.data_dir, "cat")
    (here.data_dir / "imagefolder" / "train" / "dog").mkdir()
    (here.data_dir / "imagefolder" / "train" / "dog" / "1.png").touch()
    with pytest.raises(DataError, match="2 classes in train, 1 in val"):
        planned(here, "i.yaml")


def test_changed_images_are_another_run_and_the_same_ones_are_not(here, store, tmp_path):
    Path("i.yaml").write_text(BASE.replace("digits", "imagefolder"))
    Path("of-i.yaml").write_text(CHILD.replace("base", "i").replace("digits", "imagefolder"))
    make_images(here.data_dir, "cat", "dog")

    def hashes():
        runs = planned(here, "of-i.yaml", store=store)
        return [run.recipe_sha256 for run in runs]

    first = hashes()
    image = here.data_dir / "imagefolder" / "val" / "dog" / "a.png"
    image.write_bytes(one_pixel("b"))  # as long as it was
    second = hashes()
    assert len(set(first + second)) == 4, "a child of it is another run, too"
    image.write_bytes(one_pixel("a"))
    here.data_dir.rename(tmp_path / "elsewhere")
    moved = replace(here, data_dir=tmp_path / "elsewhere")
    assert [run.recipe_sha256 for run in planned(moved, "of-i.yaml", store=store)] == first


def test_an_image_that_a_worker_would_stumble_over_is_refused_by_name(here):
    Path("i.yaml").write_text(BASE.replace("digits", "imagefolder"))
    make_images(here.data_dir, "cat", "dog")
    image = here.data_dir / "imagefolder" / "val" / "dog" / "a.png"
    image.write_bytes(b"P5 1 30000 255\n" + bytes(30_000))
    with pytest.raises(DataError, match=r"dog/a\.png is 1x30000, and would have 1,966,080,000 pix"):
        planned(here, "i.yaml")
    assert planned(here, "i.yaml", sets=("data.resize_mode=square",))
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/a\.png does not open as an image \(JPEG, PNG"):
        planned(here, "i.yaml")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (BASE.replace("resnet8", "vit_b_32"), "1:15: vit_b_32 cannot take images of 8 pixels"),
        (
            BASE.replace("resnet8", "squeezenet1_1") + "train:\n  bn_reestimate_images: 100\n",
            r"4:25: train\.bn_reestimate_images: squeezenet1_1 has no batch norm",
        ),
        (
            BASE + "distill:\n  teacher: {run: base}\n  features: 0.5\n",
            r"5:13: distill\.features: the input of linear, .* has 32 bits",
        ),
        (
            BASE + "distill:\n  teacher: {run: base}\n  teacher_model: vit_b_32\n",
            "5:18: vit_b_32 cannot take images of 8 pixels",
        ),
    ],
)
def test_a_network_that_a_worker_would_refuse_is_refused_before_anything_is_queued(
    here, recipe, said
):
    Path("n.yaml").write_text(recipe)
    with pytest.raises((DataError, UsageError), match=rf"^n\.yaml:{said}"):
        planned(here, "n.yaml")


def test_a_damaged_dataset_is_refused_before_anything_is_queued(here):
    Path("c.yaml").write_text(BASE.replace("digits", "cifar10"))
    here.data_dir.mkdir()
    (here.data_dir / "cifar-10-binary.tar.gz").write_bytes(b"half a download")
    assert planned(here, "c.yaml", check_data=False)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is damaged or partial: md5"):
        planned(here, "c.yaml")


def test_what_the_data_held_is_recorded_unless_they_are_not_looked_at(here):
    Path("i.yaml").write_text(BASE.replace("digits", "imagefolder"))
    make_images(here.data_dir, "cat", "dog")
    assert planned(here, "i.yaml")[0].provenance["data"].startswith("images-sha256:")
    assert planned(here, "base.yaml")[0].provenance["data"] == "as published"
    assert "data" not in planned(here, "i.yaml", check_data=False)[0].provenance


def test_recipes_that_wait_for_each_other_are_refused(here):
    Path("base.yaml").write_text(CHILD.replace("base", "child"))
    with pytest.raises(UsageError, match="wait for each other"):
        planned(here, "child.yaml")


def test_a_torchvision_weights_name_is_checked_before_anything_is_queued(here):
    make_images(here.data_dir, "cat")
    text = "model: {name: resnet18, weights: IMAGENET1K_V9}\ndata: {name: imagefolder}\n"
    Path("t.yaml").write_text(text)
    with pytest.raises(DataError, match="IMAGENET1K_V9"):
        planned(here, "t.yaml")
    Path("t.yaml").write_text(text.replace("V9", "V1"))
    assert planned(here, "t.yaml")


def test_a_parent_that_is_only_needed_is_told_from_one_that_is_asked_for(here):
    parent, child = planned(here, "child.yaml")
    assert (parent.explicit, child.explicit) == (False, True)
    for order in (("child.yaml", "base.yaml"), ("base.yaml", "child.yaml")):
        assert [(run.name, run.explicit) for run in planned(here, *order)] == [
            ("base", True),
            ("child", True),
        ]


def test_a_limit_of_failures_needs_a_sweep_and_a_hold_holds_the_parents_too(here, store):
    with pytest.raises(UsageError, match="for a sweep"):
        plan_submit(
            ["child.yaml"], settings=here, store=None, options=SubmitOptions(max_failures=2)
        )
    options = SubmitOptions(held=True, max_failures=2, seeds=(0, 1))
    submit(plan_submit(["child.yaml"], settings=here, store=store, options=options), store)
    assert [run.held for run in store.runs.list()] == [True, True, True]
    assert [one.max_failures for one in store.sweeps.summaries()] == [2]
    submit(
        plan_submit(
            ["child.yaml"], settings=here, store=store, options=SubmitOptions(seeds=(0, 1))
        ),
        store,
    )
    assert [one.max_failures for one in store.sweeps.summaries()] == [2]


@pytest.mark.parametrize("if_exists", ["skip", "rerun", "error"])
def test_a_sweep_with_seeds_and_a_failed_cell_is_submitted_again_as_asked(here, store, if_exists):
    sweep = CHILD + "quant: {weight_bits: 4}\nsweep: {grid: {quant.act_bits: [4, 8]}}\n"
    Path("s.yaml").write_text(sweep)

    def again(how):
        options = SubmitOptions(seeds=(0, 1))
        found = plan_submit(["s.yaml"], settings=here, store=store, options=options)
        return submit(found, store, if_exists=how)

    first = again("skip")
    assert len(first) == 5  # two cells of two seeds, and the parent's one seed
    store.runs.cancel(first[-1].run.id)
    before = store.runs.list(), store.sweeps.cells("s")
    if if_exists == "error":
        with pytest.raises(UsageError, match=r"exists already as run \w{8}"):
            again("error")
        assert (store.runs.list(), store.sweeps.cells("s")) == before
        return
    outcomes = [one.outcome for one in again(if_exists)]
    cells = {one.run.id for one in store.sweeps.cells("s")}
    if if_exists == "skip":
        assert outcomes == [EnqueueOutcome.EXISTS] * 3 + [EnqueueOutcome.RETRIED]
        assert len(store.runs.list()) == 5
    else:
        assert outcomes == [EnqueueOutcome.WAITING] * 4
        assert cells == {run.id for run in store.runs.list(limit=4)}, (
            "cells point to the newest runs"
        )
        assert len(store.runs.list(name="base")) == 1, "the parent was not asked for"


@pytest.mark.parametrize("if_exists", ["skip", "rerun", "error"])
def test_a_run_that_two_sweeps_of_one_submission_share_is_one_run_and_a_cell_of_both(
    here, store, if_exists
):
    for name, rates in (("s", [0.1, 0.2]), ("t", [0.2, 0.3])):
        Path(f"{name}.yaml").write_text(BASE + f"sweep: {{grid: {{train.lr: {rates}}}}}\n")
    found = plan_submit(["s.yaml", "t.yaml"], settings=here, store=store)
    submit(found, store, if_exists=if_exists)
    assert len(store.runs.list()) == 3
    s, t = ({one.run.id for one in store.sweeps.cells(name)} for name in "st")
    assert (len(s), len(t), len(s & t)) == (2, 2, 1)


def test_one_bad_recipe_among_several_queues_none(here, store):
    Path("bad.yaml").write_text("model: {name: resnet9}\ndata: {name: digits}\n")
    Path("worse.yaml").write_text("model: {name: resnet8}\ndata: {nam: digits}\n")
    with pytest.raises(RecipeError) as caught:
        submit(
            plan_submit(["base.yaml", "bad.yaml", "worse.yaml"], settings=here, store=store), store
        )
    assert {fault.file for fault in caught.value.diagnostics} == {"bad.yaml", "worse.yaml"}
    assert store.runs.list() == []


def test_an_unknown_parent_is_not_found(here):
    Path("child.yaml").write_text(CHILD.replace("base", "bse"))
    with pytest.raises(NotFound, match="bse"):
        planned(here, "child.yaml")


@pytest.mark.parametrize(
    ("key", "where"),
    [("model: {name: resnet8, weights: {run: NAME}}", 33), ("distill: {teacher: {run: NAME}}", 20)],
)
@pytest.mark.parametrize(
    ("name", "meant"),
    [("mybsae", "mybase"), ("gird-lr0.1", "grid-lr0.1"), ("ours/tecaher", "ours/teacher")],
)
def test_a_misspelled_parent_gets_the_nearest_recipe_beside_its_child(
    here, key, where, name, meant
):
    Path("mybase.yaml").write_text(BASE)
    Path("grid.yaml").write_text(BASE + "sweep: {grid: {train.lr: [0.1, 0.2]}}\n")
    Path("teacher.yaml").write_text("name: ours/teacher\n" + BASE)
    Path("mybsea.yaml").write_text("a recipe with errors\n")
    text = BASE.replace("model: {name: resnet8}\n", "") if "model" in key else BASE
    Path("child.yaml").write_text(key.replace("NAME", name) + "\n" + text)
    said = rf"child\.yaml:1:{where}: {{run: {name}}}: no recipe .*; did you mean `{meant}`\?"
    with pytest.raises(NotFound, match=said):
        planned(here, "child.yaml")
    Path("child.yaml").write_text(key.replace("NAME", meant) + "\n" + text)
    assert planned(here, "child.yaml")[0].name == meant


def test_a_misspelled_parent_gets_no_name_that_would_wait_for_itself(here):
    Path("child.yaml").write_text(CHILD.replace("base", "chlid"))
    with pytest.raises(NotFound, match=r"no recipe and no run has this name$"):
        planned(here, "child.yaml")


def test_what_is_wrong_with_a_parent_is_said_where_its_child_names_it(here):
    Path("base.yaml").write_text(BASE + "sweep: {grid: {seed: [1, 2]}}\n")
    with pytest.raises(UsageError, match=r"^child\.yaml:1:33: {run: base}: it has seeds 1, 2"):
        planned(here, "child.yaml")
    Path("base.yaml").write_text(BASE.replace("resnet8", "cifar_resnet20"))
    with pytest.raises(UsageError, match=r"^child\.yaml:1:33: child: .* is a cifar_resnet20"):
        planned(here, "child.yaml")


def test_the_stored_recipe_is_complete_and_the_snapshot_holds_no_secret(here, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "canary-7f3a")
    monkeypatch.setenv("LSQCTL_DB", "postgresql+psycopg://u:canary-7f3a@h/d")
    (run,) = planned(here, "base.yaml")
    assert run.recipe["quant"]["first_weight_bits"] == 32
    assert run.recipe["train"]["momentum"] == 0.9
    assert run.provenance["code_sha256"]
    assert "canary" not in str(run)


def test_a_missing_file_of_public_weights_says_where_it_is_published(here):
    Path("pub.yaml").write_text(
        "model: {name: cifar_resnet20, weights: cifar-resnet/resnet20-12fca82f.th}\n"
        "data: {name: digits}\n"
    )
    said = r"no file cifar-resnet/.*akamaster/pytorch_resnet_cifar10 \(BSD-2\).*-scratch"
    with pytest.raises(DataError, match=said):
        planned(here, "pub.yaml")


@pytest.mark.parametrize("key", ["model.weights", "distill.teacher"])
def test_weights_of_another_number_of_classes_are_refused_before_anything_is_queued(here, key):
    (here.home.parent / "hundred.yaml").write_text(BASE.replace("digits", "cifar100"))
    section = key.partition(".")[0]
    for reference, words in (
        ("{run: hundred}", "`hundred` was trained for 100 classes, and digits has 10"),
        ("IMAGENET1K_V1", "`IMAGENET1K_V1` was trained for 1,000 classes, and digits has 10"),
    ):
        sets = [f"model.name={'resnet8' if 'run' in reference else 'resnet18'}"]
        (here.home.parent / "x.yaml").write_text(BASE)
        value = reference if section == "model" else f"{{teacher: {reference}}}"
        sets.append(f"{key if section == 'model' else 'distill'}={value}")
        with pytest.raises(UsageError, match=f"{key}: {words}"):
            planned(here, "x.yaml", sets=sets)


def test_a_class_without_an_image_is_named_before_anything_is_queued(here):
    root = here.data_dir / "imagefolder"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "1.JPEG").write_bytes(one_pixel("a"))
    (here.home.parent / "x.yaml").write_text(BASE.replace("digits", "imagefolder"))
    assert planned(here, "x.yaml")
    (root / "val" / "dog" / "1.JPEG").rename(root / "val" / "dog" / "1.txt")
    with pytest.raises(DataError, match=r"val/dog has no image: every class needs some"):
        planned(here, "x.yaml")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("quant.overrides", "{stem*: {weight_bits: 8}}", r"`quant\.overrides\.stem\*`: matches no"),
        ("quant.residual_bits", "8", "`quant.residual_bits`: squeezenet1_0 has no residual"),
    ],
)
def test_what_names_no_layer_of_the_network_is_refused_with_its_place(here, key, value, what):
    leaf = key.partition(".")[2]
    text = f"model: {{name: squeezenet1_0}}\ndata: {{name: digits}}\nquant:\n  {leaf}: {value}\n"
    (here.home.parent / "x.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"x\.yaml:4:\d+: error\[R107\]: {what}"):
        planned(here, "x.yaml")


def test_a_teacher_that_is_another_network_must_be_named_before_anything_is_queued(here):
    child = "model: {name: cifar_resnet20}\ndata: {name: digits}\ndistill: {teacher: {run: base}"
    Path("child.yaml").write_text(child + "}\n")
    told = "distill.teacher: the run `base` is a resnet8, wanted is a cifar_resnet20; add "
    with pytest.raises(UsageError, match=f"{told}`distill.teacher_model: resnet8`"):
        planned(here, "child.yaml")
    Path("child.yaml").write_text(child + ", teacher_model: resnet8}\n")
    assert [run.name for run in planned(here, "child.yaml")] == ["base", "child"]


def test_a_start_of_another_network_is_refused_also_when_it_is_only_known_as_a_run(here, store):
    submit(plan_submit(["base.yaml"], settings=here, store=store), store)
    Path("base.yaml").unlink()
    Path("child.yaml").write_text(CHILD.replace("resnet8", "cifar_resnet20"))
    with pytest.raises(UsageError, match="the run `base` is a resnet8, wanted is a cifar_resnet20"):
        planned(here, "child.yaml", store=store)


def test_a_start_of_another_name_and_the_same_tensors_is_taken(here):
    Path("base.yaml").write_text("model: {name: resnet18}\ndata: {name: digits}\n")
    same = "model: {name: timm/resnet18, weights: {run: base}}\ndata: {name: digits}\n"
    Path("child.yaml").write_text(same)
    pytest.importorskip("timm", reason="timm is not installed: lsqctl[timm]")
    assert len(planned(here, "child.yaml")) == 2


def write_chain(folder, length):
    """Write recipes of which each waits for the one before it; return the last one's name."""
    (folder / "c0.yaml").write_text(BASE)
    for i in range(1, length):
        (folder / f"c{i}.yaml").write_text(CHILD.replace("base", f"c{i - 1}"))
    return f"c{length - 1}.yaml"


def test_a_chain_of_recipes_is_read_once_and_planned_from_its_start(here, tmp_path):
    """Twice a level, as it once was, would be a billion times for thirty."""
    runs = planned(here, write_chain(tmp_path, 30))
    assert [run.name for run in runs] == [f"c{i}" for i in range(30)]


@pytest.mark.slow
def test_a_chain_of_recipes_that_is_too_long_is_refused_in_one_line(here, tmp_path):
    with pytest.raises(UsageError, match="chain of more than 100 recipes; submit `c1`"):
        planned(here, write_chain(tmp_path, 102))
