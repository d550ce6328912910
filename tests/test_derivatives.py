"""Derivatives by the inputs, and losses made of them: `curvature.jet` and `nn.DerivativeLoss`."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import _jets, nn, optim


def network(act=nn.Tanh, dtype="float64", inputs=2):
    return nn.Sequential(
        nn.Linear(inputs, 17), act(), nn.Residual(nn.Linear(17, 17), act()), nn.Linear(17, 3),
        dtype=dtype, seed=4,
    )  # fmt: skip


def heat(u, du, d2u, target):
    """Squares of u_t - u_xx - target, and of u itself."""
    left_over = du[1] - d2u[0] - target
    loss = (left_over**2).mean() + 0.1 * (u**2).mean()
    slope = 2 * left_over / left_over.size
    no_slope = np.zeros_like(slope)
    return loss, (0.2 * u / u.size, np.stack([no_slope, slope]), np.stack([-slope, no_slope]))


def poisson(u, du, d2u, x):
    """Of -u'' = sin x with u = 0 at both ends of the line."""
    left_over, ends = -d2u[0] - np.sin(x), u * ((x == x.min()) | (x == x.max()))
    loss = np.mean(left_over**2) + np.sum(ends**2)
    return loss, (2 * ends, None, -2 * left_over[np.newaxis] / len(x))


LINE = np.linspace(0, np.pi, 40).reshape(-1, 1)


@pytest.mark.parametrize("act", ["Tanh", "Sigmoid", "SiLU", "GELU", "Softplus", "Mish", "ELU"])
def test_derivatives_and_gradients_are_those_of_torch(act, rng):
    torch = pytest.importorskip("torch")
    x, target = rng.standard_normal((25, 2)), rng.standard_normal((25, 3))
    model = network(getattr(nn, act))
    peer = torch.nn.Sequential(
        torch.nn.Linear(2, 17), getattr(torch.nn, act)(), torch.nn.Linear(17, 17),
        getattr(torch.nn, act)(), torch.nn.Linear(17, 3),
    ).double()  # fmt: skip
    for mine, own in zip(model.state_dict().values(), peer.parameters(), strict=True):
        own.data.copy_(torch.from_numpy(np.asarray(mine)))

    at = torch.from_numpy(x).requires_grad_()
    hidden = peer[1](peer[0](at))
    u = peer[4](hidden + peer[3](peer[2](hidden)))
    first, second = torch.zeros(2, 25, 3).double(), torch.zeros(2, 25, 3).double()
    for j in range(3):
        slope = torch.autograd.grad(u[:, j].sum(), at, create_graph=True)[0]
        for k in range(2):
            first[k, :, j] = slope[:, k]
            bend = torch.autograd.grad(slope[:, k].sum(), at, create_graph=True)[0]
            second[k, :, j] = bend[:, k]
    left_over = first[1] - second[0] - torch.from_numpy(target)
    loss = (left_over**2).mean() + 0.1 * (u**2).mean()
    loss.backward()

    for mine, own in zip(tw.curvature.jet(model, x), (u, first, second), strict=True):
        np.testing.assert_allclose(mine, own.detach(), rtol=1e-12, atol=1e-13)
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.SGD(lr=1e-3))
    found = trainer.backward(x, target)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-13)
    gradients = np.concatenate([p.grad.numpy().ravel() for p in peer.parameters()])
    np.testing.assert_allclose(model.flat_gradients, gradients, rtol=1e-11, atol=1e-13)


#: Networks with more directions than twice their outputs take derivatives by going back.
MANY = {
    "one output": ([nn.Linear(7, 17), nn.Tanh(), nn.Linear(17, 1)], None),
    "two outputs, a block": (
        [nn.Linear(7, 9), nn.SiLU(), nn.Residual(nn.Linear(9, 9), nn.Sine(2.0)), nn.Linear(9, 2)],
        None,
    ),
    "coordinates beside waves": (
        [
            nn.Standardize([1.0, 2.0, 3.0], [1.0, 0.5, 2.0]),
            nn.Concatenate(nn.FourierFeatures(3, bands=[0.25, 0.5])),
            nn.Concatenate(nn.Linear(15, 9), nn.GELU()),
            nn.Linear(24, 1),
        ],
        None,
    ),
    "features of scaled inputs": (
        [
            nn.Standardize([1.0, 2.0, 3.0], [1.0, 0.5, 2.0]),
            nn.FourierFeatures(3, 6, sigma=0.3),
            nn.Linear(12, 9),
            nn.GELU(),
            nn.Linear(9, 1),
        ],
        None,
    ),
    "other directions": ([nn.Linear(7, 17), nn.Tanh(), nn.Linear(17, 2)], 5),
    # And those with normalizations over rows, whatever their widths.
    "normalized rows": (
        [
            nn.LayerNorm(3),
            nn.Linear(3, 17, bias=False),
            nn.LayerNorm(17),
            nn.SiLU(),
            nn.Residual(nn.RMSNorm(17, eps=1e-3), nn.Linear(17, 17), nn.Tanh()),
            nn.LayerNorm(17, elementwise_affine=False),
            nn.Linear(17, 4),
        ],
        None,
    ),
    "a normalized output": (
        [nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 2), nn.RMSNorm(2, eps=0.1)],
        1,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MANY)
def test_first_derivatives_by_many_inputs_and_their_gradients_are_those_of_torch(name, dtype, rng):
    torch = pytest.importorskip("torch")
    layers, directions = MANY[name]
    model = nn.Sequential(*layers, dtype=dtype, seed=2)
    model.flat_parameters += 0.1 * rng.standard_normal(model.num_parameters)
    peer = tw.torch.to_torch(model).double()
    n, inputs, outputs = 230, model.in_features, model.out_features
    x = rng.standard_normal((n, inputs)).astype(dtype)
    along = np.eye(inputs) if directions is None else rng.standard_normal((directions, inputs))
    by_u = rng.standard_normal((n, outputs))

    def function(u, du, target):
        size = np.sum(du**2, axis=0)  # of the gradient, as in a penalty or an eikonal equation
        loss = ((size - 1) ** 2).sum() / n + (u * target).sum()
        return loss, (target, 4 * (size - 1) * du / n)

    at = torch.from_numpy(x).double().requires_grad_()
    u = peer(at)
    slopes = [torch.autograd.grad(u[:, k].sum(), at, create_graph=True)[0] for k in range(outputs)]
    du = torch.stack([slope @ torch.from_numpy(along).T for slope in slopes]).permute(2, 1, 0)
    loss = ((du.square().sum(0) - 1) ** 2).sum() / n + (u * torch.from_numpy(by_u)).sum()
    loss.backward()

    given = None if directions is None else along
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]

    def close(found, want):
        want = want.detach().numpy()
        np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * np.abs(want).max())

    for mine, own in zip(tw.curvature.jet(model, x, order=1, along=given), (u, du), strict=True):
        assert mine.dtype == dtype
        close(mine, own)
    loss_of = nn.DerivativeLoss(function, order=1, along=given)
    trainer = tw.Trainer(model, loss=loss_of, optimizer=optim.SGD(lr=1e-3))
    assert trainer.backward(x, by_u) == pytest.approx(loss.item(), rel=tolerance)
    close(model.flat_gradients, torch.cat([p.grad.ravel() for p in peer.parameters()]))
    checked = tw.gradcheck(nn.Sequential(*layers, dtype="float64", seed=2), x, by_u, loss=loss_of)
    assert checked.passed


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_may_be_laid_out_in_any_way(order, rng):
    x = rng.standard_normal((40, 5)).astype("float32")
    model = nn.Sequential(nn.Linear(5, 17), nn.Tanh(), nn.Linear(17, 1), seed=1)

    def misaligned(array):
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        raw[:] = array
        return raw

    def gradient(laid_out):
        def function(u, du, *more):
            given = (u, 2 * du, *(it for it in more[:-1]))
            return float(np.sum(du**2)), tuple(map(laid_out, given))

        loss = nn.DerivativeLoss(function, order=order)
        model.zero_grad()
        tw.Trainer(model, loss=loss, optimizer=optim.SGD()).backward(x, x[:, :1])
        return model.flat_gradients.tobytes()

    want = gradient(np.ascontiguousarray)
    for other in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], misaligned):
        assert gradient(other) == want


def test_the_way_back_changes_no_bit_with_threads(rng):
    x = rng.standard_normal((700, 9)).astype("float32")
    model = nn.Sequential(nn.Linear(9, 60), nn.Tanh(), nn.Linear(60, 2), seed=1)
    along = rng.standard_normal((6, 9))

    def train(count):
        tw.set_num_threads(count)
        twin = copy.deepcopy(model)
        loss = nn.DerivativeLoss(
            lambda u, du, y: (np.sum(du**2), (u, 2 * du)), order=1, along=along
        )
        trainer = tw.Trainer(twin, loss=loss, optimizer=optim.Adam())
        trainer.fit(x, x[:, :2], epochs=3, batch_size=300)
        return twin.flat_parameters

    before = tw.get_num_threads()
    try:
        one = train(1)
        for count in (2, 3, 8):
            np.testing.assert_array_equal(train(count), one)
    finally:
        tw.set_num_threads(before)


def test_derivatives_that_are_too_large_are_refused():
    steep = nn.Sequential(nn.Linear(9, 1), nn.Linear(1, 1))
    steep.flat_parameters = [*9 * [3e38], 0, 3e38, 0]
    zero = np.zeros((1, 9), "float32")
    with pytest.raises(tw.ArgumentError, match="a derivative of the outputs"):
        tw.curvature.jet(steep, zero, order=1)


def test_of_a_sine_they_are_known():
    """Of u = sin(3 x + 4 y): the gradient is (3, 4) cos, the curvatures (-9, -16) sin."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Sine(omega=1.0), dtype="float64")
    model.flat_parameters = np.array([3.0, 4.0])
    x = np.array([[0.1, 0.2], [-0.4, 0.6]])
    z = x @ [3, 4]
    u, du, d2u = tw.curvature.jet(model, x)
    np.testing.assert_allclose(u[:, 0], np.sin(z), rtol=1e-14)
    np.testing.assert_allclose(du[:, :, 0], [3 * np.cos(z), 4 * np.cos(z)], rtol=1e-14)
    np.testing.assert_allclose(d2u[:, :, 0], [-9 * np.sin(z), -16 * np.sin(z)], rtol=1e-14)
    u, du = tw.curvature.jet(model, x, order=1, along=[[1, 1]])
    np.testing.assert_allclose(du[:, :, 0], [7 * np.cos(z)], rtol=1e-14)
    _, _, both = tw.curvature.jet(model, x, along=[[1, 1], [1, -1]])
    np.testing.assert_allclose((both[0] - both[1])[:, 0] / 4, -12 * np.sin(z), rtol=1e-13)


