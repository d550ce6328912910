"""The model: shapes, parameters, gradients by hand, copies."""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), dtype="float64", seed=1)


def test_a_call_maps_rows_to_rows(model, rng):
    for n in (1, 2, 17, 1000):
        y = model(rng.standard_normal((n, 4)))
        assert y.shape == (n, 3)
        assert y.dtype == model.dtype == np.float64


def test_a_row_gets_the_same_output_in_any_batch(model, rng):
    x = rng.standard_normal((50, 4))
    rows = np.concatenate([model(x[i : i + 1]) for i in range(50)])
    np.testing.assert_allclose(rows, model(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_rows_have_an_output_of_no_rows(dtype):
    """As a selection may give them; there is nothing to learn from them."""
    linear = nn.Linear(6, 2)
    for layers, x in (
        ([linear], np.empty((0, 6))),
        ([linear], np.empty((0, 6), dtype)),
        ([nn.Flatten(), linear], np.empty((0, 2, 3))),
        ([nn.Embedding(5, 6), linear], []),
    ):
        model = nn.Sequential(*layers, dtype=dtype)
        for y in (model(x), model.forward(x, training=False)):
            assert (y.shape, y.dtype) == ((0, 2), dtype)
        with pytest.raises(tw.DataError, match="no rows"):
            model.forward(x)
    with pytest.raises(tw.ShapeError, match="0, 5"):
        nn.Sequential(linear)(np.empty((0, 5)))


def test_forward_gives_what_a_call_gives(model, rng):
    x = rng.standard_normal((5, 4))
    np.testing.assert_array_equal(model.forward(x), model(x))
    np.testing.assert_array_equal(model.forward(x, training=False), model(x))


def test_backward_in_evaluation_is_pytorchs(rng):
    """With running averages and without dropout: as for an action through a critic."""
    torch = pytest.importorskip("torch")
    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(30, 30), nn.LayerNorm(30), nn.Tanh(), nn.Linear(30, 2), dtype="float64",
    )  # fmt: skip
    for _ in range(3):
        model.forward(3 * rng.standard_normal((50, 4)) + 1)
    twin = tw.torch.to_torch(model).eval()
    x, g = rng.standard_normal((7, 4)), rng.standard_normal((7, 2))
    theirs = torch.tensor(x, requires_grad=True)
    out = twin(theirs)
    out.backward(torch.tensor(g))
    before = model.state_dict()
    np.testing.assert_array_equal(model.forward(x, training=False), model(x))
    dx = model.backward(g)
    np.testing.assert_allclose(dx, theirs.grad.numpy(), rtol=1e-11, atol=1e-13)
    want = np.concatenate([p.grad.numpy().ravel() for p in twin.parameters()])
    np.testing.assert_allclose(model.flat_gradients, want, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(model.backward(g, parameters=False), dx)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_backward_is_the_chain_rule(model, rng):
    x, g = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    w0, b0, w2, _ = model.state_dict().values()
    hidden = np.tanh(x @ w0.T + b0)
    back = (g @ w2) * (1 - hidden**2)

    model.forward(x)
    np.testing.assert_allclose(model.backward(g), back @ w0, rtol=0, atol=1e-14)
    expected = np.concatenate(
        [(back.T @ x).ravel(), back.sum(axis=0), (g.T @ hidden).ravel(), g.sum(axis=0)]
    )
    np.testing.assert_allclose(model.flat_gradients, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("width", [4, 300])  # transposed weights, and copies in panels
def test_backward_leaves_out_what_nobody_wants(width, norm, rng):
    x, g = rng.standard_normal((40, width)), rng.standard_normal((40, 3))
    layers = nn.Linear(width, 70), norm(70), nn.Tanh(), nn.Linear(70, 3)
    model = nn.Sequential(*layers, dtype="float64")
    model.forward(x)
    by_input, by_parameters = model.backward(g), model.flat_gradients

    model.zero_grad()
    model.forward(x)
    assert model.backward(g, inputs=False) is None
    np.testing.assert_array_equal(model.flat_gradients, by_parameters)

    model.forward(x)
    np.testing.assert_array_equal(model.backward(g, parameters=False), by_input)
    np.testing.assert_array_equal(model.flat_gradients, by_parameters)
    with pytest.raises(tw.ArgumentError, match="both False"):
        model.backward(g, parameters=False, inputs=False)


def test_gradients_add_up_until_they_are_cleared(model, rng):
    x, g = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    assert not model.flat_gradients.any()
    model.forward(x)
    model.backward(g)
    once = model.flat_gradients
    model.forward(x)
    model.backward(g)
    np.testing.assert_allclose(model.flat_gradients, 2 * once, rtol=1e-14)
    model.zero_grad()
    assert not model.flat_gradients.any()


def test_backward_without_forward_is_an_error(model):
    with pytest.raises(tw.ThalwegError, match="forward"):
        model.backward(np.ones((1, 3)))
    model(np.ones((1, 4)))  # a call remembers nothing
    with pytest.raises(tw.ThalwegError, match="forward"):
        model.backward(np.ones((1, 3)))


def test_backward_after_a_pass_that_failed_says_so(model, rng):
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.SGD(lr=0.1))
    for fail in (lambda: trainer.step(x, np.nan * y), lambda: model.forward(np.nan * x)):
        model.forward(x)
        with pytest.raises(tw.DataError):
            fail()
        with pytest.raises(tw.ArgumentError, match="a step or a forward pass that failed since"):
            model.backward(y)


def test_backward_after_the_parameters_changed_is_an_error(model, rng):
    """What `forward` remembered belongs to other parameters: the gradient would be of neither."""
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=tw.optim.SGD(lr=0.1))
    for change in (
        lambda: setattr(model, "flat_parameters", model.flat_parameters),
        lambda: model.load_state_dict(model.state_dict()),
        lambda: trainer.step(x, y),
        lambda: trainer.fit(x, y),
        lambda: tw.optim.SGD(lr=0.1).step(model),
    ):
        model.forward(x)
        change()
        with pytest.raises(tw.ThalwegError, match="forward"):
            model.backward(y)


def test_backward_of_another_shape_is_an_error(model):
    model.forward(np.ones((2, 4)))
    with pytest.raises(tw.ShapeError, match=r"\(2, 4\)[\s\S]*\(2, 3\)|\(2, 3\)[\s\S]*\(2, 4\)"):
        model.backward(np.ones((2, 4)))
    assert not model.flat_gradients.any()


def test_flat_arrays_are_copies_that_can_be_assigned(model):
    before = model.flat_parameters
    before_copy = before.copy()
    before += 1
    np.testing.assert_array_equal(model.flat_parameters, before_copy)
    model.flat_parameters += 1
    np.testing.assert_array_equal(model.flat_parameters, before)
    model.flat_gradients = np.arange(model.num_parameters)
    model.flat_gradients *= 2
    np.testing.assert_array_equal(model.flat_gradients, 2.0 * np.arange(model.num_parameters))


def test_a_step_of_gradient_descent_by_hand_lowers_the_loss(model, rng):
    x, t = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))

    def loss():
        return ((model(x) - t) ** 2).mean()

    before = loss()
    model.backward(2 * (model.forward(x) - t) / t.size)
    model.flat_parameters -= 0.1 * model.flat_gradients
    assert loss() < before


