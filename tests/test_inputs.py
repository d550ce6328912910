"""Layers for inputs of other kinds: Embedding, Flatten, FourierFeatures, Standardize, tables."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

# --- beside PyTorch -----------------------------------------------------------------------------


def fourier_twin(torch, model, x):
    """The same in PyTorch: the output for x, with all parameters as leaves."""
    state = model.state_dict()
    leaves = {k: torch.tensor(v, requires_grad="frequencies" not in k) for k, v in state.items()}

    def f(x):
        z = 2 * np.pi * x @ leaves["0.frequencies"]
        h = torch.cat([z.sin(), z.cos()], dim=1)
        return torch.tanh(h @ leaves["1.weight"].T + leaves["1.bias"]) @ leaves["3.weight"].T

    return f, leaves


def scales_twin(torch, model, x):
    leaves = {
        k: torch.tensor(v, requires_grad=not k.startswith("0."))
        for k, v in model.state_dict().items()
    }

    def f(x):
        mean, std = leaves["0.mean"], leaves["0.std"]
        h = x * std + mean if model.layers[0].inverse else (x - mean) / std
        return torch.tanh(h @ leaves["1.weight"].T + leaves["1.bias"]) @ leaves["3.weight"].T

    return f, leaves


def tabular_twin(torch, model, x):
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in model.state_dict().items()}

    def f(x):
        codes = x.long()
        h = torch.cat(
            [
                x[:, [0, 2]],
                torch.nn.functional.embedding(codes[:, 1], leaves["0.1.weight"]),
                torch.nn.functional.embedding(codes[:, 3], leaves["0.3.weight"]),
            ],
            dim=1,
        )
        return torch.tanh(h @ leaves["1.weight"].T + leaves["1.bias"]) @ leaves["3.weight"].T

    return f, leaves


def embedding_twin(torch, model, x):
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in model.state_dict().items()}

    def f(x):
        h = torch.nn.functional.embedding(x[:, 0].long(), leaves["0.weight"])
        h = h + 0 * x  # so that there is a gradient of the codes
        return torch.tanh(h @ leaves["1.weight"].T + leaves["1.bias"]) @ leaves["3.weight"].T

    return f, leaves


EDGES = {0: [-1, -0.2, 0.3, 1.5], 2: [0, 0.5]}


def pieces_twin(torch, model, x):
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in model.state_dict().items()}

    def spread(x, edges):
        b = torch.tensor(edges, dtype=x.dtype)
        y = (x[:, None] - b[:-1]) / (b[1:] - b[:-1])
        last = len(edges) - 2
        inner = [
            y[:, t].clamp(0 if t else -np.inf, 1 if t < last else np.inf) for t in range(last + 1)
        ]
        return torch.stack(inner, dim=1)

    def f(x):
        vector = torch.nn.functional.embedding(x[:, 1].long(), leaves["0.1.weight"])
        h = torch.cat(
            [spread(x[:, 0], EDGES[0]), spread(x[:, 2], EDGES[2]), x[:, 3:], vector], dim=1
        )
        return torch.tanh(h @ leaves["1.weight"].T + leaves["1.bias"]) @ leaves["3.weight"].T

    return f, leaves


def coded(rng, n):
    """Rows of three numbers and a code."""
    x = rng.standard_normal((n, 4))
    x[:, 1] = rng.integers(0, 3, n)
    return x


def numbers(rng, n):
    return rng.standard_normal((n, 3))


def raw(rng, n):
    """Numbers of quite different sizes."""
    return rng.standard_normal((n, 3)) * [2, 1e3, 0.3] + [3, -2e3, 0]


def codes(rng, n):
    """A column of codes, of which the last does not occur."""
    return rng.integers(0, 20, (n, 1)).astype(float)


def mixed(rng, n):
    """Rows of two numbers and two codes; the last code of each column does not occur."""
    x = rng.standard_normal((n, 4))
    x[:, 1], x[:, 3] = rng.integers(0, 4, n), rng.integers(0, 36, n)
    return x


# (layers, their twin, inputs)
CASES = {
    "Gaussian": (nn.FourierFeatures(3, 21, sigma=2), fourier_twin, numbers),
    "few": (nn.FourierFeatures(3, 1), fourier_twin, numbers),
    "bands": (nn.FourierFeatures(3, bands=[0.5, 1, 2, 4, 8]), fourier_twin, numbers),
    "scales": (nn.Standardize([3, -2e3, 0], [2, 1e3, 0.3]), scales_twin, raw),
    "scales back": (nn.Standardize([3, -2, 0], [2, 1, 0.3], inverse=True), scales_twin, numbers),
    "table": (nn.TabularInput(4, {1: (5, 3), 3: (37, 2)}), tabular_twin, mixed),
    "embedding": (nn.Embedding(21, 5), embedding_twin, codes),
    "pieces": (nn.TabularInput(4, {1: (3, 2)}, pieces=EDGES), pieces_twin, coded),
}


def network(layer, dtype="float64"):
    layers = layer, nn.Linear(layer.out_features, 7), nn.Tanh(), nn.Linear(7, 2, bias=False)
    return nn.Sequential(*layers, dtype=dtype, seed=4)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_pytorchs(case, rng):
    torch = pytest.importorskip("torch")
    layer, make, draw = CASES[case]
    model, x = network(layer), draw(rng, 150)
    f, leaves = make(torch, model, x)
    theirs = torch.tensor(x, requires_grad=True)
    out, slope = f(theirs), rng.standard_normal((150, 2))
    out.backward(torch.tensor(slope))
    np.testing.assert_allclose(model(x), out.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(model.forward(x), out.detach().numpy(), rtol=1e-12, atol=1e-13)
    for times in (1, 2):  # gradients add up
        np.testing.assert_allclose(
            model.backward(slope), theirs.grad.numpy(), rtol=1e-12, atol=1e-12
        )
        trained = [leaf.grad.numpy().ravel() for leaf in leaves.values() if leaf.requires_grad]
        expected = times * np.concatenate(trained)
        np.testing.assert_allclose(model.flat_gradients, expected, rtol=1e-12, atol=1e-12)
        model.forward(x)


@pytest.mark.parametrize("clip", [None, 0.05], ids=["fused", "clipped"])
@pytest.mark.parametrize("case", CASES)
def test_training_is_pytorchs(case, clip, rng):
    torch = pytest.importorskip("torch")
    layer, make, draw = CASES[case]
    model, x, y = network(layer), draw(rng, 150), rng.standard_normal((150, 2))
    f, leaves = make(torch, model, x)
    trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
    theirs = torch.optim.Adam(trained, lr=0.01)
    ours = optim.Adam(lr=0.01)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=ours, clip_grad_norm=clip)
    for start in range(0, 150, 15):
        rows = slice(start, start + 15)
        theirs.zero_grad()
        loss = torch.nn.functional.mse_loss(f(torch.tensor(x[rows])), torch.tensor(y[rows]))
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, clip)
        theirs.step()
        assert trainer.step(x[rows], y[rows]) == pytest.approx(loss.item(), rel=1e-11)
    for name, values in model.state_dict().items():
        # Adam divides by the size of gradients, be they as small as rounding errors.
        np.testing.assert_allclose(values, leaves[name].detach().numpy(), rtol=1e-9, atol=1e-10)


# --- by themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_fits_are_the_same_for_any_number_of_threads(case, rng):
    layer, _, draw = CASES[case]
    x = draw(rng, 1000).astype(np.float32)
    y = rng.standard_normal((1000, 2)).astype(np.float32)
    results, before = [], tw.get_num_threads()
    try:
        for threads in (1, 2, 4):
            tw.set_num_threads(threads)
            model = network(layer, "float32")
            trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.AdamW(lr=0.01))
            history = trainer.fit(x, y, epochs=2, batch_size=300, validation_data=(x[:9], y[:9]))
            assert history["loss"][1] < history["loss"][0]
            results.append(model.flat_parameters)
    finally:
        tw.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("case", CASES)
def test_models_come_back_from_files_pickles_and_copies(case, rng, tmp_path):
    layer, _, draw = CASES[case]
    assert eval(repr(layer), vars(nn)) == layer
    assert hash(pickle.loads(pickle.dumps(layer))) == hash(layer)
    model, x = network(layer, "float32"), draw(rng, 9)
    model.save(tmp_path / "model.safetensors")
    for again in (
        nn.Sequential.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        model.fold(),
    ):
        assert again.layers == model.layers
        np.testing.assert_array_equal(again(x), model(x))
    np.testing.assert_allclose(model.astype("float64")(x), model(x), rtol=1e-4, atol=1e-5)
    assert f"(n, {layer.out_features})" in model.summary()


def test_scales_are_taken_from_data(rng):
    """As scikit-learn's: population deviations, 1 for what does not vary."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = np.column_stack([rng.normal(5, 3, 200), rng.normal(-1e3, 1e-2, 200), np.full(200, 0.1)])
    theirs, layer = preprocessing.StandardScaler().fit(x), nn.Standardize.of(x)
    np.testing.assert_allclose(layer.mean, theirs.mean_, rtol=1e-14)
    np.testing.assert_allclose(layer.std, theirs.scale_, rtol=1e-10)
    assert layer.std[2] == 1
    back = nn.Standardize(layer.mean, layer.std, inverse=True)
    nothing = nn.Linear(3, 3, bias=False)
    for layers, expected in (((), theirs.transform(x)), ((back,), x)):  # there, and back again
        model = nn.Sequential(layer, nothing, *layers, dtype="float64")
        model.load_state_dict(model.state_dict() | {"1.weight": np.eye(3)})
        np.testing.assert_allclose(model(x), expected, rtol=1e-10, atol=1e-10)
    assert nn.Standardize.of(x[:, 0]).in_features == 1
    wide = nn.Standardize.of(x, width=5)
    assert (wide.mean[:3], wide.mean[3:], wide.std[3:]) == (layer.mean, (0, 0), (1, 1))


