"""The read-along site: executed notebooks, figures, pages around them; `make site` builds it."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]
MATHJAX = Path(
    importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0],
    "static",
    "mathjax",
)

project = "Geodesics inside diffusion models"
author = "the authors of this companion"
html_title = project
html_last_updated_fmt = None  # no date: the same sources give the same pages
html_show_copyright = html_show_sphinx = html_use_index = html_domain_indices = False

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinxcontrib.bibtex",
    "sphinx_design",
    "sphinx_copybutton",
    "sources",
    "excerpts",
    "captions",
    "mentions",
    "literal",
]
exclude_patterns = ["extensions", "**.ipynb_checkpoints"]
include_patterns = ["**.md", "**.ipynb"]

nb_execution_mode = "off"  # the site shows what make figures executed, else what is committed
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "The code of this figure", "Hide the code of this figure"
nb_ipywidgets_js = {}  # widgets live in JupyterLab; their scripts would come from elsewhere
nb_mime_priority_overrides = [
    ("html", "image/gif", 5),
    ("html", "application/vnd.jupyter.widget-view+json", None),
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "label"

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a class's attributes as a list; their shapes stand in its signature
napoleon_attr_annotations = False
napoleon_use_rtype = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "literal"

# One file with SVG output: nothing further to fetch, so it works from file:// in every browser.
mathjax_path = "tex-svg.js"
mathjax3_config = {"svg": {"fontCache": "local", "scale": 0.92}, "options": {"enableMenu": False}}

html_theme = "sphinx_book_theme"
html_static_path = ["static", str(MATHJAX / "tex-svg.js")]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_js_files = ["site.js"]
html_sourcelink_suffix = ""
html_permalinks_icon = "#"
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 1,
    "toc_title": "On this page",
    "use_fullscreen_button": False,
    "use_download_button": True,
    "footer_content_items": [],
    "navbar_persistent": [],
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
}
html_context = {"default_mode": "auto"}  # the reader's own choice of light or dark
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