def test_first_derivatives_are_those_of_jvp(rng):
    x = rng.standard_normal((9, 2)).astype(np.float32)
    model = nn.Sequential(
        nn.FourierFeatures(2, 8, sigma=0.5), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 3)
    )
    _, du = tw.curvature.jet(model, x, order=1)
    for k in range(2):
        _, slope = tw.curvature.jvp(model, x, dx=np.tile(np.eye(2)[k], (9, 1)))
        np.testing.assert_allclose(du[k], slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_checked(weighted, rng):
    def weigh(u, du, d2u, target, weight):
        loss = float((weight * d2u[0, :, 0] ** 2).sum())
        bend = np.zeros_like(d2u)
        bend[0, :, 0] = 2 * weight * d2u[0, :, 0]
        return loss, (None, None, bend)

    x, target = rng.standard_normal((6, 2)), rng.standard_normal((6, 3))
    weight = rng.uniform(0.5, 2, 6) if weighted else None
    function = weigh if weighted else heat
    model = network()
    before = model.flat_parameters.copy()
    report = tw.gradcheck(model, x, target, loss=nn.DerivativeLoss(function), sample_weight=weight)
    assert report, report
    np.testing.assert_array_equal(model.flat_parameters, before)

    def wrong(*arguments):
        loss, (u, du, d2u) = function(*arguments)
        return loss, (u, du, 1.01 * d2u)

    assert not tw.gradcheck(model, x, target, loss=nn.DerivativeLoss(wrong), sample_weight=weight)


@pytest.mark.filterwarnings("ignore:a step of LBFGS changed no parameter")
@pytest.mark.parametrize(
    ("make", "epochs", "most"),
    [
        (lambda: optim.LBFGS(tolerance_change=1e-13), 500, 1e-4),  # a loss of 1e-9 is not enough
        (lambda: optim.SAM(optim.Adam(lr=5e-3), rho=1e-3), 1500, 2e-2),
    ],
    ids=["LBFGS", "SAM"],
)
def test_a_differential_equation_is_solved(make, epochs, most):
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1), dtype="float64", seed=0)
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(poisson), optimizer=make())
    trainer.fit(LINE, LINE, epochs=epochs, batch_size=None)
    error = np.abs(model(LINE) - np.sin(LINE)).max()
    assert error < most, error


