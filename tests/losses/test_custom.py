"""Losses of the user's own."""

import functools

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .cases import K, network


def mse(output, target, weight=None):
    d = output - target
    if weight is not None:
        d *= weight[:, None]
        return float((d * (output - target)).sum() / weight.sum() / d.shape[1]), (
            2 * d / weight.sum() / d.shape[1]
        )
    return float((d**2).mean()), 2 * d / d.size


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_custom_loss_trains_as_the_same_in_the_core(dtype, weighted, shuffle, rng):
    x, y = rng.standard_normal((40, 6)).astype(dtype), rng.standard_normal((40, K)).astype(dtype)
    weight = rng.uniform(0.5, 1, 40).astype(dtype) if weighted else None
    runs = []
    for loss in (nn.MSELoss(), mse, nn.CustomLoss(mse)):
        model = nn.Sequential(
            nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, K), dtype=dtype, seed=3
        )
        # Not Adam, which makes full steps of gradients that are nothing but rounding.
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.05, momentum=0.9))
        trainer.fit(x, y, epochs=2, batch_size=12, sample_weight=weight, shuffle=shuffle)
        history = trainer.fit(
            x, y, epochs=2, batch_size=12, sample_weight=weight, shuffle=shuffle,
            validation_data=(x, y) if weight is None else (x, y, weight),
        )  # fmt: skip
        state = np.concatenate([v.ravel() for v in model.state_dict().values()])
        runs.append([state, history["val_loss"], trainer.step(x, y, weight)])
        runs[-1].append(trainer.evaluate(x, y, weight)["loss"])
        runs[-1].append(history["loss"])
        batches = [(x[i:j], y[i:j]) for i, j in ((0, 9), (9, 40))]
        if weight is not None:
            batches = [(*b, w) for b, w in zip(batches, (weight[:9], weight[9:]), strict=True)]
        runs[-1].append(trainer.fit(batches)["loss"])
    rtol = 1e-9 if dtype == "float64" else 1e-3
    for a, b, c in zip(*runs, strict=True):
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * 1e-2)
        np.testing.assert_array_equal(b, c)


def test_the_loss_of_an_epoch_is_the_weighted_mean(rng):
    """Over batches that weigh very differently, as `evaluate` computes it at once."""
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, K))
    weight = 10.0 ** rng.integers(-3, 3, 40)
    weight[12:24] = 0
    model = nn.Sequential(nn.Linear(6, K), dtype="float64")
    trainer = tw.Trainer(model, loss=mse, optimizer=optim.SGD(lr=0.0))
    expected = pytest.approx(trainer.evaluate(x, y, weight)["loss"], rel=1e-12)
    assert trainer.fit(x, y, batch_size=12, sample_weight=weight)["loss"][0] == expected
    cuts = [slice(i, i + 12) for i in range(0, 40, 12)]
    assert trainer.fit([(x[c], y[c], weight[c]) for c in cuts])["loss"][0] == expected


def test_a_custom_loss_is_of_no_rows_no_more_than_others():
    trainer = tw.Trainer(nn.Sequential(nn.Linear(6, K)), loss=mse, optimizer=optim.SGD(0.1))
    nothing = np.empty((0, 6)), np.empty((0, K))
    for call in (trainer.fit, trainer.step, trainer.evaluate, trainer.backward):
        with pytest.raises(tw.DataError, match="no rows"):
            call(*nothing)


def test_a_custom_loss_gets_the_rows_of_y_as_they_are(rng):
    """Whatever y holds: here records, and in the same shuffled order as x."""
    x = rng.standard_normal((10, 6))
    y = np.array([(i, f"row {i}") for i in range(10)], dtype="i8,U8")
    lookup = {row["f1"]: x[i] for i, row in enumerate(y)}
    seen = []

    def loss(output, target):
        np.testing.assert_array_equal(output, model(np.stack([lookup[r["f1"]] for r in target])))
        seen.extend(target["f0"])
        return 0.0, np.zeros_like(output)

    model = network()
    tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1)).fit(x, y, epochs=2, batch_size=4)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def known_squares(output, target):
    known = ~np.isnan(target)
    d, count = np.where(known, output - target, 0), max(known.sum(), 1)
    return np.sum(d**2) / count, 2 * d / count


