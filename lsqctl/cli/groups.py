"""How groups of commands help: by subject, and with the command that a stranger's word means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from typer import BadParameter
from typer.core import TyperGroup

from lsqctl.errors import UsageError
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter  # its own since 0.29

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Queue": ("submit", "run", "worker", "watch", "wait", "runs", "sweep", "cluster"),
    "Results": (
        "leaderboard",
        "export",
        "compare",
        "plot",
        "serve",
        "verify",
        "deploy",
        "published",
    ),
    "Recipes": ("recipe", "explain"),
    "Workspace": ("data", "plugins", "db", "doctor", "bugreport", "conformance"),
}
"""Every command of the top level, under the heading that its help stands under."""

INSTEAD: Mapping[str, str] = {
    "ls": "runs ls",
    "list": "runs ls",
    "ps": "runs ls",
    "status": "watch --once",
    "queue": "watch --once",
    "show": "runs show",
    "logs": "runs logs",
    "log": "runs logs",
    "cancel": "runs cancel",
    "kill": "runs cancel",
    "stop": "runs cancel",
    "rm": "runs rm",
    "delete": "runs rm",
    "retry": "runs retry",
    "train": "run",
    "start": "worker",
    "init": "submit",
    "new": "recipe new",
    "check": "recipe check",
    "validate": "recipe check",
    "download": "data fetch",
    "fetch": "data fetch",
    "board": "leaderboard",
    "results": "leaderboard",
    "references": "published",
    "version": "--version",
}
"""What people type at the top level, from other tools, and what it is called here."""

WORDS_IN_GROUPS: Mapping[str, tuple[str, ...]] = {
    "list": ("ls",),
    "ps": ("ls",),
    "info": ("show", "status"),
    "describe": ("show", "status"),
    "view": ("show", "status"),
    "cat": ("show",),
    "tail": ("logs",),
    "kill": ("cancel",),
    "stop": ("cancel",),
    "abort": ("cancel",),
    "pause": ("hold",),
    "resume": ("release", "retry"),
    "continue": ("release", "resume"),
    "restart": ("retry", "resume"),
    "rerun": ("retry", "resume"),
    "delete": ("rm",),
    "remove": ("rm",),
    "undelete": ("restore",),
    "prune": ("gc",),
    "clean": ("gc",),
    "label": ("tag",),
    "comment": ("note",),
    "validate": ("check",),
    "verify": ("check",),
    "lint": ("check",),
    "create": ("new", "add"),
    "init": ("new", "upgrade"),
    "compare": ("diff",),
    "download": ("fetch",),
    "get": ("fetch", "show"),
    "migrate": ("upgrade",),
    "dump": ("backup",),
}
"""What people type after a group's name, and what may be meant: the first that the group has."""


class CommandGroup(TyperGroup):
    """A group whose unknown command ends in one line that names the nearest."""

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that the first word names.  Raises UsageError where none does."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = self.hint(ctx, name)
            raise UsageError(f"no command is named `{ctx.command_path} {name}`{hint}")
        return super().resolve_command(ctx, args)

    def hint(self, ctx: Context, name: str) -> str:
        """Return what was probably meant, as the end of a sentence."""
        for meant in WORDS_IN_GROUPS.get(name, ()):
            if meant in self.commands:
                return f"; did you mean `{meant}`?"
        if any(name in names for names in SECTIONS.values()):
            return f"; did you mean `{ctx.find_root().info_name} {name}`?"
        return did_you_mean(name, self.commands) or "; --help lists them"


_NO_CHOICE = re.compile(r"Value error, '(?P<word>.*)' is not one of (?P<choices>'.*')\.", re.DOTALL)


def _own_words(message: str) -> str:
    """Return Typer's words on an option's value in lsqctl's, with the nearest of its choices."""
    if not (match := _NO_CHOICE.fullmatch(message)):
        return message.removeprefix("Value error, ")
    choices = match["choices"].strip("'").split("', '")
    hint = did_you_mean(match["word"], choices)
    return f"`{match['word']}` is none of {' | '.join(choices)}{hint}"


class TopLevel(CommandGroup):
    """The commands of ``lsqctl`` itself, by subject."""

    def invoke(self, ctx: Context) -> object:
        """Run the command that the words name; a wrong value of an option is said in own words."""
        try:
            return super().invoke(ctx)
        except BadParameter as error:
            error.message = _own_words(error.message)
            raise

    def hint(self, ctx: Context, name: str) -> str:
        """Return what was probably meant, as the end of a sentence."""
        if name in INSTEAD:
            return f"; did you mean `lsqctl {INSTEAD[name]}`?"
        if "=" in name:
            return f"; a key is changed by `lsqctl submit RECIPE --set {name}`"
        return did_you_mean(name, self.commands) or "; --help lists them"

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write each section of commands with a line for each."""
        width = max(map(len, self.commands))
        for heading, names in SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [
                (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                for name, command in found
                if command is not None
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)
