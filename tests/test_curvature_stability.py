"""Thresholds of stability hold: just below them training converges, just above it diverges."""

import contextlib

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim
from thalweg.callbacks import StabilityMonitor
from thalweg.curvature import Operator, max_stable_lr, top_eigenvalues

DIM, CONDITION = 12, 100.0


def quadratic(rng, optimizer):
    """A linear net whose loss is a quadratic of condition 100, and not on an eigenvector."""
    values = np.geomspace(1.0, CONDITION, DIM)
    q, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    x = np.sqrt(DIM * values / 2)[:, np.newaxis] * q  # 2/n X'X = q' diag(values) q
    model = nn.Sequential(nn.Linear(DIM, 1, bias=False), dtype="float64", seed=1)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer), x, np.zeros(DIM)


def train(trainer, x, y, steps):
    return trainer.fit(x, y, epochs=steps, batch_size=len(x), shuffle=False)["loss"]


SGD = {
    "plain": ({}, 2.0),
    **{f"heavy ball {b}": ({"momentum": b}, 2 * (1 + b)) for b in (0.5, 0.9, 0.99)},
    **{
        f"Nesterov {b}": ({"momentum": b, "nesterov": True}, 2 * (1 + b) / (1 + 2 * b))
        for b in (0.5, 0.9, 0.99)
    },
    **{
        f"ema {b}": ({"momentum": b, "convention": "ema"}, 2 * (1 + b) / (1 - b))
        for b in (0.5, 0.9)
    },
    "textbook": ({"momentum": 0.9, "convention": "textbook"}, 3.8),
    "dampened": ({"momentum": 0.9, "dampening": 0.5}, 7.6),
    "decay": ({"weight_decay": 50.0}, 2 * CONDITION / (CONDITION + 50)),
}


@pytest.mark.parametrize("name", SGD)
def test_the_threshold_parts_convergence_from_divergence(name, rng):
    options, threshold = SGD[name]
    trainer, x, y = quadratic(rng, optim.SGD(lr=1e-3, **options))
    start = trainer.model.flat_parameters.copy()
    found = max_stable_lr(trainer, x, y)
    assert found.max_lr == pytest.approx(threshold / CONDITION, rel=1e-8)
    for factor, converges in ((0.999, True), (1.001, False)):
        trainer.model.flat_parameters = start
        trainer = tw.Trainer(
            trainer.model,
            loss=nn.MSELoss(),
            optimizer=optim.SGD(lr=factor * found.max_lr, **options),
        )
        assert max_stable_lr(trainer, x, y).verdict == ("oscillating" if converges else "diverging")
        if converges:
            assert train(trainer, x, y, 20_000)[-1] < 1e-14
        else:
            with contextlib.suppress(tw.DivergedError):  # some grow beyond the numbers
                train(trainer, x, y, 20_000)
            assert max(trainer.history["loss"]) > 1e12 * trainer.history["loss"][0]


