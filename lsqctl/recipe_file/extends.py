"""``extends``: a recipe laid over its base, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.recipe_file.find import RecipeFile, bundled_recipes, find_base, nearest_beside
from lsqctl.recipe_file.keys import SECTIONS
from lsqctl.recipe_file.nodes import Entry, Node, Source, Tree, preview
from lsqctl.recipe_file.yaml_reader import UNREADABLE, compose, lines_of, read_text
from lsqctl.text import closest_name

MAX_CHAIN = 10
# What says something of one file only, and so is not handed down.
NOT_INHERITED = ("name", "description", "abstract", "extends", "sweep")
_BAD_EXTENDS = "cannot build on another recipe"


@dataclass(frozen=True, slots=True)
class Document:
    """One recipe file as read: its top-level entries, and what is wrong with it as data."""

    recipe_file: RecipeFile
    text: str
    root: Node
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The top-level keys."""
        return self.root.entries


@dataclass
class FileCache:
    """Reads each file once; a base's values are named after it, not after its line."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _documents: dict[str, Document] = field(default_factory=dict)

    def base_tree(
        self, extends: Node, child: RecipeFile, chain: tuple[RecipeFile, ...] = ()
    ) -> Tree:
        """Return the keys that ``child`` takes over by ``extends``; see ``diagnostics``."""
        try:
            base = self._base_document(extends, child, (*chain, child))
        except RecipeError as error:
            self.diagnostics.extend(error.diagnostics)
            return {}
        return self.merged_tree(base, base.entries.get("extends"), (*chain, child))

    def merged_tree(
        self, document: Document, extends: Entry | None, chain: tuple[RecipeFile, ...] = ()
    ) -> Tree:
        """Return ``document`` laid over what it extends, without NOT_INHERITED."""
        inheritable = {
            key: entry for key, entry in document.entries.items() if key not in NOT_INHERITED
        }
        if extends is None or (extends.value.value is None and not extends.value.quoted):
            return merge_trees({}, inheritable)
        return merge_trees(self.base_tree(extends.value, document.recipe_file, chain), inheritable)

    def _base_document(
        self, extends: Node, child: RecipeFile, chain: tuple[RecipeFile, ...]
    ) -> Document:
        name = extends.value
        if not isinstance(name, str):
            message = f"must be the name of one recipe, got {preview(extends)}"
            raise RecipeError([extends.diagnostic("R003", _BAD_EXTENDS, message)])
        recipe_file = find_base(name, child)
        if recipe_file is None:
            raise RecipeError([_unknown_base(extends, name, child)])
        _check_chain(extends, (*chain, recipe_file))
        document = self._read(recipe_file)
        if "sweep" in document.entries:
            message = f"`{name}` is a sweep: many recipes, not one"
            raise RecipeError(
                [extends.diagnostic("R003", _BAD_EXTENDS, message, "extend what it extends")]
            )
        return document

    def _read(self, recipe_file: RecipeFile) -> Document:
        key = str(recipe_file.path.resolve())
        if key not in self._documents:
            document = read_document(recipe_file, origin=f"base {recipe_file.name}")
            self._documents[key] = document
            self.diagnostics.extend(document.diagnostics)
        return self._documents[key]


def read_document(recipe_file: RecipeFile, *, origin: str = "") -> Document:
    """Return a recipe file as entries.  Raises RecipeError where nothing can be read."""
    text = read_text(recipe_file.path, recipe_file.display_path)
    return parse_document(text, recipe_file, origin=origin)


def parse_document(text: str, recipe_file: RecipeFile, *, origin: str = "") -> Document:
    """Return the text of a recipe as entries.  Raises RecipeError where nothing can be read."""
    source = Source(recipe_file.display_path, lines_of(text), origin)
    root, diagnostics = compose(text, source)
    if root is None:
        message = "the file says nothing" if text.strip() else "the file is empty"
        hint = "begin with `model: {name: resnet18}` and `data: {name: cifar10}`"
        raise RecipeError(
            [Diagnostic("R001", UNREADABLE, message, recipe_file.display_path, hints=(hint,))]
        )
    if not isinstance(root.value, Mapping):
        message = f"this is {preview(root)}"
        raise RecipeError(
            [
                *diagnostics,
                root.diagnostic("R002", _NOT_A_MAPPING, message, "write `key: value` lines"),
            ]
        )
    return Document(recipe_file, text, root, tuple(diagnostics))


_NOT_A_MAPPING = "a recipe must be keys and values at its top level"


def merge_trees(base: Tree, child: Mapping[str, Entry]) -> Tree:
    """Return ``child`` over ``base``: sections key by key, all else whole; null drops a section."""
    merged = dict(base)
    for name, entry in child.items():
        base_entry = merged.get(name)
        if name in SECTIONS and entry.value.value is None and not entry.value.quoted:
            merged.pop(name, None)
        elif (
            name in SECTIONS
            and base_entry
            and base_entry.value.entries
            and _is_mapping(entry.value)
        ):
            entries = {**base_entry.value.entries, **entry.value.entries}
            merged[name] = Entry(entry.key, replace(entry.value, value=entries))
        else:
            merged[name] = entry
    return merged


def _is_mapping(node: Node) -> bool:
    return isinstance(node.value, Mapping)


def _unknown_base(extends: Node, name: str, child: RecipeFile) -> Diagnostic:
    path = child.path.parent / name
    beside = None if name.startswith("/") else nearest_beside(name, path, other_than=child.path)
    near = beside or closest_name(name, bundled_recipes())
    hints = [f"did you mean `{near}`?"] if near else []
    hints.append("give a bundled name, or a path from this file's folder")
    return extends.diagnostic("R003", _BAD_EXTENDS, f"there is no recipe `{name}`", *hints)


def _check_chain(extends: Node, chain: tuple[RecipeFile, ...]) -> None:
    paths = [recipe_file.path.resolve() for recipe_file in chain]
    if paths[-1] in paths[:-1]:
        cycle = " → ".join(recipe_file.name for recipe_file in chain[paths.index(paths[-1]) :])
        raise RecipeError(
            [extends.diagnostic("R003", _BAD_EXTENDS, f"it goes round in a circle: {cycle}")]
        )
    if len(chain) > MAX_CHAIN + 1:
        message = f"more than {MAX_CHAIN} recipes build on each other"
        raise RecipeError([extends.diagnostic("R003", _BAD_EXTENDS, message)])
