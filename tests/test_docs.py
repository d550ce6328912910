"""The manual lists every name, and the README shows its figures."""

import importlib
import inspect
import operator
import re
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import callbacks, continual, curvature, diagnostics, nn, optim
from thalweg.optim import schedules

DOCS = Path(__file__).parent.parent / "docs"
#: Classes that have no name elsewhere: bases, and what functions return.
BASES = {"Layer", "Loss", "Optimizer", "Schedule", "Callback", "Buffer"}
RETURNED = {"Conditioning", "StageConditioning", "Distance", "GradientNoise"}
NAMED = [nn, optim, schedules, callbacks, continual, curvature, diagnostics]


def public(module):
    names = {n for n, x in vars(module).items() if inspect.isclass(x) and not n.startswith("_")}
    return names & set(getattr(module, "__all__", names))


def read(*pages):
    return "\n".join((DOCS / page).read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize("module", NAMED, ids=lambda m: m.__name__)
def test_every_class_is_on_the_page_of_names(module):
    """In the first column of a table, where ours are: the page also says what is missing."""
    tables = re.findall(r"^\| thalweg.*\n(?:\|.*\n)+", read("names.md"), re.M)
    ours = " ".join(row.split("|")[1] for table in tables for row in table.splitlines())
    assert not public(module) - set(re.findall(r"\w+", ours)) - BASES - RETURNED


def listed():
    """What the reference lists name by name; `nn.init` and `errors` it takes as a whole."""
    things = []
    for page in (DOCS / "api").glob("*.md"):
        module = None
        for line in read(page).splitlines():
            if line.startswith(".. currentmodule:: "):
                module = importlib.import_module(line.split()[-1])
            elif re.fullmatch(r"   [\w.]+", line):
                things.append(operator.attrgetter(line.strip())(module))
    return things


PARTS_OF_THALWEG = [
    "", ".nn", ".nn.utils", ".optim", ".optim.schedules", ".callbacks", ".sklearn", ".continual",
    ".continual.metrics", ".solve", ".diagnostics", ".curvature", ".onnx", ".torch", ".datasets",
    ".plot",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS_OF_THALWEG)
def test_every_name_is_in_the_reference(part):
    pytest.importorskip("sklearn")  # whose estimators are among them
    module = importlib.import_module(f"thalweg{part}")
    # A package shows what it imports from its parts; a file what it defines.
    home = "thalweg" if hasattr(module, "__path__") else module.__name__
    things = {}
    for name in getattr(module, "__all__", dir(module)):
        thing = getattr(module, name)
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if thing.__module__.startswith(home) and thing.__module__ != "thalweg.errors":
            things[name] = thing
    assert things
    there = [*listed(), tw.datasets.Digits]  # which is shown beside the function that makes one
    assert [name for name, thing in things.items() if thing not in there] == []


def explained(thing):
    """The arguments that a docstring explains as numpydoc writes it; None if it explains none."""
    form = r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n--|\Z)"
    if (section := re.search(form, inspect.getdoc(thing) or "", re.M | re.S)) is None:
        return None
    lines = re.findall(r"^(\S[^:\n]*)", section[1], re.M)
    return {name.strip(" *") for line in lines for name in line.split(",")}


def arguments(thing):
    """The arguments that a signature names; none if it cannot be read, or for an error."""
    if inspect.isclass(thing) and issubclass(thing, Exception | tw.History):
        return set()
    parameters = inspect.signature(thing).parameters.values() if callable(thing) else ()
    return {it.name for it in parameters if it.kind is not it.VAR_KEYWORD} - {"self"}


def methods(kind):
    """Our public methods of a class and its bases, each with those that it replaces."""
    if not inspect.isclass(kind):
        return
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name[0] != "_" and method.__module__.startswith("thalweg"):
            yield method, [vars(base)[name] for base in kind.__mro__ if name in vars(base)]


#: Of whose arguments another docstring tells, or that no user calls.
NOT_EXPLAINED = {
    tw.curvature.gnvp: "as hvp",
    tw.curvature.fisher_vp: "as hvp",
    tw.continual.DERpp: "as DER",
    optim.Optimizer: "a base",
    tw.curvature.Estimate: "returned",
    tw.curvature.KroneckerFactors: "returned",
    tw.datasets.Digits: "returned",
}


