"""A recipe file to checked recipes: read, lay over its bases, vary, check, name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.recipe import valid_name
from lsqctl.recipe_file.cells import apply, clashes, labels, parse_sets, seed_nodes, tag
from lsqctl.recipe_file.chain import Document, Files, read_document
from lsqctl.recipe_file.check import Checked, check
from lsqctl.recipe_file.doubts import doubts, repeated_seeds
from lsqctl.recipe_file.find import Found, find, find_base
from lsqctl.recipe_file.loaded import Cell, LoadedRecipe
from lsqctl.recipe_file.nodes import Entry, Node, Tree, shown
from lsqctl.recipe_file.sweep import MAX_CELLS, TITLE, Assignment, Axes, assignments, axes_of, count

CANNOT_RUN = "an abstract recipe cannot be run"


def load(
    ref: str | Path,
    *,
    sets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    abstract_ok: bool = False,
) -> LoadedRecipe:
    """Return the recipe at a path or of a bundled name, complete in every cell.

    ``sets`` are ``key=value`` texts applied last to every cell; ``seeds`` replace the file's. An
    abstract recipe is refused unless ``abstract_ok``. Raises NotFound, or RecipeError with every
    fault of the file, of its bases and of its cells.
    """
    return load_found(find(ref), sets=sets, seeds=seeds, abstract_ok=abstract_ok)


def load_found(
    found: Found,
    *,
    sets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    abstract_ok: bool = False,
) -> LoadedRecipe:
    """Return the recipe in a file that was found.  As ``load``."""
    return load_document(read_document(found), sets=sets, seeds=seeds, abstract_ok=abstract_ok)


def load_document(
    document: Document,
    *,
    sets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    abstract_ok: bool = False,
) -> LoadedRecipe:
    """Return the recipe in a file that was read.  As ``load``."""
    job = _Loading(document, Files(), list(document.faults))
    abstract = job.abstract(abstract_ok)
    changes = job.changes(sets, seeds)
    checked = [job.check_cell(change) for change in changes]
    job.collect(checked, changes, abstract)
    if not job.faults and not abstract:
        cells = job.named(checked, changes)
    if job.faults:
        raise RecipeError(_in_order(job.faults, document.found.file))
    return LoadedRecipe(
        name=str(job.name),
        path=document.found.path,
        source_text=document.text,
        abstract=abstract,
        is_sweep="sweep" in document.entries or len(changes) > 1,
        cells=() if abstract else cells,
        description=str(checked[0].given.get("description", "")),
        given=checked[0].given,
        origins=checked[0].origins,
        warnings=tuple(dict.fromkeys(job.warnings)),
        base=job.base({}),
    )


@dataclass
class _Loading:
    document: Document
    files: Files
    faults: list[Diagnostic]
    warnings: list[Diagnostic] = field(default_factory=list)
    _bases: dict[str, Tree] = field(default_factory=dict)

    @property
    def start(self) -> Node:
        """Where the file begins: its first key."""
        entries = self.document.entries
        return next(iter(entries.values())).key if entries else self.document.root

    @property
    def name_node(self) -> Node | None:
        entry = self.document.entries.get("name")
        return None if entry is None or entry.value.value is None else entry.value

    @property
    def name(self) -> Any:
        """The recipe's name as written, else by its place; not yet checked."""
        return self.name_node.plain() if self.name_node else self.document.found.name

    def abstract(self, allowed: bool) -> bool:
        entry = self.document.entries.get("abstract")
        if entry is None or entry.value.value in (None, False):
            return False
        if entry.value.value is not True:
            label = f"must be true or false, got {shown(entry.value)}"
            self.faults.append(entry.value.fault("R103", "bad value for `abstract`", label))
        elif not allowed:
            help_ = f"it is a base: write `extends: {self.name}` in a recipe of your own"
            self.faults.append(entry.key.fault("R003", CANNOT_RUN, "says it is a base only", help_))
        return True

    def changes(self, sets: Sequence[str], seeds: Sequence[int]) -> list[Assignment]:
        """Return what each cell changes in the file; one empty change without a sweep."""
        sweep = self.document.entries.get("sweep")
        if sweep is not None and sweep.value.value is None and sweep.value.text:
            sweep = None
        zipped, grid = axes_of(sweep, self.faults)
        fixed, faults = parse_sets(sets)
        self.faults.extend(faults)
        self.warnings.extend(repeated_seeds(grid.get("seed", ())))
        zipped, grid = _with_seeds(zipped, grid, seed_nodes(seeds))
        if len({len(values) for values in zipped.values()}) > 1:
            zipped = {}
        if (total := count(zipped, grid)) > MAX_CELLS:
            label = f"{total:,} cells; at most {MAX_CELLS:,} can be queued at once"
            self.faults.append((sweep.key if sweep else self.start).fault("R004", TITLE, label))
            return [fixed]
        return [{**cell, **fixed} for cell in assignments(zipped, grid)]

    def extends(self, change: Assignment) -> Entry | None:
        """Return what a cell extends, as it is written."""
        if "extends" in change:
            return Entry(change["extends"], change["extends"])
        return self.document.entries.get("extends")

    def base(self, change: Assignment) -> str | None:
        """Return what a cell extends, as ``load`` takes it."""
        entry = self.extends(change)
        named = entry.value.value if entry else None
        found = find_base(named, self.document.found) if isinstance(named, str) else None
        return (found.bundled_name or str(found.path)) if found else None

    def check_cell(self, change: Assignment) -> Checked:
        own = self.document.entries
        extends = self.extends(change)
        key = repr((extends.value.value, extends.value.position)) if extends else ""
        if key not in self._bases:
            self._bases[key] = self.files.merged(self.document, extends)
        tree = dict(self._bases[key])
        if "description" in own and own["description"].value.value is not None:
            tree["description"] = own["description"]
        return check(apply(tree, change), self.name, start=self.start, name_node=self.name_node)

    def collect(
        self, checked: Sequence[Checked], changes: Sequence[Assignment], abstract: bool
    ) -> None:
        """Gather the faults of all cells, each once; name the cell of one that is not in all.

        What is missing is not said of a base.
        """
        where: dict[Diagnostic, list[int]] = {}
        for number, one in enumerate(checked):
            for fault in one.faults:
                if not (self.in_vain(fault) or (abstract and fault.code == "R102")):
                    where.setdefault(fault, []).append(number)
        for fault, numbers in where.items():
            cell = tag(numbers[0] + 1, len(checked), changes[numbers[0]])
            if len(numbers) == len(checked):
                cell = ""
            elif len(numbers) > 1:
                cell += f"; and {len(numbers) - 1} more"
            self.faults.append(replace(fault, cell=cell))
        self.faults.extend(self.files.faults)
        self.faults.extend(_name_faults(self.document.found, self.name, self.name_node, self.start))

    def in_vain(self, fault: Diagnostic) -> bool:
        """Whether a fault only follows from a base or a place that could not be read."""
        unread = (*self.document.faults, *self.files.faults)
        broken = any(f.code in ("R001", "R002", "R003") for f in unread)
        return (broken and fault.code == "R102") or _place(fault) in map(_place, unread)

    def named(self, checked: Sequence[Checked], changes: Sequence[Assignment]) -> tuple[Cell, ...]:
        recipes = [one.recipe for one in checked if one.recipe is not None]
        made = []
        told = labels(changes, recipes)
        for label, recipe, one, change in zip(told, recipes, checked, changes, strict=True):
            name = f"{self.name}-{label}" if label else str(self.name)
            self.warnings.extend(doubts(recipe, one, self.start))
            named = recipe.model_copy(update={"name": name})
            made.append(Cell(named, label, one.origins, one.nodes, self.base(change)))
        made = list({_identity(cell): cell for cell in made}.values())
        sweep = self.document.entries.get("sweep")
        here = sweep.key if sweep else self.start
        for name, seed in clashes([(cell.recipe.name, cell.recipe.seed) for cell in made]):
            label = f"two cells would be called `{name}` with seed {seed}"
            self.faults.append(here.fault("R004", TITLE, label, "vary what tells them apart"))
        for name in dict.fromkeys(cell.recipe.name for cell in made):
            if not valid_name(name):
                label = f"the cell's name `{name}` is longer than 64 letters or not valid"
                self.faults.append(here.fault("R106", "bad name", label, "shorten `name`"))
        return tuple(made)