def test_log_variances_and_quantiles_have_units_too(rng):
    """In units of the targets, densities are divided by σ, and pinball losses multiplied by it."""
    y = rng.normal([1e3, -2.0], [50.0, 0.1], size=(200, 2))
    back = nn.Standardize.of(y, inverse=True)
    mean, std = np.array(back.mean), np.array(back.std)
    scaled, x = (y - mean) / std, rng.standard_normal((200, 3))

    def raw(layer):
        """The outputs on the common scale, and those in units of the targets."""
        net = nn.Sequential(nn.Linear(3, layer.in_features), dtype="float64")
        model = nn.Sequential(*net.layers, layer, dtype="float64")
        model.load_state_dict(model.state_dict() | net.state_dict())
        return net(x), model(x)

    nll = nn.GaussianNLLLoss()
    scales = np.r_[mean, 2 * np.log(std)], np.r_[std, np.ones_like(std)]
    common, units = raw(nn.Standardize(*scales, inverse=True))
    assert nll(units, y) == pytest.approx(nll(common, scaled) + np.log(std).mean(), rel=1e-11)
    common, units = raw(nn.Standardize.of(y, inverse=True, width=4))  # log-variances stay as is
    assert nll(units, y) > nll(common, scaled) + np.log(std).mean() + 10

    quantiles = [0.1, 0.5, 0.9]
    common, units = raw(nn.Standardize(np.tile(mean, 3), np.tile(std, 3), inverse=True))
    for column in (0, 1):
        loss, columns = nn.QuantileLoss(quantiles), slice(column, None, 2)
        expected = std[column] * loss(common[:, columns], scaled[:, column])
        assert loss(units[:, columns], y[:, column]) == pytest.approx(expected, rel=1e-11)