def test_the_state_dict_has_names_and_shapes_in_the_flat_order(model):
    state = model.state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "0.weight": (6, 4),
        "0.bias": (6,),
        "2.weight": (3, 6),
        "2.bias": (3,),
    }
    flat = np.concatenate([array.ravel() for array in state.values()])
    np.testing.assert_array_equal(flat, model.flat_parameters)
    assert model.num_parameters == flat.size == 51


def test_a_flat_array_has_parts_by_name(model):
    flat = model.flat_parameters
    parts = model.unflatten(flat)
    for name, array in parts.items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
        assert np.shares_memory(array, flat)
    rows = model.unflatten(np.stack([flat, 2 * flat]))
    for name, array in rows.items():
        np.testing.assert_array_equal(array, [parts[name], 2 * parts[name]])
    column = np.asfortranarray(np.stack([flat, flat]).T)[:, 1]
    assert all(np.shares_memory(part, column) for part in model.unflatten(column).values())
    for bad in (flat[1:], flat[:, None], 1.0):
        with pytest.raises(tw.ShapeError, match=rf"values.*{model.num_parameters} parameters"):
            model.unflatten(bad)
    with pytest.raises(tw.DtypeError, match="values"):
        model.unflatten(["a"] * model.num_parameters)


def test_the_state_dict_holds_copies(model):
    before = model.flat_parameters
    for array in model.state_dict().values():
        array += 1
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_a_state_dict_moves_a_model_into_another(model, rng):
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), dtype="float64", seed=2)
    x = rng.standard_normal((5, 4))
    assert not np.array_equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(x), model(x))


def test_a_state_dict_may_have_any_order_dtype_and_memory_order(model):
    state = {name: np.asfortranarray(a) for name, a in reversed(model.state_dict().items())}
    single = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), seed=2)
    single.load_state_dict(state)
    np.testing.assert_array_equal(single.flat_parameters, model.flat_parameters.astype(np.float32))


def test_seeds_give_models(model):
    def parameters(seed):
        return nn.Sequential(nn.Linear(4, 6), seed=seed).flat_parameters

    np.testing.assert_array_equal(parameters(7), parameters(7))
    assert not np.array_equal(parameters(7), parameters(8))
    assert not np.array_equal(parameters(0), parameters(2**64 - 1))