def test_fits_steps_and_steps_by_hand_are_the_same(rng):
    x, target = rng.standard_normal((20, 2)), rng.standard_normal((20, 3))
    ends = []
    for way in ("fit", "step", "hand"):
        model, optimizer = network(), optim.Adam(lr=1e-2)
        trainer = tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optimizer)
        if way == "fit":
            trainer.fit(x, target, epochs=2, batch_size=10, shuffle=False)
        for start in 2 * [0, 10] if way != "fit" else []:
            rows = slice(start, start + 10)
            if way == "step":
                trainer.step(x[rows], target[rows])
            else:
                model.zero_grad()
                trainer.backward(x[rows], target[rows])
                optimizer.step(model)
        ends.append(model.flat_parameters.copy())
    np.testing.assert_array_equal(ends[1], ends[0])
    np.testing.assert_array_equal(ends[2], ends[0])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads, rng):
    x, target = rng.standard_normal((500, 2)), rng.standard_normal((500, 3))
    ends = []
    before = tw.get_num_threads()
    try:
        for count in (1, threads):
            tw.set_num_threads(count)
            model = network(dtype="float32")
            trainer = tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.Adam())
            trainer.fit(x, target, epochs=3, batch_size=200)
            ends.append(model.flat_parameters.copy())
    finally:
        tw.set_num_threads(before)
    np.testing.assert_array_equal(*ends)


