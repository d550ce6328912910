"""Optimizers that look at all data in every step: L-BFGS and Levenberg-Marquardt."""

import importlib.util
import re
import warnings

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import squares

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_SCIPY = importlib.util.find_spec("scipy") is not None

BOTH = [optim.LBFGS, optim.LevenbergMarquardt]


@pytest.fixture
def waves(rng):
    """Two numbers that follow smoothly from three: x (60, 3), y (60, 2)."""
    x = rng.standard_normal((60, 3))
    return x, np.stack([np.sin(x.sum(axis=1)), np.cos(x[:, 0] * x[:, 1])], axis=1)


def make(optimizer, *, loss=None, dtype="float64", layers=(), seed=4, **options):
    model = nn.Sequential(
        nn.Linear(3, 6), *layers, nn.Tanh(), nn.Linear(6, 2), dtype=dtype, seed=seed
    )
    return tw.Trainer(model, loss=loss or nn.MSELoss(), optimizer=optimizer, **options)


# --- L-BFGS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lbfgs_learns_from_raw_columns(dtype, rng):
    """With a curvature above 1/eps of float32, it rejected all pairs and was gradient descent."""
    area, rooms, year = rng.uniform([500, 1, 1900], [4000, 6, 2020], (400, 3)).T
    x = np.stack([area, rooms, year], axis=1)
    price = x @ [100, 2e4, 50] + 1e4 * rng.standard_normal(400)
    model = nn.Sequential(nn.Linear(3, 1), dtype=dtype)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.LBFGS())
    with pytest.warns(RuntimeWarning, match="changed no parameter"):  # it is there
        history = trainer.fit(x, price, epochs=100, batch_size=None)
    least = tw.solve.least_squares(x, price).sum_of_squares / 400
    # In float32, the offset of the year is hardly told from its coefficient.
    assert history["loss"][-1] < least * (1.1 if dtype == "float32" else 1 + 1e-9)


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize(
    "options",
    [{}, {"history_size": 3}, {"lr": 0.3, "max_iter": 5}, {"lr": 30.0, "max_eval": 200}],
    ids=repr,
)
def test_lbfgs_goes_the_way_of_pytorch(waves, options):
    import torch

    x, y = waves
    trainer = make(optim.LBFGS(**options))
    layers = [torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)]
    net = torch.nn.Sequential(*layers).double()
    net.load_state_dict({k: torch.tensor(v) for k, v in trainer.model.state_dict().items()})
    theirs = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe", **options)
    tx, ty = torch.tensor(x), torch.tensor(y)

    def closure():
        theirs.zero_grad()
        loss = torch.nn.functional.mse_loss(net(tx), ty)
        loss.backward()
        return loss

    # Rounding is amplified from step to step: the first hundred iterations agree to ten digits.
    epochs = 100 // options.get("max_iter", 20)
    expected = [closure().item()]
    for _ in range(epochs):
        theirs.step(closure)
        expected.append(closure().item())
    trainer.fit(x, y, epochs=epochs, batch_size=None)
    losses = [*trainer.history["loss"], trainer.evaluate(x, y)["loss"]]
    np.testing.assert_allclose(losses[:3], expected[:3], rtol=1e-10)
    assert losses[-1] < 0.2 * losses[0]
    assert abs(np.log(losses[-1] / expected[-1])) < 0.5  # still alike at the end


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
def test_lbfgs_without_a_line_search_is_that_of_pytorch():
    import torch

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    model = nn.Sequential(nn.Linear(3, 2), dtype="float64")
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(), optimizer=optim.LBFGS(0.5, max_iter=4, line_search_fn=None)
    )
    net = torch.nn.Linear(3, 2).double()
    net.load_state_dict({k[2:]: torch.tensor(v) for k, v in model.state_dict().items()})
    theirs = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)

    def closure():
        theirs.zero_grad()
        loss = torch.nn.functional.mse_loss(net(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        return loss

    expected = [theirs.step(closure).item() for _ in range(5)]
    trainer.fit(x, y, epochs=5, batch_size=None)
    np.testing.assert_allclose(trainer.history["loss"], expected, rtol=1e-10)


@pytest.mark.parametrize("moved", ["targets", "weights"])
def test_lbfgs_takes_no_change_of_data_or_weights_for_curvature(rng, moved):
    """A pair of a gradient before it and one after it had the difference of two losses in it."""
    x = rng.standard_normal((200, 3))
    model = nn.Sequential(nn.Linear(3, 1, bias=False), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.LBFGS())
    for place in 10 * rng.standard_normal((10, 3)):
        if moved == "weights":
            model.flat_parameters = place
        y = x @ (place if moved == "targets" else np.ones(3))
        trainer.fit(x, y, batch_size=None)
        assert trainer.evaluate(x, y)["loss"] < 1e-8
    state, hessian = trainer.optimizer.state_dict(), 2 / 200 * x.T @ x
    steps = [name for name in state["arrays"] if name.startswith("old_stps.")]
    assert len(steps) >= 10
    for name in steps:
        y = state["arrays"][name.replace("stps", "dirs")]
        assert np.abs(y - hessian @ state["arrays"][name]).max() < 1e-6 * np.abs(y).max()


def test_lbfgs_leaves_a_pair_open_only_where_the_last_point_is_not_evaluated(waves):
    searching, plain = optim.LBFGS(), optim.LBFGS(0.1, max_iter=4, line_search_fn=None)
    for optimizer, last, pairs in ((searching, 0, 20), (plain, 0.1, 3)):
        make(optimizer).fit(*waves, batch_size=None)
        scalars = optimizer.state_dict()["scalars"]
        assert scalars["t"] == last
        assert sum(name.startswith("ro.") for name in scalars) == pairs


def test_a_step_by_hand_is_one_of_fit(waves):
    x, y = waves
    fitted, by_hand = make(optim.LBFGS()), make(optim.LBFGS())
    fitted.fit(x, y, epochs=3, batch_size=None)
    losses = [
        by_hand.optimizer.step(by_hand.model, lambda: by_hand.backward(x, y)) for _ in range(3)
    ]
    assert losses == fitted.history["loss"]
    assert np.array_equal(by_hand.model.flat_parameters, fitted.model.flat_parameters)
    assert by_hand.optimizer.steps == fitted.optimizer.steps == 3
    with pytest.raises(tw.ArgumentError, match="closure"):
        by_hand.optimizer.step(by_hand.model)


def test_a_step_by_hand_also_counts_dropout_and_statistics_once(waves):
    """Each evaluation dropped other elements, of which the line search knew nothing."""
    x, y = waves
    layers = [nn.BatchNorm1d(6), nn.Dropout(0.2)]
    fitted, by_hand = make(optim.LBFGS(), layers=layers), make(optim.LBFGS(), layers=layers)
    fitted.fit(x, y, epochs=3, batch_size=None)
    losses = [
        by_hand.optimizer.step(by_hand.model, lambda: by_hand.backward(x, y)) for _ in range(3)
    ]
    assert losses == fitted.history["loss"]
    for now, was in zip(state_of(by_hand)[:3], state_of(fitted)[:3], strict=True):
        assert np.array_equal(now, was)


def state_of(trainer):
    """Everything that a step may change; the gradients come last."""
    core = trainer.model._core
    return core.parameters(), core.averages(), core.passes(), core.gradients()


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_step_by_hand_that_fails_changes_nothing(waves, calls, error):
    x, y = waves
    trainer = make(optim.LBFGS(), layers=[nn.BatchNorm1d(6), nn.Dropout(0.2)])
    model, optimizer = trainer.model, trainer.optimizer
    optimizer.step(model, lambda: trainer.backward(x, y))
    model.flat_gradients = np.arange(model.num_parameters)
    before, state, left = state_of(trainer), repr(optimizer.state_dict()), [calls]

    def closure():
        loss = trainer.backward(x, y)
        left[0] -= 1
        if not left[0]:
            raise error
        return loss

    with pytest.raises(error):
        optimizer.step(model, closure)
    for now, was in zip(state_of(trainer), before, strict=True):
        assert np.array_equal(now, was)
    assert repr(optimizer.state_dict()) == state


def test_a_file_written_within_a_step_by_hand_has_the_weights_before_it(waves, tmp_path):
    """As within any other, and not those that the line search is trying."""
    x, y = waves
    trainer = make(optim.LBFGS())
    model = trainer.model

    def closure():
        model.save(tmp_path / "model")
        return trainer.backward(x, y)

    for _ in range(2):
        before = model.flat_parameters
        trainer.optimizer.step(model, closure)
        kept = nn.Sequential.load(tmp_path / "model").flat_parameters
        assert np.array_equal(kept, before)
        assert not np.array_equal(model.flat_parameters, before)


def test_steps_by_hand_belong_to_their_model(waves):
    """Curvature of the first model was taken for that of any other."""
    x, y = waves
    one, other = make(optim.LBFGS()), make(optim.SGD(), seed=5)
    lbfgs = optim.LBFGS()
    with pytest.raises(ZeroDivisionError):
        lbfgs.step(other.model, lambda: 1 / 0)  # which is no step
    lbfgs.step(one.model, lambda: one.backward(x, y))
    before = other.model.flat_parameters
    with pytest.raises(tw.ArgumentError, match="LBFGS belongs to another model"):
        lbfgs.step(other.model, lambda: other.backward(x, y))
    assert np.array_equal(other.model.flat_parameters, before)
    with pytest.raises(tw.ArgumentError, match=r"step takes the model, an nn\.Sequential; got"):
        lbfgs.step(one, lambda: one.backward(x, y))


def test_lbfgs_rejects_pairs_of_negative_curvature():
    """On x⁴ - x² between its minima, the gradient falls along the first step."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    optimizer = optim.LBFGS(0.05, max_iter=1, line_search_fn=None)

    def closure():
        (w,) = model.flat_parameters
        model.flat_gradients = [4 * w**3 - 2 * w]
        return w**4 - w**2

    model.flat_parameters = [0.1]
    for _ in range(2):
        optimizer.step(model, closure)
    arrays = optimizer.state_dict()["arrays"]
    assert not any(name.startswith("old_") for name in arrays)  # s'y < 0: nothing was kept
    with warnings.catch_warnings():  # at the minimum
        warnings.filterwarnings("ignore", "a step of LBFGS changed no parameter")
        for _ in range(200):
            optimizer.step(model, closure)
    assert any(name.startswith("old_") for name in optimizer.state_dict()["arrays"])
    assert np.allclose(model.flat_parameters, np.sqrt(0.5), atol=1e-2)


def test_lbfgs_finds_the_minimum_of_a_linear_model(rng):
    x, y = rng.standard_normal((50, 4)), rng.standard_normal((50, 1))
    model = nn.Sequential(nn.Linear(4, 1), dtype="float64")
    optimizer = optim.LBFGS(tolerance_grad=1e-12, tolerance_change=0.0)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    with pytest.warns(RuntimeWarning, match=r"no parameter.* if float64 can resolve it"):
        trainer.fit(x, y, epochs=5, batch_size=None)
    design = np.column_stack([x, np.ones(50)])
    exact = np.linalg.lstsq(design, y, rcond=None)[0].ravel()
    np.testing.assert_allclose(model.flat_parameters, exact, rtol=1e-9, atol=1e-11)


def test_the_line_search_comes_back_from_steps_that_overflow(waves):
    x, y = waves
    trainer = make(optim.LBFGS(lr=1e25, max_eval=100), dtype="float32")  # infinite there
    trainer.fit(x, y, epochs=3, batch_size=None)
    losses = trainer.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["fit", "step", "by hand"])
def test_a_step_without_a_search_that_overflows_has_diverged(waves, how):
    """In its last iteration, which evaluates no loss: data were said to be infinite."""
    x, y = waves
    lbfgs = optim.LBFGS(lr=1e45, max_iter=1, line_search_fn=None)
    trainer = make(lbfgs, dtype="float32")
    before = trainer.model.flat_parameters
    steps = {
        "fit": lambda: trainer.fit(x, y, batch_size=None),
        "step": lambda: trainer.step(x, y),
        "by hand": lambda: lbfgs.step(trainer.model, lambda: trainer.backward(x, y)),
    }
    with pytest.raises(tw.DivergedError, match=r"^a parameter became infinite with lr=1e\+45"):
        steps[how]()
    assert np.array_equal(trainer.model.flat_parameters, before)
    assert lbfgs.state_dict()["scalars"] == {}
    assert lbfgs.steps == 0


@pytest.mark.parametrize("scale", [1e8, 1e15, 1e18])
def test_badly_scaled_data_overflow_in_silence(scale, rng):
    x = np.column_stack([rng.standard_normal(64), scale * (1 + rng.standard_normal(64))])
    model = nn.Sequential(nn.Linear(2, 8), nn.Identity(), nn.Linear(8, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.LBFGS())
    with pytest.warns(RuntimeWarning, match="changed no parameter"):  # and of nothing else
        losses = trainer.fit(x, x[:, 0], epochs=5, batch_size=None)["loss"]
    assert losses[-1] < losses[0]


def test_lbfgs_counts_dropout_and_statistics_once_a_step(waves):
    x, y = waves
    layers = [nn.BatchNorm1d(6), nn.Dropout(0.2)]
    trainer, other = make(optim.LBFGS(), layers=layers), make(optim.SGD(), layers=layers)
    gradients = trainer.model.flat_gradients
    trainer.step(x, y)
    other.step(x, y)
    assert trainer.model._core.passes() == other.model._core.passes() == 1
    assert np.array_equal(trainer.model._core.averages(), other.model._core.averages())
    assert np.array_equal(trainer.model.flat_gradients, gradients)  # left alone, as by all steps


def stalled(optimizer, epochs=60):
    """Train far beyond what tolerances let pass; gives the losses and what was said."""
    x = np.linspace(0, np.pi, 200)[:, np.newaxis]
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        losses = trainer.fit(x, np.sin(x), epochs=epochs, batch_size=None)["loss"]
        if seen:
            trainer.fit(x, np.sin(x), epochs=2, batch_size=None)  # another fit, another warning
    return losses, seen


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, r"tolerance_change=1e-09\. LBFGS\(tolerance_change=0, tolerance_grad=0\) in a new"),
        ({"tolerance_grad": 0.01}, r"tolerance_grad=0\.01\. LBFGS\("),
        ({"max_eval": 1}, "max_eval=1 evaluations"),
    ],
)
def test_a_fit_that_stands_still_is_told_once(options, why):
    losses, seen = stalled(optim.LBFGS(**options))
    assert len(losses) == 60
    assert losses[-1] == losses[-10]
    assert [w.category for w in seen] == [RuntimeWarning] * 2
    assert {w.filename for w in seen} == {__file__}
    assert re.match(f"a step of LBFGS changed no parameter.*{why}", str(seen[0].message))


def test_without_tolerances_a_fit_goes_on():
    losses, seen = stalled(optim.LBFGS(tolerance_change=0, tolerance_grad=0))
    assert not seen
    assert losses[-1] < losses[-10] < 1e-7


def test_a_step_by_hand_that_changes_nothing_is_told(waves):
    x, y = waves
    trainer = make(optim.LBFGS(tolerance_grad=1e9))
    with pytest.warns(RuntimeWarning, match=r"tolerance_grad=1e\+09"):
        trainer.optimizer.step(trainer.model, lambda: trainer.backward(x, y))
    dropping = make(optim.LBFGS(tolerance_grad=1e9), layers=[nn.Residual(nn.Dropout(0.1))])
    dropping.fit(x, y, epochs=2, batch_size=None)  # the next may change something


# --- Levenberg-Marquardt -------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_lm_minimizes_the_weighted_squares_of_scipy(waves, rng, reduction, weighted):
    """One neuron and some noise: the minimum is not zero, and the weights matter."""
    optimize = pytest.importorskip("scipy.optimize")
    x = waves[0][:, :1]
    y = np.tanh(1.5 * x + 0.3) * [2, -1] + [0, 1] + 0.1 * rng.standard_normal((60, 2))
    w = rng.uniform(0, 2, 60) if weighted else None
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 2), dtype="float64")
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(reduction=reduction), optimizer=optim.LevenbergMarquardt()
    )
    start = model.flat_parameters
    with pytest.warns(RuntimeWarning, match="LevenbergMarquardt changed no parameter"):
        trainer.fit(x, y, epochs=100, batch_size=None, sample_weight=w)
    found = model.flat_parameters
    roots = np.ones(60) if w is None else w
    roots = np.sqrt(roots / (roots.sum() * 2) if reduction == "mean" else roots)[:, None]

    def residual(theta):
        model.flat_parameters = theta
        return (roots * (model(x) - y)).ravel()

    theirs = optimize.least_squares(residual, start, jac="3-point", xtol=1e-15, ftol=1e-15)
    squares = float(np.sum(residual(found) ** 2))
    loss = trainer.evaluate(x, y, w)["loss"]
    assert squares == pytest.approx(loss, rel=1e-12)
    assert squares == pytest.approx(2 * theirs.cost, rel=1e-10)


def test_lm_is_one_step_for_a_linear_model(rng):
    """Gauss-Newton: exact but for the damping, which fades."""
    x, y = rng.standard_normal((50, 4)), rng.standard_normal((50, 1))
    model = nn.Sequential(nn.Linear(4, 1), dtype="float64")
    optimizer = optim.LevenbergMarquardt(damping=1e-15)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    trainer.step(x, y)
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(50)]), y, rcond=None)[0].ravel()
    np.testing.assert_allclose(model.flat_parameters, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lm_never_raises_the_loss_and_logs_its_damping(waves, dtype):
    x, y = waves
    trainer = make(optim.LevenbergMarquardt(damping=1e-12), dtype=dtype)
    history = trainer.fit(x, y, epochs=60, batch_size=None)
    assert (np.diff(history["loss"]) <= 0).all()
    assert history["loss"][-1] < 5e-2 * history["loss"][0]
    assert len(history["damping"]) == len(history["rejected"]) == 60
    assert sum(history["rejected"]) > 0  # or nothing of this was seen
    assert history["damping"][0] == 1e-12
    assert max(history["damping"]) > 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_lm_does_not_freeze_far_from_any_minimum(seed):
    """Most of it noise: damping that one unit needed held all others, at up to 0.80."""
    optimize = pytest.importorskip("scipy.optimize")
    x = np.linspace(-2, 2, 80)[:, None]
    y = np.sin(2 * x) + np.random.default_rng(0).standard_normal((80, 1))
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), dtype="float64", seed=seed)
    start = model.flat_parameters

    def residual(theta):
        model.flat_parameters = theta
        return (model(x) - y).ravel() / np.sqrt(80)

    theirs = optimize.least_squares(residual, start, method="lm", max_nfev=2800)  # 200 steps
    model.flat_parameters = start
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.LevenbergMarquardt())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some arrive early
        history = trainer.fit(x, y, epochs=200, batch_size=None)
    assert history["loss"][-1] < 2 * theirs.cost * 1.03


@pytest.mark.parametrize(("geodesic", "most"), [(True, 1e-6), (False, 1e-5)])
def test_lm_does_not_wait_for_saturated_units(geodesic, most):
    """With one damping for each column: of six such fits, two came no further than 1e-2."""
    x = np.random.default_rng(0).standard_normal((300, 5))
    y = np.sin(x.sum(axis=1, keepdims=True))
    for seed in range(6):
        model = nn.Sequential(
            nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 1), dtype="float64", seed=seed
        )
        optimizer = optim.LevenbergMarquardt(geodesic=geodesic)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
        history = trainer.fit(x, y, epochs=150, batch_size=None)
        assert history["loss"][-1] < most


def test_lm_needs_squares_and_rows_of_their_own(waves):
    x, y = waves
    with pytest.raises(tw.ArgumentError, match="MSELoss"):
        make(optim.LevenbergMarquardt(), loss=nn.L1Loss())
    for layer in (nn.BatchNorm1d(6), nn.Dropout(0.5)):
        trainer = make(optim.LevenbergMarquardt(), layers=[layer])
        before = trainer.model.flat_parameters
        with pytest.raises(tw.UnsupportedError, match="BatchNorm1d or Dropout"):
            trainer.fit(x, y, batch_size=None)
        assert np.array_equal(trainer.model.flat_parameters, before)
    with pytest.raises(tw.UnsupportedError, match="schedule"):
        make(optim.LevenbergMarquardt(), schedule=optim.schedules.ConstantLR())
    with pytest.raises(tw.UnsupportedError, match="residuals"):
        optim.LevenbergMarquardt().step(make(optim.SGD()).model)


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_that_is_saved_goes_on_to_the_last_bit(waves, kind, dtype, tmp_path):
    x, y = waves
    whole, part = make(kind(), dtype=dtype), make(kind(), dtype=dtype)
    whole.fit(x, y, epochs=9, batch_size=None)
    part.fit(x, y, epochs=4, batch_size=None)
    part.save(tmp_path / "file")
    resumed = tw.Trainer.load(tmp_path / "file")
    for trainer in (resumed, part.copy()):
        trainer.fit(x, y, epochs=5, batch_size=None)
        assert trainer.history["loss"] == whole.history["loss"][4:]
        assert np.array_equal(trainer.model.flat_parameters, whole.model.flat_parameters)
        assert trainer.optimizer.steps == 9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", [True, False])  # whether in the first step of the optimizer
def test_a_fit_that_stands_still_is_saved_with_that(dtype, first, tmp_path):
    x = np.linspace(-1, 1, 16).reshape(-1, 1)
    y = np.sin(3 * x)
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1), dtype=dtype)
    for epochs in (400, 2) if first else (400,):
        optimizer = optim.LevenbergMarquardt()
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
        with pytest.warns(RuntimeWarning, match="changed no parameter"):
            history = trainer.fit(x, y, epochs=epochs, batch_size=None)
    assert max(history["rejected"]) > history["rejected"][-1] == 0  # nothing more was tried
    trainer.save(tmp_path / "file")
    for again in (tw.Trainer.load(tmp_path / "file"), trainer.copy()):
        with pytest.warns(RuntimeWarning, match="changed no parameter"):
            assert again.fit(x, y, batch_size=None)["rejected"] == [0]
        again.fit(x, -y, batch_size=None)  # other data
        assert not np.array_equal(again.model.flat_parameters, model.flat_parameters)


@pytest.mark.parametrize("kind", BOTH)
def test_batches_and_options_that_make_no_sense_are_refused(waves, kind):
    x, y = waves
    trainer = make(kind())
    with pytest.raises(tw.ArgumentError, match="batch_size=None"):
        trainer.fit(x, y, batch_size=32)
    for options in ({"clip_grad_norm": 1.0}, {"accumulate_grad_batches": 2}):
        with pytest.raises(tw.UnsupportedError, match=kind.__name__):
            make(kind(), **options)
    with pytest.raises(tw.UnsupportedError, match="groups"):
        kind().add_group("*.bias", frozen=True)
    with pytest.raises(tw.UnsupportedError, match=f"plan is not supported with {kind.__name__}"):
        trainer.plan(32)
    trainer.step(x, y)
    with pytest.raises(tw.ArgumentError, match="another model"):
        make(trainer.optimizer)


@pytest.mark.parametrize("kind", BOTH)
def test_bad_data_change_nothing(waves, kind):
    x, y = waves
    trainer = make(kind())
    trainer.step(x, y)
    before, state = trainer.model.flat_parameters, trainer.optimizer.state_dict()
    x = x.copy()
    x[5, 1] = np.nan
    for use in (trainer.step, lambda *data: trainer.fit(*data, batch_size=None)):
        with pytest.raises(tw.DataError, match=r"x\[5, 1\]"):
            use(x, y)
        assert np.array_equal(trainer.model.flat_parameters, before)
        assert repr(trainer.optimizer.state_dict()) == repr(state)


def test_a_gradient_that_overflows_is_that_of_no_finite_loss(waves):
    """By hand as in `fit`; a parameter, which nobody had changed, was said to be infinite."""
    x, _ = waves
    trainer = make(optim.LBFGS())
    model = trainer.model

    def closure():
        for _ in range(2):  # the gradient of each is finite
            model.forward(x, training=True)
            model.backward(np.full((60, 2), 1e307))
        return 1.0

    before = model.flat_parameters
    with pytest.raises(tw.DivergedError, match=r"^the loss is inf before the first step"):
        trainer.optimizer.step(model, closure)
    assert np.array_equal(model.flat_parameters, before)


@pytest.mark.parametrize("kind", BOTH)
def test_a_state_of_another_size_is_refused(waves, kind):
    """It was the next step that failed, by adding arrays of two sizes."""
    trainer = make(kind())
    trainer.fit(*waves, epochs=3, batch_size=None)
    optimizer, model = trainer.optimizer, trainer.model
    state, before = optimizer.state_dict(), repr(optimizer.state_dict())
    for name, array in state["arrays"].items():
        arrays = {**state["arrays"], name: array[:5]}
        expected = rf"^{name} has shape \(5,\), expected \({model.num_parameters},\)$"
        with pytest.raises(tw.ShapeError, match=expected):
            optimizer.load_state_dict({**state, "arrays": arrays}, model)
    if kind is optim.LevenbergMarquardt:
        scalars = {**state["scalars"], "active": 2.0}
        with pytest.raises(tw.ArgumentError, match="active is 2"):
            optimizer.load_state_dict({**state, "scalars": scalars}, model)
    assert repr(optimizer.state_dict()) == before


@pytest.mark.parametrize("kind", BOTH)
def test_gradients_that_are_not_finite_are_no_obstacle(waves, kind, tmp_path):
    """A step could not restore them, and files then had the weights before it for ever."""
    x, y = waves
    trainer = make(kind())
    model = trainer.model
    model.forward(x, training=True)
    model.backward(np.full((60, 2), 1e308))
    assert not np.isfinite(model.flat_gradients).all()
    before = model.flat_parameters
    trainer.step(x, y)
    model.save(tmp_path / "model")
    kept = nn.Sequential.load(tmp_path / "model").flat_parameters
    assert np.array_equal(kept, model.flat_parameters)
    assert not np.array_equal(kept, before)


def test_lbfgs_takes_losses_of_ones_own_schedules_and_callbacks(waves):
    x, y = waves

    schedule = optim.schedules.ConstantLR(0.5)
    custom = make(optim.LBFGS(), loss=squares, schedule=schedule)
    core = make(optim.LBFGS(), schedule=schedule)
    for trainer in (custom, core):
        trainer.fit(x, y, epochs=2, batch_size=None, validation_data=(x, y))
    np.testing.assert_allclose(custom.history["loss"], core.history["loss"], rtol=1e-9)
    assert "val_loss" in core.history
    seen = []

    class Stop:
        def on_epoch_end(self, trainer, record):
            seen.append(record["damping"])
            return len(seen) == 2

    lm = make(optim.LevenbergMarquardt())
    lm.fit(x, y, epochs=5, batch_size=None, callbacks=[Stop()])
    assert seen == lm.history["damping"]
    assert len(seen) == 2


def test_classifiers_show_their_accuracy(blobs):
    model = nn.Sequential(nn.Linear(5, 3))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.LBFGS())
    before = trainer.evaluate(blobs.x, blobs.y)
    with pytest.warns(RuntimeWarning, match="tolerance_grad=1e-07"):  # they can be told apart
        history = trainer.fit(blobs.x, blobs.y, epochs=3, batch_size=None)
    assert history["accuracy"][0] == pytest.approx(before["accuracy"])
    assert history["accuracy"][-1] == 1.0


@pytest.mark.parametrize("kind", BOTH)
def test_a_batch_of_all_samples_is_in_their_order(waves, kind):
    """To the bit: in another order, sums would be rounded otherwise."""
    x, y = waves
    ends = []
    for batch_size in (None, len(x)):
        trainer = make(kind())
        trainer.fit(x, y, epochs=5, batch_size=batch_size)
        ends.append(trainer.model.flat_parameters)
    assert np.array_equal(*ends)


def test_no_batch_size_takes_all_samples_at_once(waves):
    x, y = waves
    one, other = make(optim.Adam()), make(optim.Adam())
    one.fit(x, y, epochs=3, batch_size=None)
    other.fit(x, y, epochs=3, batch_size=60, shuffle=False)
    assert one.history["loss"] == other.history["loss"]
    assert np.array_equal(one.model.flat_parameters, other.model.flat_parameters)


def test_a_closure_that_gives_no_number_is_named():
    model = nn.Sequential(nn.Linear(2, 1))
    before = model.flat_parameters
    for value in None, "loss":
        with pytest.raises(tw.ArgumentError, match="must return the loss, a number; got"):
            optim.LBFGS().step(model, lambda value=value: value)
    assert (model.flat_parameters == before).all()


@pytest.mark.parametrize("optimizer", BOTH)
def test_targets_whose_loss_overflows_are_named_as_a_cause(optimizer, rng):
    model = nn.Sequential(nn.Linear(3, 2))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer())
    x = rng.standard_normal((20, 3))
    with pytest.raises(tw.ArgumentError, match=r"loss is inf .* targets are badly scaled, stand"):
        trainer.fit(x, np.full((20, 2), 1e20))


def test_almost_no_damping_is_a_beginning(rng):
    """It is limited to what changes a step, and adapts from there."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), dtype="float64")
    optimizer = optim.LevenbergMarquardt(damping=1e-300)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    x, y = np.ones((6, 3)), rng.standard_normal((6, 2))
    history = trainer.fit(x, y, epochs=12, batch_size=None)
    assert history["loss"][-1] == pytest.approx(np.mean((y - y.mean(axis=0)) ** 2))