def test_an_offset_in_which_a_column_drowns_is_warned_about():
    """Dates in seconds over one day: float32 numbers are 128 seconds apart."""
    day = 1.7e9 + np.linspace(0, 86_400, 4000)
    layers = nn.Standardize.of(np.stack([day - day[0], day], axis=1)), nn.Linear(2, 1)
    seen = np.unique(day.astype(np.float32))
    assert len(seen) < 4000 / 5
    nn.Sequential(*layers, dtype="float64")
    with pytest.warns(UserWarning, match=r"column 1 has a mean of 1.70004e\+09 .* are 128 apart"):
        nn.Sequential(*layers)
    # Nothing is lost of numbers from 0 on, of whole ones below 2^24, nor of a column with only one.
    for column in (day % 86_400, 1e6 + np.arange(50), np.full(50, 3e7)):
        nn.Sequential(nn.Standardize.of(column), nn.Linear(1, 1))


@pytest.mark.parametrize("rows", [1, 2, 16_384, 16_385, 40_000])
def test_moments_are_those_of_more_precision_however_many_rows_are_read_at_a_time(rows, rng):
    """Columns with an offset, a trend, a constant, and one that varies only in the last row."""
    x = rng.standard_normal((rows, 5))
    x[:, 1] = 1e6 + 1e-3 * x[:, 1]
    x[:, 2] = 1e9 * np.arange(rows)
    x[:, 3] = 0.1
    x[:, 4] = np.arange(rows) == rows - 1
    wide = x.astype(np.longdouble)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    std[(x == x[0]).all(axis=0)] = 1
    layer = nn.Standardize.of(x)
    np.testing.assert_allclose(layer.mean, mean.astype(float), rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(layer.std, std.astype(float), rtol=1e-12)
    np.testing.assert_array_equal(nn.Standardize.of(x[:, 1]).mean, layer.mean[1:2])


def test_moments_of_a_memory_map_do_not_need_its_size_in_memory(tmp_path, rng):
    x = np.memmap(tmp_path / "x", np.float16, "w+", shape=(400_000, 8))
    x[:] = rng.standard_normal(x.shape)
    tracemalloc.start()
    try:
        nn.Standardize.of(x)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < x.nbytes  # in double precision, it would be four times as much
    x[300_000, 2] = np.inf
    with pytest.raises(tw.DataError, match=r"x\[300000, 2\] is inf"):
        nn.Standardize.of(x)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.Standardize([np.nan], [1]), tw.DataError, r"mean\[0\] is nan"),
        (
            lambda: nn.Standardize(np.ma.masked_equal([0, 9, 9], 9), [1, 1, 1]),
            tw.DataError,
            r"^Standardize: mean has 2 masked entries; .* with mean\.filled\(0\)$",
        ),
        (lambda: nn.Standardize(["a"], [1]), tw.DtypeError, "^Standardize: mean has dtype"),
        (lambda: nn.Standardize([0], [1, 1]), tw.ShapeError, r"shapes \(1,\) and \(2,\)"),
        (lambda: nn.Standardize([[1]], [1]), tw.ShapeError, r"mean must have .*; got \(1, 1\)$"),
        (
            lambda: nn.Standardize(0.5, 2),
            tw.ShapeError,
            r"mean must have shape \(columns,\).*; got \(\)\. .*pass np\.full\(columns, 0\.5\)",
        ),
        (lambda: nn.Standardize([0], variance=[1]), TypeError, "it is std"),
        (lambda: nn.Standardize.of(np.zeros((0, 3))), tw.ShapeError, r"got \(0, 3\)"),
        (lambda: nn.Standardize.of([[1], [np.nan]]), tw.DataError, r"x\[1, 0\] is nan"),
        (lambda: nn.Standardize.of([["Rome"]]), tw.DtypeError, "encode text as numbers"),
        (
            lambda: nn.Sequential(nn.Standardize([0], [1e-42]), nn.Linear(1, 1)),
            tw.ArgumentError,
            "std is 1e-42 .* not finite in float32: use other units, or float64",
        ),
        (
            lambda: nn.Sequential(nn.Standardize([0, 0], [1, 1]), nn.Linear(3, 1)),
            tw.ShapeError,
            r"layer 1 \(Linear 3→1\).* 2 features, expected 3",
        ),
    ],
)
def test_scales_that_cannot_be_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_scales_leave_raw_columns_as_easy_to_learn_as_standardized_ones(rng):
    z = rng.standard_normal((200, 3))
    x, y = z * [2, 1e3, 0.3] + [3, -2e3, 0], np.sin(z[:, :1])
    plain = nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)
    losses = []
    for layers, inputs in (
        ((nn.Standardize.of(x), *plain), x),
        (plain, (x - x.mean(0)) / x.std(0)),
    ):
        model = nn.Sequential(*layers, dtype="float64", seed=0)
        state = nn.Sequential(*plain, dtype="float64", seed=0).state_dict()
        first = len(layers) - len(plain)
        names = {f"{int(k[0]) + first}{k[1:]}": v for k, v in state.items()}
        model.load_state_dict(model.state_dict() | names)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(0.1))
        losses.append(trainer.fit(inputs, y, epochs=20, shuffle=False)["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)


def test_scales_that_are_loaded_count(rng):
    model, x = network(nn.Standardize([0, 0, 0], [1, 1, 1])), rng.standard_normal((5, 3))
    plain, state = model(x), model.state_dict()
    model.load_state_dict(state | {"0.mean": [1, 2, 3], "0.std": [2, 4, 0.5]})
    np.testing.assert_allclose(model(x * [2, 4, 0.5] + [1, 2, 3]), plain, rtol=1e-12)
    for wrong in ([1, 0, 1], [1, -1, 1], [1, 1e-310, 1]):
        before = model.state_dict()
        with pytest.raises(tw.ArgumentError, match=r"0\.std holds a number that is not > 0"):
            model.load_state_dict(state | {"0.std": wrong})
        np.testing.assert_array_equal(model.state_dict()["0.std"], before["0.std"])
        np.testing.assert_array_equal(model.state_dict()["0.mean"], before["0.mean"])


def test_layers_have_the_scales_that_were_loaded(rng, tmp_path):
    """However they came into the model, another one made of its layers has them."""
    given = nn.Standardize([0.1, 0.2], [0.3, 0.4])
    make = lambda: nn.Sequential(nn.Linear(1, 2), nn.Residual(given, nn.Linear(2, 2)), given)  # noqa: E731
    model, target = make(), make()
    assert model.layers == make().layers == nn.Sequential(*model.layers).layers  # as given: 0.1
    now = {"1.0.mean": [5, 6], "1.0.std": [7, 8], "2.std": [9, 10]}
    model.load_state_dict(model.state_dict() | now)
    block, last = nn.Residual(nn.Standardize([5, 6], [7, 8]), nn.Linear(2, 2)), model[2]
    assert model.layers[1] == block
    assert last == nn.Standardize(given.mean, [9, 10])  # only what is new
    assert "std=[9.0, 10.0]" in repr(model)
    assert "std=[9.0, 10.0]" in model.summary()
    target.follow(model, 0.5)
    assert target.layers[1].layers[0].mean == tuple(np.float32([5.1, 6.2]) / 2)
    model.save(tmp_path / "model")
    for other in (nn.Sequential.load(tmp_path / "model"), copy.deepcopy(model), model.fold()):
        assert other.layers == model.layers
    twin, x = nn.Sequential(*model.layers), rng.standard_normal((5, 1))
    twin.flat_parameters = model.flat_parameters
    np.testing.assert_array_equal(twin(x), model(x))


def test_scales_of_a_derived_class_that_are_loaded_keep_it():
    class OfRows(nn.Standardize):
        def __init__(self, rows):
            super().__init__(np.mean(rows, axis=0), np.std(rows, axis=0))

    model = nn.Sequential(OfRows([[1, 2], [3, 6]]), nn.Linear(2, 1))
    model.load_state_dict(model.state_dict() | {"0.mean": [7, 8]})
    assert isinstance(model[0], OfRows)
    assert (model[0].mean, model[0].std) == ((7, 8), (1, 2))


def test_frequencies_are_drawn_from_the_seed_and_not_trained(rng):
    make = lambda seed: nn.Sequential(  # noqa: E731
        nn.FourierFeatures(2, 5000, sigma=3), nn.Linear(10000, 1), seed=seed
    )
    model = make(1)
    drawn = model.state_dict()["0.frequencies"]
    assert drawn.shape == (2, 5000)
    assert abs(drawn.std() / 3 - 1) < 5 / np.sqrt(2 * drawn.size)  # five standard errors
    assert abs(drawn.mean()) < 5 * 3 / np.sqrt(drawn.size)
    np.testing.assert_array_equal(make(1).state_dict()["0.frequencies"], drawn)
    assert (make(2).state_dict()["0.frequencies"] != drawn).all()
    assert model.num_parameters == 10001
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    trainer.fit(rng.uniform(size=(20, 2)), np.ones((20, 1)))
    np.testing.assert_array_equal(model.state_dict()["0.frequencies"], drawn)


def test_bands_are_along_the_axes():
    model = nn.Sequential(nn.FourierFeatures(2, bands=[1, 3]), nn.Linear(8, 1))
    np.testing.assert_array_equal(model.state_dict()["0.frequencies"], [[1, 3, 0, 0], [0, 0, 1, 3]])


def test_features_of_fourier_stand_anywhere(rng):
    """Inside a block, behind a layer and before a normalization; by differences."""
    block = nn.Residual(nn.FourierFeatures(4, 8, sigma=0.2), nn.Linear(16, 4))
    layers = nn.Linear(3, 4), nn.Tanh(), block, nn.FourierFeatures(4, 3), nn.ReLU(), nn.Linear(6, 2)
    model = nn.Sequential(*layers, dtype="float64")
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    assert tw.gradcheck(model, x, y, loss=nn.MSELoss()).passed
    batch = nn.Sequential(
        nn.FourierFeatures(3, 4, sigma=0.3), nn.BatchNorm1d(8), nn.Linear(8, 2), dtype="float64"
    )
    assert tw.gradcheck(batch, x, y, loss=nn.MSELoss()).passed
    grad, h = rng.standard_normal((9, 2)), 1e-5
    model.forward(x)
    slope = model.backward(grad)
    for i, j in [(0, 0), (3, 1), (8, 2)]:
        moved = [x.copy(), x.copy()]
        moved[0][i, j] += h
        moved[1][i, j] -= h
        numeric = ((model(moved[0]) - model(moved[1])) * grad).sum() / (2 * h)
        assert slope[i, j] == pytest.approx(numeric, rel=1e-6, abs=1e-8)


def test_only_codes_that_occur_have_a_gradient(rng):
    model = network(CASES["table"][0])
    x = mixed(rng, 30)
    model.forward(x)
    slope = model.backward(rng.standard_normal((30, 2)))
    assert (slope[:, [1, 3]] == 0).all()
    assert (slope[:, [0, 2]] != 0).all()
    rows = model.flat_gradients[15 : 15 + 37 * 2].reshape(37, 2)
    occur = np.isin(np.arange(37), x[:, 3])
    assert (rows[~occur] == 0).all()
    assert (rows[occur] != 0).all()


def test_edges_lie_where_pieces_hold_equally_many(rng):
    x = rng.exponential(size=1001)
    edges = nn.utils.quantile_edges(x, 10)
    counts, _ = np.histogram(x, edges)
    assert len(edges) == 11
    assert (abs(counts - 100) <= 1).all()
    assert (edges[0], edges[-1]) == pytest.approx((x.min(), x.max()), rel=1e-6)
    # Half of the samples are 0: pieces that would have no width are left out.
    edges = nn.utils.quantile_edges(np.maximum(rng.standard_normal(1000), 0), 10)
    assert edges[0] == 0
    assert (np.diff(edges) > 0).all()
    assert len(edges) == 6
    for column, message in (
        ([1, 1], "equal"),
        ([], "equal"),
        ([[1, 2]], "shape"),
        ([1, np.nan], "1 that"),
        ([0, 1e300], r"column\[1\] = 1e\+300 is too large for float32"),
        (
            1.7e9 + np.array([0, 1, 2, 30]),
            "all 4 .* equal in float32: subtract their common offset",
        ),
    ):
        with pytest.raises(tw.DataError, match=message):
            nn.utils.quantile_edges(column)
    with pytest.raises(tw.ShapeError, match="column cannot be made an array"):
        nn.utils.quantile_edges([[1, 2], [3]])
    with pytest.raises(tw.ArgumentError, match="dtype must be one of"):
        nn.utils.quantile_edges(x, dtype="int64")


def test_edges_are_as_fine_as_the_dtype_of_the_model():
    seconds = 1.7e9 + np.array([0.0, 1.0, 2.0, 30.0])
    edges = nn.utils.quantile_edges(seconds, 3, dtype="float64")
    assert edges == seconds.tolist()
    table = nn.TabularInput(1, pieces={0: edges})
    model = nn.Sequential(table, nn.Linear(3, 1, bias=False), dtype="float64")
    model.flat_parameters = [1.0, 10.0, 100.0]
    np.testing.assert_allclose(model(seconds[:, None]).ravel(), [0, 1, 11, 111], rtol=1e-12)
    with pytest.raises(tw.ArgumentError, match="increase in float32"):
        model.astype("float32")


def test_pieces_learn_a_jump_that_plain_numbers_do_not(rng):
    x = rng.uniform(-1, 1, (2000, 1)).astype(np.float32)
    y = np.sin(12 * x) + (x > 0.2)
    losses = []
    for pieces in ({}, {0: nn.utils.quantile_edges(x[:, 0], 32)}):
        table = nn.TabularInput(1, pieces=pieces)
        model = nn.Sequential(table, nn.Linear(table.out_features, 1), seed=0)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=0.02))
        losses.append(trainer.fit(x, y, epochs=30)["loss"][-1])
    assert losses[1] < 0.05 * losses[0]


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_codes_may_be_of_any_dtype(dtype):
    model = nn.Sequential(nn.TabularInput(2, {0: (3, 2), 1: (4, 1)}), nn.Linear(3, 1))
    x = np.array([[0, 3], [2, 1], [1, 0]])
    tables = model.state_dict()["0.0.weight"], model.state_dict()["0.1.weight"]
    rows = np.hstack([tables[0][x[:, 0]], tables[1][x[:, 1]]])
    weight, bias = model.state_dict()["1.weight"], model.state_dict()["1.bias"]
    np.testing.assert_allclose(model(x.astype(dtype)), rows @ weight.T + bias, rtol=1e-5)


