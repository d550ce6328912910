"""Split MNIST as van de Ven, Tuytelaars & Tolias 2022 have it, and the methods of their Table 2.

Five tasks of two classes each, in an order of classes that the seed draws; 784-400-400-10 (2
outputs in domain-incremental learning), ReLU; 2000 steps per task, batches of 128, a last one that
would be short left out; Adam with rate 0.001, not reset between tasks; pixels in [0, 1].
Weights as PyTorch draws them. In task-incremental learning each task has a softmax of its own, in
class-incremental learning it is over the classes seen so far.
"""

from typing import NamedTuple

import thalweg as tw
from thalweg import continual, nn, optim

SCENARIOS = ("task", "domain", "class")
#: Fixed before the first run.
SEEDS = tuple(range(1, 21))
STEPS = 2000


class Method(NamedTuple):
    """How a strategy is made, from a trainer, the scenario and the seed."""

    title: str
    make: object
    scenarios: tuple = SCENARIOS


def by_kind(name, task, domain, incremental, **options):
    """A strategy whose second argument depends on the kind of scenario."""

    def make(trainer, scenario, seed):
        strength = {"task": task, "domain": domain, "class": incremental}[scenario.kind]
        return getattr(continual, name)(trainer, strength, **options)

    return make


def replay(trainer, scenario, seed):
    return continual.Replay(trainer, continual.BalancedBuffer(100, per_class=True, seed=seed))


METHODS = {
    "none": Method("None", lambda t, s, seed: continual.Naive(t)),
    "ewc": Method("EWC", by_kind("EWC", 1e5, 1e10, 1e9)),
    "si": Method("SI", by_kind("SynapticIntelligence", 10, 5e4, 5e3)),
    "lwf": Method("LwF", lambda t, s, seed: continual.LwF(t)),
    "er": Method("ER, 100 per class", replay),
    "joint": Method("Joint", lambda t, s, seed: continual.Joint(t, s)),
}


def available(name):
    """Whether this version of thalweg has a method."""
    needs = {"ewc": "EWC", "si": "SynapticIntelligence"}
    return hasattr(continual, needs.get(name, "run"))


def trainer_for(scenario, seed):
    outputs = 2 if scenario.kind == "domain" else sum(scenario.heads)
    model = nn.Sequential(
        nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, outputs),
        seed=seed,
    )  # fmt: skip
    heads = scenario.heads if scenario.kind == "task" else None
    loss = nn.CrossEntropyLoss(heads=heads)
    return tw.Trainer(model, loss=loss, optimizer=optim.Adam(lr=1e-3))


def run(data, method, kind, seed, steps=STEPS, **options):
    """One run; gives its `Result`."""
    scenario = continual.split(*data, tasks=5, kind=kind, seed=seed)
    strategy = METHODS[method].make(trainer_for(scenario, seed), scenario, seed)
    return continual.run(strategy, scenario, steps=steps, batch_size=128, drop_last=True, **options)