KERAS = {
    "plain": (lambda lr: optim.SGD(lr, weight_decay=40.0, convention="keras"), 2.0),
    "heavy ball": (lambda lr: optim.SGD(lr, 0.9, weight_decay=40.0, convention="keras"), 3.8),
    "Nesterov": (
        lambda lr: optim.SGD(lr, 0.9, weight_decay=40.0, nesterov=True, convention="keras"),
        3.8 / 2.8,
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_decoupled_decay_counts(name, rng):
    """It was left out. What it adds to the curvature depends on the threshold of the momentum."""
    make, threshold = KERAS[name]
    trainer, x, y = quadratic(rng, make(1e-3))
    start = trainer.model.flat_parameters
    found = max_stable_lr(trainer, x, y)
    assert found.max_lr == pytest.approx(threshold / (CONDITION + 40 * threshold / 2), rel=1e-8)
    for factor in (0.99, 1.01):
        trainer.model.flat_parameters = start
        trainer = tw.Trainer(
            trainer.model, loss=nn.MSELoss(), optimizer=make(factor * found.max_lr)
        )
        with contextlib.suppress(tw.DivergedError):
            train(trainer, x, y, 3_000)
        assert (trainer.history["loss"][-1] < trainer.history["loss"][0]) == (factor < 1)
        assert max_stable_lr(trainer, x, y).ratio == pytest.approx(factor)


@pytest.mark.parametrize("name", KERAS)
def test_with_decoupled_decay_errors_overshoot_where_it_is_said(name, rng):
    """Along the only eigenvector: just below no error changes its sign, just above one does."""
    make, _ = KERAS[name]
    rate, verdicts = 0.002, set()
    for curvature in np.geomspace(0.05, 550, 12):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64", seed=1)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=make(rate))
        x = [[np.sqrt(curvature / 2)]]
        verdict = max_stable_lr(trainer, x, [0.0]).verdict
        path = [model.flat_parameters[0]]
        for _ in range(600):
            trainer.step(x, [0.0])
            path.append(model.flat_parameters[0])
        assert (min(path) < 0 < max(path)) == (verdict == "oscillating")
        verdicts.add(verdict)
    assert verdicts == {"converging", "oscillating"}


def test_a_penalty_counts(rng):
    """It was left out: of ten times the stable rate it was said that it converges."""
    for make, divisor in (
        (lambda: optim.SGD(lr=0.1), 1.0),
        (lambda: optim.RMSprop(lr=0.1, alpha=0.0, eps=0.5), None),
    ):
        model = nn.Sequential(nn.Linear(1, 1, bias=False))
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=make())
        if divisor is None:
            trainer.step([[0.7]], [0.0])
            divisor = np.sqrt(trainer.optimizer.state_dict()["arrays"]["square_avg"][0]) + 0.5
        trainer.set_penalty([50.0], strength=2.0)
        found = max_stable_lr(trainer, [[0.7]], [0.0])
        assert found.max_lr == pytest.approx(2 * divisor / (0.98 + 100), rel=1e-5)
        assert found.verdict == "diverging"


@pytest.mark.parametrize("structure", ["kron", "full"])
def test_a_penalty_with_mixed_derivatives_is_refused(structure, rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    x, y = rng.standard_normal((20, 3)), rng.integers(0, 2, 20)
    laplace = tw.continual.OnlineLaplace(trainer, 10.0, structure=structure)
    assert max_stable_lr(trainer, x, y).max_lr > 0
    for k in (0, 1):  # from the second task on there is a penalty
        laplace.fit(tw.continual.Task(x, (y + k) % 2, x, (y + k) % 2, k), epochs=20)
    before = trainer.model.flat_parameters  # the anchor, where the penalty is 0
    with pytest.raises(tw.UnsupportedError, match="parameters that depend on each other"):
        max_stable_lr(trainer, x, y)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    with pytest.raises(tw.UnsupportedError, match="StabilityMonitor: the trainer has a penalty"):
        trainer.fit(x, y, callbacks=[StabilityMonitor(x, y)])


def test_the_best_rates_converge_as_fast_as_theory_says(rng):
    """With κ = 100: (κ - 1)/(κ + 1) a step, and (√κ - 1)/(√κ + 1) with the best momentum."""
    root = np.sqrt(CONDITION)
    beta = ((root - 1) / (root + 1)) ** 2
    for optimizer, factor, window, tolerance in (
        (optim.SGD(lr=2 / (CONDITION + 1)), (CONDITION - 1) / (CONDITION + 1), (300, 500), 1e-3),
        # Double roots: a power of the step goes along, which fades slowly.
        (optim.SGD(lr=4 / (root + 1) ** 2, momentum=beta), np.sqrt(beta), (60, 150), 0.02),
    ):
        trainer, x, y = quadratic(rng, optimizer)
        loss = train(trainer, x, y, window[1] + 1)
        start, end = window
        measured = (loss[end] / loss[start]) ** (0.5 / (end - start))
        assert measured == pytest.approx(factor, rel=tolerance)


def trained(make, rng, steps=20):
    model = nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2), dtype="float64", seed=5
    )  # fmt: skip
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=make())
    x = rng.standard_normal((30, 3))
    y = np.tanh(x[:, :2] * 2)
    train(trainer, x, y, steps)
    return trainer, x, y


