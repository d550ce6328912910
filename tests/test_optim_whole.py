"""Optimizers that work on whole blocks: in trainers, in groups, on many threads.

That their steps are those of the peers is shown in `parity`.
"""

import copy
import math
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import kinds_in, types

METHODS = {
    "LAMB": lambda: optim.LAMB(lr=0.02, weight_decay=0.1),
    "Adafactor": lambda: optim.Adafactor(lr=0.05, weight_decay=0.1),
    "Adafactor, Optax": lambda: optim.Adafactor(
        lr=0.05, convention="optax", min_dim_size_to_factor=30
    ),
    "Muon": lambda: optim.Muon(lr=0.02),
    "Muon, Optax": lambda: optim.Muon(lr=0.02, matrices="all", convention="optax"),
    "Shampoo": lambda: optim.Shampoo(lr=0.02, eps=1e-6),
    "Shampoo, grafted": lambda: optim.Shampoo(
        lr=0.01, betas=(0.9, 0.95), grafting="adam", precondition_frequency=3, eps=1e-6
    ),
    "Schedule-Free AdamW": lambda: optim.ScheduleFreeAdamW(lr=0.01, weight_decay=0.1),
    "Prodigy": lambda: optim.Prodigy(d0=1e-4, weight_decay=0.1),
}
EVERY = pytest.mark.parametrize("method", METHODS)


def test_every_such_method_is_here():
    """Schedule-Free AdamW, too, whose average is a whole of its own."""
    others = {optim.SAM, optim.LBFGS, optim.LevenbergMarquardt}
    made = {kind(lr=0.1) for kind in kinds_in(optim, optim.Optimizer) - others}
    whole = types(optimizer for optimizer in made if not optimizer._core.is_elementwise)
    assert types(make() for make in METHODS.values()) == whole | {optim.ScheduleFreeAdamW}


def make(dtype="float64", widths=(20, 70, 40, 3)):
    """Panels of 32 outputs, and what is left of them."""
    a, b, c, d = widths
    layers = [nn.Linear(a, b), nn.LayerNorm(b), nn.Tanh(), nn.Linear(b, c), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(c, d), dtype=dtype, seed=3)


def trainer_of(method, model, **options):
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=METHODS[method](), **options)


def data(rng, rows=60):
    return rng.standard_normal((rows, 20)), rng.standard_normal((rows, 3))


@EVERY
def test_a_trainers_step_is_the_step_by_hand(method, rng):
    """From the same gradients: clipped, accumulated, with a schedule."""
    x, y = data(rng)
    schedule = optim.schedules.LinearWarmup(4)
    trainer = trainer_of(
        method, make(), clip_grad_norm=0.5, accumulate_grad_batches=2, schedule=schedule
    )
    model, optimizer = make(), METHODS[method]()
    base = optimizer.lr
    for t in range(8):
        model.zero_grad()
        for half in (slice(0, 30), slice(30, 60)):
            trainer.step(x[half], y[half])
            model.backward(2 * (model.forward(x[half]) - y[half]) / y[half].size)
        model.flat_gradients = model.flat_gradients / 2
        nn.utils.clip_grad_norm_(model, 0.5)
        optimizer.lr = schedule.lr(t, base=base)
        optimizer.step(model)
    assert trainer.optimizer.steps == 8
    np.testing.assert_allclose(
        trainer.model.flat_parameters, model.flat_parameters, rtol=0, atol=1e-12
    )


@EVERY
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_bits_for_any_number_of_threads(method, dtype, rng):
    """Also of a block that is cut into several pieces, each larger than a thread's share."""
    model = make(dtype, widths=(20, 300, 280, 3))
    start = model.flat_parameters
    g = rng.standard_normal((2, start.size)).astype(dtype)
    before, found = tw.get_num_threads(), []
    for threads in (1, 2, 5):
        tw.set_num_threads(threads)
        model, optimizer = make(dtype, widths=(20, 300, 280, 3)), METHODS[method]()
        for slopes in g:
            model.flat_gradients = slopes
            optimizer.step(model)
        found.append(model.flat_parameters.tobytes())
    tw.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert np.frombuffer(found[0], dtype) != pytest.approx(start)


