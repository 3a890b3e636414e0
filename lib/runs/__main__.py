"""Run notebooks: other parameters, many at once, unchanged work skipped, nothing half-written."""

import signal
import sys

import typer

from .commands import PARTS

HELP = """Run notebooks: other parameters, many at once, unchanged work skipped, nothing half-written.

[b]python -m lib.runs list 03[/b]  parameters, defaults, meanings
[b]python -m lib.runs run 01 -p lam=10[/b]  one notebook, another parameter
[b]python -m lib.runs sweep 01 --grid lam=1,10 sigma=0.1,0.2[/b]  all combinations
[b]python -m lib.runs status[/b]  what is finished, failed, interrupted
[b]python -m lib.runs resume[/b]  go on after Ctrl-C, an error or a power cut
[b]python -m lib.runs collect[/b]  all results in one table and a figure

Add [b]--smoke[/b] for small parameters, [b]--dry-run[/b] to see what would run. From Python: [b]from lib import runs[/b]."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=HELP.replace("\n", "\n\n"),
)
for part in PARTS:
    app.add_typer(part.app)


def main() -> None:
    """The command line; a mistake of its user is one line on stderr and exit status 2, not a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that drafts are removed then, too
    try:
        app()
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
