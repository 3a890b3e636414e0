"""Run notebooks, compare and publish what they made."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from workflow import parameters
from workflow.runs import Run, finished_runs

HELP = """Run notebooks as programs. Short forms: make figures, make sweep, make list, make report.

What begins with a dash and is none of ours goes to Snakemake: --cores 4, --profile FOLDER and, with
snakemake-executor-plugin-slurm or -kubernetes installed, --executor slurm --jobs 20 or the like."""

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP
)
# words of Snakemake pass through
PASS = {"allow_extra_args": True, "ignore_unknown_options": True}
Words = Annotated[list[str] | None, typer.Argument(metavar="[NN]...", show_default=False)]
Smoke = Annotated[bool, typer.Option("--smoke", help="The small parameters of smoke.yml.")]


def split(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Our words, and from the first one with a dash on those of Snakemake."""
    words = words or []
    for place, word in enumerate(words):
        if word.startswith("-"):
            return words[:place], words[place:]
    return words, []


def chosen(names: list[str]) -> list[Path]:
    """Notebooks by number or name; all of them without any."""
    if not names:
        return parameters.notebooks()
    return [parameters.find(name) for name in names]


def swept(words: list[str], *, small: bool = False) -> list[Run]:
    """The runs of "03 sigma=0.5,1", or of a YAML file: notebook → parameter → list of values."""
    if not words:
        raise ValueError("name a notebook and a grid, such as 03 sigma=0.5,1, or a YAML file")
    name, *axes = words
    if Path(name).suffix in (".yml", ".yaml"):
        if axes:
            raise ValueError(f"{name} holds the grid; leave {axes[0]} out, or put it there")
        entries = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError(f"{name} wants lines such as 03: {{sigma: [0.5, 1.0]}}")
        grids = {parameters.find(str(key)): grid or {} for key, grid in entries.items()}
    else:
        notebook = parameters.find(name)
        grids = {notebook: parameters.parse_grid(notebook, axes)}
    runs = {}
    for notebook, grid in grids.items():
        base = parameters.smoke(notebook) if small else {}
        for given in parameters.grid(notebook, grid):
            run = Run(notebook, base | given)
            runs[run.name] = run
    return list(runs.values())


@app.command(context_settings=PASS)
def figures(words: Words = None, smoke: Smoke = False) -> None:
    """Run every notebook that changed at its defaults, and publish figures/ (NN...: only these)."""
    from workflow.publish import publish

    names, options = split(words)
    books = chosen(names)
    finished, failed = made(
        [Run(book, parameters.smoke(book) if smoke else {}) for book in books], options
    )
    if not smoke:
        show(publish(finished))
    if failed:
        raise typer.Exit(1)


@app.command(context_settings=PASS)
def results(words: Words = None) -> None:
    """Make the tables that notebooks read from data/results: run them with compute=True (NN...)."""
    from workflow.publish import publish_results

    names, options = split(words)
    books = chosen(names)
    if not names:
        books = [book for book in books if "compute" in parameters.parameters(book)]
    runs = [Run(book, parameters.check(book, {"compute": True})) for book in books]
    finished, failed = made(runs, options)
    for run in finished:
        show(publish_results(run))
    if failed:
        raise typer.Exit(1)


@app.command(context_settings=PASS)
def sweep(words: Words = None, smoke: Smoke = False) -> None:
    """Run a notebook at all combinations of some values: 03 sigma=0.5,1 lam=10,100; or a FILE.yml.

    Finished runs are not repeated; after an interrupt the same command goes on. The results of the
    runs come into one table, build/tables/NN_topic.csv. A file holds lines such as
    03: {sigma: [0.5, 1.0], angles: [[45.0], [90.0]]}.
    """
    from workflow.collect import collect, write

    ours, options = split(words)
    finished, failed = made(swept(ours, small=smoke), options)
    for book in dict.fromkeys(run.notebook for run in finished):
        table = collect([run for run in finished if run.notebook == book])
        show([os.path.relpath(write(table, book.stem))])
    if failed:
        raise typer.Exit(1)


@app.command("refresh", context_settings=PASS)
def refresh_command(words: Words = None) -> None:
    """Give committed notebooks the outputs of their executed selves; runs first what changed."""
    from workflow.refresh import refresh

    names, options = split(words)
    finished, failed = made([Run(book, {}) for book in chosen(names)], options)
    for run in finished:
        show([f"{run.notebook.stem}: {'refreshed' if refresh(run) else 'as before'}"])
    if failed:
        raise typer.Exit(1)


def made(runs: list[Run], options: list[str]) -> tuple[list[Run], bool]:
    """Make runs and say which data stood in for better data; the finished ones, and any failure."""
    from workflow.publish import fallbacks
    from workflow.snakemake import make

    show([f"runs wanted: {len(runs)}; those that are finished and unchanged stay"])
    success = make(runs, options)
    finished = [run for run in runs if run.finished]
    show([*fallbacks(finished), f"runs finished: {len(finished)} of {len(runs)}"])
    return finished, not success


def show(lines: list[str]) -> None:
    """Print lines at once, also into a pipe."""
    for line in lines:
        print(line, flush=True)


@app.command("list")
def list_command(words: Words = None) -> None:
    """List the parameters of notebooks: name, type, default and meaning."""
    for book in chosen(words or []):
        print(book.stem)
        for found in parameters.parameters(book).values():
            if found.name == "figures_dir":
                continue
            kind = "any" if found.default is None else type(found.default).__name__
            print(
                f"    {found.name}: {kind} = {found.default!r}".ljust(48) + f"  # {found.comment}"
            )


@app.command("report")
def report_command(
    words: Words = None,
    out: Annotated[Path | None, typer.Option(help="The page is written here.")] = None,
    smoke: Smoke = False,
) -> None:
    """Make one HTML page to read offline of the runs 03, 03/3fa9, 03 sigma=0.5,1 or FILE.yml."""
    from workflow.report import REPORTS, report

    runs = reported(words or [], small=smoke)
    name = runs[0].name.replace("/", "-") if len(runs) == 1 else runs[0].notebook.stem
    print(os.path.relpath(report(runs, out or REPORTS / f"{name}.html")))


def reported(words: list[str], *, small: bool) -> list[Run]:
    """The finished runs that a person named."""
    if len(words) == 1 and not words[0].endswith((".yml", ".yaml")):
        number, _, digits = words[0].partition("/")
        book = parameters.find(number)
        runs = [run for run in finished_runs() if run.notebook == book]
        named = [run for run in runs if run.id.startswith(digits)]
        if not named:
            known = ", ".join(run.name for run in runs) or "none; make some with make sweep"
            raise ValueError(f"no finished run {words[0]!r}; there are: {known}")
        return named
    runs = swept(words, small=small)
    for run in runs:
        if not run.finished:
            raise ValueError(f"{run.name} is not finished; give the same words to make sweep first")
    return runs


@app.command()
def determinism(
    words: Words = None,
    full: Annotated[bool, typer.Option("--full", help="Defaults instead of smoke.yml.")] = False,
) -> None:
    """Compare notebooks on one and on two threads; exit status 1 if they differ."""
    from workflow.determinism import differences
    from workflow.runs import BUILD

    differ = 0
    for book in chosen(words or []):
        given = {} if full else parameters.smoke(book)
        found = differences(book, given, BUILD / "determinism")
        print("\n    ".join([f"{book.stem}: {'differs' if found else 'deterministic'}", *found]))
        differ += bool(found)
    if differ:
        raise typer.Exit(1)


def main() -> None:
    """The command line; a mistake in what was typed is one line and exit status 2, no traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