def test_targets_that_are_not_known_can_be_left_out_by_a_loss_of_ones_own(rng):
    x, y = rng.standard_normal((60, 6)), rng.standard_normal((60, K))
    lost = rng.random(y.shape) < 0.3
    y[lost] = np.nan
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, K), dtype="float64", seed=3)
    assert tw.gradcheck(model, x, y, loss=known_squares)
    trainer = tw.Trainer(model, loss=known_squares, optimizer=optim.Adam(lr=0.01))
    history = trainer.fit(x, y, epochs=3, validation_data=(x, y))
    assert history["val_loss"][-1] < history["val_loss"][0]
    known = (model(x) - y)[~lost]
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(np.mean(known**2), rel=1e-13)
    with pytest.raises(tw.DataError, match="is NaN"):
        tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam()).fit(x, y)
    with pytest.raises(tw.DataError, match="is nan"):
        tw.gradcheck(model, x, y, loss=nn.MSELoss())


def test_callbacks_progress_and_history_of_a_fit_with_a_custom_loss(rng):
    pytest.importorskip("tqdm")
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, K))

    class Stop:
        def on_epoch_end(self, trainer, record):
            assert set(record) == {"epoch", "loss", "seconds"}
            return record["epoch"] == 3

    trainer = tw.Trainer(network(), loss=mse, optimizer=optim.SGD(lr=0.01))
    history = trainer.fit(x, y, epochs=10, callbacks=[Stop()], progress=True)
    assert history.epochs == 3
    assert history["loss"][2] < history["loss"][0]
    assert "CustomLoss" in repr(trainer)
    with pytest.raises(tw.UnsupportedError, match="custom loss"):
        trainer.plan(3)


def test_gradcheck_of_a_custom_loss(rng):
    # In float32 from the start: the library rounds what a float32 model's own loss is given, but
    # leaves what a custom one is given as it came.
    x, y = rng.standard_normal((8, 6)), rng.standard_normal((8, K))
    weight = rng.uniform(size=8)
    x, y, weight = (a.astype(np.float32) for a in (x, y, weight))
    layers = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, K)
    model = nn.Sequential(*layers, seed=3)
    assert tw.gradcheck(model, x, y, loss=mse)
    ours = tw.gradcheck(model, x, y, loss=mse, sample_weight=weight)
    cores = tw.gradcheck(model, x, y, loss=nn.MSELoss(), sample_weight=weight)
    assert ours.passed
    assert ours.value == pytest.approx(cores.value, rel=1e-13)

    def wrong(output, target):
        value, slope = mse(output, target)
        return value, 1.001 * slope

    assert not tw.gradcheck(model, x, y, loss=wrong)

    def failing(output, target):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tw.gradcheck(model, x, y, loss=failing)