def test_a_trainer_goes_on_from_its_copy(rng):
    x, target = rng.standard_normal((20, 2)), rng.standard_normal((20, 3))
    trainer = tw.Trainer(network(), loss=nn.DerivativeLoss(heat), optimizer=optim.Adam())
    trainer.fit(x, target, epochs=2, batch_size=8)
    again = pickle.loads(pickle.dumps(trainer))
    for each in (trainer, again):
        each.fit(x, target, epochs=2, batch_size=8)
    np.testing.assert_array_equal(again.model.flat_parameters, trainer.model.flat_parameters)
    assert again.evaluate(x, target) == trainer.evaluate(x, target)


def test_it_can_be_called_and_set(rng):
    x, target = rng.standard_normal((20, 2)), rng.standard_normal((20, 3))
    loss, model = nn.DerivativeLoss(heat), network()
    value = loss(tw.curvature.jet(model, x), target)
    trainer = tw.Trainer(
        model, loss=lambda u, t: (float((u - t).mean()), np.full(u.shape, 1 / u.size)),
        optimizer=optim.SGD(lr=1e-3),
    )  # fmt: skip
    trainer.loss = loss
    assert trainer.step(x, target) == pytest.approx(value, rel=1e-14)
    with pytest.raises(tw.ArgumentError, match=r"output must be a tuple \(u, du, d2u\)"):
        loss(model(x), target)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)], r"layer 1 \(BatchNorm1d 4\)"),
        ([nn.Linear(2, 4), nn.Residual(nn.LayerNorm(4)), nn.Linear(4, 3)], r"layer 1\.0 \(Layer"),
        ([nn.Linear(2, 4), nn.Dropout(0.1), nn.Linear(4, 3)], r"layer 1 \(Dropout"),
        ([nn.Linear(2, 4), nn.FourierFeatures(4, 4), nn.Linear(8, 3)], r"layer 1 \(FourierF"),
    ],
)
def test_layers_in_the_way_are_named(layers, text):
    model = nn.Sequential(*layers)
    with pytest.raises(tw.UnsupportedError, match=text):
        tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.Adam())
    with pytest.raises(tw.UnsupportedError, match=text):
        tw.curvature.jet(model, np.ones((3, 2)))


