# ruff: noqa: F811 (fixtures come by import)
"""The built site: no warning, a caption a figure, links that hold, a page in a browser."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import chromium, page  # noqa: F401

from workflow.parameters import ROOT, notebooks

BUILT = ROOT / "build" / "site"
FIGURES = ROOT / "figures"
NOTEBOOKS = [f"notebooks/{path.stem}" for path in notebooks()]
PAGES = NOTEBOOKS + sorted(path.stem for path in (ROOT / "site").glob("*.md"))
COMMAND = re.search(r"-m sphinx (.*) \$\(ARGS\)", (ROOT / "Makefile").read_text(encoding="utf-8"))[
    1
]


class Page(HTMLParser):
    """What a page asks for, where it leads, and what can be led to."""

    def __init__(self, path):
        super().__init__()
        self.ids = set()
        self.links = []
        self.loads = []
        self.images = []
        # id → its image's alternative text, and whether there is a caption
        self.figures = {}
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
            self.images.append(found.get("alt", ""))
        if tag == "figure":
            self.figure = found.get("id")
            self.figures[self.figure] = {"alt": "", "caption": False}
        if tag == "img" and self.figure:
            self.figures[self.figure]["alt"] = found.get("alt", "")
        if tag == "figcaption" and self.figure:
            self.figures[self.figure]["caption"] = True

    def handle_endtag(self, tag):
        if tag == "figure":
            self.figure = None


@pytest.fixture(scope="module")
def site():
    """name → Page, of the site as `make site` builds it; what is as before is not built again."""
    command = [sys.executable, "-m", "sphinx", *COMMAND.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Page(BUILT / f"{name}.html") for name in (*PAGES, "search")}


def test_every_figure_has_a_caption_and_words_for_who_cannot_see_it(site):
    for prefix, names in (("fig", NOTEBOOKS), ("gallery", ["gallery"])):
        shown = {key: figure for name in names for key, figure in site[name].figures.items()}
        for path in FIGURES.glob("*.png"):
            figure = shown[f"{prefix}-{path.stem.replace('_', '-')}"]
            assert figure["caption"] and len(figure["alt"]) > 15, path.stem
    assert all(alt.strip() for name in PAGES for alt in site[name].images)
    captions = yaml.safe_load((ROOT / "site" / "captions.yml").read_text(encoding="utf-8"))
    assert set(captions) == {
        path.stem for path in FIGURES.iterdir() if path.suffix in (".png", ".gif")
    }


def test_the_gallery_carries_the_data_behind_each_figure(site):
    carried = {Path(unquote(link)).name for link in site["gallery"].links if "_downloads" in link}
    assert {path.name for path in FIGURES.iterdir() if path.suffix != ".gif"} <= carried


def test_every_link_holds_and_nothing_is_loaded_from_elsewhere(site):
    for name, found in site.items():
        assert not [url for url in found.loads if urlsplit(url).scheme or url.startswith("//")], (
            name
        )
        broken = [url for url in found.links + found.loads if not holds(site, name, url)]
        assert broken == [], name


def holds(site, name, url):
    parts = urlsplit(url)
    if parts.scheme:
        return parts.scheme in ("https", "http", "data")
    path = BUILT / f"{name}.html"
    if parts.path:
        path = (path.parent / unquote(parts.path)).resolve()
    if not path.is_file():
        return False
    if not parts.fragment or path.suffix != ".html":
        return True
    return unquote(parts.fragment) in site[path.relative_to(BUILT).with_suffix("").as_posix()].ids


def test_notebooks_lead_to_each_other_and_to_the_works_they_cite(site):
    links = site["notebooks/01_sphere_geodesics"].links
    assert any(link.startswith("03_rotated_digits.html") for link in links)
    cited = {link for name in NOTEBOOKS for link in site[name].links if "references.html#" in link}
    assert len(cited) >= 20


@pytest.mark.parametrize("room", ["", "scores", "metrics", "solvers"])
def test_the_reference_holds_every_public_name(site, room):
    tree = ast.parse((ROOT / "lib" / room / "__init__.py").read_text(encoding="utf-8"))
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    documented = {anchor.rpartition(".")[2] for anchor in site["api"].ids}
    assert {name for name in names if not name.isupper()} - documented == set()


MEASURE = """() => ({
  formulas: document.querySelectorAll('mjx-container').length,
  places: document.querySelectorAll('.math').length,
  errors: document.querySelectorAll('[data-mjx-error], mjx-merror').length,
  images: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
  wide: document.documentElement.scrollWidth - innerWidth,
  dark: getComputedStyle(document.body).backgroundColor,
})"""


def test_a_page_opens_in_a_browser_from_its_file(site, page):
    page.emulate_media(color_scheme="dark")
    page.goto((BUILT / "notebooks/01_sphere_geodesics.html").as_uri(), wait_until="load")
    page.evaluate("async () => { await MathJax.startup.promise }")
    found = page.evaluate(MEASURE)
    assert page.complaints == page.refused == found["images"] == []
    assert found["errors"] == 0 and found["formulas"] == found["places"] > 20
    assert found["wide"] <= 0
    assert max(int(number) for number in re.findall(r"\d+", found["dark"])[:3]) < 60
    code = page.locator("details pre").first
    assert not code.is_visible()
    page.locator("details summary").first.click()
    assert code.is_visible()