def test_a_model_of_one_seed_is_the_same_in_both_precisions():
    double = nn.Sequential(nn.Linear(40, 60), dtype="float64", seed=4).flat_parameters
    single = nn.Sequential(nn.Linear(40, 60), dtype="float32", seed=4).flat_parameters
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_equal_and_independent(duplicate, model, rng):
    x = rng.standard_normal((5, 4))
    model.flat_parameters = rng.standard_normal(model.num_parameters)
    other = duplicate(model)
    assert repr(other) == repr(model)
    np.testing.assert_array_equal(other(x), model(x))
    before = model.flat_parameters
    other.flat_parameters = np.zeros(other.num_parameters)
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_a_pickle_of_an_unknown_version_is_refused(model):
    state = model.__getstate__()
    state["version"] = 99
    with pytest.raises(tw.UnsupportedError, match="99"):
        nn.Sequential.__new__(nn.Sequential).__setstate__(state)


def test_astype_changes_the_precision_of_a_copy(model, rng):
    single = model.astype("float32")
    assert single.dtype == np.float32
    assert model.dtype == np.float64
    np.testing.assert_array_equal(single.flat_parameters, model.flat_parameters.astype(np.float32))
    x = rng.standard_normal((5, 4))
    np.testing.assert_allclose(single(x), model(x), rtol=1e-5, atol=1e-6)
    assert single(x).dtype == np.float32


def test_dtype_takes_names_and_numpy_types():
    for dtype in ("float64", np.float64, np.dtype("float64")):
        assert nn.Sequential(nn.Linear(1, 1), dtype=dtype).dtype == np.float64


def test_a_layer_used_twice_has_two_sets_of_parameters():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    first, _, second, _ = model.state_dict().values()
    assert model.num_parameters == 24
    assert not np.array_equal(first, second)


def test_activations_may_come_first_and_several_at_once():
    model = nn.Sequential(
        nn.ReLU(), nn.Identity(), nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Tanh()
    )
    model.load_state_dict({"2.weight": -np.eye(3)})
    assert (model.in_features, model.out_features) == (3, 3)
    assert not model([[-1, 2, 3]]).any()
    model.load_state_dict({"2.weight": np.eye(3)})
    np.testing.assert_allclose(model([[-1, 2, 3]]), [[0, np.tanh(2), np.tanh(3)]], rtol=1e-6)