@EVERY
def test_a_fit_goes_on_from_a_file_with_the_same_bits(method, rng, tmp_path):
    x, y = data(rng)
    whole, part = trainer_of(method, make("float32")), trainer_of(method, make("float32"))
    whole.fit(x, y, epochs=4, batch_size=16)
    part.fit(x, y, epochs=2, batch_size=16)
    part.save(tmp_path / "half")
    part = tw.Trainer.load(tmp_path / "half")
    part.fit(x, y, epochs=2, batch_size=16)
    np.testing.assert_array_equal(part.model.flat_parameters, whole.model.flat_parameters)
    assert whole.history["loss"][-1] < whole.history["loss"][0]


@EVERY
def test_frozen_parameters_stay(method, rng):

    x, y = data(rng)
    trainer = trainer_of(method, make())
    trainer.optimizer.add_group("*.bias", lr_scale=0.5).add_group("0.*", frozen=True)
    before = trainer.model.state_dict()
    trainer.fit(x, y, epochs=2, batch_size=16)
    for name, array in trainer.model.state_dict().items():
        assert np.array_equal(array, before[name]) == name.startswith("0."), name


@EVERY
def test_a_fit_that_diverges_leaves_all_as_it_was(method, rng):
    x, y = data(rng)
    trainer = trainer_of(method, make("float32"))
    trainer.fit(x, y, epochs=1, batch_size=16)
    before, state = trainer.model.flat_parameters, trainer.optimizer.state_dict()
    trainer.optimizer.lr = 1e30
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=3, batch_size=16)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    for name, array in trainer.optimizer.state_dict()["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][name])


# --- LAMB --------------------------------------------------------------------------------------


def test_a_step_of_lamb_is_as_long_as_the_block(rng):
    """‖Δθ‖ = lr·‖θ‖, whatever the gradient; lr times the direction where a block is zero."""
    model = make()
    model.load_state_dict({**model.state_dict(), "1.bias": np.zeros(70)})
    before = model.state_dict()
    model.flat_gradients = rng.standard_normal(model.num_parameters) * 1e3
    optim.LAMB(lr=0.1, eps=0.0, weight_decay=0.0).step(model)
    for name, array in model.state_dict().items():
        moved = np.linalg.norm(array - before[name])
        if name == "1.bias":
            np.testing.assert_allclose(np.abs(array), 0.1, rtol=1e-14)
        else:
            assert moved == pytest.approx(0.1 * np.linalg.norm(before[name]), rel=1e-13)


# --- Muon --------------------------------------------------------------------------------------


def newton_schulz(u, steps=5, coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7):
    """As on the page where it was published, in float64."""
    a, b, c = coefficients
    x = u / max(np.linalg.norm(u), eps)
    x = x.T if u.shape[0] > u.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def muon(path, g, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, adjust=None, **options):
    """The matrix after each step, for its gradients."""
    w, buffer = path.copy(), np.zeros_like(path)
    out, inputs = w.shape
    scale = max(1, out / inputs) ** 0.5 if adjust is None else 0.2 * max(out, inputs) ** 0.5
    path = []
    for slope in g:
        buffer = momentum * buffer + (1 - momentum) * slope
        u = (1 - momentum) * slope + momentum * buffer if nesterov else buffer
        w = (1 - lr * weight_decay) * w - lr * scale * newton_schulz(u, **options)
        path.append(w)
    return np.array(path)


# The last is cut into tiles, of which those at the edges have more rows to copy at once.
@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (300, 280), (1, 33), (768, 400)])
@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0}, {"adjust": "match_rms_adamw"}],
    ids=repr,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_muon_is_its_published_formula(shape, options, dtype, tolerance, rng):
    """In float64: PyTorch's own works in bfloat16. 200 steps; large matrices take 3."""
    steps = 200 if np.prod(shape) < 10_000 else 3
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False), dtype=dtype)
    start = model.flat_parameters.astype(float).reshape(shape)
    g = rng.standard_normal((steps, *shape)).astype("float32")
    given = {("adjust_lr_fn" if key == "adjust" else key): v for key, v in options.items()}
    optimizer, path = optim.Muon(lr=0.01, matrices="all", **given), []
    for slope in g:
        model.flat_gradients = slope.ravel()
        optimizer.step(model)
        path.append(model.flat_parameters.reshape(shape))
    expected = muon(start, g.astype(float), lr=0.01, **options)
    error = np.linalg.norm(np.array(path) - expected) / np.linalg.norm(expected)
    assert error <= tolerance