BAD_RESULTS = {
    "a number": (lambda o, t: 1.0, tw.ArgumentError, [r"\(loss, gradient\)", "float"]),
    "four things": (
        lambda o, t: (1.0, o, {}, t),
        tw.ArgumentError,
        [r"\(loss, gradient\), or \(loss, gradient, figures\).* 4 items"],
    ),
    "figures without names": (
        lambda o, t: (1.0, o, t),
        tw.ArgumentError,
        ["third item .* dict of figures", "ndarray"],
    ),
    "a figure by a number": (lambda o, t: (1.0, o, {3: 1.0}), tw.ArgumentError, ["named 3"]),
    "a figure of the history's": (
        lambda o, t: (1.0, o, {"loss": 1.0}),
        tw.ArgumentError,
        ["named 'loss'; .* one that the records of a fit already have"],
    ),
    "a figure of the record of a batch": (
        lambda o, t: (1.0, o, {"batch": 1.0}),
        tw.ArgumentError,
        ["named 'batch'; .* one that the records of a fit already have"],
    ),
    "a figure of validation data": (
        lambda o, t: (1.0, o, {"val_kl": 1.0}),
        tw.ArgumentError,
        ["named 'val_kl'; .* must not begin with val_"],
    ),
    "figures of rows": (
        lambda o, t: (1.0, o, {"kl": o[:, 0]}),
        tw.ShapeError,
        ["figure 'kl' .* one number"],
    ),
    "a figure that is a text": (lambda o, t: (1.0, o, {"kl": "1"}), tw.DtypeError, ["figure 'kl'"]),
    "an infinite figure": (
        lambda o, t: (1.0, o, {"kl": np.inf}),
        tw.DataError,
        ["figure 'kl' .* is inf; .* NaN for a batch that has none"],
    ),
    "losses of rows": (lambda o, t: (o[:, 0], o), tw.ShapeError, ["one number", r"\d+,\)"]),
    "a text": (lambda o, t: ("1", o), tw.DtypeError, ["the loss has dtype"]),
    "a gradient of rows": (
        lambda o, t: (1.0, o[:, 0]),
        tw.ShapeError,
        [r"\(\d+,\)", r"\(\d+, 4\)"],
    ),
    "an integer gradient": (lambda o, t: (1.0, o.astype(int)), tw.DtypeError, ["int64", "floats"]),
    "no gradient": (lambda o, t: (1.0, None), tw.DtypeError, ["gradient of the loss"]),
    "a NaN": (lambda o, t: (1.0, o * np.nan), tw.DataError, [r"gradient of the loss\[0, 0\]"]),
    "a NaN that has causes": (
        lambda o, t: (1.0, np.where(o > np.inf, o, np.nan)),
        tw.DataError,
        [r"gradient of the loss\[0, 0\] is nan, although the loss is finite. Usual causes .*log"],
    ),
    "a loss of NaN": (lambda o, t: (np.nan, o), tw.DivergedError, ["loss became nan"]),
    "an infinite loss": (lambda o, t: (np.inf, o * np.nan), tw.DivergedError, ["became inf"]),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
@pytest.mark.parametrize("method", ["step", "fit"])
def test_bad_results_of_a_custom_loss_change_nothing(method, case, rng):
    bad, kind, patterns = BAD_RESULTS[case]
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        return mse(output, target) if calls < 4 else bad(output, target)

    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, K), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    x, y = rng.standard_normal((15, 6)), rng.standard_normal((15, K))
    for _ in range(2):
        trainer.step(x, y)
    if method == "step":
        trainer.step(x, y)

    def state():
        optimizer = trainer.optimizer.state_dict()
        arrays = {k: v.tobytes() for k, v in optimizer.pop("arrays").items()}
        parameters = {k: v.tobytes() for k, v in model.state_dict().items()}
        return parameters, optimizer, arrays, model.flat_gradients.tobytes()

    before = state()
    options = {"batch_size": 5, "shuffle": False} if method == "fit" else {}
    with pytest.raises(kind) as caught:
        getattr(trainer, method)(x, y, **options)
    for pattern in patterns:
        assert caught.match(pattern)
    assert state() == before


def test_what_was_broadcast_is_said(rng):
    """NumPy takes (n,) for a row, so (n, 1) - (n,) is (n, n)."""

    def squares(name):
        def loss(output, target):
            d = output - (target[name] if name else target)
            return (d**2).mean(), 2 * d / d.size

        return loss

    x, y = rng.standard_normal((8, 6)), rng.standard_normal(8)
    for name, given, written in (
        (None, y, r"y of shape \(8,\) was broadcast .* use target\[:, None\]"),
        ("b", {"a": x, "b": y}, r"y\['b'\] of shape \(8,\) .* use target\['b'\]\[:, None\]"),
    ):
        trainer = tw.Trainer(network(1), loss=squares(name), optimizer=optim.Adam())
        with pytest.raises(tw.ShapeError, match=rf"shape \(8, 8\), but .* \(8, 1\): {written}"):
            trainer.step(x, given)
    trainer = tw.Trainer(network(), loss=lambda o, t: (1.0, o[:4]), optimizer=optim.Adam())
    with pytest.raises(tw.ShapeError, match=r"has \(8, 4\)$"):
        trainer.step(x, y)


