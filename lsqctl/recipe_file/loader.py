"""A recipe file to checked recipes: read, lay over its bases, vary, check, name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lsqctl.errors import Diagnostic, RecipeError
from lsqctl.recipe import Recipe, is_valid_name
from lsqctl.recipe_file.extends import Document, FileCache, parse_document, read_document
from lsqctl.recipe_file.find import (
    RecipeFile,
    bundled_recipes,
    find_base,
    find_bundled,
)
from lsqctl.recipe_file.lint import lint, repeated_seeds
from lsqctl.recipe_file.loaded_recipe import Cell, Distribution, LoadedRecipe
from lsqctl.recipe_file.nodes import NAME_OPTION, Entry, Node, Tree, preview
from lsqctl.recipe_file.serialization import dump
from lsqctl.recipe_file.sweep_axes import (
    BAD_SWEEP,
    MAX_CELLS,
    Assignment,
    axes_of,
    halving_of,
)
from lsqctl.recipe_file.sweep_cells import (
    NO_CHANGES,
    Changes,
    apply_changes,
    cell_labels,
    cell_name,
    describe_cell,
    duplicates,
    parse_grids,
    parse_name,
    parse_sets,
    seed_nodes,
    varied_and_set,
    varied_by_both,
)
from lsqctl.recipe_file.validation import OWN_NAME, Validation, validate
from lsqctl.text import pluralize

IS_ABSTRACT = "an abstract recipe cannot be run"


def load_complete(
    recipe: Recipe,
    label: str,
    path: Path,
    changes: Changes = NO_CHANGES,
) -> LoadedRecipe:
    """Return the recipe of a run or a cell, as if it stood complete in a file at ``path``.

    What it names by path is looked for beside that; ``label`` is what errors call it. Of its keys,
    which nobody wrote one by one, nothing is said to be a likely mistake. As ``load_file``.
    """
    document = parse_document(dump(recipe), RecipeFile(path, None, label), origin=label)
    loaded = load_document(document, changes)
    return replace(loaded, warnings=tuple(w for w in loaded.warnings if w.file != label))


def load_file(
    recipe_file: RecipeFile,
    changes: Changes = NO_CHANGES,
    *,
    abstract_ok: bool = False,
) -> LoadedRecipe:
    """Return the recipe in a file that was found, complete in every cell.

    An abstract recipe is refused unless ``abstract_ok``. Raises RecipeError with every mistake of
    the file, of its bases and of its cells.
    """
    document = read_document(recipe_file)
    return load_document(document, changes, abstract_ok=abstract_ok)


def load_document(
    document: Document,
    changes: Changes = NO_CHANGES,
    *,
    abstract_ok: bool = False,
) -> LoadedRecipe:
    """Return the recipe in a file that was read.  As ``load_file``."""
    given_name = None if changes.name is None else parse_name(changes.name)
    loader = _Loader(document, FileCache(), list(document.diagnostics), given_name)
    abstract = loader.is_abstract(abstract_ok)
    assignments = loader.assignments(changes)
    validations = [loader.validate_cell(change) for change in assignments]
    loader.collect_diagnostics(validations, assignments, abstract)
    if not loader.diagnostics and not abstract:
        cells = loader.name_cells(validations, assignments)
        halving = halving_of(document.entries.get("sweep"), cells, loader.diagnostics)
    if loader.diagnostics:
        raise RecipeError(
            _sorted_diagnostics(loader.diagnostics, document.recipe_file.display_path)
        )
    return LoadedRecipe(
        name=str(loader.name),
        path=document.recipe_file.path,
        abstract=abstract,
        is_sweep="sweep" in document.entries or len(assignments) > 1,
        cells=() if abstract else cells,
        description=str(validations[0].explicit.get("description", "")),
        explicit=validations[0].explicit,
        origins=validations[0].origins,
        warnings=tuple(dict.fromkeys(loader.warnings)),
        base=loader.base_ref({}),
        halving=None if abstract else halving,
        space=loader.space,
    )


@dataclass
class _Loader:
    document: Document
    file_cache: FileCache
    diagnostics: list[Diagnostic]
    given_name: Node | None
    warnings: list[Diagnostic] = field(default_factory=list)
    space: Mapping[str, Distribution] = field(default_factory=dict)
    _trees: dict[str, Tree] = field(default_factory=dict)

    @property
    def start(self) -> Node:
        """Where the file begins: its first key."""
        entries = self.document.entries
        return next(iter(entries.values())).key if entries else self.document.root

    @property
    def name_node(self) -> Node | None:
        if self.given_name is not None:
            return self.given_name
        entry = self.document.entries.get("name")
        return None if entry is None or entry.value.value is None else entry.value

    @property
    def name(self) -> object:
        """The recipe's name as given or written, else by its path; not yet checked."""
        return self.name_node.to_python() if self.name_node else self.document.recipe_file.name

    def is_abstract(self, allowed: bool) -> bool:
        entry = self.document.entries.get("abstract")
        if entry is None or entry.value.value in (None, False):
            return False
        if entry.value.value is not True:
            message = f"must be true or false, got {preview(entry.value)}"
            self.diagnostics.append(
                entry.value.diagnostic("R103", "bad value for `abstract`", message)
            )
        elif not allowed:
            hint = f"it is a base: write `extends: {self.name}` in a recipe of your own"
            self.diagnostics.append(
                entry.key.diagnostic("R003", IS_ABSTRACT, "says it is a base only", hint)
            )
        return True

    def assignments(self, changes: Changes) -> list[Assignment]:
        """Return what each cell changes in the file; one empty change without a sweep."""
        sweep = self.document.entries.get("sweep")
        if sweep is not None and sweep.value.value is None and sweep.value.text:
            sweep = None
        fixed, diagnostics = parse_sets(changes.sets)
        axes = axes_of(sweep, self.diagnostics, seed=self.draw_seed(fixed))
        varied, grid_diagnostics = parse_grids(changes.grids)
        self.diagnostics += [*diagnostics, *grid_diagnostics, *varied_and_set(varied, fixed)]
        self.diagnostics += varied_by_both(varied, changes.seeds)
        self.space = axes.space
        self.warnings.extend(repeated_seeds(axes.grid.get("seed", ())))
        axes = axes.varied(varied).varied(
            {"seed": seed_nodes(changes.seeds)} if changes.seeds else {}
        )
        if axes.cell_count > MAX_CELLS:
            message = f"{axes.cell_count:,} cells; at most {MAX_CELLS:,} can be queued at once"
            self.diagnostics.append(
                (sweep.key if sweep else self.start).diagnostic("R004", BAD_SWEEP, message)
            )
            return [fixed]
        return [{**cell, **fixed} for cell in axes.assignments()]

    def draw_seed(self, fixed: Assignment) -> int:
        """Return the seed of random draws: the recipe's own, whatever a sweep makes of it."""
        entry = self.tree({}).get("seed")
        node = fixed.get("seed") or (entry.value if entry else None)
        return node.value if node is not None and isinstance(node.value, int) else 0

    def extends(self, change: Assignment) -> Entry | None:
        """Return what a cell extends, as it is written."""
        if "extends" in change:
            return Entry(change["extends"], change["extends"])
        return self.document.entries.get("extends")

    def base_ref(self, change: Assignment) -> str | None:
        """Return what a cell extends, as ``load`` takes it."""
        entry = self.extends(change)
        ref = entry.value.value if entry else None
        recipe_file = find_base(ref, self.document.recipe_file) if isinstance(ref, str) else None
        return (recipe_file.bundled_name or str(recipe_file.path)) if recipe_file else None

    def tree(self, change: Assignment) -> Tree:
        """Return what the file and its base say."""
        extends = self.extends(change)
        key = repr((extends.value.value, extends.value.position)) if extends else ""
        if key not in self._trees:
            self._trees[key] = self.file_cache.merged_tree(self.document, extends)
        return dict(self._trees[key])

    def validate_cell(self, change: Assignment) -> Validation:
        entries, tree = self.document.entries, self.tree(change)
        if "description" in entries and entries["description"].value.value is not None:
            tree["description"] = entries["description"]
        return validate(
            apply_changes(tree, change), self.name, start=self.start, name_node=self.name_node
        )

    def collect_diagnostics(
        self, validations: Sequence[Validation], changes: Sequence[Assignment], abstract: bool
    ) -> None:
        """Gather the diagnostics of all cells, each once; name the cell of one that is not in all.

        What is missing is not said of a base.
        """
        cells_by_diagnostic: dict[Diagnostic, list[int]] = {}
        for number, validation in enumerate(validations):
            for diagnostic in validation.diagnostics:
                if not (self.is_follow_up(diagnostic) or (abstract and diagnostic.code == "R102")):
                    cells_by_diagnostic.setdefault(diagnostic, []).append(number)
        for diagnostic, numbers in cells_by_diagnostic.items():
            cell = describe_cell(numbers[0] + 1, len(validations), changes[numbers[0]])
            if len(numbers) == len(validations):
                cell = ""
            elif len(numbers) > 1:
                cell += f"; and {len(numbers) - 1} more"
            self.diagnostics.append(replace(diagnostic, cell=cell))
        self.diagnostics.extend(self.file_cache.diagnostics)
        self.diagnostics.extend(
            _name_diagnostics(self.document.recipe_file, self.name, self.name_node, self.start)
        )

    def is_follow_up(self, diagnostic: Diagnostic) -> bool:
        """Whether an error only follows from a base or a value that could not be read."""
        unreadable = (*self.document.diagnostics, *self.file_cache.diagnostics)
        base_is_broken = any(f.code in ("R001", "R002", "R003") for f in unreadable)
        return (base_is_broken and diagnostic.code == "R102") or _sort_position(diagnostic) in map(
            _sort_position, unreadable
        )

    def name_cells(
        self, validations: Sequence[Validation], changes: Sequence[Assignment]
    ) -> tuple[Cell, ...]:
        recipes = [validation.recipe for validation in validations if validation.recipe is not None]
        cells = []
        suffixes = cell_labels(changes, recipes, named=self.given_name is not None)
        for label, recipe, validation, change in zip(
            suffixes, recipes, validations, changes, strict=True
        ):
            name = cell_name(str(self.name), label)
            self.warnings.extend(lint(recipe, validation, self.start))
            named = recipe.model_copy(update={"name": name})
            origins = validation.origins
            if label and origins["name"] == OWN_NAME:
                origins = {**origins, "name": f"{OWN_NAME}, and what this cell changes"}
            cells.append(Cell(named, label, origins, validation.nodes, self.base_ref(change)))
        cells = list({_cell_key(cell): cell for cell in cells}.values())
        sweep = self.document.entries.get("sweep")
        anchor = sweep.key if sweep else self.start
        for name, seed in duplicates([(cell.recipe.name, cell.recipe.seed) for cell in cells]):
            label = f"two cells would be called `{name}` with seed {seed}"
            self.diagnostics.append(
                anchor.diagnostic("R004", BAD_SWEEP, label, "vary what tells them apart")
            )
        for name in dict.fromkeys(cell.recipe.name for cell in cells):
            if not is_valid_name(name):
                label = f"the cell's name `{name}` is not valid"
                self.diagnostics.append(
                    anchor.diagnostic("R106", "bad name", label, "give `name` other letters")
                )
        return tuple(cells)