def _identity(cell: Cell) -> str:
    return cell.recipe.model_dump_json()


def _with_seeds(zipped: Axes, grid: Axes, seeds: tuple[Node, ...]) -> tuple[Axes, Axes]:
    if not seeds:
        return zipped, grid
    zipped = {key: values for key, values in zipped.items() if key != "seed"}
    grid = {key: values for key, values in grid.items() if key != "seed"}
    return zipped, {**grid, "seed": seeds}


def _name_faults(found: Found, name: Any, node: Node | None, start: Node) -> list[Diagnostic]:
    if found.bundled_name is not None and node is not None and name != found.bundled_name:
        label = f"lies at `{found.bundled_name}` under recipes/ and must be called so"
        return [node.fault("R106", "bad name", label, "correct the name, or leave it out")]
    if node is None and not valid_name(str(name)):
        label = f"the file's name `{name}` cannot name a recipe"
        help_ = "begin with `name: ` and letters, digits, `.`, `_` or `-`"
        return [start.fault("R106", "bad name", label, help_)]
    return []


def _in_order(faults: Sequence[Diagnostic], file: str) -> list[Diagnostic]:
    once = dict.fromkeys(faults)

    return sorted(once, key=lambda fault: (fault.file != file, *_place(fault)))


def _place(fault: Diagnostic) -> tuple[str, int, int]:
    position = fault.position
    return (fault.file, position.line, position.column) if position else (fault.file, 0, 0)
