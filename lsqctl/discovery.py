"""Plugins: installed packages and trusted files that declare names of their own, found and loaded.

What a plugin declares is called ``PLUGIN/NAME``. A plugin is an entry point of an installed
package, in one group a kind, whose value is a module, or a file ``plugins/PLUGIN.py`` of the
workspace that its user trusts (``trust``). Both are read without being imported; only the one that
is named is imported, when what it declares is needed. No name of a recipe is ever a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, ModuleType

from lsqctl.errors import LsqctlError, NotFound, PluginError
from lsqctl.settings import load_settings, plugins_enabled
from lsqctl.text import did_you_mean
from lsqctl.trust import read_trusted

SEPARATOR = "/"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_.-]*"
GROUPS: Mapping[str, str] = {
    "lsqctl.models": "model",
    "lsqctl.datasets": "dataset",
    "lsqctl.exporters": "format",
    "lsqctl.trackers": "tracker",
    "lsqctl.launchers": "launcher",
}
"""The groups of entry points, and what their plugins declare."""

_RESERVED = ("lsqctl", "timm")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.py")
_workspace: list[Path] = []  # none or one: the workspace that was named


@dataclass(frozen=True, slots=True)
class Plugin:
    """A module of an installed package, or one file of a workspace.

    ``name`` is what stands before the slash. ``package`` and ``version`` are the distribution's,
    empty for a file. ``path`` is the file, or the folder of a package of modules; ``root`` what
    its digest is of: the file, or all Python files of the top-level package.
    """

    name: str
    package: str
    version: str
    module: str
    path: Path
    root: Path

    @property
    def is_workspace_file(self) -> bool:
        """Whether it is a file of the workspace, which must be trusted."""
        return not self.package

    def sources(self) -> list[tuple[str, str]]:
        """Return name and source of each of its modules; a file's only if it is trusted."""
        if self.is_workspace_file:
            return [(self.module, _decode(read_trusted(self.path), self.path))]
        if self.path.is_file():
            return [(self.module, _decode(self.path.read_bytes(), self.path))]
        return [
            (
                self.module if file.stem == "__init__" else f"{self.module}.{file.stem}",
                _decode(file.read_bytes(), file),
            )
            for file in sorted(self.path.glob("*.py"))
        ]

    def sha256(self) -> str:
        """Return one digest over its source; of a package, over every Python file and its name."""
        if self.root.is_file():
            return hashlib.sha256(self.root.read_bytes()).hexdigest()
        digest = hashlib.sha256()
        for file in sorted(self.root.rglob("*.py")):
            digest.update(str(file.relative_to(self.root)).encode() + b"\0")
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def load(self, module: str, attribute: str) -> object:
        """Import one of its modules and return what it defines; raises PluginError."""
        with plugin_faults(self):
            imported = (
                _import_file(self.path, read_trusted(self.path))
                if self.is_workspace_file
                else importlib.import_module(module)
            )
            return getattr(imported, attribute)


def is_plugin_name(name: str) -> bool:
    """Return whether a name is one that a plugin declares; timm's networks are no plugins."""
    return re.fullmatch(NAME_PATTERN, name) is not None and not name.startswith(_TIMM)


_TIMM = "timm/"


def use_workspace(home: Path | None) -> None:
    """Say whose files are plugins: a workspace that was named, or, for None, the one found."""
    _workspace[:] = [] if home is None else [home]


def find_plugin(group: str, name: str) -> Plugin:
    """Return the plugin of a group, raises NotFound with the nearest name.

    Raises PluginError where two claim the name, or plugins are switched off.
    """
    if not plugins_enabled():
        raise PluginError(f"the plugin `{name}` is switched off: LSQCTL_PLUGINS is 0")
    found = [plugin for plugin in all_plugins(group) if plugin.name == name]
    if not found:
        names = {plugin.name for plugin in all_plugins(group)}
        raise NotFound(
            f"no plugin is named `{name}`{did_you_mean(name, names)}; `lsqctl plugins ls` has them"
        )
    if has_clash(found):
        raise PluginError(clash_message(found))
    return found[0]


