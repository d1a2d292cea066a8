"""The board as a table of Emacs' org mode."""

from lsqctl.plugins import Board, OutputOptions, board_format, board_tables


@board_format("org", ending=".org", description="Emacs' org mode")
def write(board: Board, options: OutputOptions) -> str:
    """Return a line a row, the dataset above."""
    lines = []
    for table in board_tables(board, options):
        lines += [f"* {table.title}"]
        lines += [
            "| " + " | ".join(cell.text.replace("|", "¦") for cell in row) + " |"
            for row in table.rows
        ]
    return "\n".join([*lines, ""])
