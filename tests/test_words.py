"""Words that were retired are not used again: in names, prose, docs and help pages.

Each had several meanings, or was no word of the field; beside it stands what is said instead.
ARCHITECTURE.md's glossary says what each of the new words means.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import typer.main
from click import Context

from lsqctl.cli.app import app

ROOT = Path(__file__).resolve().parent.parent

# As a name, or a part of one between underscores or capitals: of a module, class, function,
# parameter, attribute or variable.
RETIRED_NAMES = {
    "settlement": "finalize",
    "places": "slots, paths, indices, offsets, positions",
    "standing": "status, state",
    "snapshot": "provenance; the content of a checkpoint",
    "snapshots": "provenance; contents of checkpoints",
    "circumstances": "environment",
    "obituary": "exit_cause",
    "lifeline": "parent_death_pipe",
    "tally": "counts",
    "sight": "overview",
    "sights": "overviews",
    "whereabouts": "paths",
    "patiently": "retry",
    "hurried": "force",
    "hurry": "raise_priority",
    "bury": "expire, move_to_trash",
    "buried": "trashed",
    "rubbish": "garbage",
    "urgency": "priority",
    "lapsed": "expired",
    "departure": "deviation",
    "departures": "deviations",
    "yardstick": "baseline",
    "yardsticks": "baselines",
    "doubt": "warning, lint",
    "doubts": "warnings, lint",
    "namesake": "same_name",
    "mine": "left, local",
    "theirs": "right, paper",
    "tutor": "teacher_forward",
    "wording": "text, messages",
    "facts": "info, events, settings, sections",
    "look": "poll, refresh, update, options, style",
    "looks": "updates, polls",
}

# In docstrings, comments, messages, docs and help: only what has no plain meaning beside the
# retired one. A pattern is matched without regard to case.
RETIRED_PROSE = {
    r"settle(?:s|d)? (?:an?|the) attempt|settlement": "say what is done: record, finalize, open",
    r"snapshots?": "provenance; the content of a checkpoint",
    r"circumstances?": "environment",
    r"obituar(?:y|ies)": "exit cause",
    r"lifelines?": "parent death pipe",
    r"tall(?:y|ies)": "counts",
    r"whereabouts": "paths",
    r"urgency": "priority",
    r"rubbish": "garbage",
    r"lapsed": "expired",
    r"yardsticks?": "baselines",
    r"departures?|departs?": "deviation, deviates",
    r"(?:is|are|was|were|be|been) put back|puts? (?:it|them|the runs?) back": "requeued; restored",
    r"taken up again|takes? up again": "resumed",
    r"lost leases?": "lease lost",
    r"warmed?[ -]parent": "fork server",
    r"worker places?|free places?": "slots",
    r"recipe's facts|dataset facts": "settings; dataset info",
    r"pseudo-state": "lease expired",
    r"lsqctl\.api|`?api/": "services",
    r"lsqctl references|--references": "lsqctl published, --published",
    r"-{0,2}[wa][-_]bits": "weight_bits, act_bits",
    r"own runs": "local runs",
    r"MINE \[THEIRS\]": "LEFT [RIGHT]",
}

# Where a retired word has to be said: files that users have, keys that are read back.
SAID_ON_PURPOSE = {
    "CHANGELOG.md": "lists what each was renamed from",
    "ARCHITECTURE.md": "its glossary says which word is not used",
    "docs/csv.md": "says what version 1 called the columns",
    "lsqctl/filters/parser.py": "points from the old names of columns to today's",
    "docs/chaos-report.md": "printed by an earlier version",
    "lsqctl/store/soft_delete.py": "reads rows that an earlier version kept in files",
    "lsqctl/training/train_state.py": "keys of state.json in checkpoints that exist",
    "lsqctl/quant/stats.py": "keys of the tracker's state in checkpoints that exist",
}

SOURCES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in sorted((ROOT / "lsqctl").rglob("*.py"))
}
CHECKED = sorted(name for name in SOURCES if name not in SAID_ON_PURPOSE)
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / "db", ROOT / "recipes", ROOT / ".github")
    for path in (folder.rglob("*.md") if folder.name == ".github" else folder.glob("*.md"))
    if str(path.relative_to(ROOT)) not in SAID_ON_PURPOSE
)
_PROSE = {
    re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE): instead
    for pattern, instead in RETIRED_PROSE.items()
}
_ANY_PROSE = re.compile("|".join(pattern.pattern for pattern in _PROSE), re.IGNORECASE)


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield each name that a module defines or uses, with its line."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield line, name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name
            case ast.keyword(arg=str(name)):
                yield line, name
            case ast.alias(name=name, asname=asname):
                yield from ((line, part) for part in (*name.split("."), asname or ""))


def words_of(name: str) -> set[str]:
    """Return the words of a name, in small letters: ``OpenEyes`` and ``open_eyes`` have two."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)}


