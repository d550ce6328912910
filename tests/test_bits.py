"""The same bits on 1, 2, 3, 8 and 64 threads, whatever is trained: cases put together at random.

Activations, losses and optimizers are those of other tests, which ask for new ones; each of them
is in some case. The cases are the same in every run.
"""

import random
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .losses.cases import LOSSES, NEEDS_K, K, targets
from .losses.test_custom_with_everything import OPTIMIZERS, WHOLE
from .test_nn import ACTIVATIONS

CASES = 40
THREADS = 1, 2, 3, 8, 64

#: Ranges of the numbers of inputs, hidden units, hidden layers, and rows of a batch.
SIZES = {
    "small": ((2, 20), (1, 64), (0, 3), (2, 200)),
    "shards": ((30, 60), (60, 100), (1, 2), (200, 900)),
    "waves": ((2, 40), (60, 200), (1, 3), (1000, 3500)),
    "middling": ((2, 300), (60, 330), (1, 2), (20, 600)),
    "wide": ((100, 800), (400, 800), (1, 2), (2, 100)),
}
DTYPES = "float32", "float32", "float64"

#: What inputs are, or what the first layer makes of them.
INPUTS = (
    *("the model's dtype", "uint8", "float16", "float64"),
    *("standardized", "frequencies", "codes", "a table"),
)

#: Before an activation of n numbers.
BLOCKS = {
    "plain": lambda n, activation: [],
    "BatchNorm1d": lambda n, activation: [nn.BatchNorm1d(n)],
    "LayerNorm": lambda n, activation: [nn.LayerNorm(n)],
    "RMSNorm": lambda n, activation: [nn.RMSNorm(n)],
    "Dropout": lambda n, activation: [nn.Dropout(0.3)],
    "Residual": lambda n, activation: [nn.Residual(nn.LayerNorm(n), nn.Linear(n, n), activation)],
    "Concatenate": lambda n, activation: [
        nn.Residual(nn.Concatenate(nn.Linear(n, 5), activation), nn.Linear(n + 5, n))
    ],
}

OPTIONS = {
    "no option": {},
    "norm clipped": {"clip_grad_norm": 0.1},
    "values clipped": {"clip_grad_value": 0.05},
    "accumulated": {"accumulate_grad_batches": 2},
    "averaged": {"average": optim.EMA(0.9)},
    "bfloat16": {"precision": "bfloat16"},
}


@dataclass(frozen=True)
class Case:
    optimizer: str
    loss: str
    activation: nn.Layer
    inputs: str
    block: str
    size: str
    option: str
    dtype: str
    weighted: bool

    def __str__(self):
        return ", ".join(map(str, vars(self).values()))

    @property
    def options(self):
        """Those of the trainer, if they go with the rest."""
        refused = {
            "accumulated": "SAM" in self.optimizer,
            "averaged": "ScheduleFree" in self.optimizer,
            "bfloat16": self.dtype == "float64"
            or "bfloat16" not in tw.show_config("dicts")["precisions"],
        }
        if self.optimizer in WHOLE or refused.get(self.option):
            return {}
        return OPTIONS[self.option]


def dealt(things, seed):
    """One thing for each case: each as often as the others, in a random order."""
    deck = list(islice(cycle(things), CASES))
    random.Random(seed).shuffle(deck)
    return deck


DECKS = (
    # That one leaves its algebra to NumPy, whose BLAS has threads of its own.
    [name for name in OPTIMIZERS if name != "LevenbergMarquardt"],
    *(LOSSES, ACTIVATIONS, INPUTS, BLOCKS, SIZES, OPTIONS, DTYPES, (False, True)),
)
ALL = [Case(*row) for row in zip(*map(dealt, DECKS, range(len(DECKS))), strict=True)]


def first_layer(inputs, x, rng):
    """The layer, if there is one, its inputs, and how many numbers follow."""
    n, width = x.shape
    if inputs == "standardized":
        return [nn.Standardize([0.1] * width, [1.3] * width)], x, width
    if inputs == "frequencies":
        return [nn.FourierFeatures(width, 9, sigma=0.3)], x, 18
    if inputs == "codes":
        return [nn.Embedding(11, width)], rng.integers(0, 11, n), width
    if inputs == "a table":
        x[:, 1] = rng.integers(0, 5, n)
        layer = nn.TabularInput(width, {1: (5, 3)}, pieces={0: [-1, 0.1, 1]})
        return [layer], x, layer.out_features
    return [], abs(3 * x).astype(inputs) if inputs == "uint8" else x, width


