"""Which frequencies come first: training runs, closed forms, and what samples cannot tell."""

import numpy as np
import pytest

import thalweg as tw
from thalweg import diagnostics, nn, optim

TWO_PI = 2 * np.pi


def waves(x, frequencies):
    return sum(np.sin(TWO_PI * k * x) for k in frequencies)


def train_on(activation, seed, steps, *encoder, amplitudes=(1, 1, 1, 1), every=5):
    """Three hidden layers of 128 learn four sines from 128 samples, all of them at each step."""
    n, frequencies = 128, (1, 3, 5, 10)
    x = 2 * np.arange(n) / n - 1
    model = nn.Sequential(
        *encoder, nn.Linear(32 if encoder else 1, 128), activation, nn.Linear(128, 128), activation,
        nn.Linear(128, 128), activation, nn.Linear(128, 1), seed=seed,
    )  # fmt: skip
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-3))

    def target(x):
        pairs = zip(amplitudes, frequencies, strict=True)
        return sum(a * waves(x / 2, [k]) for a, k in pairs)

    return diagnostics.spectral_bias(trainer, x, target, frequencies, steps=steps, every=every)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("activation", "steps"), [(nn.ReLU(), 1200), (nn.Tanh(), 1700)], ids=repr)
def test_low_frequencies_are_learned_first(activation, steps, seed):
    found = train_on(activation, seed, steps)
    *low, high = found.learned_at()
    assert low[0] < low[1] < low[2] < high
    assert low[2] < np.inf
    # In these steps a net of tanh has learned the highest, and one of ReLU has not.
    assert (high == np.inf) == isinstance(activation, nn.ReLU)
    assert low[1] > 2 * low[0]
    np.testing.assert_allclose(found.relative[0], 1, atol=0.2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("activation", "steps"), [(nn.ReLU(), 800), (nn.Tanh(), 800)], ids=repr)
def test_a_higher_frequency_comes_later_though_it_is_larger(activation, steps, seed):
    """The amplitudes are 1, 3, 5, 10. Those in the middle may change places, the last is last."""
    *low, high = train_on(activation, seed, steps, amplitudes=(1, 3, 5, 10)).learned_at()
    assert max(low) < high
    assert low[0] < min(low[1:])
    assert max(low) < np.inf


@pytest.mark.parametrize("seed", range(8))
def test_fourier_features_learn_all_frequencies_at_once(seed):
    features = nn.FourierFeatures(1, bands=np.arange(1, 17) / 2)
    learned = train_on(nn.ReLU(), seed, 60, features, every=1).learned_at()
    assert learned.max() <= 50
    assert learned.max() / learned.min() <= 1.7


def test_the_residual_of_a_linear_model_decays_as_theory_says():
    """Features of size k^-p: the residual at k is (1 - η λ_k)^t, with λ_k = k^(-2p) / 2."""
    n, p, ks = 64, 1.0, np.array([1, 2, 3, 5, 8])
    x = np.arange(n) / n
    amplitude = ks**-p
    features = np.hstack([amplitude * f(TWO_PI * np.outer(x, ks)) for f in (np.sin, np.cos)])
    model = nn.Sequential(nn.Linear(10, 1, bias=False), dtype="float64")
    model.flat_parameters = np.zeros(10)
    lr = 0.3  # of MSELoss, which has no 1/2: η = 2 lr
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr))
    found = diagnostics.spectral_bias(
        trainer, x, waves(x, ks), ks, steps=60, every=20, inputs=features
    )
    eigenvalues = ks ** (-2 * p) / 2
    for step, residual in zip(found.steps, found.relative, strict=True):
        np.testing.assert_allclose(residual, (1 - 2 * lr * eigenvalues) ** step, 1e-12, 1e-15)
    kernel = diagnostics.ntk_eigenvalues(model, features)
    np.testing.assert_allclose(kernel[:10], np.repeat(eigenvalues, 2), rtol=1e-12)
    np.testing.assert_allclose(kernel[10:], 0, atol=1e-15)


