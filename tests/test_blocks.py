"""Blocks beside or added to their input, against PyTorch; and normalizations folded away."""

import copy
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

BLOCK = nn.Residual(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
PRE = nn.Residual(nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
BATCH = nn.Residual(nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.BatchNorm1d(6))
BESIDE = nn.Concatenate(nn.Linear(6, 9), nn.GELU())

#: Lists of layers between 6 features and 6.
MODELS = {
    "in the middle": (nn.Linear(6, 6), BLOCK, nn.Linear(6, 6)),
    "alone": (BLOCK,),
    "two in a row, first and last": (BLOCK, PRE),
    "behind and before activations": (nn.Linear(6, 6), nn.Tanh(), BLOCK, nn.Sigmoid(), BLOCK),
    "a normalization behind": (nn.Linear(6, 6), PRE, nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6)),
    "batch norm inside": (nn.Linear(6, 6), BATCH, nn.Tanh(), BATCH, nn.BatchNorm1d(6), nn.Tanh()),
    "activations first in blocks": (
        nn.Linear(6, 6),
        nn.Residual(nn.Tanh()),
        nn.Residual(nn.SiLU(), BLOCK),
    ),
    "nested": (
        nn.Residual(nn.Residual(nn.Residual(nn.Tanh(), nn.Linear(6, 6)), nn.Tanh()), BLOCK),
    ),
    "nested at the ends": (
        nn.Linear(6, 6),
        nn.Residual(BLOCK, nn.Linear(6, 6), PRE),
        nn.Linear(6, 6),
    ),
    "nothing in the block": (nn.Linear(6, 6), nn.Residual(nn.Residual(nn.Identity())), nn.Tanh()),
    "dropout of nothing": (
        nn.Linear(6, 6),
        nn.Residual(nn.Dropout(0.0), nn.Linear(6, 6), nn.Dropout(0.0)),
    ),
    "beside, in the middle": (nn.Linear(6, 6), BESIDE, nn.Linear(15, 6)),
    "beside, first": (BESIDE, nn.Linear(15, 6)),
    "beside, last": (nn.Linear(6, 2), nn.Concatenate(nn.Linear(2, 4), nn.SiLU())),
    "beside, three in a row": (
        BESIDE,
        nn.Concatenate(nn.Linear(15, 5), nn.Tanh()),
        nn.Concatenate(nn.Linear(20, 3)),
        nn.ReLU(),
        nn.Linear(23, 6),
    ),
    "beside, nested": (
        nn.Concatenate(nn.Concatenate(nn.Tanh(), nn.Linear(6, 3)), nn.Linear(9, 4), nn.Sigmoid()),
        nn.Residual(nn.Concatenate(nn.Linear(10, 3)), nn.Linear(13, 10)),
        nn.Linear(10, 6),
    ),
    "beside, normalized": (
        nn.Linear(6, 6),
        nn.Concatenate(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5, bias=False)),
        nn.LayerNorm(11),
        nn.BatchNorm1d(11),
        nn.Tanh(),
        nn.Linear(11, 6),
    ),
    "beside nothing": (nn.Concatenate(nn.Concatenate(nn.Identity())), nn.Linear(18, 6)),
}


def has_batch_norm(layers):
    return any(
        isinstance(x, nn.BatchNorm1d) or has_batch_norm(getattr(x, "layers", ())) for x in layers
    )


def test_what_is_beside_is_the_input_in_front(rng):
    model = nn.Sequential(nn.Concatenate(nn.Linear(6, 9), nn.Tanh()), seed=2)
    inside = nn.Sequential(*model[0].layers)
    inside.flat_parameters = model.flat_parameters
    x = rng.standard_normal((5, 6)).astype(np.float32)
    np.testing.assert_array_equal(model(x)[:, :6], x)
    np.testing.assert_array_equal(model(x)[:, 6:], inside(x))