@pytest.mark.parametrize("bad", [7.0, -1.0, 1.5, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_code_changes_nothing(dtype, bad):
    model = nn.Sequential(nn.TabularInput(3, {1: (7, 2)}), nn.Linear(4, 1), dtype=dtype)
    before = model.flat_parameters
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    x = np.zeros((9, 3))
    x[5, 1] = bad
    y = np.ones((9, 1))
    for call in (
        lambda: trainer.fit(x, y, batch_size=2),
        lambda: trainer.step(x, y),
        lambda: trainer.evaluate(x, y),
        lambda: model(x),
        lambda: model.forward(x),
        lambda: trainer.fit(x[:5], y[:5], validation_data=(x, y)),
    ):
        with pytest.raises(tw.DataError, match=r"x\[5, 1\] is .* codes must be .* from 0 to 6"):
            call()
    np.testing.assert_array_equal(model.flat_parameters, before)


# --- Flatten ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_flatten_is_a_reshape(dtype, rng):
    images = rng.integers(0, 255, (20, 3, 4, 5)).astype(dtype)
    rows, labels = images.reshape(20, -1), np.arange(20) % 3
    plain = nn.Linear(60, 3, init="xavier_normal")
    flat = nn.Sequential(nn.Flatten(), plain)
    straight = nn.Sequential(nn.Identity(), plain)  # so that weights are drawn alike
    np.testing.assert_array_equal(flat(images), straight(rows))
    np.testing.assert_array_equal(flat(rows), straight(rows))
    grad = rng.standard_normal((20, 3))
    flat.forward(images), straight.forward(rows)
    assert flat.backward(grad).shape == images.shape
    np.testing.assert_array_equal(flat.backward(grad).ravel(), straight.backward(grad).ravel())
    histories = [
        tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=1e-6)).fit(
            x, labels, batch_size=6, validation_data=(x, labels)
        )["val_loss"]
        for model, x in ((flat, images), (straight, rows))
    ]
    assert histories[0] == histories[1]
    assert flat.state_dict().keys() == {"1.weight", "1.bias"}