@pytest.mark.parametrize("part", [*PARTS_OF_THALWEG, ".nn.init", ".errors"])
def test_every_name_and_argument_is_documented(part):
    """Methods may leave the arguments to a base that explains them."""
    pytest.importorskip("sklearn")
    module = importlib.import_module(f"thalweg{part}")
    assert module.__doc__
    for name in getattr(module, "__all__", dir(module)):
        thing = getattr(module, name)
        if name.startswith("_") or not getattr(thing, "__module__", "").startswith("thalweg"):
            continue
        assert thing.__doc__, name
        for one, versions in ((thing, [thing]), *methods(thing)):
            said = next(filter(None, map(explained, versions)), None)
            needed = arguments(one)
            if said is None:  # what functions return has attributes
                excused = one is thing and "\nAttributes\n" in inspect.getdoc(one)
                assert excused or one in NOT_EXPLAINED or not needed, one
            else:
                assert "..." in said or needed <= said, one


def test_the_reference_leads_to_each_of_its_pages():
    pages = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}
    toctree = read("api/index.md").split(":hidden:\n\n")[1].split("\n```")[0].split()
    assert sorted(toctree) == sorted(pages)
    assert set(re.findall(r"\]\((\w+)\.md\)", read("api/index.md"))) == pages


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
        "f": lambda *arrays: (0.0, 0 * arrays[0]),
        "function": lambda theta: (theta @ theta, 2 * theta),
        "optimizer": optim.SGD(lr=0.1),
        "steps": 2,
        "theta": [1.0, 2.0],
        "loss": nn.MSELoss(),
        "model": lambda x: x,
        "x": np.arange(6.0),
        "y": np.ones((6, 2)),
    }
    if "model(x)" in code:
        about["x"] = np.zeros((6, 2))
    code = f"SGD(){code}" if code.startswith(".") else code
    code = code.replace(
        "...", "Linear(2, 2)" if "Residual" in code or "Concatenate" in code else "ConstantLR()"
    )
    assert eval(code, {**vars(TABLES[title]), **about}) is not None


def test_links_of_the_readme_lead_somewhere():
    page = re.sub(r"^```.*?^```|`[^`]*`", "", read("../README.md"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)]+)\)", page)
    defined = dict(re.findall(r"^\[(.+)\]: (.+)$", page, re.M))
    used = re.findall(r"\[([^\]]+)\](?![(:])(?:\[([^\]]+)\])?", page)
    assert {" ".join((name or text).lower().split()) for text, name in used} == set(defined)
    ours = [link for link in (*links, *defined.values()) if not link.startswith("https://")]
    for path, title in (link.partition("#")[::2] for link in ours):
        assert (DOCS.parent / path).exists(), path
        if title:
            titles = re.findall(r"^#+ (.+)$", read(f"../{path or 'README.md'}").lower(), re.M)
            assert title in [re.sub(r"[^\w -]", "", it).replace(" ", "-") for it in titles], title
    assert ours


def test_the_readme_shows_rows_of_the_manuals_table():
    """The table of the front page is the first one of the manual, some of it."""

    def rows(page, head):
        lines = page[page.index(head) :].split("\n\n")[0].splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}

    names = {
        "thalweg": "thalweg", "thalweg, fit": "thalweg.fit", "PyTorch": "torch",
        "torch.compile": "torch.compile", "JAX": "jax", "JAX, scan": "jax.scan",
        "scikit-learn": "sklearn",
    }  # fmt: skip
    shown = rows(read("../README.md"), "| one training step")
    measured = rows(read("performance/steps.md"), "| workload")
    assert len(shown) == 7
    for work, row in shown.items():
        for name, theirs in names.items():
            assert row[name] == measured[work][theirs], (work, name)


def test_the_picture_of_ratios_is_that_of_the_tables():
    """It names the dates of the tables that it was drawn from; how to draw it: CONTRIBUTING.md."""
    dates = re.findall(r"^- Date: (.+)$", read("performance/steps.md"), re.M)
    assert dates
    assert "; ".join(dates) in read("_static/ratios.svg")


def test_the_readme_shows_how_to_install_before_anything_else_and_names_the_commands():
    titles = re.findall(r"^## (.+)$", read("../README.md"), re.M)
    assert titles[:4] == ["Install", "Two commands", "Features", "Speed"]
    assert re.findall(r"^make (\w+) +#", read("../README.md"), re.M) == ["demo", "test"]