@pytest.mark.parametrize("rows", [1, 5, 64, 700])
@pytest.mark.parametrize("layers", MODELS.values(), ids=MODELS)
def test_outputs_and_gradients_are_those_of_torch(layers, rows, rng):
    torch = pytest.importorskip("torch")
    if rows == 1 and has_batch_norm(layers):
        pytest.skip("no statistics of one row")
    model = nn.Sequential(*layers, dtype="float64", seed=3)
    twin = tw.torch.to_torch(model).train()
    x, g = rng.standard_normal((rows, 6)), rng.standard_normal((rows, 6))
    there = torch.tensor(x, requires_grad=True)
    out = twin(there)
    out.backward(torch.tensor(g))
    np.testing.assert_allclose(model.forward(x), out.detach(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.backward(g), there.grad, rtol=0, atol=1e-12)
    want = [p.grad.numpy().ravel() for p in twin.parameters()]
    want = np.concatenate(want) if want else np.empty(0)
    np.testing.assert_allclose(model.flat_gradients, want, rtol=1e-12, atol=1e-12)
    twin.eval()
    np.testing.assert_allclose(model(x), twin(torch.tensor(x)).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", MODELS.values(), ids=MODELS)
def test_steps_are_those_of_torch(layers, rng):
    torch = pytest.importorskip("torch")
    model = nn.Sequential(*layers, dtype="float64", seed=3)
    twin = tw.torch.to_torch(model).train()
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9))
    steps = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, 6))
    for _ in range(5):
        steps.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.tensor(x)), torch.tensor(y)).backward()
        steps.step()
        trainer.step(x, y)
    for name, values in model.state_dict().items():
        there = twin.state_dict()[name]
        np.testing.assert_allclose(values, there, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("layers", MODELS.values(), ids=MODELS)
def test_gradients_are_those_of_differences(layers, rng):
    model = nn.Sequential(*layers, dtype="float64", seed=3)
    x, y = rng.standard_normal((8, 6)), rng.standard_normal((8, 6))
    assert tw.gradcheck(model, x, y, loss=nn.MSELoss()).passed


@pytest.mark.parametrize(
    ("inside", "width"),
    [((), 96), ((), 160), ((nn.BatchNorm1d(64),), 96)],
    ids=["shards", "waves", "batch norm"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(inside, width, dtype, rng):
    beside = nn.Concatenate(nn.Linear(64, 8), nn.ReLU())
    block = nn.Residual(
        *inside, nn.Linear(64, width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 64)
    )
    x, y = rng.standard_normal((3000, 20)), rng.standard_normal((3000, 3))
    before, results = tw.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            tw.set_num_threads(threads)
            model = nn.Sequential(
                nn.Linear(20, 64), block, nn.Tanh(), block, beside, nn.Linear(72, 3), dtype=dtype
            )
            trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.AdamW(lr=1e-3))
            trainer.fit(x, y, epochs=2, batch_size=1500)
            model.forward(x)
            back = model.backward(np.ones((3000, 3)))
            results.append(
                [a.tobytes() for a in (model.flat_parameters, model.flat_gradients, back, model(x))]
            )
    finally:
        tw.set_num_threads(before)
    assert all(r == results[0] for r in results)


NESTED = {
    "residual": lambda n: nn.Residual(nn.Linear(n, n), nn.Tanh(), nn.Residual(nn.Linear(n, n))),
    "beside": lambda n: nn.Residual(
        nn.Concatenate(nn.Linear(n, 60), nn.Tanh()), nn.Linear(n + 60, n)
    ),
}


@pytest.mark.parametrize(("cut", "width"), [("shards", 64), ("waves", 136)])
@pytest.mark.parametrize("block", NESTED.values(), ids=NESTED)
def test_a_step_in_parts_is_the_step_by_hand(block, cut, width, rng):
    layers = nn.Linear(4, width), block(width), nn.Linear(width, 2)
    model = nn.Sequential(*layers, dtype="float64")
    hand = copy.deepcopy(model)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    x, y = rng.standard_normal((2000, 4)), rng.standard_normal((2000, 2))
    assert cut in str(trainer.plan(2000))
    trainer.step(x, y)
    hand.backward((hand.forward(x) - y) / y.size * 2)
    want = hand.flat_parameters - 0.1 * hand.flat_gradients
    np.testing.assert_allclose(model.flat_parameters, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layers", MODELS.values(), ids=MODELS)
def test_files_and_pickles_bring_blocks_back(layers, tmp_path, rng):
    model = nn.Sequential(*layers, seed=3)
    x = rng.standard_normal((9, 6))
    model.forward(x)
    model.save(tmp_path / "model")
    for again in (nn.Sequential.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert again.layers == model.layers
        np.testing.assert_array_equal(again(x), model(x))


def test_initial_weights_of_blocks_differ(rng):
    model = nn.Sequential(
        nn.Linear(6, 6), nn.Residual(nn.Linear(6, 6)), nn.Residual(nn.Linear(6, 6))
    )
    weights = [v for name, v in model.state_dict().items() if name.endswith("weight")]
    assert len(weights) == 3
    assert len({w.tobytes() for w in weights}) == 3


def test_the_summary_counts_what_is_inside():
    lines = nn.Sequential(nn.Linear(2, 6), BLOCK, nn.Linear(6, 1)).summary().splitlines()
    assert lines[2].startswith("1  Residual ")
    assert lines[2].split()[-1] == str(6 * 9 + 9 + 9 * 6 + 6)


def test_the_summary_shows_what_is_inside_and_a_prompt_shows_it_as_it_is():
    inner = nn.Residual(nn.Linear(8, 8, bias=False))
    model = nn.Sequential(
        nn.Linear(2, 6), nn.Residual(nn.Linear(6, 8), inner, nn.Linear(8, 6)), nn.Linear(6, 1)
    )
    summary = model.summary()
    assert repr(summary) == summary
    assert [line.split()[0] for line in summary.splitlines()[1:-1]] == [
        "0", "1", "1.0", "1.1", "1.1.0", "1.2", "2",
    ]  # fmt: skip
    sizes = [int(line.split()[-1]) for line in summary.splitlines()[1:-1]]
    assert sizes == [18, 56 + 64 + 54, 56, 64, 64, 54, 7]
    outputs = [line.split("(n, ")[1].split(")")[0] for line in summary.splitlines()[1:-1]]
    assert outputs == ["6", "6", "8", "8", "8", "6", "1"]


def test_the_summary_shows_widths_beside():
    inner = nn.Concatenate(nn.Linear(2, 8), nn.Concatenate(nn.Linear(8, 3)))
    lines = nn.Sequential(inner, nn.Linear(13, 1)).summary().splitlines()
    outputs = [line.split("(n, ")[1].split(")")[0] for line in lines[1:-1]]
    assert outputs == ["13", "8", "11", "3", "1"]


def test_errors_name_the_block():
    with pytest.raises(
        tw.errors.ShapeError, match=r"layer 1 \(Linear 9→1\): .* has 15 .* expected 9"
    ):
        nn.Sequential(BESIDE, nn.Linear(9, 1))
    with pytest.raises(
        tw.errors.ShapeError, match=r"layer 1 \(Linear 13→1\): .* has 12 .* expected 13"
    ):
        nn.Sequential(nn.Concatenate(nn.Tanh()), nn.Linear(13, 1))  # an input of 6 twice is 12
    with pytest.raises(tw.errors.ArgumentError, match="Concatenate: layers is empty"):
        nn.Concatenate()
    with pytest.raises(
        tw.errors.ShapeError, match=r"layer 1 \(Residual\): .* turn 6 features into 5"
    ):
        nn.Sequential(nn.Linear(2, 6), nn.Residual(nn.Linear(6, 5)))
    with pytest.raises(
        tw.errors.ShapeError, match=r"layer 1\.1 \(Linear 7→6\): .* has 9 .* expected 7"
    ):
        nn.Sequential(nn.Linear(2, 6), nn.Residual(nn.Linear(6, 9), nn.Linear(7, 6)))
    with pytest.raises(
        tw.errors.ShapeError, match=r"layer 0\.0 \(Linear 6→9\): .*\(3, 2\), expected \(3, 6\)"
    ):
        nn.Sequential(BLOCK)(np.zeros((3, 2)))
    with pytest.raises(tw.errors.ArgumentError, match="without a Linear"):
        nn.Sequential(nn.Residual(nn.LayerNorm(4)))
    with pytest.raises(tw.errors.ArgumentError, match="Residual: layers is empty"):
        nn.Residual()
    with pytest.raises(
        tw.errors.ArgumentError, match=r"it is a list; unpack it: Residual\(\*layers\)"
    ):
        nn.Residual([nn.ReLU()])


BEHIND = [nn.ReLU(), nn.LayerNorm(15), nn.Residual(nn.Tanh()), nn.Linear(15, 4)]


@pytest.mark.parametrize("behind", BEHIND, ids=lambda layer: type(layer).__name__)
def test_what_goes_on_behind_a_block_has_its_width(behind, rng):
    """Of the parts that diagnostics are made of, of estimators, and of features."""
    layers = nn.Linear(6, 6), nn.Tanh(), BESIDE, behind
    width = getattr(behind, "out_features", 15)
    model = nn.Sequential(*layers, nn.Linear(width, 1), dtype="float64", seed=1)
    x = rng.standard_normal((40, 6))
    assert len(tw.diagnostics.conditioning(model, x).stages) > 2
    pytest.importorskip("sklearn")
    from thalweg.sklearn import MLPRegressor

    fitted = MLPRegressor(hidden_layer_sizes=[*layers, 8]).partial_fit(x, x[:, 0])
    assert fitted.model_[4].in_features == width
    assert fitted.predict(x).shape == (40,)


def test_linear_layers_in_blocks_make_features(rng):
    model = nn.Sequential(
        nn.Concatenate(nn.Linear(6, 9), nn.Tanh()), nn.ReLU(), nn.Linear(15, 3), dtype="float64"
    )
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 3
    hidden = tw.continual.metrics.activations(model, x)
    assert len(hidden) == 1
    np.testing.assert_array_equal(hidden[0], model[:2](x))
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    means = tw.continual.NearestMean(tw.continual.Replay(trainer, 40))
    means.fit(tw.continual.Task(x, y, x, y), epochs=1)
    assert means.predict(x).shape == (40,)


FOLDED = {
    "plain": (nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 6), nn.BatchNorm1d(6)),
    "no bias, not affine": (
        nn.Linear(6, 9, bias=False),
        nn.BatchNorm1d(9, affine=False),
        nn.Tanh(),
        nn.Linear(9, 6),
    ),
    "two behind one": (nn.Linear(6, 9), nn.BatchNorm1d(9), nn.BatchNorm1d(9), nn.Linear(9, 6)),
    "two in front of one": (
        nn.BatchNorm1d(6),
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 6, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 6),
        nn.BatchNorm1d(6),
    ),
    "others stay": (nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 6)),
    "in blocks": (
        nn.Linear(6, 6),
        nn.BatchNorm1d(6),
        nn.Residual(
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6)
        ),
        nn.Linear(6, 6),
    ),
    "beside": (
        nn.Linear(6, 6),
        nn.BatchNorm1d(6),
        nn.Concatenate(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4)),
        nn.BatchNorm1d(10),
        nn.Linear(10, 6),
    ),
    "first in a block": (nn.Linear(6, 6), nn.Residual(nn.BatchNorm1d(6), nn.Linear(6, 6))),
}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("layers", FOLDED.values(), ids=FOLDED)
def test_a_folded_model_computes_the_same(layers, dtype, error, rng):
    model = nn.Sequential(*layers, dtype=dtype, seed=2)
    x = rng.standard_normal((50, 6))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1))
    trainer.fit(x + 1, rng.standard_normal((50, 6)), epochs=5, batch_size=25)
    before = {name: values.copy() for name, values in model.state_dict().items()}
    folded, want = model.fold(), model(x)
    assert np.abs(folded(x) - want).max() <= error * max(1, np.abs(want).max())
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_only_what_is_directly_beside_a_linear_is_folded():
    kinds = {
        name: [type(layer).__name__ for layer in nn.Sequential(*layers).fold().layers]
        for name, layers in FOLDED.items()
    }
    assert kinds["plain"] == ["Linear", "ReLU", "Linear"]
    assert kinds["two behind one"] == ["Linear", "Linear"]
    assert kinds["two in front of one"] == ["Linear", "ReLU", "Linear"]
    assert kinds["others stay"] == ["BatchNorm1d", "ReLU", "LayerNorm", "Linear"]
    block = nn.Sequential(*FOLDED["in blocks"]).fold().layers[1]
    assert [type(layer).__name__ for layer in block.layers] == [
        "Linear",
        "ReLU",
        "Linear",
        "LayerNorm",
    ]
    assert nn.Sequential(*FOLDED["no bias, not affine"]).fold().layers[0].bias


@pytest.mark.parametrize("layers", [[nn.Linear(1, 1)], []])
def test_widths_that_cannot_be_counted_are_refused(layers):
    """Each block doubles the columns: sixty-four are 2**64."""
    blocks = [nn.Concatenate(nn.Identity())] * 64
    with pytest.raises(tw.ArgumentError, match=r"layer 2\d has more than 16777216 outputs"):
        nn.Sequential(*layers, *blocks, nn.Linear(64, 3))


def test_blocks_can_only_be_nested_so_deep():
    """Far more would need more stack than there is."""
    block = nn.Linear(2, 2)
    for _ in range(200):
        block = nn.Residual(block)
    assert nn.Sequential(block).num_parameters == 6
    with pytest.raises(tw.ArgumentError, match="nested more than 200 deep"):
        nn.Sequential(nn.Residual(block))
