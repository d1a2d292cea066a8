"""Published rows: the numbers, their sources, and a clear word about a bad entry."""

import pytest

from lsqctl.errors import DataError
from lsqctl.leaderboard.published_results import ABLATIONS_PAGE, PWC_PAGE, load_bundled_results
from lsqctl.models import MODELS

REFERENCES = load_bundled_results()

# Typed from the sources once more, independently of the data file.
TABLE_1 = {
    "ResNet-18": (70.5, {2: (67.6, 87.6), 3: (70.2, 89.4), 4: (71.1, 90.0), 8: (71.1, 90.1)}),
    "ResNet-34": (74.1, {2: (71.6, 90.3), 3: (73.4, 91.4), 4: (74.1, 91.7), 8: (74.1, 91.8)}),
    "ResNet-50": (76.9, {2: (73.7, 91.5), 3: (75.8, 92.7), 4: (76.7, 93.2), 8: (76.8, 93.4)}),
    "ResNet-101": (78.2, {2: (76.1, 92.8), 3: (77.5, 93.6), 4: (78.3, 94.0), 8: (78.1, 94.0)}),
    "ResNet-152": (78.9, {2: (76.9, 93.2), 3: (78.2, 93.9), 4: (78.5, 94.1), 8: (78.5, 94.2)}),
    "VGG-16bn": (73.4, {2: (71.4, None), 3: (73.4, None), 4: (74.0, None), 8: (73.5, None)}),
    "SqueezeNext-23-2x": (67.3, {2: (53.3, None), 3: (63.7, None), 4: (67.4, None), 8: (67, None)}),
}
OTHERS = {
    "ResNet-18 LSQ hustzxd W3A3": 69.45,
    "ResNet-18 LSQ hustzxd W4A4": 70.26,
    "ResNet-18 LSQ Sparsebit W4A4": 70.314,
    "ResNet-50 LSQ Sparsebit W4A4": 76.664,
    "ResNet-18 PACT W2A2": 64.4,
    "ResNet-50 PACT W4A4": 76.5,
    "ResNet-18 LQ-Nets W3A3": 68.2,
    "ResNet-50 LQ-Nets W2A2": 71.5,
    "ResNet-18 APoT W2A2": 66.46,
    "ResNet-50 APoT W4A4": 76.8,
    "ResNet-18 N2UQ W4A4": 72.9,
    "ResNet-50 N2UQ W3A3": 77.5,
    "ResNet-20 APoT W2A2": 90.96,
    "ResNet-18 LSQ+KD W3A3": 70.6,
    "ResNet-34 LSQ+KD W2A2": 72.4,
    "ResNet-50 LSQ+KD W4A4": 77.6,
}
GOOD = """
[[result]]
dataset = "imagenet"
model = "m"
arch = "resnet18"
method = "LSQ"
weight_bits = 4
act_bits = 4
top1 = 70.0
source_kind = "paper"
source_url = "https://example.org"
quote = "70.0"
"""


def of_page(page: str) -> list:
    return [one for one in REFERENCES if one.page == page]


def test_the_papers_page_has_its_three_rows_in_order():
    page = of_page(PWC_PAGE)
    assert [(r.model, r.weight_bits, r.act_bits, r.top1, r.dataset) for r in page] == [
        ("ADLIK-MO-ResNet50-W4A4", 4, 4, 77.878, "imagenet"),
        ("ADLIK-MO-ResNet50-W3A4", 3, 4, 77.34, "imagenet"),
        ("ResNet50-W4A4 (paper)", 4, 4, 76.7, "imagenet"),
    ]


def test_table_1_of_the_paper_is_complete_and_right():
    shipped = {
        (r.model, r.weight_bits, r.act_bits): (r.fp32_top1, r.top1, r.top5)
        for r in of_page("lsq-table-1")
        if r.weight_bits != 32
    }
    assert shipped == {
        (f"{net} LSQ W{bits}A{bits}", bits, bits): (fp32, top1, top5)
        for net, (fp32, cells) in TABLE_1.items()
        for bits, (top1, top5) in cells.items()
    }