def test_pytorchs_muon_is_this_one_up_to_its_precision(rng):
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(70, 40, bias=False), dtype="float64")
    theta = torch.tensor(model.flat_parameters.reshape(40, 70), requires_grad=True)
    ours, peer = optim.Muon(lr=0.02, matrices="all"), torch.optim.Muon([theta], lr=0.02)
    start = model.flat_parameters
    for _ in range(20):
        g = rng.standard_normal((40, 70))
        model.flat_gradients, theta.grad = g.ravel(), torch.tensor(g)
        ours.step(model)
        peer.step()
    moved, expected = model.flat_parameters - start, theta.detach().numpy().ravel() - start
    assert np.linalg.norm(moved - expected) <= 0.02 * np.linalg.norm(expected)


def test_singular_values_of_a_step_of_muon_are_about_one(rng):
    """Those from 0.01 of the norm on; and directions are those of the gradient."""
    u, _ = np.linalg.qr(rng.standard_normal((60, 40)))
    v, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    sizes = np.geomspace(0.02, 1, 40)
    sizes = np.maximum(sizes, 0.0101 * np.linalg.norm(sizes))
    model = nn.Sequential(nn.Linear(40, 60, bias=False), dtype="float64")
    start = model.flat_parameters
    model.flat_gradients = (u * sizes @ v.T).ravel()
    optim.Muon(lr=1.0, matrices="all", weight_decay=0, nesterov=False).step(model)
    step = (start - model.flat_parameters).reshape(60, 40) / (60 / 40) ** 0.5
    inside = u.T @ step @ v
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-12)
    wanted = sizes / np.linalg.norm(sizes)
    for _ in range(5):
        wanted = 3.4445 * wanted - 4.7750 * wanted**3 + 2.0315 * wanted**5
    np.testing.assert_allclose(np.diag(inside), wanted, rtol=1e-12)
    assert round(wanted.min(), 3) >= 0.682
    assert round(wanted.max(), 3) <= 1.134


def test_muon_is_for_hidden_weights_unless_asked_for_others(rng):
    """A step is orthogonal-ish where it is Muon's, and of equal size where it is AdamW's."""

    def steps(optimizer):
        model = make()
        before = model.state_dict()
        model.flat_gradients = rng.standard_normal(model.num_parameters)
        optimizer.step(model)
        moved = {name: array - before[name] for name, array in model.state_dict().items()}
        equal = {n for n, m in moved.items() if np.allclose(np.abs(m), 0.01, rtol=1e-6)}
        return set(moved) - equal

    options = {"lr": 0.01, "weight_decay": 0.0, "adam_eps": 0.0}
    assert steps(optim.Muon(**options)) == {"3.weight"}
    assert steps(optim.Muon(**options, matrices="all")) == {"0.weight", "3.weight", "5.weight"}
    chosen = optim.Muon(**options).add_group("5.*", muon=True).add_group("3.weight", muon=False)
    assert steps(chosen) == {"5.weight"}
    with pytest.raises(tw.ThalwegError, match="Muon has no weight to work on"):
        steps(optim.Muon(**options, matrices="none"))


def test_a_group_of_muons_is_saved_with_its_choice(rng, tmp_path):
    x, y = data(rng)
    trainer = trainer_of("Muon", make())
    trainer.optimizer.add_group("5.weight", muon=True)
    trainer.fit(x, y, epochs=1)
    trainer.save(tmp_path / "file")
    other = tw.Trainer.load(tmp_path / "file")
    for one in (trainer, other):
        one.fit(x, y, epochs=1)
    np.testing.assert_array_equal(trainer.model.flat_parameters, other.model.flat_parameters)


# --- Shampoo -----------------------------------------------------------------------------------