def test_normalizations_over_rows_have_first_derivatives_only():
    model = nn.Sequential(nn.Linear(2, 4), nn.RMSNorm(4), nn.Linear(4, 3))
    with pytest.raises(tw.UnsupportedError, match=r"layer 1 \(RMSNorm 4\).* with order=1"):
        tw.curvature.jet(model, np.ones((3, 2)), order=(1, 2))
    assert tw.curvature.jet(model, np.ones((3, 2)), order=1)[1].shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([nn.ReLU(), nn.Residual(nn.Linear(4, 4), nn.Hardtanh())], "as Hardtanh, ReLU and nn.Lin"),
        ([nn.LeakyReLU()], "as LeakyReLU and nn.Linear are"),
        ([nn.ReLU6(), nn.Identity()], "as ReLU6 and nn.Linear are"),
        ([nn.Standardize([0] * 4, [2] * 4), nn.ReLU()], "as ReLU and nn.Linear are"),
        ([], "as nn.Linear is"),
    ],
)
def test_second_derivatives_that_are_none_are_told(layers, named):
    """They would be 0 in each step, and the rest of the loss would be learned all the same."""
    model = nn.Sequential(nn.Linear(2, 4), *layers, nn.Linear(4, 3))
    with pytest.warns(UserWarning, match=f"second derivatives.* are 0.*{named}.*d2u") as seen:
        tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.Adam())
    assert [w.filename for w in seen] == [__file__]
    tw.gradcheck(
        model, np.ones((3, 2)), np.ones((3, 3)), loss=nn.DerivativeLoss(heat)
    )  # no trainer
    slopes = nn.DerivativeLoss(lambda u, du, y: heat(u, du, None, y), order=1)
    tw.Trainer(model, loss=slopes, optimizer=optim.Adam())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh()],
        [nn.Linear(2, 4), nn.ReLU(), nn.Residual(nn.Softplus())],
        [nn.Linear(2, 4), nn.Hardswish()],
        [nn.FourierFeatures(2, 2), nn.Linear(4, 4), nn.ReLU()],
    ],
)
def test_one_layer_that_curves_is_enough(layers, rng):
    model = nn.Sequential(*layers, nn.Linear(4, 3), dtype="float64", seed=1)
    assert np.abs(tw.curvature.jet(model, rng.standard_normal((50, 2)))[2]).max() > 1e-3
    tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.Adam())  # without a warning


@pytest.mark.parametrize("order", [1, 2])
def test_how_it_is_called_with_weights_is_said(order):
    def function(*arguments):
        return 0.0, (None,) * (order + 1)

    first = lambda u, du, target: function()  # noqa: E731
    second = lambda u, du, d2u, target: function()  # noqa: E731
    loss = nn.DerivativeLoss(first if order == 1 else second, order=order)
    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Adam())
    x, y = np.ones((4, 2)), np.ones((4, 3))
    trainer.step(x, y)
    names = "u, du, target" if order == 1 else "u, du, d2u, target"
    message = rf"order={order}\) is called as f\({names}, weight\), but <lambda> takes \({names}\)"
    for call in (trainer.step, trainer.evaluate):
        with pytest.raises(tw.ArgumentError, match=message):
            call(x, y, np.ones(4))


