"""What errors advise to write instead of other libraries' names is there."""

import importlib
import operator
import pkgutil
import re
from collections.abc import Mapping

import numpy as np
import pytest

import thalweg as tw
from thalweg import _habits, continual, nn, optim


def modules():
    """The tables of modules, of which each module gives its own when it is imported."""
    for name in ("nn.init", "nn.utils", "optim.schedules", *dir(tw)):
        try:
            importlib.import_module(f"thalweg.{name}")
        except ImportError:  # no module, or one of a package that is not installed
            continue
    return dict(_habits._OF_MODULES)


def arguments_and_attributes():
    """The tables of arguments and attributes, by the modules that have them."""
    tables = {}
    for info in pkgutil.walk_packages(tw.__path__, "thalweg."):
        try:
            module = importlib.import_module(info.name)
        except ImportError:
            continue
        for name, table in vars(module).items():
            named = re.fullmatch(r"_?(OF_\w+|ELSEWHERE|ARGUMENTS|THEIRS)", name)
            if named and isinstance(table, Mapping) and name != "_OF_MODULES":
                tables[f"{info.name}.{name}"] = table
    return tables


def known():
    """What the first part of a dotted name may stand for in an advice."""
    model = nn.Sequential(nn.Linear(2, 3))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    x, y = np.eye(2), np.arange(2)
    result = continual.run(trainer, continual.from_arrays([(x, y)]))
    strategies = [continual.EWC(trainer, 1.0), continual.Replay(trainer, 9)]
    parts = ("nn", "optim", "callbacks", "continual", "curvature", "diagnostics", "solve", "plot")
    return {
        "tw": [tw], "thalweg": [tw], **{name: [getattr(tw, name)] for name in parts},
        "init": [nn.init], "utils": [nn.utils], "schedules": [optim.schedules],
        "metrics": [continual.metrics], "Sequential": [nn.Sequential], "Trainer": [tw.Trainer],
        "model": [model], "trainer": [trainer], "optimizer": [trainer.optimizer],
        "history": [trainer.history], "result": [result], "strategy": strategies,
    }  # fmt: skip


KNOWN = known()
MODULES = modules()
TABLES = {**MODULES, **arguments_and_attributes()}
DOTTED = re.compile(rf"(?<![\w.])({'|'.join(KNOWN)})\.([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)")


def has(one, path):
    """Tell whether an object has an attribute, or a path of them."""
    try:
        operator.attrgetter(path)(one)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("name", TABLES)
def test_what_is_advised_is_there(name):
    assert not [
        (theirs, advice)
        for theirs, advice in TABLES[name].items()
        for first, path in DOTTED.findall(advice)
        if not any(has(one, path) for one in KNOWN[first])
    ]


@pytest.mark.parametrize("name", MODULES)
def test_names_of_others_are_none_of_ours_and_what_they_are_here_is(name):
    module = importlib.import_module(name)
    ours = vars(module)
    assert not [theirs for theirs in TABLES[name] if theirs in ours and not theirs.startswith("_")]
    for theirs, advice in TABLES[name].items():
        for here in re.findall(r"\bit is ([A-Z]\w+(?![\w.])|\w+(?=\())", advice):
            assert hasattr(module, here), f"{theirs}: {advice}"


def test_there_are_many():
    """Else the tests above would look for advice in the wrong places."""
    assert len(TABLES) > 30
    assert sum(map(len, TABLES.values())) > 800
