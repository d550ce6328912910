"""What goes to other libraries and back in these tests: every layer, models of them, and inputs."""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

WIDTH = 6

#: Element by element, and of rows.
LAYERS = [
    nn.Identity(),
    nn.Flatten(),
    nn.Dropout(0.3),
    nn.ReLU(),
    nn.LeakyReLU(),
    nn.LeakyReLU(0.2),
    nn.ReLU6(),
    nn.ELU(),
    nn.ELU(0.3),
    nn.CELU(0.5),  # whose inverse is exact: PyTorch rounds it to single precision
    nn.SELU(),
    nn.Tanh(),
    nn.Hardtanh(),
    nn.Hardtanh(-2.0, 0.3),
    nn.Softsign(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Hardsigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.Softplus(),
    nn.Softplus(0.3),
    nn.Sine(),
    nn.Sine(0.3),
    nn.Linear(WIDTH, WIDTH),
    nn.Linear(WIDTH, WIDTH, bias=False),
    nn.BatchNorm1d(WIDTH, momentum=0.3),
    nn.BatchNorm1d(WIDTH, eps=0.3, affine=False),
    nn.LayerNorm(WIDTH),
    nn.LayerNorm(WIDTH, eps=0.3, bias=False),
    nn.LayerNorm(WIDTH, elementwise_affine=False),
    nn.RMSNorm(WIDTH),
    nn.RMSNorm(WIDTH, eps=0.3, elementwise_affine=False),
    nn.Standardize(np.arange(WIDTH) / 4, 0.5 ** np.arange(WIDTH)),
    nn.Residual(nn.Standardize([3] * WIDTH, [0.25] * WIDTH, inverse=True)),
    nn.Residual(nn.Tanh()),
    nn.Residual(nn.Identity()),
    nn.Residual(nn.Concatenate(nn.Tanh()), nn.Linear(2 * WIDTH, WIDTH)),
    nn.Residual(
        nn.Concatenate(nn.Linear(WIDTH, 4), nn.Concatenate(nn.LayerNorm(4), nn.ReLU())),
        nn.Linear(WIDTH + 8, WIDTH),
    ),
    nn.Residual(nn.Linear(WIDTH, 4), nn.Residual(nn.LayerNorm(4), nn.ReLU()), nn.Linear(4, WIDTH)),
]

#: First layers for other inputs, each with inputs: seven rows.
TABLE = np.column_stack(
    [np.linspace(-3, 3, 7), np.arange(7), np.linspace(0, 1, 7), [2, 1, 0] * 2 + [1]]
)
FIRST = [
    (nn.FourierFeatures(2, 16, sigma=10), np.linspace(-1, 1, 14).reshape(7, 2)),
    (nn.FourierFeatures(2, bands=[1, 2, 4.5]), np.linspace(-500, 500, 14).reshape(7, 2)),
    (nn.Embedding(7, 3), np.array([0, 6, 3, 3, 1, 2, 5])),
    (nn.TabularInput(4), TABLE),
    (nn.TabularInput(4, {1: (7, 2)}), TABLE),
    (nn.TabularInput(4, pieces={0: [-1, 1], 2: [0, 0.2, 0.7]}), TABLE),
    (nn.TabularInput(4, {1: (7, 2), 3: (3, 3)}, pieces={0: [-1, 0, 0.3, 2]}), TABLE),
    (nn.TabularInput(2, {0: (7, 2), 1: (3, 1)}), TABLE[:, [1, 3]]),
]


#: Ends of names of numbers that layers are made with.
GIVEN = (".mean", ".std")


def make(layers, dtype="float64"):
    """A model whose scales, shifts and running averages are not 1 and 0.

    Those of a `Standardize` are what the layer says.
    """
    model = nn.Sequential(*layers, dtype=dtype, seed=4)
    rng = np.random.default_rng(1)
    state = model.state_dict()
    model.load_state_dict(
        {
            n: rng.uniform(0.5, 2, v.shape) if v.ndim == 1 and not n.endswith(GIVEN) else v
            for n, v in state.items()
        }
    )
    return model


def diverged():
    """A model that a step has made infinite."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), seed=2)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=3e38))
    trainer.step(np.array([[1.7e18, 0.5], [1.7e18, -0.5]]), [100.0, -100.0])
    return model


def assert_close(found, expected, units=20):
    """To so many units in the last place, of numbers below 1 of those that 1 has."""
    assert found.dtype == expected.dtype
    unit = 1 + np.abs(expected)
    np.testing.assert_allclose(
        found / unit, expected / unit, rtol=0, atol=units * np.finfo(expected.dtype).eps
    )


class OwnTanh(nn.Tanh):
    """A class of the user's, which is computed as its base is."""


class OwnLayer(nn.Layer):
    """One of which the core thinks that it is one of ours."""

    def _spec(self):
        return ("relu",)