#: Made anew; the threshold; P after 20 steps, from the state.
PRECONDITIONED = {
    "Adam": (
        lambda: optim.Adam(lr=0.01),
        2 * 1.9 / 0.1,
        lambda s: (1 - 0.9**20) * (np.sqrt(s["exp_avg_sq"] / (1 - 0.999**20)) + 1e-8),
    ),
    "AdamW, betas": (
        lambda: optim.AdamW(lr=0.01, betas=(0.5, 0.99), eps=1e-3),
        2 * 1.5 / 0.5,
        lambda s: (1 - 0.5**20) * (np.sqrt(s["exp_avg_sq"] / (1 - 0.99**20)) + 1e-3),
    ),
    "AMSGrad": (
        lambda: optim.Adam(lr=0.01, amsgrad=True),
        38.0,
        lambda s: (1 - 0.9**20) * (np.sqrt(s["max_exp_avg_sq"] / (1 - 0.999**20)) + 1e-8),
    ),
    "Adam, keras": (
        lambda: optim.Adam(lr=0.01, convention="keras"),
        38.0,
        lambda s: (1 - 0.9**20) / np.sqrt(1 - 0.999**20) * (np.sqrt(s["exp_avg_sq"]) + 1e-7),
    ),
    "RMSprop": (
        lambda: optim.RMSprop(lr=0.01, momentum=0.5),
        3.0,
        lambda s: np.sqrt(s["square_avg"]) + 1e-8,
    ),
    "RMSprop, optax": (
        lambda: optim.RMSprop(lr=0.01, convention="optax"),
        2.0,
        lambda s: np.sqrt(s["square_avg"] + 1e-8),
    ),
    "Adagrad": (lambda: optim.Adagrad(lr=0.01), 2.0, lambda s: np.sqrt(s["sum"]) + 1e-10),
    "Adagrad, eps": (
        lambda: optim.Adagrad(lr=0.01, eps=0.3),
        2.0,
        lambda s: np.sqrt(s["sum"]) + 0.3,
    ),
    **{
        f"Adagrad, {convention}": (
            lambda convention=convention: optim.Adagrad(lr=0.01, eps=0.3, convention=convention),
            2.0,
            lambda s: np.sqrt(s["sum"] + 0.3),
        )
        for convention in ("optax", "keras")
    },
    # The rate of the step after 20 is divided by 1 + 20 * 0.5.
    "Adagrad, lr_decay": (
        lambda: optim.Adagrad(lr=0.01, lr_decay=0.5),
        2.0 * 11,
        lambda s: np.sqrt(s["sum"]) + 1e-10,
    ),
}


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_divided_steps_have_the_sharpness_of_the_preconditioned_hessian(name, rng):
    make, threshold, divisor = PRECONDITIONED[name]
    trainer, x, y = trained(make, rng)
    p = divisor(trainer.optimizer.state_dict()["arrays"])
    hessian = Operator(trainer.model, x, y, loss=nn.MSELoss()).dense()
    dense = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))[-1]
    found = max_stable_lr(trainer, x, y)
    # Decoupled decay, AdamW's, counts as so much more curvature.
    sharpness = dense + (0.01 * threshold / 2 if isinstance(trainer.optimizer, optim.AdamW) else 0)
    assert found.sharpness == pytest.approx(sharpness, rel=1e-6)
    assert found.max_lr == pytest.approx(threshold / sharpness, rel=1e-6)


@pytest.mark.parametrize("name", ["Adam", "AdamW, betas", "RMSprop"])
def test_their_thresholds_part_convergence_from_divergence(name, rng):
    """Steps of the optimizer itself on a quadratic, with what it divides by held still.

    Its average of squares is set, and hardly moves after that, with a decay next to 1.
    """
    slow = 1 - 1e-13
    make, threshold = {
        "Adam": (lambda lr: optim.Adam(lr=lr, betas=(0.9, slow)), 38.0),
        "AdamW, betas": (
            lambda lr: optim.AdamW(lr=lr, betas=(0.5, slow), weight_decay=2.0),
            6.0,
        ),
        "RMSprop": (lambda lr: optim.RMSprop(lr=lr, alpha=slow, momentum=0.5), 3.0),
    }[name]
    p = rng.uniform(0.5, 2.0, DIM)
    for factor, converges in ((0.999, True), (1.001, False)):
        trainer, x, y = quadratic(np.random.default_rng(3), make(1.0))
        model, optimizer = trainer.model, trainer.optimizer
        train(trainer, x, y, 1)  # so that there is a state
        state = optimizer.state_dict()
        key = "square_avg" if name == "RMSprop" else "exp_avg_sq"
        t = 10**9
        arrays = {k: np.zeros(DIM) for k in state["arrays"]}
        unbias = 1.0 if name == "RMSprop" else 1 - slow**t
        arrays[key] = p**2 * unbias
        optimizer.load_state_dict({**state, "steps": t, "arrays": arrays}, model)
        found = max_stable_lr(trainer, x, y)
        assert found.threshold == pytest.approx(threshold)
        optimizer.lr = factor * found.max_lr
        model.flat_parameters = 1e-6 * np.random.default_rng(4).standard_normal(DIM)
        # Few enough steps for the squares of what grows to be nothing beside what is held still.
        loss = np.array(train(trainer, x, y, 1_000))
        if converges:
            assert loss[-1] < 1e-4 * loss[0]
            assert loss.max() < 1e2 * loss[0]
        else:
            assert loss.max() > 1e3 * loss[0]