def root_of(factor, eps, order):
    """(A + εI)^(-1/order)"""
    values, z = np.linalg.eigh(factor)
    return z * (values + eps) ** (-1 / order) @ z.T


class Shampoo:
    """As in the papers, for one weight; Adam's steps for all before the first roots."""

    def __init__(
        self, shape, lr=1e-2, betas=(0.9, 1.0), eps=1e-12, weight_decay=0.0,
        max_preconditioner_dim=1024, precondition_frequency=1, start=None, grafting=None,
    ):  # fmt: skip
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.has = [n <= max_preconditioner_dim for n in shape]
        self.often, self.start = precondition_frequency, start or precondition_frequency
        self.grafting = grafting
        self.factors = [np.zeros((n, n)) for n in shape]
        self.m = self.v = np.zeros(shape)
        self.t = 0

    def step(self, w, g):
        self.t += 1
        (beta1, beta2), t = self.betas, self.t
        take = 1 - beta2 if beta2 < 1 else 1
        squares = g @ g.T, g.T @ g
        self.factors = [beta2 * f + take * s for f, s in zip(self.factors, squares, strict=True)]
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = 0.999 * self.v + 0.001 * g**2
        m = self.m / (1 - beta1**t)
        adam = m / (np.sqrt(self.v / (1 - 0.999**t)) + 1e-8)
        if t == self.start or (t > self.start and t % self.often == 0):
            filled = 1 - beta2**t if beta2 < 1 else 1
            self.roots = [
                root_of(f / filled, self.eps, 2 * sum(self.has)) if has else np.eye(len(f))
                for f, has in zip(self.factors, self.has, strict=True)
            ]
        u = adam if t < self.start else self.roots[0] @ m @ self.roots[1]
        if self.grafting == "adam":
            u = u * (np.linalg.norm(adam) / np.linalg.norm(u))
        return (1 - self.lr * self.weight_decay) * w - self.lr * u


@pytest.mark.parametrize("shape", [(40, 40), (33, 70), (70, 33), (1, 33), (280, 300)], ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.5, 0.95), "weight_decay": 0.3, "eps": 1e-3},
        {"betas": (0.0, 1.0), "precondition_frequency": 7, "eps": 0.1},
        {
            "grafting": "adam", "betas": (0.9, 0.99), "precondition_frequency": 5, "start": 12,
            "eps": 0.1,
        },
        {"max_preconditioner_dim": 40},
        {"max_preconditioner_dim": 20},
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_shampoo_is_its_published_formula(shape, options, dtype, tolerance, rng):
    """200 steps, with another rate and from a saved state in the middle; large matrices take 3.

    Where roots are older than the gradients, their null space is as large as ε says: there it is
    one that rounding errors are far below of.
    """
    steps = 200 if np.prod(shape) < 10_000 else 3
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False), dtype=dtype)
    w = model.flat_parameters.astype(float).reshape(shape)
    g = rng.standard_normal((steps, *shape)).astype("float32")
    given = {("start_preconditioning_step" if k == "start" else k): v for k, v in options.items()}
    optimizer, peer = optim.Shampoo(lr=0.01, **given), Shampoo(shape, lr=0.01, **options)
    if not any(peer.has):
        peer.start = math.inf  # AdamW
    path, expected = [], []
    for t, slope in enumerate(g):
        if t == steps // 2:
            saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
            model, optimizer = copy.deepcopy(model), optim.Shampoo(lr=0.01, **given)
            optimizer.load_state_dict(saved, model)
            optimizer.lr = peer.lr = 0.003
        model.flat_gradients = slope.ravel()
        optimizer.step(model)
        path.append(model.flat_parameters.reshape(shape))
        w = peer.step(w, slope.astype(float))
        expected.append(w)
    error = np.linalg.norm(np.array(path) - expected) / np.linalg.norm(expected)
    assert error <= tolerance


def test_shampoo_of_many_tiles_is_its_formula(rng):
    """As Muon's of that shape: tiles at the edges copy more at once than full ones."""
    options = {"max_preconditioner_dim": 500, "eps": 1e-3}
    test_shampoo_is_its_published_formula((768, 400), options, "float32", 1e-5, rng)


