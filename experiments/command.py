"""How the commands of this package end: a mistake in what was typed is one line, no traceback."""

import sys

import typer


def run(app: typer.Typer) -> None:
    """Run a command line; a mistake of its user is one line on stderr and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