def _cell_key(cell: Cell) -> str:
    return cell.recipe.model_dump_json()


def _name_diagnostics(
    recipe_file: RecipeFile, name: object, node: Node | None, start: Node
) -> list[Diagnostic]:
    if (
        recipe_file.bundled_name is not None
        and node is not None
        and node.source.file != NAME_OPTION
        and name != recipe_file.bundled_name
    ):
        message = f"lies at `{recipe_file.bundled_name}` under recipes/ and must be called so"
        return [node.diagnostic("R106", "bad name", message, "correct the name, or leave it out")]
    if node is None and not is_valid_name(str(name)):
        message = f"the file's name `{name}` cannot name a recipe"
        hint = "begin with `name: ` and letters, digits, `.`, `_` or `-`"
        return [start.diagnostic("R106", "bad name", message, hint)]
    return []


def _sorted_diagnostics(diagnostics: Sequence[Diagnostic], file: str) -> list[Diagnostic]:
    unique = dict.fromkeys(diagnostics)

    return sorted(
        unique, key=lambda diagnostic: (diagnostic.file != file, *_sort_position(diagnostic))
    )


def _sort_position(diagnostic: Diagnostic) -> tuple[str, int, int]:
    position = diagnostic.position
    return (
        (diagnostic.file, position.line, position.column) if position else (diagnostic.file, 0, 0)
    )


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """One line of ``recipe ls``. ``cells`` counts the runs that the recipe stands for."""

    name: str
    description: str
    abstract: bool
    cells: int


def recipe_summaries() -> list[RecipeSummary]:
    """Return a line for each bundled recipe."""
    return list(_recipe_summaries())


def _recipe_summaries() -> Iterator[RecipeSummary]:
    for name in bundled_recipes():
        recipe_file = find_bundled(name)
        if recipe_file is None:
            continue
        try:
            loaded = load_file(recipe_file, abstract_ok=True)
        except RecipeError as error:
            count = len(error.diagnostics)
            description = f"has {pluralize(count, 'error')}: lsqctl recipe check {name}"
            yield RecipeSummary(name, description, False, 0)
        else:
            yield RecipeSummary(name, loaded.description, loaded.abstract, len(loaded.cells))
