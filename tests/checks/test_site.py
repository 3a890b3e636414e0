# ruff: noqa: F811 (fixtures come by import)
"""The built site: every page, link, figure and formula. What needs a browser is skipped, and says so, where there is none."""

import ast
import io
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium, page  # noqa: F401
from PIL import Image, ImageStat

from experiments.figures import ROOT
from workflow.parameters import notebooks

BUILT = ROOT / "build" / "site"
NOTEBOOKS = [f"notebooks/{path.stem}" for path in notebooks()]
PAGES = NOTEBOOKS + sorted(path.stem for path in (ROOT / "site").glob("*.md"))
COMMAND = re.search(r"-m sphinx (.*) \$\(ARGS\)", (ROOT / "Makefile").read_text(encoding="utf-8"))[
    1
].split()


class Page(HTMLParser):
    """What a page asks for, where it leads, and what can be led to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.images, self.figures = set(), [], [], [], {}
        self.figure = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "source", "iframe") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loads.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag == "figure":
            self.figure = found.get("id")
            self.figures[self.figure] = {"images": 0, "caption": False}
        if self.figure and tag in ("img", "figcaption"):
            self.figures[self.figure] |= (
                {"caption": True} if tag == "figcaption" else {"images": 1, "alt": found.get("alt")}
            )

    def handle_endtag(self, tag):
        self.figure = None if tag == "figure" else self.figure


@pytest.fixture(scope="module")
def site():
    """name → Page, of the site as `make site` builds it; only what changed since the last time is built again."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *COMMAND],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Page(BUILT / f"{name}.html") for name in (*PAGES, "search")}


def test_nothing_is_left_of_the_theme_that_leads_nowhere(site):
    for name, found in site.items():
        assert not [
            link
            for link in found.links
            if ("github.com/" in link and "/edit/" in link) or "mybinder" in link
        ], name


def test_no_page_loads_anything_from_elsewhere(site):
    away = {
        name: [url for url in found.loads if urlsplit(url).scheme or url.startswith("//")]
        for name, found in site.items()
    }
    assert not any(away.values()), away


def test_every_link_and_asset_of_the_site_holds(site):
    broken = [
        (name, url)
        for name, found in site.items()
        for url in found.links + found.loads
        if not holds(site, name, url)
    ]
    assert broken == []


def holds(site, name, url):
    parts = urlsplit(url)
    if parts.scheme in ("https", "http", "data"):
        return parts.scheme != "http" or "yann.lecun.com" in url
    path = (BUILT / name).parent / unquote(parts.path) if parts.path else (BUILT / f"{name}.html")
    inside = path.resolve().is_relative_to(BUILT.resolve()) and path.is_file()
    if not inside or not parts.fragment or path.suffix != ".html":
        return inside
    return (
        unquote(parts.fragment)
        in site[path.resolve().relative_to(BUILT.resolve()).with_suffix("").as_posix()].ids
    )


def test_every_figure_has_an_anchor_a_caption_and_words_for_who_cannot_see_it(site):
    figures = {path.stem for path in (ROOT / "figures").glob("*.png")}
    for prefix, names in (("fig", NOTEBOOKS), ("gallery", ["gallery"])):
        found = {key: figure for name in names for key, figure in site[name].figures.items() if key}
        for figure in figures:
            shown = found[f"{prefix}-{figure.replace('_', '-')}"]
            assert shown["images"] == 1 and shown["caption"] and len(shown["alt"]) > 15, (
                prefix,
                figure,
            )
    assert all(image.get("alt", "").strip() for name in PAGES for image in site[name].images)


def test_the_gallery_carries_the_data_behind_each_figure(site):
    carried = {
        unquote(link).rsplit("/", 1)[-1] for link in site["gallery"].links if "_downloads" in link
    }
    assert {path.name for path in (ROOT / "figures").iterdir() if path.suffix != ".gif"} <= carried


def test_notebooks_lead_to_each_other_and_to_the_works_they_cite(site):
    for name, other in (
        ("01_sphere_geodesics", "03_rotated_digits"),
        ("05_extrapolation", "02_density_geodesics"),
    ):
        assert any(
            link.startswith(f"{other}.html") for link in site[f"notebooks/{name}"].links[20:]
        )
    cited = [
        link
        for name in NOTEBOOKS
        for link in site[name].links
        if link.startswith("../references.html#id")
    ]
    back = [link for link in site["references"].links if link.startswith("notebooks/")]
    assert len(set(cited)) >= 20 and len(back) >= len(set(cited))