@pytest.mark.parametrize("hidden", [1, 8], ids=["more outputs than parameters", "fewer"])
def test_the_tangent_kernel_is_that_of_the_gradients(hidden, rng):
    layers = nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)
    model = nn.Sequential(*layers, dtype="float64")
    x = rng.standard_normal((6, 3))
    values = diagnostics.ntk_eigenvalues(model, x)
    assert values.shape == (12,)
    h, t = 1e-6, model.flat_parameters
    columns = []
    for k in range(t.size):
        e = h * np.eye(t.size)[k]
        model.flat_parameters = t + e
        up = model(x)
        model.flat_parameters = t - e
        columns.append(((up - model(x)) / (2 * h)).ravel())
    j = np.array(columns).T
    np.testing.assert_allclose(values, np.linalg.eigvalsh(j @ j.T / 6)[::-1], atol=1e-8)
    assert values.min() >= 0


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_step_shrinks_the_error_by_the_eigenvalues_of_the_tangent_kernel(outputs, rng):
    """MSELoss divides by the number of outputs, too."""
    x, y, lr = rng.standard_normal((20, 3)), rng.standard_normal((20, outputs)), 0.05
    model = nn.Sequential(nn.Linear(3, outputs), dtype="float64")
    values = diagnostics.ntk_eigenvalues(model, x)[::outputs][:4]  # each is there once per output
    u = np.linalg.svd(np.c_[x, np.ones(20)], full_matrices=False)[0]
    before = u.T @ (model(x) - y)
    tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=lr)).step(x, y)
    factor = 1 - 2 * lr * values[:, np.newaxis] / outputs
    np.testing.assert_allclose(u.T @ (model(x) - y), factor * before, rtol=1e-10, atol=1e-13)


def test_the_tangent_kernel_of_fourier_features_is_flat_over_their_bands():
    """Rows of sines and cosines on a uniform grid: each band has the eigenvalue 1/2, twice."""
    x = np.arange(32)[:, None] / 32
    model = nn.Sequential(
        nn.FourierFeatures(1, bands=range(1, 9)), nn.Linear(16, 1, bias=False), dtype="float64"
    )
    values = diagnostics.ntk_eigenvalues(model, x)
    np.testing.assert_allclose(values[:16], 0.5, rtol=1e-12)
    np.testing.assert_allclose(values[16:], 0, atol=1e-14)


def test_the_phase_counts_and_not_only_the_amplitude():
    """A prediction with the right amplitude and the opposite phase is twice as wrong as none."""
    x = np.arange(32) / 32
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float64")
    model.flat_parameters = [-1.0]
    target = waves(x, [2])
    watch = diagnostics.SpectralBias(x, target, [2], inputs=target[:, None], every=1)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.0))
    trainer.fit(target[:, None], target, epochs=1, batch_size=32, callbacks=[watch])
    np.testing.assert_allclose(watch.relative, 2, rtol=1e-12)
    assert repr(watch) == "SpectralBias(frequencies=[2], every=1; 2 records; latest: [2.])"


def test_samples_that_cannot_tell_frequencies_apart_are_said():
    x = np.arange(20) / 20
    np.testing.assert_allclose(waves(x, [23]), waves(x, [3]), atol=1e-13)
    with pytest.warns(UserWarning, match=r"\[23\] are not below the Nyquist frequency, 10 of 20"):
        diagnostics.SpectralBias(x, waves(x, [3]), [3, 23])
    with pytest.warns(UserWarning, match=r"the same as \[3\]"):
        diagnostics.SpectralBias(x, waves(x, [3]), [23])
    # The sine at 10 is zero at every sample.
    nothing = pytest.raises(tw.DataError, match=r"no component at the frequencies \[10\]")
    with pytest.warns(UserWarning, match="Nyquist"), nothing:
        diagnostics.SpectralBias(x, lambda x: waves(x, [10]), [10])
    with pytest.warns(UserWarning, match="50.0% of the target's energy is at or above"):
        diagnostics.SpectralBias(x, lambda x: waves(x, [3, 14]), [3])
    diagnostics.SpectralBias(x, lambda x: waves(x, [3, 9]), [3, 9])  # no warning: an error here


def test_a_sample_that_repeats_the_first_is_named_as_the_cause():
    """A wave jumps at the end of that period; more samples would not help."""
    with pytest.warns(UserWarning, match=r"63 steps, .* leave it out, .*endpoint=False") as told:
        diagnostics.SpectralBias(np.linspace(-1, 1, 64), lambda x: waves(x, [3]), [6])
    assert told[0].filename == __file__
    diagnostics.SpectralBias(
        np.linspace(-1, 1, 64, endpoint=False), lambda x: waves(x, [3]), [6]
    )  # no warning
    with pytest.warns(UserWarning, match=r"10 samples, and folds back .* Use more samples"):
        diagnostics.SpectralBias(np.linspace(-1, 1, 10), lambda x: waves(x, [3]), [1])