@pytest.mark.parametrize("shape", [(40, 40), (40, 70), (70, 40), (1, 9), (1, 1)], ids=repr)
def test_the_first_step_of_shampoo_is_the_orthogonal_factor(shape, rng):
    """U·Vᵀ, also where one side has directions without gradient; and of a gradient of low rank."""

    def step(g):
        model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False), dtype="float64")
        start = model.flat_parameters
        model.flat_gradients = g.ravel()
        optim.Shampoo(lr=1.0, eps=0.0).step(model)
        return (start - model.flat_parameters).reshape(shape)

    g = rng.standard_normal(shape)
    u, _, v = np.linalg.svd(g, full_matrices=False)
    assert np.linalg.norm(step(g) - u @ v) <= 1e-12 * np.linalg.norm(u @ v)
    rank = min(3, *shape)
    low = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    u, _, v = np.linalg.svd(low)
    wanted = u[:, :rank] @ v[:rank]
    assert np.linalg.norm(step(low) - wanted) <= 1e-10 * np.linalg.norm(wanted)
    assert not step(np.zeros(shape)).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_roots_of_shampoo_are_those_of_numpys_eigenvalues(dtype, tolerance, rng):
    """In every size; one number, vectors and what is left of them."""
    for n in [1, 2, 3, 8, 17, 31, 64, 100]:
        model = nn.Sequential(nn.Linear(n + 3, n, bias=False), dtype=dtype)
        model.flat_gradients = rng.standard_normal(model.num_parameters)
        optimizer = optim.Shampoo(eps=0.1)
        optimizer.step(model)
        arrays = optimizer.state_dict()["arrays"]
        g = model.flat_gradients.astype(float).reshape(n, n + 3)
        for name, wanted in {
            "factors": [g @ g.T, g.T @ g],
            "roots": [root_of(g @ g.T, 0.1, 4), root_of(g.T @ g, 0.1, 4)],
        }.items():
            wanted = np.concatenate([part.ravel() for part in wanted])
            assert np.linalg.norm(arrays[name] - wanted) <= tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_shampoo_trains_a_network_as_its_formula(dtype, tolerance, rng):
    """Fused into a trainer; vectors by AdamW."""
    x, y = (part.astype("float32").astype(float) for part in data(rng))
    options = {"betas": (0.9, 0.95), "eps": 1e-3, "weight_decay": 0.1}
    model, twin = make(dtype), make()
    twin.flat_parameters = make("float32").flat_parameters
    model.flat_parameters = twin.flat_parameters
    optimizer = optim.Shampoo(lr=0.003, grafting="adam", **options)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    peers = {
        name: Shampoo(array.reshape(len(array), -1).shape, 0.003, grafting="adam", **options)
        for name, array in twin.state_dict().items()
    }
    for name, peer in peers.items():
        if not name.endswith("weight") or name == "1.weight":
            peer.start = math.inf
    worst = 0.0
    for t in range(200):
        if t == 100:
            trainer = trainer.copy()
            trainer.optimizer.lr = 0.001
            for peer in peers.values():
                peer.lr = 0.001
        trainer.step(x, y)
        twin.zero_grad()
        twin.backward(2 * (twin.forward(x) - y) / y.size)
        state, start = twin.state_dict(), 0
        for name, array in state.items():
            g = twin.flat_gradients[start : start + array.size]
            start += array.size
            shape = (len(array), array.size // len(array))
            state[name] = peers[name].step(array.reshape(shape), g.reshape(shape))
            state[name] = state[name].reshape(array.shape)
        twin.load_state_dict(state)
        off = np.linalg.norm(trainer.model.flat_parameters - twin.flat_parameters)
        worst = max(worst, off / np.linalg.norm(twin.flat_parameters))
    assert worst <= tolerance


def test_what_has_no_factor_takes_steps_of_adamw(rng):
    x, y = data(rng)
    ours = trainer_of("Shampoo", make(), accumulate_grad_batches=2)
    peer = tw.Trainer(make(), loss=nn.MSELoss(), optimizer=optim.AdamW(lr=0.02, weight_decay=0.0))
    before = ours.model.state_dict()
    ours.step(x, y), ours.step(x, y), peer.step(x, y)
    for name, array in peer.model.state_dict().items():
        same = np.allclose(ours.model.state_dict()[name], array, rtol=0, atol=1e-15)
        assert same == (array.ndim == 1), name
        assert not np.array_equal(array, before[name])


# --- Schedule-Free -----------------------------------------------------------------------------


def test_what_schedule_free_learned_is_the_average_of_its_steps(rng):
    """x, the mean of z; with rates that rise and fall weighted by the largest so far, squared."""
    model, optimizer = make(), optim.ScheduleFreeAdamW(betas=(0.8, 0.9), weight_decay=0.1)
    with pytest.raises(tw.ArgumentError, match="no step with this model"):
        optimizer.average_model(model)
    z = y = x = model.flat_parameters
    v = total = largest = 0.0
    for t, lr in enumerate([0.0, 0.01, 0.03, 0.02, 0.05, 0.01] * 5, start=1):
        g = np.sin(3 * y) + rng.standard_normal(y.size)
        model.flat_gradients, optimizer.lr = g, lr
        optimizer.step(model)
        v = 0.9 * v + 0.1 * g**2
        z = z - lr * (g / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + 0.1 * y)
        largest = max(largest, lr)
        total += largest**2
        x = x + (z - x) * (largest**2 / total if total else 0.0)
        y = 0.2 * z + 0.8 * x
        np.testing.assert_allclose(model.flat_parameters, y, rtol=0, atol=1e-13)
        averaged = optimizer.average_model(model).flat_parameters
        np.testing.assert_allclose(averaged, x, rtol=0, atol=1e-13)


def test_a_trainer_gives_what_schedule_free_learned(rng):
    x, y = data(rng)
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.ScheduleFreeAdamW(lr=0.02))
    trainer.fit(x, y, epochs=20)
    averaged = trainer.average_model()
    averaged.recalibrate(x)
    assert np.mean((averaged(x) - y) ** 2) < 0.8 * np.mean(y**2)
    before = averaged.flat_parameters
    trainer.step(x, y)
    np.testing.assert_array_equal(averaged.flat_parameters, before)  # a copy
    with pytest.raises(tw.ArgumentError, match="averages by itself"):
        trainer_of("Schedule-Free AdamW", make(), average=optim.EMA())