def test_euler_steps_approach_the_gradient_flow_with_order_one(rng):
    """At a fixed time, twice the steps have half the error."""
    trainer, x, y = quadratic(rng, optim.SGD())
    model, time = trainer.model, 0.05
    start = model.flat_parameters.copy()
    values, vectors = np.linalg.eigh(Operator(model, x, y, loss=nn.MSELoss()).dense())
    exact = vectors @ (np.exp(-values * time) * (vectors.T @ start))
    errors = []
    for steps in (200, 400, 800, 1600):
        model.flat_parameters = start
        twin = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=time / steps))
        train(twin, x, y, steps)
        errors.append(np.linalg.norm(model.flat_parameters - exact))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert abs(orders[-1] - 1.0) < 0.02
    assert (abs(orders - 1.0) < 0.05).all()


def test_oscillation_is_told_from_divergence(rng):
    """Between 1 and 2 the error changes its sign at every step, and shrinks."""
    for product, verdict in ((0.9, "converging"), (1.5, "oscillating"), (2.001, "diverging")):
        trainer, x, y = quadratic(rng, optim.SGD(lr=product / CONDITION))
        found = max_stable_lr(trainer, x, y)
        assert found.verdict == verdict
        assert found.ratio == pytest.approx(product / 2)
        sharpest = top_eigenvalues(trainer.model, x, y, loss=nn.MSELoss()).vectors[:, 0]
        along = []
        for _ in range(6):
            along.append(sharpest @ trainer.model.flat_parameters)
            trainer.step(x, y)
        factors = np.array(along[1:]) / along[:-1]
        assert factors == pytest.approx(1 - product, rel=1e-6)
    momentum = quadratic(rng, optim.SGD(lr=1.5 / CONDITION, momentum=0.9))
    assert "errors swing through 0, and shrink" in str(max_stable_lr(*momentum))
    text = str(found)
    for words in ("step 0", "2.001", "0.weight (100%)", "lr=0.02", "0.01 is safe"):
        assert words in text


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_the_limit_errors_neither_shrink_nor_grow(momentum, rng):
    optimizer = optim.SGD(lr=2 * (1 + momentum) / CONDITION, momentum=momentum)
    trainer, x, y = quadratic(rng, optimizer)
    found = max_stable_lr(trainer, x, y)
    assert found.verdict == "at the limit"
    assert f"at the limit {found.threshold:.4g}: on a quadratic, errors neither" in str(found)


def test_a_monitor_warns_before_the_first_step(rng):
    trainer, x, y = quadratic(rng, optim.SGD(lr=0.03))
    monitor = StabilityMonitor(x, y)
    with pytest.warns(RuntimeWarning, match="beyond 2: on a quadratic, steps diverge") as caught:
        history = trainer.fit(x, y, epochs=5, batch_size=DIM, callbacks=[monitor])
    assert len(caught) == 1  # it goes on being so
    assert caught[0].filename == __file__  # the line of the fit, not one of ours
    assert [r.step for r in monitor.reports] == [0, 1, 2, 3, 4, 5]
    assert history["sharpness"] == pytest.approx([CONDITION] * 5)
    assert history["stability"] == pytest.approx([1.5] * 5)
    assert history["loss"][-1] > history["loss"][0]


def test_a_monitor_may_only_record(rng):
    """Training at the edge was a dozen warnings; here each would be an error."""
    trainer, x, y = quadratic(rng, optim.SGD(lr=0.03))
    monitor = StabilityMonitor(x, y, action="record")
    history = trainer.fit(x, y, epochs=5, batch_size=DIM, callbacks=[monitor])
    assert history["stability"] == pytest.approx([1.5] * 5)
    assert history["sharpness"] == pytest.approx([CONDITION] * 5)
    assert trainer.optimizer.lr == 0.03


def test_a_monitor_stops_or_lowers(rng):
    trainer, x, y = quadratic(rng, optim.SGD(lr=0.03))
    stop = StabilityMonitor(x, y, action="stop")
    assert trainer.fit(x, y, epochs=50, batch_size=DIM, callbacks=[stop]).epochs == 1
    trainer, x, y = quadratic(rng, optim.SGD(lr=0.03))
    lower = StabilityMonitor(x, y, action="lower", margin=0.5, every=10)
    assert repr(lower) == "StabilityMonitor(every=10, action='lower', margin=0.5)"
    history = trainer.fit(x, y, epochs=2000, batch_size=DIM, callbacks=[lower])
    assert trainer.optimizer.lr == pytest.approx(0.01)
    assert history["loss"][-1] < 1e-14
    assert len(lower.reports) == 1 + 200
    assert repr(lower).endswith("; latest: 0.5 of the largest stable rate)")
    assert len(history["stability"]) == 2000
    assert np.isnan(history["stability"]).sum() == 1800


