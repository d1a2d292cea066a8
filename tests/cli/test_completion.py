"""TAB proposes runs, recipes, sweeps and columns of this workspace, and is silent without one."""

from __future__ import annotations

import pytest

from lsqctl.leaderboard.schema import COLUMN_NAMES
from tests.inside import Here
from tests.made_up import fill


@pytest.fixture
def proposed(here, monkeypatch):
    def propose(line: str, folder: Here = here) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_LSQCTL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        found = folder()
        assert found.stderr == ""
        return found.stdout.split()

    fill(here.folder)
    return propose


@pytest.mark.parametrize("command", ["runs show", "runs cancel", "wait", "verify", "runs hold"])
def test_runs_are_proposed_by_id_by_name_and_as_the_last(proposed, command):
    names = {f"digits/resnet8-{end}" for end in ("fp32", "w2a2", "w3a3", "w4a4")}
    found = proposed(f"lsqctl {command} ")
    assert found[0] == "@last"
    assert names < set(found)
    assert len(found) == 1 + 13 + len(names)
    assert set(proposed(f"lsqctl {command} digits/resnet8-w")) == names - {"digits/resnet8-fp32"}


def test_recipes_are_proposed_by_name_and_as_files_that_lie_here(proposed, here):
    (here.folder / "mine.yaml").write_text("x")
    (here.folder / "notes.txt").write_text("x")
    (here.folder / "more").mkdir()
    (here.folder / "more" / "two.yaml").write_text("x")
    assert "digits/resnet8-lsq" in proposed("lsqctl submit digits/")
    assert proposed("lsqctl submit mi") == ["mine.yaml"]
    assert proposed("lsqctl submit more/") == ["more/two.yaml"]
    assert "paper/w4a4" in proposed("lsqctl recipe show paper/w4")
    cells = [f"digits/resnet8-lsq-{bits}" for bits in ("w8a8", "w4a4", "w3a3", "w2a2", "w3a4")]
    assert proposed("lsqctl run digits/resnet8-lsq") == ["digits/resnet8-lsq", *cells]
    assert proposed("lsqctl data ls digits/resnet8-lsq-w3") == [cells[2], cells[4]]
    assert proposed("lsqctl submit nothing-like-this") == []


def test_what_compares_proposes_runs_with_recipes_or_sweeps(proposed):
    assert {"@last", "digits/resnet8-lsq-w3a3"} <= set(
        proposed("lsqctl recipe diff digits/resnet8-lsq-w3") + proposed("lsqctl recipe diff @")
    )
    assert {"@last", "digits/resnet8-w3a3"} <= set(proposed("lsqctl compare @last "))


def test_columns_are_proposed_for_the_last_name_of_a_list(proposed):
    assert set(proposed("lsqctl leaderboard --columns rank,top1_m")) == {"rank,top1_mean"}
    assert len(proposed("lsqctl leaderboard --group-by ")) == len(COLUMN_NAMES)


def test_codes_and_options_are_proposed(proposed):
    assert proposed("lsqctl explain F00") == ["F001", "F002", "F003", "F004"]
    assert "--where" in proposed("lsqctl leaderboard --wh")


def test_without_a_workspace_nothing_is_proposed_and_none_is_made(proposed, here, tmp_path_factory):
    here.enter(tmp_path_factory.mktemp("empty"))
    assert proposed("lsqctl runs show ") == []
    assert proposed("lsqctl sweep status ") == []
    assert list(here.folder.iterdir()) == []