def test_what_spectral_bias_refuses(rng):
    x = np.arange(16) / 16
    for kind, pattern, arguments in [
        (tw.DataError, "equally spaced", (np.sort(rng.random(16)), x, [1])),
        (tw.DataError, "at least 4", (x[:3], x[:3], [1])),
        (tw.ShapeError, "16 rows but y has 15", (x, x[:15], [1])),
        (tw.ArgumentError, "frequencies", (x, x, [0])),
        (tw.ArgumentError, "at least one", (x, x, [])),
        (tw.DataError, r"no component at .*\[2\]", (x, waves(x, [1]), [2])),
    ]:
        with pytest.raises(kind, match=pattern):
            diagnostics.SpectralBias(*arguments)
    with pytest.raises(tw.UnsupportedError, match="fold"):
        diagnostics.ntk_eigenvalues(nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), x[:, None])


def test_residuals_can_be_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    axes = train_on(nn.ReLU(), 0, 20).plot()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "3", "5", "10"]
    plt.close("all")


def test_the_end_of_a_fit_is_recorded():
    assert train_on(nn.ReLU(), 0, 25, every=10).steps == [0, 10, 20, 25]
    found = train_on(nn.ReLU(), 0, 20, every=10)
    assert found.steps == [0, 10, 20]  # once
    assert found.relative.shape == (3, 4)


def test_few_records_are_drawn_and_none_are_an_error():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    found = train_on(nn.ReLU(), 0, 5, every=10)
    assert found.steps == [0, 5]
    assert found.plot().get_xlim() == (0, 10)
    # What a fit leaves that ended by an error before the second record.
    del found.steps[1:], found.residuals[1:]
    assert found.plot().get_xlim() == (0, 10)
    plt.close("all")
    x = np.arange(16) / 16
    with pytest.raises(tw.ArgumentError, match=r"SpectralBias.* has not recorded anything yet"):
        diagnostics.SpectralBias(x, waves(x, [1]), [1]).plot()
    assert not plt.get_fignums()


def test_records_go_on_in_another_fit_of_the_same_model():
    x = np.arange(16) / 16
    trainers = []
    for _ in range(2):
        model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1), seed=0)
        trainers.append(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1)))
    (parts, y), other = (trainers[0], waves(x, [1])[:, None]), trainers[1]
    watch = diagnostics.SpectralBias(x, y, [1], every=10)
    for epochs in (25, 20):
        parts.fit(x[:, None], y, epochs=epochs, batch_size=None, callbacks=[watch])
    assert watch.steps == [0, 10, 20, 25, 30, 40, 45]
    with pytest.raises(tw.ArgumentError, match="7 records of another model: make a new one"):
        other.fit(x[:, None], y, epochs=1, callbacks=[watch])
    whole = diagnostics.SpectralBias(x, y, [1], every=10)
    other.fit(x[:, None], y, epochs=45, batch_size=None, callbacks=[whole])
    np.testing.assert_allclose(np.delete(watch.relative, 3, axis=0), whole.relative, rtol=1e-4)


@pytest.mark.parametrize("n", [100, 128, 1000])
def test_places_may_be_rounded_to_float32(n):
    x = (np.arange(n) / n).astype(np.float32)
    watch = diagnostics.SpectralBias(x, waves(x, [3]), [3])
    assert watch.learned_at().tolist() == [np.inf]  # no fit yet
    assert watch.relative.shape == (0, 1)
    x[5] += 1e-5
    with pytest.raises(tw.DataError, match="equally spaced"):
        diagnostics.SpectralBias(x, waves(x, [3]), [3])


def test_what_are_no_inputs_and_no_trainer_is_refused():
    x = np.arange(16) / 16
    with pytest.raises(tw.DtypeError, match="inputs has dtype"):
        diagnostics.SpectralBias(x, waves(x, [1]), [1], inputs=["a"] * 16)
    with pytest.raises(tw.ShapeError, match=r"inputs must have shape .*; got shape \(\)"):
        diagnostics.SpectralBias(x, waves(x, [1]), [1], inputs=5)
    with pytest.raises(tw.ArgumentError, match="trainer must be a Trainer"):
        diagnostics.spectral_bias(None, x, waves(x, [1]), [1])


def test_arguments_that_do_not_exist_are_explained():
    with pytest.raises(TypeError, match=r"SpectralBias has no argument 'evry'; did you mean every"):
        diagnostics.SpectralBias(np.arange(8) / 8, np.sin, [1], evry=3)
