"""How groups of commands help: by subject, and with the command that a stranger's word means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from typer.core import TyperGroup

from lsqctl.errors import UsageError
from lsqctl.text import did_you_mean

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter  # its own since 0.29

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Queue": ("submit", "run", "worker", "watch", "wait", "runs", "sweep", "cluster"),
    "Results": ("leaderboard", "export", "compare", "plot", "serve", "verify", "published"),
    "Recipes": ("recipe", "explain"),
    "Workspace": ("data", "db", "doctor", "bugreport", "conformance"),
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


class CommandGroup(TyperGroup):
    """A group whose unknown command ends in one line that names the nearest."""

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that the first word names.  Raises UsageError where none does."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise UsageError(f"no command is named `{ctx.command_path} {name}`{self.hint(name)}")
        return super().resolve_command(ctx, args)

    def hint(self, name: str) -> str:
        """Return what was probably meant, as the end of a sentence."""
        return did_you_mean(name, self.commands) or "; --help lists them"


class TopLevel(CommandGroup):
    """The commands of ``lsqctl`` itself, by subject."""

    def hint(self, name: str) -> str:
        """Return what was probably meant, as the end of a sentence."""
        return (
            f"; did you mean `lsqctl {INSTEAD[name]}`?" if name in INSTEAD else super().hint(name)
        )

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
