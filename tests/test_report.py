"""The report of a run: complete, truthful about failures, and readable without a network."""

import json
import re
import shutil

import books
import nbformat
import pytest
import runfolders
from typer.testing import CliRunner

from lib.runs import __main__ as command
from lib.runs import report
from lib.runs.report import locate, mathjax

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FORMULAS = (
    "The score $s(x)=\\nabla\\log p(x)$, $\\boldsymbol{v}$, $\\cancel{x}$ and\n\n"
    "\\begin{align}G &= I+\\lambda ss^\\top\\end{align}\n"
)


@pytest.fixture
def run(tmp_path):
    """A finished run with equations, a picture, a widget and a progress bar."""
    folder = runfolders.make(tmp_path / "runs", 0xABC, {"r": {"a": 1}}, count=7)
    picture = nbformat.v4.new_output(
        "display_data", data={"image/png": PIXEL, "text/plain": "<Figure>"}
    )
    widget = nbformat.v4.new_output(
        "display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    )
    bar = nbformat.v4.new_output("stream", name="stderr", text="\rbar at 50")
    drawn = books.code("draw()", count=2)
    drawn.outputs = [picture, widget, bar]
    cells = [
        books.markdown("# Toy\n\n" + FORMULAS),
        books.code(books.PARAMETERS, "parameters", count=1),
        drawn,
    ]
    nbformat.write(books.book(*cells), folder / "notebook.ipynb")
    runfolders.seal(folder)
    return folder


def header(page):
    return re.search(r"<header.*</header>", page, re.DOTALL).group()


def test_the_header_tells_what_the_run_was_made_from(run, tmp_path):
    page = report(run, tmp_path / "out.html").read_text(encoding="utf-8")
    head = header(page)
    row = r'<tr class="changed"><td><code>(\w+)</code></td>\s*<td><code>(.*?)</code></td>\s*<td><code>(.*?)</code>'
    changed = re.findall(row, head)
    assert changed == [("count", "7", "3")]
    for words in (
        "0" * 40,
        "points, 1 to 9",
        "linux-x86_64",
        "3.11.2",
        "finished",
        "results.json",
        "torch",
        "2.15.0",
    ):
        assert words in head
    assert head.count("the same") == 1  # scale
    assert PIXEL in page and "bar at 50" not in page and "widget-view" not in page


def test_nothing_is_loaded_from_elsewhere(run, tmp_path):
    page = report(run, tmp_path / "out.html").read_text(encoding="utf-8")
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    loaded = re.findall(
        r'<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)="([^"]*)"',
        page.replace(mathjax(), ""),
    )
    assert (
        all(address.startswith("data:") for address in loaded)
        and "http://" not in markup
        and "https://" not in markup
    )
    assert "default-src 'none'" in page and mathjax() in page
    for cdn in ("cdnjs", "unpkg", "requirejs"):
        assert cdn not in page.replace(mathjax(), "")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_equations_and_figures_show_in_a_browser_without_a_network(run, tmp_path):
    from playwright.sync_api import sync_playwright

    out, asked, said = report(run, tmp_path / "out.html"), [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(offline=True, viewport={"width": 400, "height": 800}).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(out.as_uri())
        page.evaluate("MathJax.startup.promise")
        counts = [
            page.locator(what).count()
            for what in ("mjx-container", "mjx-merror", "[data-mjx-error]")
        ]
        broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        browser.close()
    assert counts == [4, 0, 0] and broken == 0 and said == []
    assert [url for url in asked if not url.startswith("data:")] == [out.as_uri()]
    assert wide <= 0  # no sideways scrolling on a phone


def test_a_failed_run_shows_its_traceback_first(tmp_path):
    folder = runfolders.make(tmp_path / "runs", 1, state="failed")
    books.write(folder, "notebook.failed", books.code("raise ValueError('no luck')"))
    page = report(folder, tmp_path / "out.html").read_text(encoding="utf-8")
    head = header(page)
    assert "<b>failed</b>" in head and head.index("line 1\nValueError: no luck") < head.index(
        "Parameters"
    )
    assert "no luck&#39;" in page or "no luck" in page.replace(head, "")
    (folder / "notebook.failed.ipynb").unlink()  # what fails before the first cell leaves none
    assert "ValueError: no luck" in header(
        report(folder, tmp_path / "out.html").read_text(encoding="utf-8")
    )


def test_a_damaged_run_says_so_and_an_unfinished_one_has_no_report(tmp_path):
    damaged = runfolders.make(tmp_path / "runs", 1, state="damaged")
    head = header(report(damaged, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "<b>damaged</b>" in head and "results.json has changed" in head
    planned = runfolders.make(tmp_path / "runs", 2, state="planned")
    with pytest.raises(ValueError, match="is planned and has no notebook.ipynb .* lib.runs resume"):
        report(planned, tmp_path / "planned.html")
    assert not (tmp_path / "planned.html").exists()


def test_text_from_a_run_is_no_markup(tmp_path):
    folder = runfolders.make(tmp_path / "runs", 1, name="<script>alert(1)</script>")
    assert "<script>alert(1)" not in report(folder, tmp_path / "out.html").read_text(
        encoding="utf-8"
    )


def test_a_run_is_found_by_the_first_digits_of_its_id(tmp_path):
    first, second = (
        runfolders.make(tmp_path, number) for number in (0xA10000000000, 0xA20000000000)
    )
    assert (
        locate("a1", tmp_path) == first
        and locate(second, tmp_path) == second
        and locate(str(second), tmp_path) == second
    )
    with pytest.raises(
        ValueError, match="2 runs begin with 'a': a10000000000, a20000000000; give more digits"
    ):
        locate("a", tmp_path)
    with pytest.raises(
        ValueError, match=r"no run 'a19' in .*; the nearest: a10000000000 \(01_drawn\)"
    ):
        locate("a19", tmp_path)
    with pytest.raises(ValueError, match="see: python -m lib.runs status"):
        locate("xyz", tmp_path)


def test_the_command_says_where_the_page_is(run, tmp_path):
    words = [
        "report",
        "000000000a",
        "--root",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "page.html"),
    ]
    done = CliRunner().invoke(command.app, words)
    assert done.exit_code == 0 and done.stdout.strip().endswith("page.html"), done.output
    assert (tmp_path / "page.html").stat().st_size > 1e6


def test_a_log_is_shown_to_its_last_lines(run, tmp_path):
    (run / "log.txt").write_text("\n".join(f"line {number}" for number in range(100)))
    head = header(report(run, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "line 99" in head and "line 60" in head and "line 59\n" not in head
    assert json.loads((run / "provenance.json").read_text())["id"] in head