@pytest.mark.parametrize("method", ["step", "fit", "backward", "evaluate"])
def test_a_loss_that_is_nan_says_which_target_was(method, rng):
    """They may be, to a function; so it is the loss that is looked at."""
    x, y = rng.standard_normal((8, 6)), {"value": np.zeros((8, K)), "adv": np.zeros(8)}

    def loss(output, target):
        return float(target["adv"].sum() + target["value"].sum()), output

    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Adam())
    wrong = tw.ArgumentError if method == "evaluate" else tw.DivergedError
    call = functools.partial(trainer.fit, shuffle=False) if method == "fit" else None
    call = call or getattr(trainer, method)
    y["adv"][3] = np.nan
    with pytest.raises(wrong, match=r"y\['adv'\] has NaN in row 3 of the batch"):
        call(x, y)
    y["value"][1, 2] = np.inf
    with pytest.raises(wrong, match=r"y\['value'\] has an infinite number in row 1 of the batch"):
        call(x, y)


def weighs_always(output, target, weight):
    return mse(output, target, weight)


@pytest.mark.parametrize("method", ["step", "fit", "evaluate", "backward", "stream", "validation"])
@pytest.mark.parametrize("weighted", [False, True])
def test_how_a_custom_loss_is_called_is_said(method, weighted, rng):
    """Before it is; Python's own error does not say where the third argument comes from."""
    x, y, w = rng.standard_normal((9, 6)), rng.standard_normal((9, K)), np.ones(9)
    loss = known_squares if weighted else weighs_always
    if method == "validation":
        loss = known_squares
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, K))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    data = (x, y, w) if weighted or method == "validation" else (x, y)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    calls = {
        "fit": lambda: trainer.fit(*data[:2], sample_weight=w if weighted else None),
        "stream": lambda: trainer.fit([data]),
        "validation": lambda: trainer.fit(x, y, validation_data=data),
    }
    call = calls.get(method, lambda: getattr(trainer, method)(*data))
    text = (
        r"with sample_weight, a custom loss is called as f\(output, target, weight\), but "
        r"known_squares takes \(output, target\): add a last argument, weight"
        if len(data) == 3
        else r"without sample_weight, .* f\(output, target\), but weighs_always takes "
        r"\(output, target, weight\): pass sample_weight"
    )
    with pytest.raises(tw.ArgumentError, match=text):
        call()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert trainer.optimizer.steps == 0


def test_errors_of_a_custom_loss_and_what_it_wraps_are_its_own(rng):
    x, y = rng.standard_normal((9, 6)), rng.standard_normal((9, K))

    @functools.wraps(known_squares)
    def unweighted(output, target, weight=None):
        return known_squares(output, target)

    def failing(output, target):
        return len(3), output

    trainer = tw.Trainer(network(), loss=unweighted, optimizer=optim.SGD(lr=0.1))
    trainer.fit(x, y, sample_weight=np.ones(9))
    trainer.loss = failing
    with pytest.raises(TypeError, match=r"object of type 'int' has no len\(\)"):
        trainer.step(x, y)