def test_parameters_that_thaw_are_averaged_from_where_they_are(rng):
    """Not from 0: what is kept is how far the steps are ahead."""
    x, y = data(rng)
    trainer = trainer_of("Schedule-Free AdamW", make())
    trainer.optimizer.add_group("3.*", frozen=True)
    trainer.fit(x, y, epochs=1)
    before = trainer.model.state_dict()["3.weight"]
    trainer.optimizer.add_group("3.*", frozen=False)
    trainer.step(x, y)
    moved = trainer.model.state_dict()["3.weight"] - before
    assert 0 < np.abs(moved).max() < 0.2


# --- Prodigy -----------------------------------------------------------------------------------


def prodigy(
    theta, slope, steps, lr, safeguard_warmup=False, d=1e-6, betas=(0.9, 0.999),
    store=lambda theta: theta,
):  # fmt: skip
    """As in the authors' code, without bias correction; `store` is what becomes of parameters."""
    start, (beta1, beta2), d0 = theta, betas, d
    m = v = s = np.zeros_like(theta)
    numerator, beta3 = 0.0, np.sqrt(beta2)
    for t in range(steps):
        g, a = slope(theta), d * lr(t)
        numerator = beta3 * numerator + d / d0 * a * (g @ (start - theta))
        m = beta1 * m + d * (1 - beta1) * g
        v = beta2 * v + d * d * (1 - beta2) * g * g
        s = beta3 * s + d / d0 * (d if safeguard_warmup else a) * g
        found = numerator / np.abs(s).sum() if np.abs(s).sum() > 0 else 0.0
        d = max(d, found)
        theta = store(theta - a * m / (np.sqrt(v) + d * 1e-8))
    return theta, d