def test_the_reference_holds_every_public_name(site):
    rooms = ("scores", "metrics", "solvers", "pairs", "evaluation", "runs")
    objects = {
        f"lib.{room}.{name}"
        for room in rooms
        for name in public(ROOT / "lib" / room)
        if not name.isupper()
    }
    named = {anchor.rsplit(".", 1)[-1] for anchor in site["api"].ids}
    assert len(objects) > 40 and objects - site["api"].ids == set()
    assert {name for name in public(ROOT / "lib") if not name.isupper()} - named == set()


def public(package):
    """A package's __all__, read without importing it."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    return next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )


# What follows needs a browser.

MEASURE = """() => {
  const text = node => node.nodeType === 3 ? node.data : ['PRE', 'CODE', 'SCRIPT', 'MJX-CONTAINER'].includes(node.tagName) ? ' '
    : [...node.childNodes].map(text).join('')
  const main = document.querySelector('article') || document.body
  return {formulas: document.querySelectorAll('mjx-container').length, places: document.querySelectorAll('.math').length,
          errors: document.querySelectorAll('[data-mjx-error], mjx-merror, [data-mml-node="merror"]').length,
          raw: text(main).match(/\\$[^$\\n]{1,80}\\$|\\\\[a-z]{2,}|\\\\\\(|\\{cite/g) || [],
          images: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)}
}"""
CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number)
  const lum = c => { const f = c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                     return .2126 * f[0] + .7152 * f[1] + .0722 * f[2] }
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor)
                        if (c.length && (c.length < 4 || c[3] > .99)) return c } return [255, 255, 255] }
  const least = {ratio: 99, of: ''}
  for (const e of document.querySelectorAll('article :is(p, li, td, figcaption, dt, h2, a, pre, summary)')) {
    if (!e.textContent.trim() || !e.getClientRects().length || e.matches('.headerlink')) continue
    const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(behind(e))].sort((x, y) => y - x)
    const ratio = (a + .05) / (b + .05)
    if (ratio < least.ratio) { least.ratio = ratio; least.of = e.outerHTML.slice(0, 100) }
  }
  return least
}"""
WIDTHS = """() => [document.documentElement.scrollWidth, innerWidth, [...document.querySelectorAll('article *')].filter(
  e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible')
  .slice(-2).map(e => e.outerHTML.slice(0, 300))]"""


def opened(page, name, **query):
    """The page of this name from its file, once its formulas are set."""
    page.goto(
        (BUILT / f"{name}.html").as_uri() + "".join(f"?{k}={v}" for k, v in query.items()),
        wait_until="load",
    )
    page.evaluate(
        "async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise }"
    )


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_a_page_opens_without_complaints_or_the_network(site, page, name):
    opened(page, name)
    found = page.evaluate(MEASURE)
    assert (page.complaints, page.refused, found["images"]) == ([], [], [])
    assert (found["errors"], found["raw"], found["formulas"]) == (0, [], found["places"])
    assert found["formulas"] > 0 or name not in NOTEBOOKS
    shots = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        least = page.evaluate(CONTRAST)
        assert least["ratio"] >= 4.5, (scheme, least)
        shots.append(
            ImageStat.Stat(Image.open(io.BytesIO(page.screenshot())).convert("L")).median[0]
        )
    assert shots[0] > 220 and shots[1] < 60
    page.set_viewport_size({"width": 390, "height": 844})
    wide, window, beyond = page.evaluate(WIDTHS)
    assert wide <= window, beyond


def test_the_switch_changes_between_light_and_dark(site, page):
    opened(page, "index")
    for scheme in ("Dark", "Light"):
        page.click(".theme-switch-button >> visible=true")
        page.click(f"[data-mode={scheme.lower()}].theme-change-button >> visible=true")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme.lower()


def test_the_search_finds_geodesics_without_a_server(site, page):
    opened(page, "search", q="geodesic")
    page.wait_for_selector("ul.search li a")
    found = page.eval_on_selector_all(
        "ul.search li a", "links => links.map(a => a.getAttribute('href'))"
    )
    assert len(found) >= 10 and any("notebooks/02_density_geodesics.html" in link for link in found)
    assert (page.complaints, page.refused) == ([], [])


def test_on_a_server_the_search_shows_excerpts(site, page):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=BUILT)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page.goto(f"http://127.0.0.1:{server.server_port}/search.html?q=caustic")
            page.wait_for_selector("ul.search li p.context")
            assert "caustic" in page.inner_text("ul.search").lower() and (
                page.complaints,
                page.refused,
            ) == ([], [])
        finally:
            server.shutdown()
            thread.join()


def test_the_code_of_a_figure_unfolds(site, page):
    opened(page, NOTEBOOKS[0])
    code = page.locator("details pre").first
    assert not code.is_visible()
    page.locator("details summary").first.click()
    assert code.is_visible() and "figures.save" in code.inner_text()