@pytest.mark.parametrize(
    "schedule",
    [
        optim.schedules.OneCycleLR(0.01),
        optim.schedules.OneCycleLR(0.01, total_steps=10),
        optim.schedules.OneCycleLR(0.01, per="epoch"),
        optim.schedules.LambdaLR(lambda t: [1e-4, *[5e-3] * 9][int(t)], per="epoch"),
        optim.schedules.LinearWarmup(100),
    ],
    ids=lambda schedule: f"{type(schedule).__name__}, {schedule.per}",
)
def test_a_monitor_judges_what_a_schedule_gives(schedule, rng):
    """It judged the optimizer's own rate, which no step took, and stopped what went well."""
    trainer, x, y = quadratic(rng, optim.SGD())
    optimizer = optim.SGD(lr=0.1)
    trainer = tw.Trainer(trainer.model, loss=nn.MSELoss(), optimizer=optimizer, schedule=schedule)
    seen = []

    class Watch(tw.callbacks.Callback):
        def on_step_end(self, trainer, record):
            seen.append(trainer.optimizer.lr)

    monitor = StabilityMonitor(x, y, action="stop")
    assert trainer.fit(x, y, epochs=10, batch_size=DIM, callbacks=[Watch(), monitor]).epochs == 10
    judged = [report.lr for report in monitor.reports]
    assert judged[0] == seen[0]
    # Where the schedule is as long as the fit, only the fit knows what comes.
    assert judged[1:-1] == (seen[:-1] if schedule.is_open else seen[1:])


def test_a_monitor_explains_a_divergence(rng):
    trainer, x, y = quadratic(rng, optim.SGD(lr=1.0))
    monitor = StabilityMonitor(x, y, every=1000)
    with pytest.warns(RuntimeWarning), pytest.raises(tw.DivergedError) as caught:
        trainer.fit(x, y, epochs=5000, batch_size=DIM, callbacks=[monitor])
    (note,) = caught.value.__notes__
    for words in ("step 0", "= 100, beyond 2", "0.weight", "lr=0.02"):
        assert words in note


def test_adam_is_measured_from_its_first_step_on(rng):
    trainer, x, y = trained(lambda: optim.Adam(lr=0.01), rng, steps=1)
    monitor = StabilityMonitor(x, y)
    trainer = tw.Trainer(trainer.model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.01))
    trainer.fit(x, y, epochs=3, batch_size=30, callbacks=[monitor])
    assert [r.step for r in monitor.reports] == [1, 2, 3]
    assert all(r.threshold == pytest.approx(38) for r in monitor.reports)


def test_the_sharpest_block_is_named(rng):
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), dtype="float64")
    flat = model.flat_parameters
    flat[9:12] = 1e-3  # a last layer of next to nothing: only it has curvature
    model.flat_parameters = flat
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    x = 10 * rng.standard_normal((50, 2))
    found = max_stable_lr(trainer, x, np.zeros(50))
    vector = top_eigenvalues(model, x, np.zeros(50), loss=nn.MSELoss()).vectors[:, 0]
    assert found.block == "2.weight"
    assert found.share == pytest.approx(vector[9:12] @ vector[9:12], rel=1e-3)


def test_what_is_wrong_is_said(rng):
    trainer, x, y = quadratic(rng, optim.Adam())
    for early in (trainer, trainer.copy()):
        with pytest.raises(tw.ArgumentError, match=r"before its first step.*trainer\.copy\(\)"):
            max_stable_lr(early, x, y)
    for optimizer, words in (
        (optim.Lion(), "Lion"),
        (optim.SGD().add_group("*.weight", lr_scale=0.5), "groups"),
    ):
        trainer, x, y = quadratic(rng, optimizer)
        with pytest.raises(tw.UnsupportedError, match=words):
            max_stable_lr(trainer, x, y)
    trainer, x, y = quadratic(rng, optim.SGD())
    with pytest.raises(tw.ShapeError):
        max_stable_lr(trainer, x[:, 1:], y)
    for wrong in ({"every": 0}, {"action": "shout"}, {"margin": 0.0}, {"margin": 1.5}):
        with pytest.raises(tw.ArgumentError, match=next(iter(wrong))):
            StabilityMonitor(x, y, **wrong)
    scheduled = tw.Trainer(
        trainer.model,
        loss=nn.MSELoss(),
        optimizer=optim.SGD(),
        schedule=optim.schedules.ConstantLR(),
    )
    with pytest.raises(tw.ArgumentError, match="schedule"):
        scheduled.fit(x, y, callbacks=[StabilityMonitor(x, y, action="lower")])