def test_bad_data_of_a_custom_loss(rng):
    x, y = rng.standard_normal((9, 6)), rng.standard_normal((9, K))
    called = []
    model = network()
    trainer = tw.Trainer(model, loss=lambda o, t: called.append(1), optimizer=optim.SGD(lr=0.1))
    bad = x.copy()
    bad[8, 5] = np.nan
    for call, kind, pattern in [
        (lambda: trainer.fit(bad, y, batch_size=1), tw.DataError, r"x\[8, 5\]"),
        (lambda: trainer.fit(x[:, :5], y), tw.ShapeError, "9, 5"),
        (lambda: trainer.fit(x, y[:8]), tw.ShapeError, "y has 8"),
        (lambda: trainer.fit(x, y, validation_data=(bad, y)), tw.DataError, "validation x"),
        (
            lambda: trainer.fit(x, y, sample_weight=-np.ones(9)),
            tw.DataError,
            r"weight\[0\] is -1; .*Advantages, .* custom loss",
        ),
        (
            lambda: trainer.step(x, (y, y[:, 0])),
            tw.ArgumentError,
            r'y has 2 arrays of 9 rows: pass several arrays as a dict, y=\{"action"',
        ),
        (lambda: trainer.step(x, 3.0), tw.ShapeError, r"y must have a row.*got 3\.0$"),
        (lambda: trainer.step(x, {"a": 3.0}), tw.ShapeError, r"y\['a'\] must have a row.*got 3.0"),
        (lambda: trainer.step(x, {"a": y[1:]}), tw.ShapeError, "x has 9 rows but y has 8"),
        (lambda: trainer.fit(x, {"a": y, "b": y[1:]}), tw.ShapeError, "got {'a': 9, 'b': 8}"),
        (lambda: trainer.fit(x, {}), tw.ArgumentError, r"y must be a dict of arrays"),
        (
            lambda: trainer.fit(x, {0: y}),
            tw.ArgumentError,
            r"y must be a dict.* got the keys \[0\]",
        ),
        (lambda: trainer.fit(x, np.ma.masked_less(y, 0)), tw.DataError, "y has .* masked entries"),
        (lambda: trainer.fit(x, {"a": np.ma.masked_less(y, 0)}), tw.DataError, r"y\['a'\] has"),
        (lambda: trainer.fit(x, [[1, 2], [3]] + 7 * [[4]]), tw.ShapeError, "y cannot be made an"),
        (lambda: trainer.step(bad, y), tw.DataError, r"x\[8, 5\]"),
        (lambda: trainer.evaluate(x, y[1:]), tw.ShapeError, "y has 8"),
    ]:
        with pytest.raises(kind, match=pattern):
            call()
    assert not called


def test_a_tensor_with_a_gradient_is_refused_with_advice():
    """As everywhere else."""
    torch = pytest.importorskip("torch")
    trainer = tw.Trainer(network(), loss=mse, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(tw.DtypeError, match=r"y cannot be made an array.*detach"):
        trainer.step(np.zeros((2, 6)), torch.zeros((2, K), requires_grad=True))


def test_rows_that_all_weigh_nothing_are_refused(rng):
    """As with losses of the core; a batch of such rows is passed over by fits alone."""
    x, y, w = rng.standard_normal((9, 6)), rng.standard_normal((9, K)), np.zeros(9)
    for loss in (nn.MSELoss(), mse):
        for optimizer in (optim.Adam(), optim.LBFGS()):
            trainer = tw.Trainer(network(), loss=loss, optimizer=optimizer)
            for call in (
                lambda t: t.fit(x, y, sample_weight=w, batch_size=None),
                lambda t: t.step(x, y, w),
                lambda t: t.backward(x, y, w),
                lambda t: t.evaluate(x, y, w),
                lambda t: t.fit(x, y, batch_size=None, validation_data=(x, y, w)),
            ):
                with pytest.raises(tw.DataError, match="no row counts: each has a sample_weight"):
                    call(trainer)
            assert trainer.optimizer.steps == 0


def test_several_arrays_are_targets_by_their_names(rng):
    """In a dict, in which the function finds the rows of a batch."""
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((40, K))
    sign = np.where(rng.random(40) < 0.5, -1, 1).astype("int8")

    def signed(output, target, weight=None):
        assert {name: len(part) for name, part in target.items()} == {
            "sign": len(output),
            "value": len(output),
        }
        target["seen"] = output  # a dict of its own
        return mse(output, target["sign"][:, None] * target["value"], weight)

    ends = []
    for loss, given in ((mse, sign[:, None] * y), (signed, {"sign": sign, "value": y})):
        trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Adam())
        history = trainer.fit(x, given, epochs=2, batch_size=12, validation_data=(x, given))
        batch = {name: part[:12] for name, part in given.items()} if loss is signed else given[:12]
        trainer.fit(lambda b=batch: [(x[:12], b)], epochs=2, validation_data=[(x[:12], batch)])
        trainer.step(x[:12], batch, sample_weight=np.arange(12))
        ends.append(
            [history["val_loss"], trainer.evaluate(x, given), trainer.model.flat_parameters]
        )
        assert tw.gradcheck(trainer.model, x[:12], batch, loss=loss)
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    many = [tw.Trainer(network(), loss=signed, optimizer=optim.Adam()) for _ in range(2)]
    copied = {name: part.copy() for name, part in given.items()}
    first, second = tw.train_many(many, [x, x.copy()], [given, copied], epochs=2, batch_size=12)
    assert first["loss"] == second["loss"]


