"""`published rm`: what was added here goes, what ships with lsqctl stays."""

from __future__ import annotations

import json

from tests.cli.test_published import PAGE, ROW


def test_a_row_that_was_added_goes_again_and_no_other(here):
    here("published", "add", *(word for pair in ROW.items() for word in pair))
    other = ROW | {"--model": "ResNet-20 other"}
    here("published", "add", *(word for pair in other.items() for word in pair))
    assert "nothing was" in here("published", "rm", "ResNet-20 mine", "--dry-run").stderr
    assert "ResNet-20 mine" in here("published", "ls").stdout
    assert "(cifar10): removed" in here("published", "rm", "ResNet-20 mine").stderr
    listed = here("published", "ls").stdout
    assert "ResNet-20 mine" not in listed
    assert "ResNet-20 other" in listed
    wrong = here("published", "rm", "ResNet-20 othre", code=3).stderr
    assert "did you mean `ResNet-20 other`" in wrong
    here("published", "rm", "ResNet-20 other", "--dataset", "imagenet", code=3)
    assert "ships with lsqctl" in here("published", "rm", "ResNet-20 APoT W4A4", code=2).stderr


def test_an_imported_row_goes_too_and_comes_with_the_next_import(here):
    (here.folder / "a.json").write_text(json.dumps(PAGE))
    words = ("published", "import", "pwc", "a.json", "--task", PAGE[0]["task"])
    words = (*words, "--dataset", "ImageNet")
    here(*words)
    model = "ADLIK-MO-ResNet50+W4A4"
    found = json.loads(here("published", "rm", model, "--json").stdout)
    assert [one["model"] for one in found["rows"]] == [model]
    here("published", "rm", model, code=3)
    assert "1 row imported" in here(*words).stderr