# --- fit(lr="auto") -----------------------------------------------------------------------------


def linear(rng, optimizer, **options):
    """A least-squares problem, and the largest curvature of its loss."""
    x, y = rng.standard_normal((60, 4)) * [1, 2, 3, 5], rng.standard_normal((60, 1))
    model = nn.Sequential(nn.Linear(4, 1, bias=False), dtype="float64", seed=0)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, **options)
    return trainer, x, y, np.linalg.eigvalsh(2 / 60 * x.T @ x)[-1]


@pytest.mark.parametrize(("momentum", "half"), [(0.0, 1.0), (0.9, 1.9)])
def test_an_automatic_rate_is_half_of_the_largest_stable_one(rng, momentum, half):
    trainer, x, y, curvature = linear(rng, optim.SGD(lr=1e-9, momentum=momentum))
    history = trainer.fit(x, y, epochs=2000, batch_size=None, lr="auto")
    assert trainer.optimizer.lr == pytest.approx(half / curvature, rel=1e-6)
    best = ((y - x @ np.linalg.lstsq(x, y)[0]) ** 2).mean()
    assert history["loss"][-1] == pytest.approx(best, rel=1e-9)


def test_an_automatic_rate_is_that_of_the_sharpest_of_some_batches(rng):
    trainer, x, y, _ = linear(rng, optim.SGD(lr=1e-9))
    twin = trainer.copy()
    trainer.fit(x, y, batch_size=6, lr="auto")
    twin.fit(x, y, batch_size=6, lr="auto")
    assert trainer.optimizer.lr == twin.optimizer.lr
    draw = np.random.default_rng([0, 0])
    batches = [x[np.sort(draw.choice(60, 6, replace=False))] for _ in range(3)]
    sharpest = max(np.linalg.eigvalsh(2 / 6 * b.T @ b)[-1] for b in batches)
    assert trainer.optimizer.lr == pytest.approx(1 / sharpest, rel=1e-6)


def test_an_automatic_rate_is_of_rows_that_count(rng):
    """Batches of rows that all weigh nothing are passed over, as they are in the fit."""
    weight = np.where(np.arange(60) < 2, 1.0, 0.0)
    trainer, x, y, _ = linear(rng, optim.SGD(lr=1e-9))
    trainer.fit(x, y, sample_weight=weight, batch_size=4, lr="auto")
    curvature = np.linalg.eigvalsh(2 / 2 * x[:2].T @ x[:2])[-1]
    assert trainer.optimizer.lr == pytest.approx(1 / curvature, rel=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("targets", "x has 60 rows but y has 50"),
        ("nan", r"x\[59, 0\] is NaN"),  # not the row of a batch
        ("weights", "no row counts"),
    ],
)
def test_an_automatic_rate_checks_all_rows_first(rng, bad, message):
    trainer, x, y, _ = linear(rng, optim.SGD(lr=1e-9))
    weight = np.zeros(60) if bad == "weights" else None
    if bad == "nan":
        x[59, 0] = np.nan
    with pytest.raises(tw.ThalwegError, match=message):
        trainer.fit(x, y[:50] if bad == "targets" else y, sample_weight=weight, lr="auto")
    assert trainer.optimizer.lr == 1e-9


def test_an_automatic_rate_bears_with_a_penalty(rng):
    """The largest stable one is that of the loss, but the trials are of both."""
    trainer, x, y, curvature = linear(rng, optim.SGD(lr=1e-9))
    trainer.set_penalty(np.ones(4), strength=100 * curvature)
    trainer.fit(x, y, batch_size=None, lr="auto")
    assert trainer.optimizer.lr < 2 / (101 * curvature)


def test_schedules_and_saved_trainers_go_on_from_a_rate_that_was_given(rng, tmp_path):
    schedule = optim.schedules.CosineAnnealingLR(8)
    trainer, x, y, curvature = linear(rng, optim.SGD(lr=1e-9), schedule=schedule)
    trainer.fit(x, y, epochs=4, batch_size=None, lr="auto")
    # The rate of the last update, the fourth of eight.
    rate = 0.5 * (1 + np.cos(3 / 8 * np.pi)) / curvature
    assert trainer.optimizer.lr == pytest.approx(rate, rel=1e-6)
    trainer.save(tmp_path / "trainer")
    again = tw.Trainer.load(tmp_path / "trainer")
    for each in (trainer, again):
        each.fit(x, y, epochs=2, batch_size=None)
    assert np.array_equal(again.model.flat_parameters, trainer.model.flat_parameters)
    trainer.fit(x, y, batch_size=None, lr=0.25, epochs=1)
    assert trainer.optimizer.lr == pytest.approx(0.5 * (1 + np.cos(6 / 8 * np.pi)) * 0.25)