def test_the_representation_and_summary_show_all_layers(model):
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=4, out_features=6, bias=True)\n"
        "  (1): Tanh()\n"
        "  (2): Linear(in_features=6, out_features=3, bias=True)\n"
        "  dtype=float64, seed=1\n"
        ")"
    )
    lines = model.summary().splitlines()
    assert len(lines) == 5
    assert lines[1].split()[-3:] == ["(n,", "6)", "30"]
    assert lines[3].split()[-3:] == ["(n,", "3)", "21"]
    assert lines[4] == "total: 51 parameters, float64"
    assert len(model) == 3
    assert model[1] == nn.Tanh()
    assert (model.in_features, model.out_features) == (4, 3)
    edges = {0: list(range(300))}
    long = nn.Sequential(nn.TabularInput(1, pieces=edges), nn.Linear(299, 1)).summary()
    assert max(map(len, long.splitlines())) < 120
    assert "...)  (n, 299)" in long


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_slice_is_a_model_of_these_layers(dtype, rng):
    """With their numbers, running averages and dtype; nothing is shared."""
    block = nn.Residual(nn.Linear(8, 8), nn.Dropout(0.3))
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), block, nn.Linear(8, 3)
    model = nn.Sequential(*layers, dtype=dtype, seed=3)
    x = rng.standard_normal((20, 5)).astype(dtype)
    model.forward(3 * x + 1)  # running averages of its own
    first, last = model[:-3], model[2:]
    assert type(first) is type(last) is nn.Sequential
    assert (first.layers, last.layers) == (layers[:2], layers[2:])
    assert first.dtype == last.dtype == dtype
    np.testing.assert_allclose(last(first(x)), model(x), rtol=5 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(model[:](x), model(x))
    before = model.state_dict()
    first.flat_parameters *= 2
    first.forward(x)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_slice_that_makes_no_model_is_an_error():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    for part in (slice(3, None), slice(2, 1), slice(-3, -3)):
        with pytest.raises(tw.ArgumentError, match=r"no layers in this slice; the model has 3"):
            model[part]
    with pytest.raises(tw.ShapeError, match="its input has 3 features, expected 4"):
        model[::-1]
    raw = nn.Sequential(nn.Standardize([0], [1]), nn.Residual(nn.Linear(1, 1)), nn.ReLU())
    for wrong, part, nearest in ((model, 1, 0), (raw, 0, 1), (raw, 2, 1)):
        text = rf"layers \[{part}\] make no model, .* is a Linear: .* layer {nearest}"
        with pytest.raises(tw.ArgumentError, match=text):
            wrong[part : part + 1]
    assert len(raw[:2]) == 2


def test_arrays_of_another_head_say_how_the_rest_is_set():
    body = nn.Linear(3, 4), nn.Tanh()
    model, other = nn.Sequential(*body, nn.Linear(4, 2)), nn.Sequential(*body, seed=1)
    with pytest.raises(
        tw.ArgumentError, match=r"\['2\.weight', '2\.bias'\], unexpected none; .*only some$"
    ):
        model.load_state_dict(other.state_dict())
    head = model.state_dict()["2.weight"]
    model.load_state_dict(model.state_dict() | other.state_dict())
    np.testing.assert_array_equal(model.state_dict()["0.weight"], other.state_dict()["0.weight"])
    np.testing.assert_array_equal(model.state_dict()["2.weight"], head)
    with pytest.raises(tw.ArgumentError, match=r"unexpected \['2\.weight', '2\.bias'\]$"):
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_follows_another(dtype, rng):
    def make(seed):
        layers = nn.Linear(5, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 3)
        model = nn.Sequential(*layers, dtype=dtype, seed=seed)
        model.forward(rng.standard_normal((20, 5)) * (1 + seed))  # averages of its own
        return model

    target, critic = make(0), make(1)
    before, goal = target.state_dict(), critic.state_dict()
    target.follow(critic, 0.25)
    for name, values in target.state_dict().items():
        want = 0.75 * before[name] + 0.25 * goal[name]
        np.testing.assert_allclose(values, want, rtol=1e-6 if dtype == "float32" else 1e-14)
    target.follow(target, 0.5)
    target.follow(critic)
    for name, values in target.state_dict().items():
        np.testing.assert_array_equal(values, goal[name], err_msg="all of the way is a copy")
    x = rng.standard_normal((7, 5))
    np.testing.assert_array_equal(target(x), critic(x))


def test_a_model_that_diverged_is_followed_by_none():
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    target, critic = (nn.Sequential(*layers, seed=seed) for seed in (0, 1))
    before = target.state_dict()
    trainer = tw.Trainer(critic, loss=nn.MSELoss(), optimizer=optim.SGD(lr=3e38))
    trainer.step(np.arange(12.0).reshape(4, 3), np.full((4, 2), 1e9))
    assert not np.isfinite(critic.flat_parameters).all()
    for tau in (0.5, 1.0):
        with pytest.raises(tw.DivergedError, match=r"model to follow holds -?(nan|inf) in \d\.\w+"):
            target.follow(critic, tau)
    for name, values in target.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_model_that_diverged_follows_another_back():
    """A copy is exact, whatever was there; NaN would stay in (1 - tau) θ."""
    broken, healthy = (nn.Sequential(nn.Linear(3, 2), seed=seed) for seed in (0, 1))
    trainer = tw.Trainer(broken, loss=nn.MSELoss(), optimizer=optim.SGD(lr=3e38))
    trainer.step(np.arange(12.0).reshape(4, 3), np.full((4, 2), 1e9))
    assert not np.isfinite(broken.flat_parameters).all()
    before = broken.flat_parameters
    broken.follow(healthy, 0.0)
    np.testing.assert_array_equal(broken.flat_parameters, before)
    broken.follow(healthy)
    np.testing.assert_array_equal(broken.flat_parameters, healthy.flat_parameters)


def test_a_model_follows_none_of_other_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), seed=0)
    before = model.flat_parameters
    wider = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))
    deeper = nn.Sequential(*model.layers, nn.Tanh(), nn.Linear(2, 2))
    double = nn.Sequential(*model.layers, dtype="float64")
    averaged = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    with pytest.raises(tw.ArgumentError, match=r"2\.weight of shape \(2, 4\).* \(5, 4\)"):
        model.follow(wider, 0.5)
    with pytest.raises(tw.ArgumentError, match=r"no more, where .* 1\.running_mean .* \(4,\)"):
        model.follow(averaged, 0.5)
    with pytest.raises(tw.ArgumentError, match=r"no more, where the other has 4\.weight"):
        model.follow(deeper, 0.5)
    with pytest.raises(
        tw.ArgumentError, match=r'this one has float32, the other float64.*astype\("float64"\)'
    ):
        model.follow(double, 0.5)
    for tau in (-0.1, 1.5, float("nan"), "0.5"):
        with pytest.raises(tw.ArgumentError, match="tau"):
            model.follow(model, tau)
    with pytest.raises(tw.ArgumentError, match="only follow another"):
        model.follow(before)
    np.testing.assert_array_equal(model.flat_parameters, before)
