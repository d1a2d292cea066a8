"""``extends``: a recipe laid over its base, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.recipe_file.compose import compose
from lsqctl.recipe_file.find import Found, bundled_recipes, find_base
from lsqctl.recipe_file.keys import SECTIONS
from lsqctl.recipe_file.nodes import Entry, Node, Source, Tree, shown
from lsqctl.recipe_file.spelling import closest
from lsqctl.recipe_file.text import lines_of, read_text

MAX_CHAIN = 10
# What says something of one file only, and so is not handed down.
OWN_KEYS = ("name", "description", "abstract", "extends", "sweep")
_NO_BASE = "cannot build on another recipe"


@dataclass(frozen=True, slots=True)
class Document:
    """One recipe file as read: its top-level entries, and what is wrong with it as data."""

    found: Found
    text: str
    root: Node
    faults: tuple[Diagnostic, ...] = ()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The top-level keys."""
        return self.root.entries


@dataclass
class Files:
    """Reads each file once; a base's values are named after it, not after its line."""

    faults: list[Diagnostic] = field(default_factory=list)
    _bases: dict[str, Document] = field(default_factory=dict)

    def bases_of(self, extends: Node, child: Found, trail: tuple[Found, ...] = ()) -> Tree:
        """Return the keys that ``child`` takes over by ``extends``; faults go to ``faults``."""
        try:
            base = self._base(extends, child, (*trail, child))
        except RecipeError as error:
            self.faults.extend(error.diagnostics)
            return {}
        return self.merged(base, base.entries.get("extends"), (*trail, child))

    def merged(
        self, document: Document, extends: Entry | None, trail: tuple[Found, ...] = ()
    ) -> Tree:
        """Return ``document`` laid over what it extends, without the keys that are its own."""
        own = {key: entry for key, entry in document.entries.items() if key not in OWN_KEYS}
        if extends is None or (extends.value.value is None and not extends.value.quoted):
            return merge({}, own)
        return merge(self.bases_of(extends.value, document.found, trail), own)

    def _base(self, extends: Node, child: Found, trail: tuple[Found, ...]) -> Document:
        name = extends.value
        if not isinstance(name, str):
            label = f"must be the name of one recipe, got {shown(extends)}"
            raise RecipeError([extends.fault("R003", _NO_BASE, label)])
        found = find_base(name, child)
        if found is None:
            raise RecipeError([_unknown(extends, name)])
        _check_trail(extends, (*trail, found))
        document = self._read(found)
        if "sweep" in document.entries:
            label = f"`{name}` is a sweep: many recipes, not one"
            raise RecipeError([extends.fault("R003", _NO_BASE, label, "extend what it extends")])
        return document

    def _read(self, found: Found) -> Document:
        key = str(found.path.resolve())
        if key not in self._bases:
            document = read_document(found, origin=f"base {found.name}")
            self._bases[key] = document
            self.faults.extend(document.faults)
        return self._bases[key]


def read_document(found: Found, *, origin: str = "") -> Document:
    """Return a recipe file as entries.  Raises RecipeError where nothing can be read."""
    text = read_text(found.path, found.file)
    return document_of(text, found, origin=origin)


def document_of(text: str, found: Found, *, origin: str = "") -> Document:
    """Return the text of a recipe as entries.  Raises RecipeError where nothing can be read."""
    source = Source(found.file, lines_of(text), origin)
    root, faults = compose(text, source)
    if root is None:
        label = "the file says nothing" if text.strip() else "the file is empty"
        help_ = "begin with `model: {name: resnet18}` and `data: {name: cifar10}`"
        raise RecipeError([Diagnostic("R001", _EMPTY, label, found.file, hints=(help_,))])
    if not isinstance(root.value, Mapping):
        label = f"this is {shown(root)}"
        raise RecipeError(
            [*faults, root.fault("R002", _NO_KEYS, label, "write `key: value` lines")]
        )
    return Document(found, text, root, tuple(faults))


_EMPTY = "not readable as YAML"
_NO_KEYS = "a recipe must be keys and values at its top level"


def merge(base: Tree, child: Mapping[str, Entry]) -> Tree:
    """Return ``child`` over ``base``: sections key by key, all else whole; null drops a section."""
    merged = dict(base)
    for name, entry in child.items():
        below = merged.get(name)
        if name in SECTIONS and entry.value.value is None and not entry.value.quoted:
            merged.pop(name, None)
        elif name in SECTIONS and below and below.value.entries and _is_map(entry.value):
            both = {**below.value.entries, **entry.value.entries}
            merged[name] = Entry(entry.key, replace(entry.value, value=both))
        else:
            merged[name] = entry
    return merged


def _is_map(node: Node) -> bool:
    return isinstance(node.value, Mapping)


def _unknown(extends: Node, name: str) -> Diagnostic:
    near = closest(name, bundled_recipes())
    helps = [f"did you mean `{near}`?"] if near else []
    helps.append("give a bundled name, or a path from this file's folder")
    return extends.fault("R003", _NO_BASE, f"there is no recipe `{name}`", *helps)


def _check_trail(extends: Node, trail: tuple[Found, ...]) -> None:
    paths = [found.path.resolve() for found in trail]
    if paths[-1] in paths[:-1]:
        circle = " → ".join(found.name for found in trail[paths.index(paths[-1]) :])
        raise RecipeError([extends.fault("R003", _NO_BASE, f"it goes round in a circle: {circle}")])
    if len(trail) > MAX_CHAIN + 1:
        label = f"more than {MAX_CHAIN} recipes build on each other"
        raise RecipeError([extends.fault("R003", _NO_BASE, label)])