def test_a_name_that_no_target_has_is_said(rng):
    x = rng.standard_normal((5, 6))
    trainer = tw.Trainer(
        network(), loss=lambda o, t: (1.0, o * t["advantage"]), optimizer=optim.Adam()
    )
    with pytest.raises(KeyError, match="y has no 'advantage'; it has action, adv"):
        trainer.step(x, {"action": np.zeros(5), "adv": np.zeros(5)})
    with pytest.raises(KeyError, match=r"'advantage'$"):  # nothing to say of a single target
        tw.gradcheck(network(), x, np.zeros(5), loss=lambda o, t: {}["advantage"])


def test_several_targets_are_a_plain_dict(rng):
    """Compiled functions of JAX take no other, and PyTorch's trees see no arrays in it."""
    kinds, x, y = [], rng.standard_normal((15, 6)), {"a": np.zeros(15), "b": {"c": np.ones(15)}}

    def loss(output, target):
        kinds.extend((type(target), type(target["b"])))
        return np.mean(output**2), 2 * output / output.size

    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.SGD(lr=0.0))
    trainer.step(x, y)
    trainer.fit(x, y, batch_size=6)
    trainer.evaluate(x, y)
    assert set(kinds) == {dict}


def test_rows_may_come_in_a_tuple(rng):
    """As those of ``zip(*memory)`` do; as many arrays as rows are rows."""
    x, y = rng.standard_normal((4, 6)), rng.standard_normal((4, K))
    trainer = tw.Trainer(network(), loss=mse, optimizer=optim.SGD(lr=0.0))
    assert trainer.step(x, tuple(y)) == trainer.step(x, y)


def test_gradients_are_as_they_were_after_what_failed(rng):
    """Also where a step had left its own, or SAM had moved."""
    x, y = rng.standard_normal((15, 6)), rng.standard_normal((15, K))

    for optimizer in (optim.Adam(), optim.SAM(optim.Adam()), optim.LBFGS()):
        left = [0]

        def loss(output, target, left=left):
            left[0] -= 1
            value, gradient = mse(output, target)
            return (value, gradient) if left[0] else (np.nan, gradient)

        trainer = tw.Trainer(network(), loss=loss, optimizer=optimizer)
        model = trainer.model
        model.flat_gradients = mine = rng.standard_normal(model.num_parameters)
        size = None if isinstance(optimizer, optim.LBFGS) else 5
        calls = [
            (1, lambda t: t.fit(x, y, batch_size=15)),
            (1, lambda t: t.step(x, y)),
            (1, lambda t: t.backward(x, y)),
        ]
        if size:
            calls += [
                (5, lambda t: t.fit(x, y, epochs=2, batch_size=5)),
                (5, lambda t: t.fit(lambda: [(x[:5], y[:5])] * 3, epochs=2)),
            ]
        if isinstance(optimizer, optim.SAM):
            calls.append((2, lambda t: t.step(x, y)))
        for good, call in calls:
            left[0] = good
            with pytest.raises(tw.DivergedError):
                call(trainer)
            np.testing.assert_array_equal(model.flat_gradients, mine)


