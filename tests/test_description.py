"""Layers, losses and schedules are frozen dataclasses, though no method is compiled for each."""

import copy
import dataclasses
import inspect
import pickle
import pydoc

import pytest

from thalweg import nn, optim
from thalweg.nn import Layer, Loss
from thalweg.optim import schedules

KINDS = [
    kind
    for module in (nn, schedules, optim)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind)
]

MADE = [
    nn.ReLU(),
    nn.Linear(3, 2, init="zeros"),
    nn.LeakyReLU(0.2),
    nn.Residual(nn.Linear(2, 2), nn.Tanh()),
    nn.Concatenate(nn.Linear(2, 3), nn.Tanh()),
    nn.Embedding(7, 3),
    nn.TabularInput(3, {2: (7, 4)}, pieces={0: [0, 1, 3]}),
    nn.CrossEntropyLoss([1, 5], active=(0, 1)),
    nn.QuantileLoss([0.1, 0.9]),
    schedules.LinearWarmup(5, then=schedules.OneCycleLR(0.1, per="step")),
    schedules.ReduceLROnPlateau(patience=3),
    optim.EMA(0.9, every=2),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_class_pays_for_methods_of_its_own(kind):
    """`dataclasses.dataclass` compiles each of these for each class, which took half the import."""
    assert not {"__eq__", "__setattr__", "__delattr__", "__getstate__"} & set(vars(kind))
    assert "__dict__" not in dir(kind)  # slots


@pytest.mark.parametrize("thing", MADE, ids=lambda thing: type(thing).__name__)
def test_equality_hash_and_copies_go_by_the_fields(thing):
    twins = [
        copy.deepcopy(thing),
        pickle.loads(pickle.dumps(thing)),
        dataclasses.replace(thing)
        if not isinstance(thing, nn.Residual | nn.Concatenate)
        else thing,
    ]
    for twin in twins:
        assert twin == thing
        assert hash(twin) == hash(thing)
        assert repr(twin) == repr(thing)


def test_what_differs_in_a_field_or_in_kind_is_not_equal():
    assert nn.LeakyReLU(0.1) != nn.LeakyReLU(0.2)
    assert nn.ReLU() != nn.Tanh()  # neither has a field
    assert nn.ReLU() != "relu"
    assert len({nn.ReLU(), nn.ReLU(), nn.Tanh()}) == 2


@pytest.mark.parametrize("thing", MADE, ids=lambda thing: type(thing).__name__)
def test_nothing_can_be_assigned(thing):
    for name in [*(field.name for field in dataclasses.fields(thing)), "anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign.*{name}"):
            setattr(thing, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete.*{name}"):
            delattr(thing, name)


def test_they_can_be_matched():
    match nn.LeakyReLU(0.2):
        case nn.LeakyReLU(slope):
            assert slope == 0.2
        case _:
            pytest.fail("not matched")


def test_signatures_and_help_are_those_of_the_fields():
    def shown(kind):
        return str(inspect.signature(kind))

    assert shown(nn.ReLU) == "()"
    assert shown(nn.Hardtanh) == "(min_val: float = -1.0, max_val: float = 1.0)"
    kinds = "Literal['mean', 'sum', 'none']"
    assert shown(nn.HuberLoss) == f"(*, delta: float = 1.0, reduction: {kinds} = 'mean')"
    # Also where a module postpones its annotations.
    positive = f"(*, pos_weight: Any = None, reduction: {kinds} = 'mean')"
    assert shown(nn.BCEWithLogitsLoss).replace("typing.", "") == positive
    # The base has `per`, by keyword only; it stands behind what is by position.
    assert (
        shown(schedules.StepLR)
        == "(step_size: int, gamma: float = 0.1, *, per: Literal['step', 'epoch'] = 'step')"
    )
    assert shown(nn.Linear).startswith("(in_features: int, out_features: int, bias: bool = True")
    assert "LeakyReLU(negative_slope: float = 0.01)" in pydoc.plain(pydoc.render_doc(nn.LeakyReLU))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.ReLU(inplace=True), "ReLU has no argument 'inplace': .*.* takes no arg"),
        (
            lambda: nn.Dropout(0.5, inplace=True),
            "Dropout has no argument 'inplace': .*.* takes p",
        ),
        (lambda: schedules.StepLR(), "StepLR: .*'step_size'; it takes"),
        (lambda: nn.Hardtanh(0, 1, 2), "Hardtanh: too many .*.* takes min_val, max_val"),
        (lambda: nn.MSELoss("sum"), "MSELoss takes no .* without a name: pass reduction=...$"),
        (
            lambda: nn.QuantileLoss([0.1, 0.9], "sum"),
            "QuantileLoss takes only quantiles without a name; pass the rest by name: reduction=",
        ),
    ],
)
def test_a_wrong_argument_says_which_there_are(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_class_of_the_users_own_needs_no_fields():
    class Mine(Layer):
        pass

    class Cost(Loss):
        def __init__(self, factor):
            self._set(factor=factor)

    assert Mine() == Mine()
    assert repr(Mine()) == "Mine()"
    assert str(inspect.signature(Cost)) == "(factor)"
