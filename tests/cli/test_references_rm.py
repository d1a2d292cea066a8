"""`references rm`: what was added here goes, what ships with lsqctl stays."""

from __future__ import annotations

import json

from tests.cli.test_references import PAGE, ROW


def test_a_row_that_was_added_goes_again_and_no_other(here):
    here("references", "add", *(word for pair in ROW.items() for word in pair))
    other = ROW | {"--model": "ResNet-20 other"}
    here("references", "add", *(word for pair in other.items() for word in pair))
    assert "nothing was" in here("references", "rm", "ResNet-20 mine", "--dry-run").stderr
    assert "ResNet-20 mine" in here("references", "ls").stdout
    assert "(cifar10): removed" in here("references", "rm", "ResNet-20 mine").stderr
    listed = here("references", "ls").stdout
    assert "ResNet-20 mine" not in listed
    assert "ResNet-20 other" in listed
    wrong = here("references", "rm", "ResNet-20 othre", code=3).stderr
    assert "did you mean `ResNet-20 other`" in wrong
    here("references", "rm", "ResNet-20 other", "--dataset", "imagenet", code=3)
    assert "ships with lsqctl" in here("references", "rm", "ResNet-20 APoT W4A4", code=2).stderr


def test_an_imported_row_goes_too_and_comes_with_the_next_import(here):
    (here.folder / "a.json").write_text(json.dumps(PAGE))
    words = ("references", "import", "pwc", "a.json", "--task", PAGE[0]["task"])
    words = (*words, "--dataset", "ImageNet")
    here(*words)
    model = "ADLIK-MO-ResNet50+W4A4"
    found = json.loads(here("references", "rm", model, "--json").stdout)
    assert [one["model"] for one in found["rows"]] == [model]
    here("references", "rm", model, code=3)
    assert "1 row imported" in here(*words).stderr
