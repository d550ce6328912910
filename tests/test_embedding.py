"""nn.Embedding as users of PyTorch know it; its arithmetic is held in test_inputs."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


def network(codes=7, dim=3, dtype="float64", **options):
    layers = nn.Embedding(codes, dim), nn.Linear(dim, 5), nn.Tanh(), nn.Linear(5, 2)
    return nn.Sequential(*layers, dtype=dtype, **options)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_a_module_of_pytorchs_trains_alike(optimizer, rng):
    """To rounding."""
    torch = pytest.importorskip("torch")
    model = network()
    twin = tw.torch.to_torch(model)
    x, y = rng.integers(0, 6, 48), rng.standard_normal((48, 2))  # code 6 does not occur
    np.testing.assert_allclose(model(x), twin(torch.tensor(x)).detach().numpy(), rtol=1e-12)
    theirs = getattr(torch.optim, optimizer)(twin.parameters(), lr=0.01, weight_decay=0.1)
    ours = getattr(optim, optimizer)(lr=0.01, weight_decay=0.1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=ours)
    for step in range(60):
        rows = slice(16 * (step % 3), 16 * (step % 3) + 16)
        theirs.zero_grad()
        loss = torch.nn.functional.mse_loss(twin(torch.tensor(x[rows])), torch.tensor(y[rows]))
        loss.backward()
        theirs.step()
        assert trainer.step(x[rows], y[rows]) == pytest.approx(loss.item(), rel=1e-12)
    for name, values in twin.state_dict().items():
        ours = model.state_dict()[name]
        np.testing.assert_allclose(ours, values.numpy(), rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, bool, np.float16, np.float32, list])
def test_codes_come_as_rows_or_a_column_of_any_dtype(kind):
    model = network()
    codes = np.array([0, 1, 1, 0])
    given = codes.tolist() if kind is list else codes.astype(kind)
    expected = model(codes[:, None].astype(float))
    np.testing.assert_array_equal(model(given), expected)
    np.testing.assert_array_equal(model(np.reshape(given, (-1, 1))), expected)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    history = trainer.fit(given, codes, epochs=9, batch_size=2, validation_data=(given, codes))
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_the_gradient_of_codes_has_their_shape_and_is_nothing():
    model = network()
    for codes in (np.array([0, 6, 3]), np.array([[0], [6], [3]])):
        model.forward(codes)
        slope = model.backward(np.ones((3, 2)))
        assert slope.shape == codes.shape
        assert (slope == 0).all()


def test_the_table_is_called_weight_wherever_names_are(rng):
    model = network()
    table = rng.standard_normal((7, 3))
    model.load_state_dict({**model.state_dict(), "0.weight": table})
    np.testing.assert_array_equal(model.flat_parameters[:21], table.ravel())
    assert "0  Embedding(7, 3)" in model.summary()
    assert "(n, 3)          21" in model.summary()
    x, y = np.arange(7), rng.standard_normal((7, 2))
    report = tw.gradcheck(model, x, y, loss=nn.MSELoss())
    assert report.passed
    assert "0.weight" in str(report)
    with pytest.raises(
        tw.ArgumentError, match=r"missing \['0.weight'\], unexpected \['0.0.weight'"
    ):
        model.load_state_dict({**{"0.0.weight": table}, **_without(model.state_dict(), "0.weight")})


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


WRAPPED = {
    "alone": lambda pattern: optim.Adam(lr=0.1).add_group(pattern, frozen=True),
    "in SAM": lambda pattern: optim.SAM(optim.Adam(lr=0.1)).add_group(pattern, frozen=True),
    "in SAM, before": lambda p: optim.SAM(optim.Adam(lr=0.1).add_group(p, frozen=True)),
}


@pytest.mark.parametrize("make", WRAPPED)
@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("0.weight", ["0.weight"]),
        ("?.weight", ["0.weight", "1.weight", "3.weight"]),
        ("*.weight", ["0.weight", "1.weight", "3.weight"]),
        ("0.*", ["0.weight"]),
        ("*.bias", ["1.bias", "3.bias"]),
    ],
)
def test_groups_are_by_the_names_of_the_state_dict(pattern, frozen, make, rng, tmp_path):
    trainer = tw.Trainer(network(), loss=nn.MSELoss(), optimizer=WRAPPED[make](pattern))
    assert trainer.optimizer.lr == 0.1
    x, y = np.arange(7), rng.standard_normal((7, 2))
    trainer.save(tmp_path / "file")
    for one in (trainer, trainer.copy(), tw.Trainer.load(tmp_path / "file")):
        before = one.model.state_dict()
        one.fit(x, y)
        after = one.model.state_dict()
        same = [name for name in before if np.array_equal(before[name], after[name])]
        assert same == frozen


def test_a_state_that_does_not_fit_leaves_an_optimizer_of_another_model():
    """Its groups get other names in the core first, with which the state was lost."""
    model = nn.Sequential(nn.Linear(2, 3))
    optimizer = optim.Adam(lr=0.1).add_group("0.weight", frozen=True)
    model.flat_gradients = np.ones(model.num_parameters)
    optimizer.step(model)
    state, before = optimizer.state_dict(), repr(optimizer.state_dict())
    with pytest.raises(tw.ShapeError, match="has shape"):
        optimizer.load_state_dict(state, network())
    assert repr(optimizer.state_dict()) == before
    optimizer.step(model)
    assert optimizer.steps == 2


def test_groups_of_optimizers_that_step_by_hand(rng):
    model = network()
    optimizer = optim.SGD(lr=0.5).add_group("0.weight", frozen=True)
    optimizer.lr = 0.1
    before = model.state_dict()
    model.flat_gradients = np.ones(model.num_parameters)
    optimizer.step(model)
    optimizer.add_group("1.weight", frozen=True)  # when it knows the model already
    optimizer.step(model)
    moved = {k: (before[k] - v).max() for k, v in model.state_dict().items()}
    expected = {"0.weight": 0, "1.weight": 0.1, "1.bias": 0.2, "3.weight": 0.2, "3.bias": 0.2}
    assert moved == pytest.approx(expected)
    for pattern in ("0.0.weight", "*.0.weight", "2.*"):  # the core's own name is nobody's
        wrong = optim.SGD().add_group(pattern)
        with pytest.raises(
            tw.ArgumentError, match=r"it matches no parameter; the parameters are 0\.weight, 1\."
        ):
            wrong.step(model)


@pytest.mark.parametrize("bad", [7, -1, 1.5, np.nan])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_what_is_no_code_is_named_and_changes_nothing(shape, bad):
    model = network(dtype="float32")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    before = model.flat_parameters
    x, y = np.array([0, 1, 2, bad, 3]).reshape(shape), np.ones((5, 2))
    for call in (
        lambda: model(x),
        lambda: trainer.step(x, y),
        lambda: trainer.fit(x, y, batch_size=1),
        lambda: trainer.evaluate(x.astype(np.float32), y),
    ):
        message = r"x\[3, 0\] is .*, but column 0 holds categories: .* from 0 to 6"
        with pytest.raises(tw.DataError, match=message):
            call()
    np.testing.assert_array_equal(model.flat_parameters, before)


@pytest.mark.parametrize("dtype", ["int64", "float32"])  # the latter goes to the core as it is
def test_codes_in_several_columns_are_told_of_tables(dtype):
    model = network(dtype="float32")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    x, y = np.zeros((4, 2), dtype), np.zeros((4, 2), np.float32)
    for call in (lambda: model(x), lambda: trainer.step(x, y), lambda: trainer.fit(x, y)):
        with pytest.raises(
            tw.ShapeError,
            match=r"Embedding\(7, 3\), .* got shape \(4, 2\); nn\.TabularInput\(2, \{0: \(7, 3\)",
        ):
            call()
    with pytest.raises(tw.ShapeError, match=r"shape \(n,\) or \(n, 1\); got shape \(\)$"):
        model(3)
    assert model([]).shape == (0, 2)
    with pytest.raises(tw.DataError, match="no rows"):
        model.forward([])


def test_where_it_cannot_stand():
    table = nn.Embedding(7, 3)
    with pytest.raises(tw.ArgumentError, match=r"layer 1 is Embedding\(7, 3\).* the first layer"):
        nn.Sequential(nn.Linear(1, 1), table, nn.Linear(3, 1))
    with pytest.raises(tw.ArgumentError, match=r"Residual: layer 0 is Embedding.* the first layer"):
        nn.Residual(table, nn.Linear(3, 1))
    for arguments in ((0, 3), (7, 0), (7.0, 3), (True, 3)):
        with pytest.raises(
            tw.ArgumentError, match=r"Embedding: (num_embeddings|embedding_dim) must"
        ):
            nn.Embedding(*arguments)
    with pytest.raises(TypeError, match=r"'padding_idx': .*.* takes num_embeddings, embedding_dim"):
        nn.Embedding(7, 3, padding_idx=0)


@pytest.mark.parametrize(
    "layer", [nn.Embedding(2**24 + 1, 1), nn.TabularInput(1, {0: (2**24 + 1, 1)})]
)
def test_float32_does_not_tell_so_many_codes_apart(layer):
    with pytest.raises(
        tw.UnsupportedError, match=r"16777217 codes, but float32 .* 16777216 of them exactly"
    ):
        nn.Sequential(layer, nn.Linear(1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_curvature_takes_rows_of_codes_too(dtype, rng):
    model = network(dtype=dtype)
    x, y = np.arange(7), rng.standard_normal((7, 2))
    v = rng.standard_normal(model.num_parameters)
    rows = tw.curvature.hvp(model, x, y, v, loss=nn.MSELoss())
    column = tw.curvature.hvp(model, x[:, None], y, v, loss=nn.MSELoss())
    np.testing.assert_array_equal(rows, column)


# --- with what looks at models --------------------------------------------------------------------

IMAGES = np.sin(np.arange(36.0) ** 2).reshape(12, 3, 1)
INPUTS = {
    "codes": (nn.Embedding(7, 3), np.arange(12) % 7, np.arange(12).reshape(-1, 1) % 7),
    "images": (nn.Flatten(), IMAGES, IMAGES.reshape(12, 3)),
}


def jacobian(model, x, y):
    return tw.diagnostics.jacobian(model, x)


def kernel(model, x, y):
    return tw.diagnostics.ntk_eigenvalues(model, x)


def conditions(model, x, y):
    return [stage.condition for stage in tw.diagnostics.conditioning(model, x)]


def refit(model, x, y):
    tw.solve.last_layer(model, x, y)
    assert ((model(x) - y) ** 2).mean() < 1.5
    return model.flat_parameters


def noise(model, x, y):
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    return tw.diagnostics.gradient_noise(trainer, x, y).noise_scale


def product(model, x, y):
    return tw.curvature.gnvp(model, x, y, np.ones(model.num_parameters), loss=nn.MSELoss())


@pytest.mark.parametrize("look", [jacobian, kernel, conditions, refit, noise, product])
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_a_first_layer_makes_rows_of_are_taken_everywhere(kind, look, rng):
    layer, given, rows = INPUTS[kind]
    y = rng.standard_normal((12, 2))
    made = [
        look(
            nn.Sequential(layer, nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64"), x, y
        )
        for x in (given, rows)
    ]
    np.testing.assert_array_equal(made[0], made[1])


def test_a_linear_layer_on_codes_is_refit_to_the_means_of_the_codes(rng):
    """With a vector as long as there are codes any means can be had."""
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 2), dtype="float64")
    x, y = np.arange(20) % 4, rng.standard_normal((20, 2))
    tw.solve.last_layer(model, x, y, rank_deficient="min_norm")
    means = [y[x == code].mean(axis=0) for code in range(4)]
    np.testing.assert_allclose(model(range(4)), means, atol=1e-12)