def retired_names(source: str) -> list[str]:
    return [
        f"line {line}: `{name}`: {RETIRED_NAMES[word]}"
        for line, name in names_in(source)
        for word in sorted(words_of(name) & RETIRED_NAMES.keys())
    ]


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield what a module says in words: its comments and its strings, with their line."""
    of_f_strings = getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)  # from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, of_f_strings):
            yield token.start[0], token.string


def retired_prose(pieces: Iterable[tuple[int, str]]) -> list[str]:
    in_one_line = ((line, re.sub(r"\s+", " ", text)) for line, text in pieces)
    return [
        f"line {line}: “{match[0]}”: {instead}"
        for line, text in in_one_line
        if _ANY_PROSE.search(text)
        for pattern, instead in _PROSE.items()
        for match in pattern.finditer(text)
    ]


def help_pages(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the help of each command and group, by its words."""
    context = Context(command, info_name=" ".join(("lsqctl", *path)))
    yield " ".join(path), command.get_help(context)
    for name, child in getattr(command, "commands", {}).items():
        yield from help_pages(child, (*path, name))


def test_no_name_is_made_of_a_retired_word():
    found = {module: retired_names(SOURCES[module]) for module in CHECKED}
    assert {module: bad for module, bad in found.items() if bad} == {}


def test_no_module_is_called_by_a_retired_word():
    assert [m for m in CHECKED if words_of(Path(m).stem) & RETIRED_NAMES.keys()] == []


def test_no_comment_docstring_or_message_uses_a_retired_word():
    found = {module: retired_prose(prose_of(SOURCES[module])) for module in CHECKED}
    assert {module: bad for module, bad in found.items() if bad} == {}


def test_no_page_uses_a_retired_word():
    found = {page: retired_prose([(0, (ROOT / page).read_text("utf-8"))]) for page in PAGES}
    assert {page: bad for page, bad in found.items() if bad} == {}


def test_no_help_uses_a_retired_word():
    pages = dict(help_pages(typer.main.get_command(app)))
    assert len(pages) > 40
    assert {path: bad for path, text in pages.items() if (bad := retired_prose([(0, text)]))} == {}


def test_what_may_say_a_retired_word_says_one():
    """An exception that is no longer needed is no longer made."""
    for name in SAID_ON_PURPOSE:
        text = (ROOT / name).read_text("utf-8")
        assert words_of(text) & (RETIRED_NAMES.keys() | {"lost"}) or retired_prose([(0, text)]), (
            name
        )


@pytest.mark.parametrize(
    "planted",
    [
        "def settlement(): ...",
        "class Places: ...",
        "def f(*, snapshot): ...",
        "run.circumstances = {}",
        "f(look=1)",
        "from lsqctl.worker import patiently",
        "lifeline_fd: int = 3",
        "import lsqctl.store.sight",
    ],
)
def test_a_planted_name_is_found(planted):
    assert retired_names(planted)


@pytest.mark.parametrize(
    "planted",
    [
        '"""Settle the attempt."""',
        "x = 1  # the snapshot at submit",
        'print("its run was put back")',
        'f"the lost lease of {run}"',
        '"""The recipe\'s\n    facts."""',
    ],
)
def test_a_planted_word_of_prose_is_found(planted):
    assert retired_prose(prose_of(planted + "\n"))


@pytest.mark.parametrize(
    "plain",
    ["lost = 0", "lookup = displaces = 1", "in_place = replaced = 2", "def share_memory(): ..."],
)
def test_a_plain_word_is_left_alone(plain):
    assert not retired_names(plain)
