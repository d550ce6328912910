"""The manual lists every name."""

import inspect
import re
from pathlib import Path

import pytest

from thalweg import callbacks, nn, optim
from thalweg.optim import schedules

DOCS = Path(__file__).parent.parent / "docs"
BASES = {"Layer", "Loss", "Optimizer", "Schedule", "Callback"}


def public(module):
    names = {n for n, x in vars(module).items() if inspect.isclass(x) and not n.startswith("_")}
    return names & set(getattr(module, "__all__", names))


@pytest.mark.parametrize("module", [nn, optim, schedules, callbacks], ids=lambda m: m.__name__)
@pytest.mark.parametrize("page", ["names.md", "api/index.md"])
def test_every_class_is_on_the_page(module, page):
    words = set(re.findall(r"\w+", (DOCS / page).read_text(encoding="utf-8")))
    missing = public(module) - words - (BASES if page == "names.md" else set())
    # The base of layers has nothing for users to call.
    assert not missing - {"Layer"}
