"""Run the examples of the README and the manual as tests; docstrings are pytest's own doctests."""

import importlib.util
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

collect_ignore = ["docs/conf.py"]
# The examples of these modules need packages that may not be installed.
collect_ignore += [
    str(path)
    for package in ("onnx", "sklearn", "torch")
    if importlib.util.find_spec(package) is None
    for path in (Path(__file__).parent / "python" / "thalweg" / package).glob("*.py")
]

pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md", "docs/continual/*.md"],
).pytest()
