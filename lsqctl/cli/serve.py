"""`serve` and `leaderboard --html`: the board as a page, at an address or in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lsqctl.cli.console import note, say
from lsqctl.cli.options import any_int, get_settings
from lsqctl.text import pluralize

if TYPE_CHECKING:
    from lsqctl.leaderboard.board import Board
    from lsqctl.store import Store

Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
ShowPublished = Annotated[
    Literal["auto", "all", "none"],
    typer.Option(
        "--published",
        help="Published results: of local datasets and the paper's page, all, or none.",
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a page with charts, in one file, instead."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]
ClassifyFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A deployed folder whose network the page runs."),
]
INTERRUPTED_EXIT_CODE = 130


def register(app: typer.Typer) -> None:
    """Add `serve` to the top level."""
    app.command(epilog="Example: lsqctl serve --port 8000")(serve)


def write_html_page(
    store: Store, board: Board, path: Path, *, force: bool, classify: Path | None = None
) -> None:
    """Write the page and say where it is."""
    from lsqctl.atomic_write import check_overwrite
    from lsqctl.services.html_page import read_classifier, write_page

    check_overwrite(path, force=force)
    classifier = read_classifier(classify) if classify else None
    size = write_page(store, board, path, force=force, classifier=classifier)
    row_count = pluralize(len(board.entries), "row")
    say(f"{path}: {row_count}, {size} bytes; open {path.absolute().as_uri()}")


def serve(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(parser=any_int, metavar="N", help="0 takes one that is free.")
    ] = 0,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Not this machine alone: needs --token, too.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Who asks must know it; `auto` makes one up."),
    ] = None,
    dataset: Dataset = None,
    show_published: ShowPublished = "auto",
    classify: ClassifyFolder = None,
) -> None:
    """Show the live board in a browser, read-only, until Ctrl-C.

    The page refreshes itself when the database has changed.
    """
    from lsqctl.services.board import BoardSelection
    from lsqctl.services.html_page import BoardServer, ServedPage, make_server, read_classifier
    from lsqctl.services.workspace import open_workspace

    settings = get_settings(ctx)
    store = open_workspace(settings, read_only=True)
    note(f"store: {store.url}, read-only")
    server: BoardServer | None = None
    try:
        classifier = read_classifier(classify) if classify else None
        served = ServedPage(BoardSelection(dataset, show_published), settings, classifier)
        server = make_server(store, served, host=host, port=port, token=token)
        print(server.address, flush=True)
        say("serving this address until Ctrl-C")
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(INTERRUPTED_EXIT_CODE)
    finally:
        if server is not None:
            server.server_close()
        store.close()
