"""Where a recipe is: a path, or the name of a bundled one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lsqctl.atomic_write import check_overwrite
from lsqctl.bundled import bundled
from lsqctl.errors import NotFound, UsageError
from lsqctl.recipe import NAME_PART_RULE, is_valid_name
from lsqctl.text import closest_name, sanitize, three_closest_names

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe file: its path, the name it must bear if it is bundled, and how errors call it."""

    path: Path
    bundled_name: str | None
    display_path: str

    @property
    def name(self) -> str:
        """The name of the recipe unless it gives itself another."""
        return self.bundled_name or self.path.stem


def bundled_recipes() -> list[str]:
    """Return the names of all shipped recipes, bases among them, sorted."""
    root = bundled("recipes")
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def find_recipe(ref: str | Path) -> RecipeFile:
    """Return the recipe that a user means by a path or by a bundled name.  Raises NotFound.

    A file of that name wins only where ``ref`` looks like a path: it ends in ``.yaml``, or begins
    with ``.``, ``/`` or ``~``.
    """
    text = str(ref)
    if "\0" in text or len(text) > 4096:
        raise NotFound("a recipe's name is at most 4096 characters without NUL")
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves an unknown ~user
    if (isinstance(ref, Path) or is_path_like(text)) and _is_file(path):
        return recipe_file_at(path)
    if (recipe_file := find_bundled(text)) is not None:
        return recipe_file
    raise NotFound(_not_found_message(sanitize(text), path))


def check_new_recipe(path: Path, *, force: bool = False) -> None:
    """Raise UsageError for a file that cannot be written, or whose name no recipe can have."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a recipe's file ends in .yaml")
    if not is_valid_name(path.stem):
        raise UsageError(f"{path}: a recipe is called as its file: {NAME_PART_RULE}")
    check_overwrite(path, force=force)


def find_bundled(name: str) -> RecipeFile | None:
    """Return the shipped recipe of this name (its ending may be given), or None."""
    stem = name.removesuffix(".yaml")
    if not is_valid_name(stem):
        return None
    path = bundled("recipes") / f"{stem}.yaml"
    return RecipeFile(path, stem, _display_path(path)) if _is_file(path) else None


def find_base(name: str, child: RecipeFile) -> RecipeFile | None:
    """Return the recipe that ``child`` extends: beside it, or a bundled one; None if there is none.

    A path is taken from the child's folder; an absolute one is refused, for a recipe shall mean
    the same on every machine.
    """
    if "\0" in name or len(name) > 1024 or Path(name).is_absolute():
        return None
    beside = child.path.parent / (name if name.endswith(SUFFIXES) else f"{name}.yaml")
    if _is_file(beside):
        return recipe_file_at(beside)
    return find_bundled(name)


def nearest_beside(ref: str, path: Path, *, other_than: Path | None = None) -> str | None:
    """Return ``ref``, of which ``path`` is no file, with the name of the nearest recipe there."""
    try:
        files = [file for file in path.parent.iterdir() if file.suffix in SUFFIXES]
    except (OSError, ValueError):  # no folder, or no path: NUL
        return None
    names = {file.stem: file.name for file in files if file != other_than and _is_file(file)}
    near = names.get(closest_name(path.stem, names) or closest_name(path.name, names) or "")
    return sanitize(str(Path(ref).with_name(near))) if near and Path(ref).name else None


def recipe_file_at(path: Path) -> RecipeFile:
    """Return the recipe file at ``path``; one that lies under the shipped folder is bundled."""
    root = bundled("recipes").resolve()
    resolved = path.resolve()
    is_bundled = resolved.is_relative_to(root) and resolved.suffix == ".yaml"
    name = resolved.relative_to(root).with_suffix("").as_posix() if is_bundled else None
    return RecipeFile(path, name, _display_path(path))


def is_path_like(text: str) -> bool:
    """Return whether ``text`` is meant as a path rather than as a bundled name."""
    return text.endswith(SUFFIXES) or text.startswith((".", "/", "~"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a part too long for the file system, a folder that may not be entered
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _display_path(path: Path) -> str:
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


def _not_found_message(text: str, path: Path) -> str:
    if len(text) < 256 and path.is_dir():
        return f"`{text}` is a folder; name one recipe in it"
    if is_path_like(text) and _exists(path):
        return f"`{text}` is no plain file; write the recipe into one"
    if _is_file(path):
        return f"no bundled recipe `{text}`; to read the file of that name, write `./{text}`"
    if _is_file(path.with_name(path.name + ".yaml")) if path.name else False:
        return f"no bundled recipe `{text}`; to read the file beside you, write `{text}.yaml`"
    if re.match(r"[a-z_]+\.[a-z_.]+=", text):
        return f"`{text}` is no recipe; a key is changed by `--set {text}`"
    return _nearest_message(text, path)


def _nearest_message(text: str, path: Path) -> str:
    kind = "no file and no bundled recipe" if is_path_like(text) else "no bundled recipe"
    if beside := nearest_beside(text, path):
        return f"no file and no bundled recipe `{text}`; did you mean the file `{beside}`?"
    near = three_closest_names(text.removesuffix(".yaml"), bundled_recipes())
    names = ", ".join(f"`{name}`" for name in near)
    return f"{kind} `{text}`; the nearest are {names} (all: lsqctl recipe ls)"
