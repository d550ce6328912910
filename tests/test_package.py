"""The package as a whole: what importing it does, its optional parts, its configuration."""

import ast
import builtins
import importlib
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
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


def test_optional_modules_are_there_when_asked_for():
    assert tw.plot.__name__ == "thalweg.plot"
    assert tw.datasets.__name__ == "thalweg.datasets"
    assert (tw.onnx.__name__, tw.torch.__name__) == ("thalweg.onnx", "thalweg.torch")
    assert {"plot", "datasets", "nn", "onnx", "torch"} <= set(dir(tw))
    assert [name for name in dir(tw.onnx) if not name.startswith("_")] == ["export"]
    names = [name for name in dir(tw.torch) if not name.startswith("_")]
    assert names == ["from_torch", "to_torch"]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tw.nonsense


def test_every_public_name_is_documented():
    modules = [tw, tw.nn, tw.optim, tw.errors, tw.callbacks, tw.datasets, tw.plot, tw.nn.init]
    modules += [tw.solve, tw.diagnostics, tw.onnx, tw.torch]
    for module in modules:
        assert module.__doc__, module
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("thalweg"):
                assert value.__doc__, f"{module.__name__}.{name}"


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
            '"scikit-learn>=1.6"',
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
    tomllib = pytest.importorskip("tomllib")
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
    assert {"onnx", "tqdm", "scikit-learn", "scikit-learn>=1.6"} <= named


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
    for key, value in config.items():
        assert f"{key} " in printed
        assert str(value) in printed
    with pytest.raises(tw.ArgumentError, match="mode"):
        tw.show_config("yaml")


def test_the_digits_are_whole_and_split_at_random():
    pytest.importorskip("sklearn")
    data = tw.datasets.digits()
    x_train, y_train, x_test, y_test = data
    assert x_train.shape == (1198, 64)
    assert x_test.shape == (599, 64)
    assert (x_train.dtype, y_train.dtype) == (np.float32, np.int64)
    assert x_train.min() == 0
    assert x_train.max() == 1
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    # No image is in both parts, and none is lost.
    every = np.concatenate([x_train, x_test])
    assert len(np.unique(every, axis=0)) == 1797
    np.testing.assert_array_equal(tw.datasets.digits(seed=0).x_test, x_test)
    assert not np.array_equal(tw.datasets.digits(seed=1).x_test, x_test)
    assert len(tw.datasets.digits(test_fraction=0.1).y_test) == 180
    assert repr(data) == "Digits(1198 + 599 images of 8x8)"


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1e-6, 0.99999, "a third"])
def test_a_split_that_leaves_nothing_is_an_error(fraction):
    pytest.importorskip("sklearn")
    with pytest.raises(tw.ArgumentError, match="test_fraction"):
        tw.datasets.digits(test_fraction=fraction)


@pytest.fixture
def figures():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


def test_a_history_can_be_drawn(figures):
    history = tw.History(loss=[1.0, 0.5, 0.25], val_loss=[2.0, 1.0, 0.75])
    axes = history.plot()
    assert [line.get_ydata().tolist() for line in axes.lines] == [
        [1.0, 0.5, 0.25],
        [2.0, 1.0, 0.75],
    ]
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert axes.get_yscale() == "log"
    again = figures.figure().add_subplot()
    assert tw.plot.history([history, history], again) is again
    assert len(again.lines) == 4


def test_a_history_without_epochs_is_drawn_without_a_warning(figures):
    """What a fit that fails in its first epoch leaves."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tw.History().plot().lines


def test_the_training_figure_shows_what_was_wrong(figures, tmp_path, rng):
    images, labels = rng.random((50, 16)), np.arange(50) % 10
    predicted = labels.copy()
    predicted[[3, 7]] = 9, 0
    path = tmp_path / "figure.png"
    history = tw.History(loss=[1.0, 0.5])
    figure = tw.plot.training(history, images, labels, predicted, path)
    titles = [axes.get_title() for axes in figure.get_axes()]
    assert titles == ["loss", "3, not 9", "7, not 0"]
    shown = figure.get_axes()[1].images[0].get_array()
    np.testing.assert_array_equal(shown, images[3].reshape(4, 4))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert tw.plot.training(history, images, labels, labels)  # nothing wrong, nothing to show


def test_no_builtin_is_shadowed():
    """``from thalweg import *`` and friends must not hide Python's own names."""
    for module in (tw, tw.nn, tw.optim):
        public = {name for name in vars(module) if not name.startswith("_")}
        assert not public & set(vars(builtins))