def prepared(case):
    """A function that makes a trainer of the case, its data, weights, and the size of a batch."""
    r, rng = random.Random(str(case)), np.random.default_rng(CASES)
    width, hidden, depth, batch = (r.randint(*bounds) for bounds in SIZES[case.size])
    rows = 2 * batch + r.randint(2, max(2, batch - 1))  # three batches, the last one smaller
    loss, kind = LOSSES[case.loss]
    outputs = K if loss in NEEDS_K else r.randint(2, 17)
    outputs -= outputs % 2 if kind == "half" else 0
    x = 0.5 * rng.standard_normal((rows, width))
    x = x.astype(case.inputs if case.inputs in ("float16", "float64") else case.dtype)
    # The optimizer that freezes the first weight needs one.
    inputs = "plain" if "frozen" in case.optimizer else case.inputs
    layers, x, width = first_layer(inputs, x, rng)
    for units in range(hidden, hidden + depth):  # no two layers of the same width
        layers += [nn.Linear(width, units), *BLOCKS[case.block](units, case.activation)]
        layers += [case.activation]
        width = units
    layers.append(nn.Linear(width, outputs))

    def make():
        model = nn.Sequential(*layers, dtype=case.dtype, seed=3)
        optimizer = OPTIMIZERS[case.optimizer]()
        optimizer.lr /= 30  # sums over so many rows would diverge at once
        return tw.Trainer(model, loss=loss, optimizer=optimizer, **case.options)

    weight = rng.uniform(0.5, 2, rows) if case.weighted else None
    y = targets(kind, rng, rows, outputs)
    return make, x, y, weight, rows if case.optimizer in WHOLE else batch


def left_behind(case, trainer, x, y, weight, batch):
    """The bytes of all that a training computes, by name."""
    first = x[:batch], y[:batch], None if weight is None else weight[:batch]
    found = {"loss of a step": trainer.step(*first)}
    history = trainer.fit(x, y, batch_size=batch, sample_weight=weight, validation_data=(x, y))
    found |= {name: values for name, values in history.items() if name != "seconds"}
    found |= {f"evaluated {name}": value for name, value in trainer.evaluate(x, y).items()}
    found |= trainer.model.state_dict()
    if "average" in case.options:
        found["average"] = trainer.average_model().flat_parameters
    state = trainer.optimizer.state_dict()
    found |= {"steps": state["steps"]} | state["scalars"] | state["arrays"]
    found["outputs"] = trainer.model(x)
    found["loss of a gradient"] = trainer.backward(*first)
    found["gradient"] = trainer.model.flat_gradients
    if case.inputs not in ("codes", "a table"):
        outputs = trainer.model.forward(first[0], training=True)
        found["gradient of the inputs"] = trainer.model.backward(np.ones_like(outputs))
    return {name: np.asarray(value).tobytes() for name, value in found.items()}


@pytest.fixture(autouse=True)
def threads_restored():
    before = tw.get_num_threads()
    yield
    tw.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:a step of LBFGS changed no parameter:RuntimeWarning")
@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_number_of_threads_changes_no_bit(case):
    make, *data = prepared(case)
    alone = None
    for threads in THREADS:
        tw.set_num_threads(threads)
        found = left_behind(case, make(), *data)
        alone = alone or found
        assert [name for name in alone if found[name] != alone[name]] == [], threads


def test_everything_is_in_some_case_and_work_is_divided_in_all_ways():
    assert max(map(len, DECKS)) <= CASES
    plans = []
    for case in ALL:
        make, *_, batch = prepared(case)
        if case.optimizer not in WHOLE:  # whose steps are several passes
            for threads in THREADS:
                tw.set_num_threads(threads)
                plans.append(str(make().plan(batch)))
    for way in ("shards of", "waves of", *(f"on {threads} threads" for threads in THREADS[1:])):
        assert sum(way in plan for plan in plans) > 2, way