@pytest.mark.parametrize("safeguard_warmup", [False, True])
def test_prodigy_is_the_authors_code(safeguard_warmup, rng):
    """Without bias correction, which Optax always has; through a warm-up that begins at 0."""
    model = make()
    target = rng.standard_normal(model.num_parameters)
    optimizer = optim.Prodigy(safeguard_warmup=safeguard_warmup)

    def lr(t):
        return min(t / 10, 1)

    start = model.flat_parameters
    expected, d = prodigy(start, lambda p: p - target, 200, lr, safeguard_warmup)
    for t in range(200):
        model.flat_gradients, optimizer.lr = model.flat_parameters - target, lr(t)
        optimizer.step(model)
    np.testing.assert_allclose(model.flat_parameters, expected, rtol=0, atol=1e-12)
    assert optimizer.state_dict()["scalars"]["d"] == pytest.approx(d, rel=1e-12)
    # It has found the size of the way, from a millionth.
    assert 0.05 < d < 5
    assert np.linalg.norm(expected - target) < 0.5 * np.linalg.norm(start - target)


@pytest.mark.parametrize("safeguard_warmup", [False, True])
def test_prodigy_keeps_the_way_in_float32(safeguard_warmup, rng):
    """Its first steps, of a millionth, are not many units in the last place of a parameter.

    The estimate d is made of the way from the start. As the difference of parameters, which are
    rounded, that leads even a reference in float64 astray. Here it is kept apart.
    """
    model = make("float32")
    start = model.flat_parameters.astype(float)
    target = rng.standard_normal(start.size).astype("float32").astype(float)
    optimizer = optim.Prodigy(safeguard_warmup=safeguard_warmup)

    def lr(t):
        return min(t / 10, 1)

    def single(theta):
        return theta.astype("float32").astype(float)

    options = {"safeguard_warmup": safeguard_warmup}
    expected, d = prodigy(start, lambda p: p - target, 200, lr, **options)
    _, rounded = prodigy(start, lambda p: p - target, 200, lr, **options, store=single)
    for t in range(200):
        model.flat_gradients, optimizer.lr = model.flat_parameters - target, lr(t)
        optimizer.step(model)
    assert abs(rounded / d - 1) > 1e-5
    assert optimizer.state_dict()["scalars"]["d"] == pytest.approx(d, rel=1e-6)
    off = np.linalg.norm(model.flat_parameters - expected)
    assert off <= 1e-5 * np.linalg.norm(expected)


def test_an_estimate_of_prodigy_without_feedback_overflows_float32(rng):
    """Why gradients that do not answer, as in `parity`, need a small rate: d feeds on itself.

    That is the method; float64 has room for it.
    """
    slopes = rng.standard_normal((200, make().num_parameters)) * 10
    ends = {}
    for dtype in ("float64", "float32"):
        model, optimizer = make(dtype), optim.Prodigy(lr=1.0, d0=1e-3)
        for slope in slopes + 10:
            model.flat_gradients = slope
            optimizer.step(model)
        ends[dtype] = optimizer.state_dict()["scalars"]["d"]
    assert (ends["float64"] * 10) ** 2 > float(np.finfo("float32").max)
    assert ends["float32"] < 1e-3 * ends["float64"]


# --- Adafactor ---------------------------------------------------------------------------------


def test_adafactor_keeps_means_of_rows_and_columns(rng):
    model, optimizer = make(), optim.Adafactor()
    model.flat_gradients = rng.standard_normal(model.num_parameters)
    optimizer.step(model)
    arrays, start = optimizer.state_dict()["arrays"], 0
    rows, cols, rest = [], [], []
    for array in model.state_dict().values():
        square = model.flat_gradients[start : start + array.size].reshape(array.shape) ** 2
        start += array.size
        if array.ndim == 2:
            rows.append(square.mean(axis=1))
            cols.append(square.mean(axis=0))
        else:
            rest.append(square)
    for name, parts in {"row_var": rows, "col_var": cols, "variance": rest}.items():
        np.testing.assert_allclose(arrays[name], np.concatenate(parts), rtol=1e-13)
    state = optimizer.state_dict()
    state["arrays"]["row_var"] = arrays["row_var"][:-1]
    with pytest.raises(tw.ShapeError, match="row_var"):
        optimizer.load_state_dict(state, model)
