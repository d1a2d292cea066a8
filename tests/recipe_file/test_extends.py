"""Building on another recipe: what is taken over, what is replaced, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import NotFound, Position, RecipeError
from lsqctl.recipe_file import load
from lsqctl.recipe_file.extends import merge_trees
from lsqctl.recipe_file.nodes import Entry, Node, Source

from .conftest import MINIMAL

SOURCE = Source("x", ())
HERE = Position(1, 1, 2)


def node(value):
    if isinstance(value, dict):
        return Node(SOURCE, HERE, {k: Entry(node(k), node(v)) for k, v in value.items()})
    return Node(SOURCE, HERE, value)


def tree(data):
    return dict(node(data).entries)


def plain(entries):
    return {key: entry.value.to_python() for key, entry in entries.items()}


SECTION = st.dictionaries(st.sampled_from(["lr", "epochs", "name"]), st.integers())
TREES = st.fixed_dictionaries(
    {}, optional={"train": SECTION, "data": SECTION, "seed": st.integers()}
).map(tree)


@given(TREES)
def test_nothing_laid_over_a_base_is_the_base_and_a_base_of_nothing_the_child(one):
    assert plain(merge_trees(one, {})) == plain(one) == plain(merge_trees({}, one))


@given(TREES, TREES)
def test_the_child_decides_every_key_it_gives_and_no_other(base, child):
    merged, below, above = plain(merge_trees(base, child)), plain(base), plain(child)
    for section in ("train", "data"):
        expected = {**below.get(section, {}), **above.get(section, {})}
        assert merged.get(section, {}) == expected
    assert merged.get("seed") == above.get("seed", below.get("seed"))


@given(TREES, TREES, TREES)
def test_a_chain_may_be_laid_together_from_either_end(one, two, three):
    assert plain(merge_trees(merge_trees(one, two), three)) == plain(
        merge_trees(one, merge_trees(two, three))
    )


@given(TREES)
def test_null_drops_a_section_of_the_base(base):
    assert "train" not in merge_trees(base, tree({"train": None}))


def test_a_base_of_a_base_is_taken_over_and_named_as_origin(folder):
    folder.write("extends: paper/w3a3\nabstract: true\ntrain: {epochs: 5}\n", "mine.yaml")
    cell = folder.load("extends: mine\n" + MINIMAL + "train: {lr: 0.5}\n").cells[0]
    assert (cell.recipe.train.epochs, cell.recipe.train.weight_decay) == (5, 0.5e-4)
    assert cell.origins["train.epochs"] == "base mine"
    assert cell.origins["quant.act_bits"] == "base paper/w3a3"
    assert cell.origins["train.lr"] == "x.yaml:4"
    assert cell.origins["data.pad"] == "default of cifar10"
    assert cell.origins["train.momentum"] == "base paper/w3a3"
    assert cell.origins["train.nesterov"] == "default"


def test_a_base_may_be_a_path_from_the_childs_folder(folder):
    folder.write("abstract: true\nseed: 9\n", "deep/base.yml")
    child = folder.write("extends: ../deep/base.yml\n" + MINIMAL, "other/x.yaml")
    assert load(child).cells[0].recipe.seed == 9


def test_a_section_of_the_base_is_dropped_by_null(folder):
    folder.write("abstract: true\ndistill: {teacher: t.pth}\n", "mine.yaml")
    assert folder.load("extends: mine\n" + MINIMAL).cells[0].recipe.distill is not None
    dropped = folder.load("extends: mine\n" + MINIMAL + "distill: null\n")
    assert dropped.cells[0].recipe.distill is None


def test_weights_may_be_reset_to_random_by_null(folder):
    text = "extends: cifar10/resnet20-fp32\nmodel: {weights: null}\ntrain: {epochs: 1}\n"
    assert folder.load(text).cells[0].recipe.model.weights is None


def test_a_base_that_is_named_by_its_last_part_is_proposed_whole(folder):
    with pytest.raises(RecipeError) as error:
        folder.load("extends: fp32\n" + MINIMAL)
    assert error.value.diagnostics[0].hints[0] == "did you mean `paper/fp32`?"


def test_what_a_base_is_called_is_not_taken_over(folder):
    folder.write("name: b\ndescription: of b\n" + MINIMAL, "b.yaml")
    loaded = folder.load("extends: b\n")
    assert (loaded.name, loaded.description, loaded.abstract) == ("x", "", False)


def test_a_chain_of_ten_is_read_and_of_eleven_refused(folder):
    folder.write(MINIMAL, "b0.yaml")
    for number in range(1, 12):
        folder.write(f"extends: b{number - 1}\n", f"b{number}.yaml")
    assert load("b10.yaml").cells[0].recipe.name == "b10"
    with pytest.raises(RecipeError, match="more than 10 recipes"):
        load("b11.yaml")


def test_a_circle_is_printed(folder):
    folder.write("extends: b\n", "a.yaml")
    folder.write("extends: c\n", "b.yaml")
    folder.write("extends: a\n", "c.yaml")
    with pytest.raises(RecipeError, match="a → b → c → a"):
        load("a.yaml")


def test_an_abstract_recipe_can_be_shown_but_not_run():
    shown = load("paper/w2a2", abstract_ok=True)
    assert (shown.abstract, shown.cells) == (True, ())
    assert shown.explicit["quant.weight_bits"] == 2
    with pytest.raises(RecipeError, match="R003"):
        load("paper/w2a2")


def test_a_file_wins_over_a_bundled_name_only_if_it_looks_like_a_path(folder):
    folder.write(MINIMAL, "digits/resnet8-fp32.yaml")
    assert load("digits/resnet8-fp32").cells[0].recipe.data.name == "digits"
    assert load("digits/resnet8-fp32.yaml").cells[0].recipe.data.name == "cifar10"
    assert load("./digits/resnet8-fp32.yaml").cells[0].recipe.data.name == "cifar10"


@pytest.mark.usefixtures("folder")
def test_a_bundled_recipe_is_found_with_and_without_its_ending():
    assert load("paper/w4a4.yaml", abstract_ok=True).name == "paper/w4a4"
    with pytest.raises(NotFound, match="nearest are `cifar10/resnet20-w4a4`"):
        load("cifar10/resnet20-w4a5")


@pytest.mark.parametrize(
    ("ref", "near"),
    [
        ("mine.ymal", "mine.yaml"),
        ("mien.yaml", "mine.yaml"),
        ("./mine.yam", "mine.yaml"),
        ("mien", "mine.yaml"),
        ("mine.yml", "mine.yaml"),
        ("sub/other.yaml", "sub/other.yml"),
    ],
)
def test_a_misspelled_file_is_answered_with_the_file_in_its_folder(folder, ref, near):
    folder.write(MINIMAL, "mine.yaml")
    folder.write(MINIMAL, "sub/other.yml")
    folder.write("no recipe", "mine.yam.txt")
    with pytest.raises(NotFound, match=rf"`{ref}`; did you mean the file `{near}`\?"):
        load(ref)
    folder.write(f"extends: {ref}\n", "child.yaml")
    with pytest.raises(RecipeError) as refused:
        load("child.yaml")
    assert refused.value.diagnostics[0].hints[0] == f"did you mean `{near}`?"


def test_no_file_is_proposed_where_none_is_near_or_only_the_file_itself(folder):
    folder.write("extends: w2\n", "w.yaml")
    with pytest.raises(RecipeError) as refused:
        load("w.yaml")
    assert "w.yaml" not in refused.value.diagnostics[0].hints[0]
    folder.write('extends: ""\n', "empty.yaml")
    with pytest.raises(RecipeError):
        load("empty.yaml")
    (folder.path / "gone.yaml").symlink_to("nowhere")
    for ref in ("gone.yaml", "digits/resnet8-fp23", "elsewhere/w.ymal", "quantize.yaml"):
        with pytest.raises(NotFound, match=r"bundled recipe `.*`; the nearest are `"):
            load(ref)


def test_a_file_without_its_ending_is_pointed_out(folder):
    folder.write(MINIMAL, "mine.yaml")
    with pytest.raises(NotFound, match=r"write `mine\.yaml`"):
        load("mine")


def test_a_bundled_recipe_must_be_called_by_its_path(tmp_path, monkeypatch):
    from lsqctl.recipe_file import find

    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "q.yaml").write_text("name: other\n" + MINIMAL)
    monkeypatch.setattr(find, "bundled", lambda _: tmp_path)
    with pytest.raises(RecipeError, match=r"R106.*`p/q`"):
        load("p/q")