def bend_only(u, du, d2u, target):
    return 0.0, (None, None, np.zeros_like(d2u))


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda u, du, d2u, y: 1.0, tw.ArgumentError, r"tuple \(loss, gradients\)"),
        (
            lambda u, du, d2u, y: (1.0, u),
            tw.ArgumentError,
            "one for each of u, du, d2u, or None for",
        ),
        (lambda u, du, d2u, y: (1.0, (u, du)), tw.ArgumentError, "returned 2 items"),
        (
            lambda u, du, d2u, y: (1.0, (u, du, u)),
            tw.ShapeError,
            r"with respect to d2u has shape \(4, 3\)",
        ),
        (lambda u, du, d2u, y: (1.0, (u, du, np.nan * d2u)), tw.DataError, "with respect to d2u"),
        (lambda u, du, d2u, y: (np.nan, (u, du, d2u)), tw.DivergedError, "became nan"),
    ],
)
def test_what_a_function_gives_is_looked_at(function, error, text):
    model = network()
    before = model.flat_parameters.copy()
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(function), optimizer=optim.Adam())
    with pytest.raises(error, match=text):
        trainer.step(np.ones((4, 2)), np.ones((4, 3)))
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_second_derivatives_that_are_not_wanted_are_left_out(rng):
    """And what is asked for is as if all had been."""
    model, x = network(), rng.standard_normal((25, 2))
    u, du, d2u = tw.curvature.jet(model, x)
    for order, kept in (((2, 1), [0]), ([1, 2], [1]), (np.array([2, 2]), [0, 1])):
        found = tw.curvature.jet(model, x, order=order)
        for one, other in zip(found, (u, du, d2u[kept]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    assert len(tw.curvature.jet(model, x, order=(1, 1))) == 2
    target = rng.standard_normal((25, 3))

    def heat_of_one(u, du, d2u, target):
        loss, (by_u, by_du, by_d2u) = heat(u, du, d2u, target)
        return loss, (by_u, by_du, by_d2u[:1])

    losses = nn.DerivativeLoss(heat), nn.DerivativeLoss(heat_of_one, order=(2, 1))
    gradients = []
    for loss in losses:
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=1e-3))
        model.zero_grad()
        trainer.backward(x, target)
        gradients.append(model.flat_gradients.copy())
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-12)
    assert tw.gradcheck(model, x, target, loss=losses[1])
    assert losses[1].order == (2, 1)


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"order": (2, 3)}, tw.ArgumentError, r"order\[1\] must be an integer from 1 to 2.* u_xxx"),
        (
            {"order": ()},
            tw.ArgumentError,
            "order must be 1 or 2, or a sequence with one of them for each",
        ),
        (
            {"order": 3},
            tw.ArgumentError,
            "order must be an integer from 1 to 2; got 3.* For u_xxx, make u_xx another output",
        ),
        ({"along": []}, tw.ShapeError, "along must have one row per direction"),
        ({"along": np.ones((0, 2))}, tw.ShapeError, "along must have one row per direction"),
        ({"along": (0, 1)}, tw.ShapeError, r"shape \(2,\)\. For a direction v it is \[v\]; .*eye"),
        ({"along": [[1.0, np.nan]]}, tw.DataError, "along"),
        ({"along": [["a"]]}, tw.DtypeError, "along"),
    ],
)
def test_what_it_is_made_of_is_looked_at(keywords, error, text):
    with pytest.raises(error, match=text):
        nn.DerivativeLoss(heat, **keywords)


def test_inputs_are_looked_at():
    model = network()
    with pytest.raises(tw.ShapeError, match="each of the 2 directions; got 3"):
        tw.curvature.jet(model, np.ones((3, 2)), order=(1, 2, 1))
    with pytest.raises(tw.ShapeError, match=r"2 numbers each, .* inputs; got shape \(1, 3\)"):
        tw.curvature.jet(model, np.ones((3, 2)), along=[[1.0, 2.0, 3.0]])
    with pytest.raises(tw.ShapeError, match=r"got shape \(2,\)\. For a direction v it is \[v\]"):
        tw.curvature.jet(model, np.ones((3, 2)), along=(0, 1))
    with pytest.raises(tw.ShapeError, match=r"input has shape \(3, 4\)"):
        tw.curvature.jet(model, np.ones((3, 4)))
    with pytest.raises(tw.DataError, match="is NaN"):
        tw.curvature.jet(model, np.full((3, 2), np.nan))
    single = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(tw.DataError, match=r"along\[0, 1\] = 1e\+300 is too large for float32"):
        tw.curvature.jet(single, np.ones((3, 2)), along=[[1.0, 1e300]])
    with pytest.raises(tw.DataError, match=r"along\[0, 1\] is nan"):
        tw.curvature.jet(single, np.ones((3, 2)), along=[[1.0, np.nan]])
    with pytest.raises(tw.ThalwegError, match="no rows"):
        tw.curvature.jet(model, np.ones((0, 2)))
    huge = nn.Sequential(nn.Linear(1, 1), nn.Sine(omega=1e30), dtype="float32")
    with pytest.raises(tw.ThalwegError, match="derivative of the outputs with respect to"):
        tw.curvature.jet(huge, np.ones((3, 1)))


