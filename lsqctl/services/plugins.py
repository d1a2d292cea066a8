"""Which plugins there are and whether they can be used: list, trust and check them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lsqctl.datasets import DATASETS
from lsqctl.discovery import (
    GROUPS,
    SEPARATOR,
    Plugin,
    all_plugins,
    clash_message,
    has_clash,
    is_plugin_name,
    workspace_files,
    workspace_plugins_dir,
)
from lsqctl.errors import DataError, LsqctlError, NotFound, UsageError
from lsqctl.launchers import LAUNCHERS
from lsqctl.leaderboard.formats import FORMATS
from lsqctl.models import MODELS
from lsqctl.services.doctor_machine import Finding
from lsqctl.settings import Settings, plugins_enabled
from lsqctl.testing import (
    Law,
    board_format_laws,
    dataset_laws,
    launcher_laws,
    model_laws,
    tracker_laws,
)
from lsqctl.text import did_you_mean, pluralize
from lsqctl.trackers import TRACKERS
from lsqctl.trust import trust

_InfosOf = Callable[[Plugin], Mapping[str, object]]
_INFOS: Mapping[str, tuple[str, _InfosOf]] = {
    MODELS.group: (MODELS.noun, MODELS.plugin_infos),
    DATASETS.group: (DATASETS.noun, DATASETS.plugin_infos),
    FORMATS.group: (FORMATS.noun, FORMATS.plugin_infos),
    TRACKERS.group: (TRACKERS.noun, TRACKERS.plugin_infos),
    LAUNCHERS.group: (LAUNCHERS.noun, LAUNCHERS.plugin_infos),
}


@dataclass(frozen=True, slots=True)
class DeclaredName:
    """A name that a plugin declares, or a plugin that cannot be used (``problem`` says why).

    ``package`` and ``version`` are empty for a file of the workspace.
    """

    name: str
    kind: str
    package: str
    version: str
    path: Path
    sha256: str
    problem: str = ""


def list_plugins() -> list[DeclaredName]:
    """Return every name of every plugin, without importing one; a bad plugin hides no other."""
    if not plugins_enabled():
        return []
    rows = [row for group in GROUPS for row in _list_group(group)]
    declaring = {row.path for row in rows if not row.problem}
    broken = {row.path: row for row in reversed(rows) if row.problem}
    silent = [p for p in workspace_files() if p.path not in declaring | broken.keys()]
    return [
        *(row for row in rows if not row.problem),
        *broken.values(),
        *(_row(p, p.name, "", problem="declares nothing; docs/plugins.md") for p in silent),
    ]


def _list_group(group: str) -> Iterator[DeclaredName]:
    by_name: dict[str, list[Plugin]] = defaultdict(list)
    for plugin in all_plugins(group):
        by_name[plugin.name].append(plugin)
    for plugins in by_name.values():
        for plugin in plugins:
            problem = clash_message(plugins) if has_clash(plugins) else ""
            yield from _list_plugin(plugin, *_INFOS[group], problem=problem)


def _list_plugin(
    plugin: Plugin, kind: str, infos_of: _InfosOf, *, problem: str
) -> Iterator[DeclaredName]:
    try:
        infos = infos_of(plugin)
    except LsqctlError as error:
        yield _row(plugin, plugin.name, kind, problem=str(error))
        return
    for name in infos:
        yield _row(plugin, name, kind, problem=problem)
    if not infos and not plugin.is_workspace_file:
        problem = f"{plugin.module} declares no {kind}; docs/plugins.md"
        yield _row(plugin, plugin.name, kind, problem=problem)


def _row(plugin: Plugin, name: str, kind: str, *, problem: str) -> DeclaredName:
    sha256 = plugin.sha256() if plugin.root.exists() else ""
    row = DeclaredName(name, kind, plugin.package, plugin.version, plugin.path, sha256)
    return replace(row, problem=problem)


def trust_plugin(file: Path) -> tuple[Path, str]:
    """Record that a file of the workspace's folder of plugins may be imported; return its sha256.

    ``file`` is a path, or a name in that folder. Raises UsageError for a file elsewhere: nothing
    would ever import it.
    """
    folder = workspace_plugins_dir()
    path = file if file.exists() or file.is_absolute() else folder / file
    names = [plugin.path.name for plugin in workspace_files()]
    if not path.exists():
        raise NotFound(f"there is no file {path}{did_you_mean(path.name, names)}")
    if path.parent.resolve() != folder.resolve() or path.name not in names:
        raise UsageError(
            f"{path} is no plugin: put it into {folder}, its name letters, digits, `-` and `_` "
            "and .py"
        )
    return path, trust(path)


def missing_plugins(needed: Mapping[str, object]) -> dict[str, str]:
    """Return which of the plugins that runs were made with cannot be used here, and what to do.

    ``needed`` is what provenances say of them: package and version, by kind and name.
    """
    missing = {}
    for declared, source in needed.items():
        kind, _, name = declared.partition(" ")
        registry = DATASETS if kind == DATASETS.noun else MODELS
        if not is_plugin_name(name):  # no plugin's: a file that somebody made up
            continue
        try:
            registry.find(name)
        except LsqctlError as error:
            is_here = any(p.name == _plugin_name(name) for p in all_plugins(registry.group))
            is_unknown = isinstance(error, NotFound) and not is_here  # else untrusted, or broken
            missing[declared] = _how_to_get(name, source) if is_unknown else str(error)
    return missing


def _plugin_name(name: str) -> str:
    return name.partition(SEPARATOR)[0]


def _how_to_get(name: str, source: object) -> str:
    """Return how a plugin comes here: by its package, or by the file that their workspace has."""
    package, version = (
        str(source.get(key) or "") if isinstance(source, Mapping) else ""
        for key in ("package", "version")
    )
    if package:
        return f"install the package {package} {version}".rstrip()
    file = f"{_plugin_name(name)}.py"
    return (
        f"ask for their file {file}, read it, put it into {workspace_plugins_dir()}, "
        f"and `lsqctl plugins trust {file}`"
    )


@dataclass(frozen=True, slots=True)
class CheckedLaw:
    """A law of one name, and why it is broken; empty where it is kept."""

    name: str
    kind: str
    law: str
    problem: str = ""


def check_plugins(
    names: list[str], settings: Settings, *, image_size: int | None = None
) -> Iterator[CheckedLaw]:
    """Yield every law of these names, asked now; without names, of all that plugins declare.

    Networks are tried on images of ``image_size`` pixels a side, by default of 32, else 224. Raises
    NotFound and PluginError for a name that cannot be found.
    """
    rows = list_plugins()
    listed = {row.name: row for row in rows}
    for name in names or listed:
        row = listed.get(name)
        if row is not None and row.problem:
            yield CheckedLaw(name, row.kind, "it can be used", row.problem)
            continue
        kinds = {row.kind for row in rows if row.name == name and not row.problem}
        for kind in sorted(kinds or {_kind_of(name)}):
            yield from _check(name, kind, settings, image_size)


def _kind_of(name: str) -> str:
    for registry in (DATASETS, FORMATS, TRACKERS, LAUNCHERS):
        with suppress(NotFound):  # a declaration that cannot be read is said, whatever it is of
            registry.find(name)
            return registry.noun
    MODELS.find(name)
    return MODELS.noun


def _check(
    name: str, kind: str, settings: Settings, image_size: int | None
) -> Iterator[CheckedLaw]:
    laws: Mapping[str, partial[tuple[Law, ...]]] = {
        MODELS.noun: partial(model_laws, name, image_size=image_size),
        DATASETS.noun: partial(dataset_laws, name, settings.data_dir),
        FORMATS.noun: partial(board_format_laws, name),
        TRACKERS.noun: partial(tracker_laws, name),
        LAUNCHERS.noun: partial(launcher_laws, name),
    }
    for law in laws[kind]():
        try:
            law()
        except LsqctlError as error:
            asks = isinstance(error, DataError) and kind == MODELS.noun and image_size is None
            hint = "; --image-size says which to try" if asks else ""
            yield CheckedLaw(name, kind, str(law), f"{error}{hint}")
        else:
            yield CheckedLaw(name, kind, str(law))


def check_plugin_files() -> Iterator[Finding]:
    """Yield what `doctor` says of plugins; nothing is imported."""
    rows = list_plugins()
    usable = [row for row in rows if not row.problem]
    if usable:
        names = ", ".join(sorted({row.name for row in usable}))
        yield Finding("ok", f"plugins declare {pluralize(len(usable), 'name')}: {names}")
    for problem in dict.fromkeys(row.problem for row in rows if row.problem):
        message, _, fix = problem.partition("; ")
        yield Finding("warning", message, fix or "lsqctl plugins ls; docs/plugins.md")
