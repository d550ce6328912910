"""Configuration of the manual, for Sphinx."""

from importlib.metadata import version as installed_version
from pathlib import Path

project = "thalweg"
author = "The thalweg developers"
copyright = "The thalweg developers, MIT or Apache-2.0"
version = release = installed_version("thalweg")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# `Name` in a docstring links to what it names, as numpydoc means it.
default_role = "py:obj"
autodoc_typehints = "none"  # numpydoc's sections give the types
autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "thalweg"
html_static_path = ["_static"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 9,
    "show_toc_level": 2,
}
html_css_files = ["wide.css"]
# Only the reference has so many pages that a navigation of its own is worth a quarter of the width.
folder = Path(__file__).parent
pages = [path for name in ("", "continual/", "performance/") for path in folder.glob(f"{name}*.md")]
names = [page.relative_to(folder).with_suffix("").as_posix() for page in pages]
html_sidebars = {name: [] for name in [*names, "genindex", "search", "py-modindex"]}


def setup(app):
    # What estimators inherit from scikit-learn, its manual says; its links lead nowhere here.
    def skip(app, what, name, thing, skip, options):
        return True if str(getattr(thing, "__module__", "")).startswith("sklearn.") else None

    app.connect("autodoc-skip-member", skip)