def test_a_rate_that_cannot_be_found_leaves_all_as_it_was(rng):
    trainer, x, y, _ = linear(rng, optim.SGD(lr=0.01))
    for wrong, error, message in (
        (
            (np.zeros_like(x), y, "auto"),
            tw.ArgumentError,
            "does not curve upwards in any direction",
        ),
        ((x, y, "automatic"), tw.ArgumentError, 'must be one of "auto"'),
        ((x, y, -1.0), tw.ArgumentError, "lr must be a finite number"),
        ((x * np.nan, y, "auto"), tw.DataError, "NaN"),
        (([(x, y)], None, "auto"), tw.ArgumentError, "iterable"),
    ):
        with pytest.raises(error, match=message):
            trainer.fit(wrong[0], wrong[1], batch_size=32 if wrong[1] is None else 10, lr=wrong[2])
        assert trainer.optimizer.lr == 0.01
    adam, x, y, _ = linear(rng, optim.Adam())
    with pytest.raises(tw.ArgumentError, match="has none before its first step"):
        adam.fit(x, y, lr="auto")
    adam.fit(x, y)
    adam.fit(x, y, lr="auto")  # after some steps there is one
    with pytest.raises(tw.UnsupportedError):
        linear(rng, optim.Lion())[0].fit(x, y, lr="auto")


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "BatchNorm1d"])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    ids=["plain", "heavy ball", "Nesterov"],
)
def test_an_automatic_rate_does_not_kill_a_network_that_begins_flat(options, norm):
    """On real digits, half of what is stable before the first step leaves a ReLU net at chance."""
    pytest.importorskip("sklearn")
    x, y, x_test, y_test = tw.datasets.digits()
    for seed in range(2):
        layers = []
        for inputs, outputs in ((64, 128), (128, 64)):
            normal = [nn.BatchNorm1d(outputs)] if norm else []
            layers += [nn.Linear(inputs, outputs), *normal, nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10), seed=seed)
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(**options))
        trainer.fit(x, y, epochs=5, lr="auto")
        assert trainer.evaluate(x_test, y_test)["accuracy"] > 0.5  # chance is 0.1


def test_an_automatic_rate_of_a_network_that_is_at_its_minimum_is_refused(rng):
    trainer, x, y, _ = linear(rng, optim.SGD(lr=0.01))
    trainer.fit(x, y, epochs=3000, batch_size=None, lr="auto")
    with pytest.raises(
        tw.ArgumentError, match=r"no rate down to .* lowers the loss in 100 updates"
    ):
        trainer.fit(x, y, batch_size=None, lr="auto")
    # A trial leaves nothing behind.
    before = trainer.model.flat_parameters.copy(), trainer.optimizer.state_dict()["steps"]
    with pytest.raises(tw.ArgumentError):
        trainer.fit(x, y, batch_size=None, lr="auto")
    np.testing.assert_array_equal(trainer.model.flat_parameters, before[0])
    assert trainer.optimizer.state_dict()["steps"] == before[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_monitor_does_not_hide_the_divergence_that_it_watches(dtype, rng):
    """Once weights were too large for products, it ended the fit with an error of its own."""
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))

    def fit(action):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), dtype=dtype)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e4))
        monitor = StabilityMonitor(x, y, action=action)
        return trainer.fit(100 * x, y, epochs=60, batch_size=20, callbacks=[monitor])

    with pytest.raises(tw.DivergedError) as caught, pytest.warns(RuntimeWarning, match="beyond"):
        fit("warn")
    assert any("StabilityMonitor, last measured at step" in note for note in caught.value.__notes__)
    assert len(fit("stop")["stability"]) == 1


def test_a_monitor_tells_when_it_cannot_measure_any_more(rng):
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e-3))
    monitor = StabilityMonitor(x, y)

    class Blow(tw.callbacks.Callback):
        def on_step_end(self, trainer, record):
            trainer.model.flat_parameters = 1e200 * np.ones(model.num_parameters)

    with pytest.warns(RuntimeWarning, match="too large to measure .*, last measured at step 0"):
        history = trainer.fit(x, y, epochs=1, batch_size=20, callbacks=[Blow(), monitor])
    assert np.isnan(history["sharpness"]).all()
    bad = StabilityMonitor(np.full((20, 4), 1e300), y)
    with pytest.raises(tw.ThalwegError):  # of the data: at once
        trainer.fit(x, y, batch_size=20, callbacks=[bad])