def test_predictions_keep_only_some_of_their_rows(rng, monkeypatch):
    """What gradients would need of all of them is a thousand times as much as the result."""
    model = nn.Sequential(
        nn.FourierFeatures(2, 3), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2), seed=1
    )
    x = rng.standard_normal((9000, 2)).astype(np.float32)
    asked, forward = [], _jets._Along.forward
    monkeypatch.setattr(
        _jets._Along, "forward", lambda way, x: asked.append(len(x)) or forward(way, x)
    )
    for order, most in ((2, 2**14 // 5), (1, 2**14 // 3), ((2, 1), 2**14 // 4)):
        jets = _jets.Jets(model, order)
        whole = jets.forward(x)
        asked.clear()
        found = tw.curvature.jet(model, x, order=order)
        assert max(asked) == most < 9000 == sum(asked)
        for one, other in zip(found, whole, strict=True):  # the same, to the last bit
            np.testing.assert_array_equal(one, other)
    loss = nn.DerivativeLoss(lambda u, du, target: (np.mean(du[0]), (None, None)), order=1)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    asked.clear()
    assert trainer.evaluate(x, x)["loss"] == pytest.approx(np.mean(whole[1][0]))
    assert max(asked) < 9000 == sum(asked)
    x[8000, 1] = np.nan  # in the last of the parts, and named as the user counts
    with pytest.raises(tw.DataError, match=r"x\[8000, 1\] is NaN"):
        tw.curvature.jet(model, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda t, x, y: tw.curvature.hvp(t.model, x, y, t.model.flat_parameters, loss=t.loss),
        lambda t, x, y: tw.curvature.top_eigenvalues(t.model, x, y, loss=t.loss),
        lambda t, x, y: tw.curvature.max_stable_lr(t, x, y),
        lambda t, x, y: t.fit(x, y, callbacks=[tw.curvature.StabilityMonitor(x, y)]),
        lambda t, x, y: t.fit(x, y, lr="auto"),
        lambda t, x, y: tw.find_lr(t, x, y, sharpness=True),
    ],
)
def test_what_measures_curvature_takes_these_losses(call, rng):
    trainer = tw.Trainer(network(), loss=nn.DerivativeLoss(heat), optimizer=optim.SGD(lr=1e-3))
    call(trainer, rng.standard_normal((6, 2)), np.ones((6, 3)))


def test_rates_and_steps_that_need_more_name_those_that_do_not():
    x, y, loss = np.ones((6, 2)), np.ones((6, 3)), nn.DerivativeLoss(heat)
    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Lion(lr=0.1))
    with pytest.raises(
        tw.UnsupportedError, match=r'^lr="auto" .* but tw.find_lr\(trainer, x, y\) is'
    ):
        trainer.fit(x, y, lr="auto")
    with pytest.raises(tw.UnsupportedError, match=r"^sharpness=True .*; find_lr works without it"):
        tw.find_lr(trainer, x, y, sharpness=True)
    assert tw.find_lr(trainer, x, y).suggestion > 0
    with pytest.raises(tw.ArgumentError, match=r"MSELoss\(\); .* solve\.nonlinear_least_squares$"):
        tw.Trainer(network(), loss=loss, optimizer=optim.LevenbergMarquardt())
    # Which find_lr does not support either.
    whole = tw.Trainer(network(), loss=loss, optimizer=optim.LBFGS())
    with pytest.raises(tw.UnsupportedError, match=r"^the stability threshold of LBFGS"):
        whole.fit(x, y, batch_size=None, lr="auto")