def has_clash(plugins: list[Plugin]) -> bool:
    """Return whether a name is claimed twice, or by others than lsqctl itself."""
    return plugins[0].name in _RESERVED or len(plugins) > 1


def clash_message(plugins: list[Plugin]) -> str:
    """Return why plugins that claim one name cannot be used."""
    name = plugins[0].name
    claims = " and ".join(plugin.package or str(plugin.path) for plugin in plugins)
    if name in _RESERVED:
        return f"the plugin name `{name}`, claimed by {claims}, is lsqctl's own; use another"
    return f"the plugin name `{name}` is taken: {claims} claim it; rename or remove one"


def all_plugins(group: str) -> list[Plugin]:
    """Return the plugins of a group: installed packages', then files of the workspace.

    Nothing is imported, and whether a file is trusted is not asked.
    """
    return [*_installed(group), *workspace_files()] if plugins_enabled() else []


def workspace_files() -> list[Plugin]:
    """Return the files of the workspace that could be plugins, by name."""
    folder = workspace_plugins_dir()
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return [
        Plugin(file.stem, "", "", _module_name(file), file, file)
        for file in files
        if _FILE_NAME.fullmatch(file.name)
    ]


def workspace_plugins_dir() -> Path:
    """Return the folder of plugins of the workspace that is in use."""
    return load_settings(home=_workspace[0] if _workspace else None).plugins_dir


@cache
def _installed(group: str) -> tuple[Plugin, ...]:
    """Return the entry points of a group; asked once a process, for it reads every package's."""
    from importlib.metadata import entry_points

    plugins: dict[tuple[str, str], Plugin] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist else entry.value
        path, root = _locate(entry.module)
        version = entry.dist.version if entry.dist else ""
        plugins[entry.name, package] = Plugin(
            entry.name, package, version, entry.module, path, root
        )
    return tuple(plugins.values())


def _locate(module: str) -> tuple[Path, Path]:
    """Return where a module's source lies and the root of its package; imports neither.

    Where there is no such file, the path is the one that was looked for.
    """
    top, *parts = module.split(".")
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(top)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder).joinpath(*parts)
            for candidate in (path.with_name(f"{path.name}.py"), path):
                if candidate.exists() and (parts or candidate == path):
                    return candidate, Path(folder)
        if spec and spec.origin and not parts:
            return Path(spec.origin), Path(spec.origin)
    missing = Path(*module.split(".")).with_suffix(".py")
    return missing, missing


@contextlib.contextmanager
def plugin_faults(plugin: Plugin | None, *passing: type[Exception]) -> Iterator[None]:
    """Turn whatever a plugin's code raises into a PluginError that says where.

    lsqctl's own errors and those of ``passing`` are raised as they are, and so is all where there
    is no plugin.
    """
    if plugin is None:
        yield
        return
    passed: tuple[type[Exception], ...] = (LsqctlError, *passing)
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything
        first_line = (str(error).splitlines() or [""])[0]
        raise PluginError(
            f"the plugin `{plugin.name}` raised {type(error).__name__}: "
            f"{first_line}{_where(error, plugin)}"
        ) from error


def _where(error: BaseException, plugin: Plugin) -> str:
    """Return file and line of the plugin's own code that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(plugin.root)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _decode(data: bytes, path: Path) -> str:
    try:
        return importlib.util.decode_source(data)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise PluginError(f"the plugin {path} is no Python text: {error}") from None


class _BytesLoader(InspectLoader):
    """Makes a module of bytes that were checked, and reads no file again."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path = data, path

    def get_source(self, fullname: str) -> str:
        """Return the source."""
        return importlib.util.decode_source(self._data)

    def get_code(self, fullname: str) -> CodeType:
        """Return the code, so that tracebacks name the file."""
        return self.source_to_code(self._data, str(self._path))


def _import_file(path: Path, data: bytes) -> ModuleType:
    """Return the module of a file's bytes; other bytes are another module."""
    name = f"{_module_name(path)}_{hashlib.sha256(data).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _BytesLoader(data, path), origin=str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    return "lsqctl_plugin_" + path.stem.replace("-", "_")