def test_what_is_no_trainer_or_tolerance_is_refused(rng):
    trainer, x, y = quadratic(rng, optim.SGD(lr=1e-3))
    with pytest.raises(tw.ArgumentError, match="trainer must be a Trainer"):
        max_stable_lr(trainer.model, x, y)
    with pytest.raises(tw.ArgumentError, match="tol must be"):
        max_stable_lr(trainer, x, y, tol="small")


def test_nothing_that_curves_upwards_is_said_to_tell_nothing(rng):
    """It said that steps diverge from lr=inf on, and that inf is safe."""
    trainer, x, y = quadratic(rng, optim.SGD(lr=0.5))
    found = max_stable_lr(trainer, 0 * x, y)
    assert found.max_lr == np.inf
    for words in ("nothing curves upwards", "limits no learning rate, lr=0.5", "about a good one"):
        assert words in str(found)
    assert "safe" not in str(found)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.RMSprop])
def test_a_monitor_refuses_bad_data_before_the_first_step(make, rng):
    """Of Adam it did after an epoch, whose steps were taken."""
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 1))
    for error, data in (
        (tw.ShapeError, (x[:, 1:], y)),
        (tw.ShapeError, (x[1:], y)),
        (tw.DataError, (x * np.nan, y)),
        (tw.DtypeError, (x, ["a"] * 20)),
    ):
        trainer = tw.Trainer(nn.Sequential(nn.Linear(4, 1)), loss=nn.MSELoss(), optimizer=make())
        before = trainer.model.flat_parameters
        with pytest.raises(error, match=r"^StabilityMonitor: "):
            trainer.fit(x, y, callbacks=[StabilityMonitor(*data)])
        np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    for nothing, name in (((None, y), "x"), ((x, None), "y")):
        with pytest.raises(tw.ArgumentError, match=f"StabilityMonitor: {name} is None"):
            StabilityMonitor(*nothing)


def test_a_monitor_refuses_what_it_does_not_know_before_the_first_step(rng):
    """It came after an epoch, whose steps were taken."""
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 1))

    frozen = optim.Adam().add_group("*.bias", frozen=True)
    for optimizer, loss in [
        (optim.Lion(), nn.MSELoss()),
        (frozen, nn.MSELoss()),
    ]:
        model = nn.Sequential(nn.Linear(4, 1))
        before = model.flat_parameters
        trainer = tw.Trainer(model, loss=loss, optimizer=optimizer)
        with pytest.raises(tw.UnsupportedError):
            trainer.fit(x, y, callbacks=[StabilityMonitor(x, y)])
        assert (model.flat_parameters == before).all()


def test_a_momentum_that_no_gradient_enters_has_no_threshold():
    model = nn.Sequential(nn.Linear(2, 1), dtype="float64")
    sgd = optim.SGD(lr=0.1, momentum=0.9, dampening=1.0)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=sgd)
    with pytest.raises(tw.UnsupportedError, match="dampening=1"):
        max_stable_lr(trainer, np.eye(2), np.ones((2, 1)))


def test_with_more_dampening_no_rate_is_stable(rng):
    """Its largest rate was negative, and what diverges was said to oscillate and converge."""
    trainer, x, y = quadratic(rng, optim.SGD(lr=1e-3, momentum=0.5, dampening=1.5))
    with pytest.raises(tw.UnsupportedError, match=r"dampening=1\.5, above 1, .*no rate is stable"):
        max_stable_lr(trainer, x, y)
    loss = train(trainer, x, y, 2000)
    assert loss[-1] > 1e6 * loss[0]


def test_downward_curvature_is_not_said_to_converge():
    """At a saddle, every rate diverges: the report is about the sharpest direction alone."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = [0.5, 0.5]  # the loss is (w1 w2 - 2)^2
    hessian = Operator(model, [[1.0]], [2.0], loss=nn.MSELoss()).dense()
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [-2.5, 3.5])
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    assert "errors shrink along this direction" in str(max_stable_lr(trainer, [[1.0]], [2.0]))

    def saddle(theta):
        return theta @ hessian @ theta / 2, hessian @ theta

    away = optim.minimize(saddle, [1e-3, 0], optim.SGD(lr=0.1), 100)
    assert abs(away.theta).max() > 1e3