def test_curvatures_are_those_of_differences_of_gradients(rng):
    """Which a function of the user's may take, too."""
    x, target = rng.standard_normal((20, 2)), rng.standard_normal((20, 3))
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.DerivativeLoss(heat), optimizer=optim.SGD(lr=0.1))
    theta = model.flat_parameters

    def product(v):
        ends = []
        for sign in (1, -1):
            model.flat_parameters = theta + sign * 1e-5 * v
            model.zero_grad()
            trainer.backward(x, target)
            ends.append(model.flat_gradients)
        return (ends[0] - ends[1]) / 2e-5

    size = model.num_parameters
    found = tw.curvature.top_eigenvalues(product, size=size, tol=1e-6)
    dense = np.stack([product(v) for v in np.eye(size)])
    assert found.values[0] == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-5)
    model.flat_parameters = theta
    operator = tw.curvature.Operator(model, x, target, loss=trainer.loss)
    np.testing.assert_allclose(operator.dense(), dense, atol=1e-6 * np.abs(dense).max())


def recipe():
    """The function `by_construction` of the manual, with no names but those that it uses."""
    page = (Path(__file__).parent.parent / "docs" / "equations.md").read_text(encoding="utf-8")
    code = re.search(r"^>>> def by_construction.*?(?=^```)", page, re.M | re.S)[0]
    names = {"np": np, "nn": nn}
    exec(re.sub(r"^(>>>|\.\.\.) ", "", code, flags=re.M), names)
    return names["by_construction"]


def conditions(twice):
    """Some g and d of two inputs, with first derivatives and the second ones in some directions."""

    def parts(x):
        a, b = x[:, :1], x[:, 1:]
        g = np.sin(a + 2 * b), np.stack([np.cos(a + 2 * b), 2 * np.cos(a + 2 * b)])
        d = a**2 * b + 1, np.stack([2 * a * b, a**2])
        return (*g, np.stack([-g[0], -4 * g[0]])[twice]), (*d, np.stack([2 * b, 0 * b])[twice])

    return parts


@pytest.mark.parametrize(
    ("order", "twice"),
    [(1, []), ((1, 1), []), ((2, 1), [0]), ((1, 2), [1]), (2, [0, 1]), ((2, 2), [0, 1])],
)
def test_the_recipe_for_conditions_by_construction_is_right_for_any_order(order, twice, rng):
    def function(*arrays_and_target):
        arrays = arrays_and_target[:-1]
        factors = [np.cos(np.arange(a.size)).reshape(a.shape) for a in arrays]
        value = sum(float((f * a**2).sum()) for f, a in zip(factors, arrays, strict=True))
        gradients = [2 * f * a for f, a in zip(factors, arrays, strict=True)]
        return value, gradients, {"first": arrays[1].mean()}

    x = rng.standard_normal((7, 2))
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1), dtype="float64")
    loss = recipe()(function, conditions(twice), order)
    assert tw.gradcheck(model, x, x, loss=loss)
    # The derivatives of u are those of g + d N: its first ones, by differences.
    found = tw.Trainer(model, loss=loss, optimizer=optim.SGD()).evaluate(x, x)
    ends = []
    for step in np.vstack([np.eye(2), -np.eye(2)]) * 1e-5:
        (g, *_), (d, *_) = conditions(twice)(x + step)
        ends.append(g + d * model(x + step))
    assert found["first"] == pytest.approx(np.mean([ends[0] - ends[2], ends[1] - ends[3]]) / 2e-5)


def test_the_recipe_for_conditions_refuses_derivatives_that_do_not_fit(rng):
    """Second derivatives in both directions, of an order with one: no silent broadcasting."""
    x = rng.standard_normal((7, 2))
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1), dtype="float64")
    loss = recipe()(
        lambda u, du, d2u, x: (float(d2u[0].sum()), (0 * u, 0 * du, np.ones((1, 7, 1)))),
        conditions([0, 1]),
        (2, 1),
    )
    with pytest.raises(ValueError, match="broadcast"):
        tw.Trainer(model, loss=loss, optimizer=optim.SGD()).step(x, x)
