"""Launchers, one module each: ``@launcher(NAME, …)`` declares what an attempt's process starts as.

What is declared is a function: of the words of a command and the variables of its slot it makes
the words that are started in its place. They must become the command in the end, with its standard
streams, its open descriptors, its process group and its exit code: as a wrapper does that ends in
``exec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lsqctl.discovery import plugin_faults
from lsqctl.errors import PluginError
from lsqctl.registry import Registry

__all__ = ["LAUNCHERS", "LauncherInfo", "launched_words", "launcher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherInfo:
    """What is known of a launcher before it is used; ``description`` stands in docs/plugins.md."""

    description: str


LAUNCHERS = Registry(__name__, "launcher", LauncherInfo, noun="launcher", group="lsqctl.launchers")
launcher = LAUNCHERS.declare


def launched_words(
    name: str, command: Sequence[str], variables: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the words that the launcher ``name`` makes of a command.

    Raises NotFound, and PluginError for one that raises or makes no words.
    """
    plugin = LAUNCHERS.plugin_of(name)
    with plugin_faults(plugin):
        words = LAUNCHERS.load(name)(tuple(command), dict(variables))
    if not isinstance(words, list | tuple) or not words:
        raise PluginError(f"the launcher {name} must return a list of words, not {words!r:.80}")
    if not all(isinstance(word, str) and "\0" not in word for word in words):
        raise PluginError(f"the launcher {name} returned a word that is no text: {words!r:.80}")
    return tuple(words)
