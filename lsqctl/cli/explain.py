"""`explain`: what a code such as R101 means, and an example of it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lsqctl.cli import completing
from lsqctl.cli.render import print_json, print_table
from lsqctl.cli.state import Json
from lsqctl.errors import NotFound, did_you_mean

CodeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CODE",
        help="R…: a recipe, F…: a filter, W…: a warning.",
        autocompletion=completing.codes,
    ),
]


def register(app: typer.Typer) -> None:
    """Add `explain` to the top level."""
    app.command(epilog="Example: lsqctl explain R101")(explain)


def explain(code: CodeArgument = None, json: Json = False) -> None:
    """Say what the code of an error or a warning means; without one, list them."""
    from lsqctl.recipe_file.codes import CODES

    codes = list(CODES) if code is None else [code.strip("[]").upper()]
    if unknown := [name for name in codes if name not in CODES]:
        raise NotFound(
            f"no error has the code `{unknown[0]}`{did_you_mean(unknown[0], CODES)}; "
            f"known: {', '.join(CODES)}"
        )
    if json:
        print_json({"codes": [{"code": name, **CODES[name]._asdict()} for name in codes]})
    elif code is None:
        print_table(("code", "title"), [(name, CODES[name].title) for name in codes])
    else:
        entry = CODES[codes[0]]
        example = "".join(f"    {line}\n" for line in entry.example.splitlines())
        sys.stdout.write(f"{codes[0]}: {entry.title}\n\n{entry.explanation}\n\n{example}")
