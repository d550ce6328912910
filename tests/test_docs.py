"""The manual lists every name."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
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


#: What stands in first columns and is no thing by itself: arguments, and methods of a trainer's.
PARTS = {"sample_weight=", "fit", "step", "evaluate", "amsgrad", "batch_size=None", 'init="siren"'}


def snippets(title):
    """Codes of the first column of a table of names.md."""
    page = (DOCS / "names.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row) if code not in PARTS]


TABLES = {"Layers": nn, "Losses": nn, "Optimizers": optim, "Learning rates": schedules}


@pytest.mark.parametrize(
    ("title", "code"), [(title, code) for title in TABLES for code in snippets(title)]
)
def test_what_the_table_of_names_writes_can_be_written(title, code):
    """With what the examples speak of: a model, data, edges, a function."""
    about = {
        "tw": tw,
        "base": optim.SGD(),
        "edges": [0, 1, 2],
        "f": lambda output, target: (0.0, 0 * output),
        "loss": nn.MSELoss(),
        "model": lambda x: x,
        "x": np.arange(6.0),
        "y": np.ones((6, 2)),
    }
    if "model(x)" in code:
        about["x"] = np.zeros((6, 2))
    code = f"SGD(){code}" if code.startswith(".") else code
    code = code.replace("...", "Linear(2, 2)" if "Residual" in code else "ConstantLR()")
    assert eval(code, {**vars(TABLES[title]), **about}) is not None