def test_flatten_among_other_layers_does_nothing(rng):
    x = rng.standard_normal((3, 4))
    model = nn.Sequential(nn.Linear(4, 2), nn.Flatten())
    np.testing.assert_array_equal(model(x), nn.Sequential(nn.Linear(4, 2))(x))
    with pytest.raises(tw.ShapeError, match="2-D"):
        model(x[:, :, None])
    with pytest.raises(tw.ShapeError, match=r"input has shape \(3, 4\), expected \(3, 5\)"):
        nn.Sequential(nn.Flatten(), nn.Linear(5, 2))(x[:, :, None])


def test_the_columns_of_a_table_may_be_a_set():
    """They are sorted: its order means nothing."""
    layer = nn.TabularInput(4, {(3, 4, 2), (0, 3, 2)}, pieces={(2, (0, 1, 3))})
    assert layer == nn.TabularInput(4, {0: (3, 2), 3: (4, 2)}, pieces={2: [0, 1, 3]})


# --- what can be wrong --------------------------------------------------------------------------

BAD = {
    "a deviation of 0": (lambda: nn.Standardize([0, 0], [1, 0]), r"std\[1\] must be > 0"),
    "scales too narrow": (lambda: nn.Standardize.of(np.eye(3), width=2), "width .* >= 3"),
    "no inputs": (lambda: nn.FourierFeatures(0), "in_features"),
    "no frequencies": (lambda: nn.FourierFeatures(2, 0), "num_frequencies"),
    "sigma": (lambda: nn.FourierFeatures(2, sigma=0), "sigma"),
    "no bands": (lambda: nn.FourierFeatures(2, bands=[]), "bands"),
    "an infinite band": (lambda: nn.FourierFeatures(2, bands=[1, np.inf]), r"bands\[1\]"),
    "bands and sigma": (lambda: nn.FourierFeatures(2, bands=[1], sigma=2), "bands"),
    "no such column": (lambda: nn.TabularInput(3, {3: (2, 1)}), "column.*from 0 to 2"),
    "one number": (lambda: nn.TabularInput(3, {1: 5}), r"categories\[1\].*\(codes, length\)"),
    "no codes": (lambda: nn.TabularInput(3, {1: (0, 2)}), r"categories\[1\], number of codes"),
    "no length": (lambda: nn.TabularInput(3, {1: (2, 0)}), r"categories\[1\], length"),
    "twice": (lambda: nn.TabularInput(3, [(1, 2, 2), (1, 3, 3)]), "twice"),
    "columns alone": (
        lambda: nn.TabularInput(3, [2]),
        r"a dict \{column: \(codes, length\)\}; got \(2,\)",
    ),
    "a column of pieces alone": (
        lambda: nn.TabularInput(3, pieces=[2]),
        r"pieces must be a dict \{column: edges\}; got 2",
    ),
    "columns without an axis": (
        lambda: nn.TabularInput(3, [np.array(2)]),
        r"a dict \{column: \(codes, length\)\}; got \(array\(2\),\)",
    ),
    "edges without an order": (
        lambda: nn.TabularInput(3, pieces={1: {0, 1}}),
        r"pieces\[1\] must be a sequence; got \{0, 1\}",
    ),
    "one edge": (lambda: nn.TabularInput(3, pieces={1: [0]}), r"pieces\[1\].*2 increasing edges"),
    "equal edges": (lambda: nn.TabularInput(3, pieces={1: [0, 1, 1]}), "increasing edges"),
    "equal when rounded": (
        lambda: nn.Sequential(nn.TabularInput(1, pieces={0: [1, 1 + 1e-9]}), nn.Linear(1, 1)),
        r"layer 0 \(TabularInput\): pieces\[0\].*increase in float32, the model's dtype",
    ),
    "infinite when rounded": (
        lambda: nn.Sequential(nn.TabularInput(1, pieces={0: [0, 1e300]}), nn.Linear(1, 1)),
        r"pieces\[0\] must be finite.*in float32",
    ),
    "a code in pieces": (
        lambda: nn.TabularInput(3, {1: (2, 2)}, pieces={1: [0, 1]}),
        "given twice",
    ),
    "pieces of no column": (lambda: nn.TabularInput(3, pieces={5: [0, 1]}), "from 0 to 2"),
    "not first": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.TabularInput(3, {}), nn.Linear(3, 1)),
        "must be the first layer",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, pattern = BAD[case]
    with pytest.raises(tw.ArgumentError, match=pattern):
        make()


def test_widths_that_do_not_fit():
    with pytest.raises(tw.ShapeError, match=r"layer 1 \(FourierFeatures 2→8\).* 3 features"):
        nn.Sequential(nn.Linear(2, 3), nn.FourierFeatures(2, 4), nn.Linear(8, 1))
    with pytest.raises(tw.ShapeError, match=r"layer 1 .* 5 features, expected 4"):
        nn.Sequential(nn.TabularInput(4, {0: (2, 2)}), nn.Linear(4, 1))
    model = network(CASES["table"][0])
    with pytest.raises(tw.ShapeError, match=r"TabularInput 4→7\): input has shape \(2, 3\)"):
        model(np.zeros((2, 3)))