def test_the_papers_full_precision_networks_are_there_with_top_5():
    shipped = {r.model: (r.top1, r.top5) for r in REFERENCES if r.method == "full precision"}
    papers = {name: values for name, values in shipped.items() if name.endswith("(paper)")}
    top5 = {"18": 89.6, "34": 91.8, "50": 93.4, "101": 94.1, "152": 94.3}
    assert papers == {
        f"{net} full precision (paper)": (fp32, top5.get(net.removeprefix("ResNet-")))
        for net, (fp32, _) in TABLE_1.items()
    }


def test_ablations_are_no_yardstick_for_the_papers_recipe():
    rows = of_page(ABLATIONS_PAGE)
    assert sorted(r.top1 for r in rows) == [64.2, 67.2, 67.3, 67.3, 67.4]


def test_every_network_is_spelled_as_recipes_spell_it():
    assert {r.arch for r in REFERENCES} <= set(MODELS)


@pytest.mark.parametrize(("model", "top1"), OTHERS.items())
def test_other_published_rows_have_their_number(model, top1):
    assert [r.top1 for r in REFERENCES if r.model == model] == [top1]


@pytest.mark.parametrize("r", REFERENCES, ids=lambda r: r.model)
def test_each_number_stands_in_its_quote_or_in_its_notes(r):
    words = f"{r.quote} {r.notes}"
    assert f"{r.top1:.2f}" in words or f"{r.top1}" in words
    assert r.top5 is None or f"{r.top5}" in words


@pytest.mark.parametrize("r", REFERENCES, ids=lambda r: r.model)
def test_each_row_counts_the_images_of_its_dataset_and_links_to_its_source(r):
    assert r.n_total == {"imagenet": 50_000, "cifar10": 10_000}[r.dataset]
    assert r.source_url.startswith("https://")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("top1 = 70.0", "top1 = 170.0"), r"entry 1 \(m\): top1 must be 0\.\.100 percent"),
        (("top1 = 70.0", 'top1 = "70"'), r"top1 must be a number"),
        (("top1 = 70.0", "top1 = nan"), r"top1 must be a number"),
        (("top1 = 70.0", "top1 = true"), r"top1 must be a number"),
        (('model = "m"', 'modle = "m"'), r"unknown key `modle`; did you mean `model`\?"),
        (("top1 = 70.0", ""), r"top1 missing"),
        (("weight_bits = 4", "weight_bits = 9"), r"weight_bits must be 2\.\.8, or 32"),
        (('"paper"', '"blog"'), r"source_kind must be one of paper, readme, page"),
        (('quote = "70.0"', 'quote = " "'), r"quote must be a text, not empty"),
        (('quote = "70.0"', 'quote = "70.0"\nn_total = 0'), r"n_total must be a whole number"),
        (('quote = "70.0"', 'quote = "70.0"\ntop5 = -1'), r"top5 must be 0\.\.100 percent"),
        (('model = "m"', "model = 3"), r"model must be a text"),
        (("[[result]]", "result = 3\n[other]"), r"only \[\[result\]\] entries"),
        (("[[result]]", "result = [3]\n[result2]"), r"only \[\[result\]\] entries"),
        (("[[result]]", "[[result"), r"not TOML"),
    ],
)
def test_a_bad_entry_is_named_with_its_fault(change, message):
    with pytest.raises(DataError, match=f"mine.toml: .*{message}"):
        load_bundled_results(GOOD.replace(*change), source_name="mine.toml")


def test_one_name_for_two_rows_of_a_dataset_is_refused():
    with pytest.raises(DataError, match=r"entry 2 \(m\): this model stands twice"):
        load_bundled_results(GOOD + GOOD)
