"""Registries: what a package's modules declare by name, read off their source without importing it.

A declaration is a decorator whose arguments are literals::

    @model("squeezenext23_2x", depthwise=False)
    def squeezenext(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module: ...

What it says of the name (classes, sizes, channels) is therefore known before torch is imported:
the registry parses the modules of its package, and makes the same info of the arguments as the
decorator itself would. The module is imported when ``load`` asks for the name. A new name is a new
module; nothing else lists it.

Plugins declare by the same decorators, in modules of their own (``discovery``). Their names have a
slash and are looked for when one is asked for: what is built in is found without them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from lsqctl.discovery import SEPARATOR, Plugin, find_plugin, is_plugin_name
from lsqctl.errors import LsqctlError, NotFound, PluginError
from lsqctl.text import did_you_mean

Info = TypeVar("Info")
InfoArgs = ParamSpec("InfoArgs")
Declared = TypeVar("Declared")
_PluginSources = tuple[Plugin, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class _Declaration(Generic[Info]):
    """One name: what is known of it, and where the decorated object is."""

    info: Info
    module: str
    attribute: str
    is_family: bool
    plugin: Plugin | None = None

    def load(self) -> Callable[..., Any]:
        """Import the module and return the decorated object."""
        declared: Callable[..., Any]
        if self.plugin:
            declared = self.plugin.load(self.module, self.attribute)  # type: ignore[assignment]
        else:
            declared = getattr(import_module(self.module), self.attribute)
        return declared


class Registry(Mapping[str, Info], Generic[InfoArgs, Info]):
    """The names that the modules of ``package`` declare by ``@decorator(NAMES, …)``: name to info.

    ``info`` is the type that holds what is known of a name; the decorator takes its arguments after
    the names, and it may refuse them by ValueError. ``noun`` says in messages what a name is of.
    Names come in the order of their modules, which are read when the first is asked for.

    A name of a plugin of ``group`` is found, and is not iterated over: ``plugin_infos`` does that.
    """

    def __init__(
        self,
        package: str,
        decorator: str,
        info: Callable[InfoArgs, Info],
        *,
        noun: str,
        group: str = "",
    ) -> None:
        self._package, self._decorator, self._info = package, decorator, info
        self._pattern = re.compile(rf"^@{decorator}\(.*?^(?:class|def) \w+", re.M | re.DOTALL)
        self.noun, self.group = noun, group
        self._read_plugins: dict[_PluginSources, Mapping[str, _Declaration[Info]]] = {}

    def __getitem__(self, name: str) -> Info:
        """Return what is known of a name; KeyError too where its plugin cannot be used."""
        try:
            return self._find(name).info
        except LsqctlError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._declarations)

    def __len__(self) -> int:
        return len(self._declarations)

    def declare(
        self, names: str, *args: InfoArgs.args, **kwargs: InfoArgs.kwargs
    ) -> Callable[[Declared], Declared]:
        """Decorate what ``names`` stand for: one name, or several (a family), between blanks.

        Arguments are literals, or the registry could not read them; it says so.
        """
        self._info(*args, **kwargs)
        return lambda declared: declared

    def find(self, name: str) -> Info:
        """Return what is known of a name.

        Raises NotFound with the nearest one, PluginError where its plugin cannot be used.
        """
        return self._find(name).info

    def load(self, name: str) -> Callable[..., Any]:
        """Import the module that declares ``name`` and return the decorated function or class.

        One that is declared for a family is told the name, as its first argument. Raises as
        ``find``.
        """
        declaration = self._find(name)
        declared = declaration.load()
        own_name = name.rpartition(SEPARATOR)[2]
        return partial(declared, own_name) if declaration.is_family else declared

    def plugin_of(self, name: str) -> Plugin | None:
        """Return the plugin that declares a name, None for one that is built in; raises as find."""
        return self._find(name).plugin

    def plugin_infos(self, plugin: Plugin) -> dict[str, Info]:
        """Return what one plugin declares, by full name; raises PluginError."""
        declarations = self._declared_by(plugin)
        return {f"{plugin.name}{SEPARATOR}{name}": d.info for name, d in declarations.items()}

    def _find(self, name: str) -> _Declaration[Info]:
        if name in self._declarations:
            return self._declarations[name]
        if not (self.group and is_plugin_name(name)):
            raise NotFound(f"no {self.noun} is named `{name}`{did_you_mean(name, self)}")
        plugin_name, _, own_name = name.partition(SEPARATOR)
        plugin = find_plugin(self.group, plugin_name)
        declarations = self._declared_by(plugin)
        if own_name not in declarations:
            names = [f"{plugin_name}{SEPARATOR}{declared}" for declared in declarations]
            hint = did_you_mean(name, names) or f"; it declares {', '.join(names) or 'none'}"
            raise NotFound(f"the plugin `{plugin_name}` declares no {self.noun} `{own_name}`{hint}")
        return declarations[own_name]

    def _declared_by(self, plugin: Plugin) -> Mapping[str, _Declaration[Info]]:
        sources = tuple(plugin.sources())
        if not sources:
            raise PluginError(
                f"the plugin `{plugin.name}` of {plugin.package} has no source at {plugin.path}"
            )
        key = plugin, sources  # the source alone may be that of a copy elsewhere
        if key not in self._read_plugins:
            try:
                for _, source in sources:  # all of it: the pattern passes over what is no Python
                    ast.parse(source, plugin.path.name)
                self._read_plugins[key] = self._collect(sources, plugin)
            except (ValueError, SyntaxError) as error:
                raise PluginError(f"the plugin `{plugin.name}`: {error}") from None
        return self._read_plugins[key]

    @cached_property
    def _declarations(self) -> Mapping[str, _Declaration[Info]]:
        return self._collect(_sources(self._package), None)

    def _collect(
        self, sources: Iterable[tuple[str, str]], plugin: Plugin | None
    ) -> Mapping[str, _Declaration[Info]]:
        declarations: dict[str, _Declaration[Info]] = {}
        for module, source in sources:
            for name, declaration in self._declared_in(module, source, plugin):
                if other := declarations.get(name):
                    both = f"in {other.module} and {module}"
                    raise ValueError(f"the {self.noun} `{name}` is declared twice: {both}")
                declarations[name] = declaration
        return declarations

    def _declared_in(
        self, module: str, source: str, plugin: Plugin | None
    ) -> Iterator[tuple[str, _Declaration[Info]]]:
        for match in self._pattern.finditer(source):
            (declared,) = ast.parse(f"{match[0]}(): ...").body  # its head alone: parsing is slow
            assert isinstance(declared, ast.FunctionDef | ast.ClassDef)
            line = source.count("\n", 0, match.start()) + 1
            calls = _calls(declared.decorator_list, self._decorator)
            place = plugin.path if plugin and plugin.is_workspace_file else module
            found = [self._evaluate(f"{place}, line {line}", call) for call in calls]
            is_family = sum(len(names) for names, _ in found) > 1
            for names, info in found:
                for name in names:
                    yield name, _Declaration(info, module, declared.name, is_family, plugin)

    def _evaluate(self, where: str, call: ast.Call) -> tuple[list[str], Info]:
        """Return the names and the info of a declaration; raises ValueError where it is wrong."""
        try:
            _check_literals(*call.args, *(word.value for word in call.keywords))
            names, *args = map(ast.literal_eval, call.args)
            kwargs = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            return names.split(), self._info(*args, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            problem = self._unknown_argument(call) or error
            raise ValueError(f"{where}: @{self._decorator} takes literals: {problem}") from None

    def _unknown_argument(self, call: ast.Call) -> str:
        """Return what is wrong with an argument that the info does not have; empty for none."""
        known = signature(self._info).parameters
        unknown = [str(word.arg) for word in call.keywords if word.arg not in known]
        if not unknown:
            return ""
        return f"there is no argument `{unknown[0]}`{did_you_mean(unknown[0], known)}"


def _check_literals(*nodes: ast.expr) -> None:
    """Raise ValueError that quotes what is no literal."""
    for node in nodes:
        try:
            ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"`{ast.unparse(node)}` is none; write its value out") from None


def _sources(package: str) -> Iterator[tuple[str, str]]:
    """Yield name and source of each module of a package, by name; none is imported."""
    for folder in import_module(package).__path__:
        for path in sorted(Path(folder).glob("*.py")):
            yield f"{package}.{path.stem}", path.read_text("utf-8")


def _calls(decorators: Iterable[ast.expr], name: str) -> Iterator[ast.Call]:
    for decorator in decorators:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == name:
            yield decorator
