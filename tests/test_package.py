"""The package as a whole: what importing it does, its optional parts, its configuration."""

import ast
import builtins
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

import thalweg as tw


def test_importing_loads_numpy_and_nothing_else_from_outside():
    script = (
        "import sys, numpy; before = set(sys.modules); import thalweg; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - {'numpy'} - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['thalweg']"


def test_importing_loads_nothing_that_few_programs_need():
    """What reads files, draws, measures or checks is imported when it is used."""
    script = (
        "import sys, numpy; before = set(sys.modules); import thalweg; "
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    new = set(found.stdout.split())
    assert "thalweg.nn" in new
    assert not new & {"json", "pathlib", "threading", "difflib", "urllib.parse", "tempfile"}
    parts = ("_gradcheck", "_lr_finder", "continual", "curvature", "diagnostics", "onnx")
    parts += ("plot", "sklearn", "solve", "torch")
    assert not new & {f"thalweg.{part}" for part in parts}


def test_sources_without_the_core_say_what_is_missing(tmp_path):
    """A checkout that was not built, a zip file, a wheel for another platform."""
    package = Path(tw.__file__).parent
    shutil.copytree(package, tmp_path / "thalweg", ignore=shutil.ignore_patterns("_core.*"))
    found = subprocess.run(
        [sys.executable, "-c", "import thalweg"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (
        "thalweg's compiled core cannot be loaded (No module named 'thalweg._core'): a checkout "
        "must be built first"
    ) in found.stderr


def test_estimators_are_not_listed_where_they_cannot_be_had(monkeypatch):
    """Or `help(tw.sklearn)` would fail, which reads all that is listed."""
    names = {"MLPClassifier", "MLPRegressor"}
    for name in names:  # found earlier
        monkeypatch.delitem(vars(tw.sklearn), name, raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert not names & set(dir(tw.sklearn))


PUBLIC = [
    "", "nn", "nn.utils", "optim", "optim.schedules", "callbacks", "continual", "continual.metrics",
    "curvature", "datasets", "diagnostics", "onnx", "plot", "sklearn", "solve",
]  # fmt: skip


@pytest.mark.parametrize("part", PUBLIC)
def test_annotations_can_be_evaluated(part):
    """Libraries that read them call typing.get_type_hints; tw.torch would have to load PyTorch."""
    if part == "sklearn":
        pytest.importorskip("sklearn")
    module = importlib.import_module(f"thalweg.{part}".rstrip("."))
    functions = []
    for name in dir(module):
        thing = getattr(module, name)
        if name.startswith("_") or not getattr(thing, "__module__", "").startswith("thalweg"):
            continue
        if inspect.isfunction(thing):
            functions.append(thing)
        elif inspect.isclass(thing):
            functions.append(thing)
            for method, value in inspect.getmembers_static(thing):
                if not method.startswith("_") or method in ("__init__", "__call__"):
                    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                    functions += [value] if inspect.isfunction(value) else []
    assert functions
    for function in functions:
        if function.__module__.startswith("thalweg"):
            typing.get_type_hints(function)


@pytest.mark.parametrize("part", PUBLIC)
def test_signatures_can_be_read(part):
    """`help` showed NumPy's ArrayLike in full, in 1700 characters for `Trainer.fit`."""
    if part == "sklearn":
        pytest.importorskip("sklearn")
    module = importlib.import_module(f"thalweg.{part}".rstrip("."))
    things = [getattr(module, name) for name in dir(module) if not name.startswith("_")]
    ours = [x for x in things if getattr(x, "__module__", "").startswith("thalweg")]
    methods = [value for x in ours if inspect.isclass(x) for _, value in inspect.getmembers(x)]
    for thing in (*ours, *methods):
        if inspect.isfunction(thing) and thing.__module__.startswith("thalweg"):
            assert "_ArrayLike" not in str(inspect.signature(thing)), thing
            assert len(str(inspect.signature(thing))) < 800, thing


def test_optional_modules_are_there_when_asked_for():
    assert tw.plot.__name__ == "thalweg.plot"
    assert tw.datasets.__name__ == "thalweg.datasets"
    assert (tw.onnx.__name__, tw.torch.__name__) == ("thalweg.onnx", "thalweg.torch")
    assert {"plot", "datasets", "nn", "onnx", "torch"} <= set(dir(tw))
    assert [name for name in dir(tw.onnx) if not name.startswith("_")] == ["export"]
    names = [name for name in dir(tw.torch) if not name.startswith("_")]
    assert names == ["concatenate", "from_torch", "residual", "to_torch"]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tw.nonsense


def test_a_star_import_brings_what_is_loaded_on_use_and_hides_no_package(monkeypatch):
    """As a notebook may begin that also imports PyTorch."""
    for name in tw._LAZY:  # found earlier
        monkeypatch.delitem(vars(tw), name, raising=False)
    names = {"torch": "PyTorch's"}
    exec("from thalweg import *", names)
    assert names["torch"] == "PyTorch's"
    public = {name for name in dir(tw) if not name.startswith("_")}
    assert public - set(names) == {"onnx", "sklearn"}
    assert names["train_many"] is tw.train_many
    assert names["continual"] is tw.continual


def test_a_star_import_brings_the_estimators(monkeypatch):
    pytest.importorskip("sklearn")
    for name in tw.sklearn._LAZY:
        monkeypatch.delitem(vars(tw.sklearn), name, raising=False)
    names = {}
    exec("from thalweg.sklearn import *", names)
    assert names["MLPClassifier"] is tw.sklearn.MLPClassifier
    assert names["MLPRegressor"] is tw.sklearn.MLPRegressor


def test_every_module_can_be_imported_by_itself():
    for info in pkgutil.walk_packages(tw.__path__, "thalweg."):
        try:
            importlib.import_module(info.name)
        except ImportError as error:
            # Of what is not installed here; those of tw.sklearn are reached through it alone.
            if "pip install" not in str(error) and "thalweg.sklearn._" not in info.name:
                raise


@pytest.mark.parametrize(
    ("package", "wanted", "call"),
    [
        ("sklearn.datasets", "scikit-learn", lambda: tw.datasets.digits()),
        # or the extra, by its name
        (
            "matplotlib.pyplot",
            r'(matplotlib|"thalweg\[plot\]")',
            lambda: tw.History(loss=[1.0]).plot(),
        ),
        (
            "sklearn.utils.validation",
            '"scikit-learn>=1.7"',
            lambda: tw.sklearn.__getattr__("MLPRegressor"),
        ),
        ("onnx", "onnx", lambda: tw.onnx.export(tw.nn.Sequential(tw.nn.Linear(2, 1)))),
    ],
)
def test_without_a_package_it_is_said_how_to_get_it(package, wanted, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install {wanted}$"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: tw.torch.to_torch(tw.nn.Sequential(tw.nn.Linear(2, 1))),
        lambda: tw.torch.residual(),
        lambda: tw.torch.concatenate(),
        lambda: tw.torch.from_torch(None),
    ],
)
def test_without_pytorch_it_is_said_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("thalweg.torch._")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(f"{name.rpartition('.')[0]}.{name.rpartition('.')[2]}")
    with pytest.raises(ImportError, match="needs PyTorch; install it with: pip install torch"):
        call()


def test_what_errors_ask_to_install_is_what_the_extras_ask_for():
    root = Path(__file__).parent.parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = {each for extra in extras.values() for each in extra}
    packages = {re.match(r"[\w-]+", each)[0] for each in wanted}
    named = set()
    for path in (root / "python" / "thalweg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.update(re.findall(r'pip install "?([\w-]+(?:\[\w+\]|>=[\d.]+)?)', node.value))
    named.discard("torch")  # of which it is said where it comes from
    for name in named:
        extra = re.fullmatch(r"thalweg\[(\w+)\]", name)
        if extra:
            assert extra[1] in extras
        elif ">=" in name:
            assert name in wanted
        else:
            assert name in packages
    assert {"onnx", "tqdm", "scikit-learn", "scikit-learn>=1.7"} <= named


def test_developers_and_users_need_the_same_versions():
    root = Path(__file__).parent.parent
    found = tomllib.loads((root / "pyproject.toml").read_text())
    groups, extras = found["dependency-groups"], found["project"]["optional-dependencies"]
    wanted = {}
    for each in {each for some in (*groups.values(), *extras.values()) for each in some}:
        wanted.setdefault(re.match(r"[\w-]+", each)[0], set()).add(each)
    for own in ("demo", "all"):  # extras that are made of others
        (parts,) = extras[own]
        assert set(re.search(r"\[(.*)\]", parts)[1].split(",")) <= set(extras)
    del wanted["thalweg"]
    assert not {name: each for name, each in wanted.items() if len(each) > 1}
    home = found["project"]["urls"]["Repository"]
    for name in ("Cargo.toml", "CONTRIBUTING.md", "docs/getting-started.md"):
        assert set(
            re.findall(r"https://github\.com/thalweg/[\w-]+", (root / name).read_text())
        ) == {home}


def test_the_configuration_is_printed_or_returned(capsys):
    config = tw.show_config("dicts")
    assert set(config) == {
        "version", "isa", "isas_available", "isa_cap", "kernels", "precisions", "threads",
        "threads_from", "cpus",
    }  # fmt: skip
    assert config["version"] == tw.__version__
    assert config["isa"] in config["isas_available"]
    assert set(config["kernels"]) == {"float32", "float64"}
    assert config["threads"] == tw.get_num_threads()
    assert tw.show_config() is None
    printed = capsys.readouterr().out
    assert printed.isascii()  # not every terminal shows more
    for key, value in config.items():
        assert f"{key} " in printed
        assert str(value) in printed
    with pytest.raises(tw.ArgumentError, match="mode"):
        tw.show_config("yaml")


def test_no_builtin_is_shadowed():
    """``from thalweg import *`` and friends must not hide Python's own names."""
    for module in (tw, tw.nn, tw.optim):
        public = {name for name in vars(module) if not name.startswith("_")}
        assert not public & set(vars(builtins))