def test_a_loss_of_ones_own_follows_schedules_and_limits(rng):
    """As the core's does."""
    from thalweg.optim import schedules

    x, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 2))

    def mean_square(output, target):
        return np.mean((output - target) ** 2), 2 * (output - target) / output.size

    ends, seen = [], []

    class Rates:
        def on_step_end(self, trainer, record):
            seen.append((trainer.optimizer.lr, record["epoch"], record["batch"]))

    for loss in (nn.MSELoss(), nn.CustomLoss(mean_square)):
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2), dtype="float64")
        trainer = tw.Trainer(
            model, loss=loss, optimizer=optim.Adam(lr=0.1), clip_grad_norm=0.1,
            schedule=schedules.LinearWarmup(4, then=schedules.CosineAnnealingLR()),
        )  # fmt: skip
        for epochs in (2, 3):
            trainer.fit(x, y, epochs=epochs, batch_size=6, callbacks=[Rates()])
        ends.append(model.flat_parameters)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-12)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


AVERAGES = {
    "none": None,
    "EMA": optim.EMA(0.8, start=1, every=2),
    "SWA": optim.SWA(start=2),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients_are_gathered_and_weights_averaged_as_with_a_loss_of_the_core(
    average, dtype, rng
):
    """By fits, whose epochs of 4 batches make updates of 3 and of 1; and by steps."""
    from thalweg.optim import schedules

    x, y = rng.standard_normal((20, 6)).astype(dtype), rng.standard_normal((20, K)).astype(dtype)
    ends = []
    for loss in (nn.MSELoss(), mse):
        model = nn.Sequential(
            nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, K), dtype=dtype, seed=3
        )
        trainer = tw.Trainer(
            model, loss=loss, optimizer=optim.SGD(lr=0.1, momentum=0.9).add_group(
                "0.bias", frozen=True
            ),
            accumulate_grad_batches=3, average=AVERAGES[average], clip_grad_norm=0.5,
            schedule=schedules.CosineAnnealingLR(20),
        )  # fmt: skip
        trainer.fit(x, y, epochs=2, batch_size=6)
        assert trainer.optimizer.steps == 4
        trainer = trainer.copy()
        trainer.fit(x, y, epochs=1, batch_size=6, shuffle=False)
        for _ in range(7):  # two updates, and one gradient that waits
            trainer.step(x, y)
        assert trainer.optimizer.steps == 8
        ends.append([trainer.model.flat_parameters, trainer.optimizer.lr])
        if average != "none":
            ends[-1].append(trainer.average_model().flat_parameters)
    rtol = 1e-12 if dtype == "float64" else 1e-5
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol)


def test_an_average_is_as_it_was_after_a_fit_that_diverged(rng):
    x, y = rng.standard_normal((15, 6)), rng.standard_normal((15, K))
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        value, gradient = mse(output, target)
        return (np.inf if calls == 8 else value), gradient

    trainer = tw.Trainer(network(), loss=loss, optimizer=optim.Adam(), average=optim.EMA(0.5))
    trainer.fit(x, y, batch_size=5)
    before = trainer.average_model().flat_parameters
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, batch_size=5, epochs=2)
    np.testing.assert_array_equal(trainer.average_model().flat_parameters, before)
    trainer.step(x, y)
    expected = (before + trainer.model.flat_parameters) / 2
    np.testing.assert_allclose(trainer.average_model().flat_parameters, expected, rtol=1e-14)


def test_a_batch_that_fails_can_be_given_again(rng):
    """What was gathered before it is still there."""
    x, y = rng.standard_normal((15, 6)), rng.standard_normal((15, K))
    ends, broken = [], []

    def loss(output, target):
        if broken:
            raise KeyError("mine")
        return mse(output, target)

    for fails in (False, True):
        trainer = tw.Trainer(
            network(), loss=loss, optimizer=optim.SGD(lr=0.1), accumulate_grad_batches=2
        )
        trainer.step(x[:5], y[:5])
        if fails:
            broken.append(True)
            with pytest.raises(KeyError, match="mine"):
                trainer.step(x[5:], y[5:])
            broken.clear()
        trainer.step(x[5:], y[5:])
        assert trainer.optimizer.steps == 1
        ends.append(trainer.model.flat_parameters)
    np.testing.assert_array_equal(*ends)
