"""What comes between a gradient and the update: clipping, and averaging over several batches;
and averages of parameters."""

import math
import pickle

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


def make(dtype="float64", optimizer=None, **options):
    model = nn.Sequential(
        nn.Linear(67, 33), nn.Tanh(), nn.Linear(33, 5), dtype=dtype, seed=1
    )  # fmt: skip
    optimizer = optimizer or optim.SGD(lr=0.1)
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, **options)


@pytest.fixture
def batches(rng):
    return [(rng.standard_normal((20, 67)), 10 * rng.standard_normal((20, 5))) for _ in range(12)]


def gradient(model, x, y):
    model.zero_grad()
    model.backward(2 * (model.forward(x) - y) / y.size)
    return model.flat_gradients


def test_a_limit_that_is_never_reached_changes_nothing(batches):
    plain, clipped = make(), make(clip_grad_norm=1e6)
    for x, y in batches:
        assert plain.step(x, y) == clipped.step(x, y)
    # But for rounding: fused or not, the update multiplies and adds alike.
    np.testing.assert_array_equal(plain.model.flat_parameters, clipped.model.flat_parameters)


@pytest.mark.parametrize("limit", [0.05, 1.0, 3.0])
def test_the_norm_of_all_gradients_together_is_limited(limit, batches):
    trainer, shadow = make(clip_grad_norm=limit), make().model
    theta = shadow.flat_parameters
    clipped = 0
    for x, y in batches:
        shadow.flat_parameters = theta
        g = gradient(shadow, x, y)
        norm = np.linalg.norm(g)
        clipped += norm > limit
        theta = theta - 0.1 * g * min(1, limit / (norm + 1e-6))
        trainer.step(x, y)
        np.testing.assert_allclose(trainer.model.flat_parameters, theta, rtol=0, atol=1e-13)
    assert clipped > 0


def test_each_gradient_is_limited(batches):
    trainer, shadow = make(clip_grad_value=0.01), make().model
    theta = shadow.flat_parameters
    for x, y in batches:
        shadow.flat_parameters = theta
        theta = theta - 0.1 * np.clip(gradient(shadow, x, y), -0.01, 0.01)
        trainer.step(x, y)
        np.testing.assert_allclose(trainer.model.flat_parameters, theta, rtol=0, atol=1e-13)


def test_clipped_training_is_pytorchs(batches):
    torch = pytest.importorskip("torch")
    trainer = make(optimizer=optim.Adam(lr=1e-2), clip_grad_norm=0.5)
    twin = torch.nn.Sequential(
        torch.nn.Linear(67, 33), torch.nn.Tanh(), torch.nn.Linear(33, 5)
    ).double()  # fmt: skip
    twin.load_state_dict({k: torch.tensor(v) for k, v in trainer.model.state_dict().items()})
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for x, y in batches * 17:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(twin(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-9)


def test_gradients_of_several_batches_are_averaged(batches):
    """Three batches of 20 are one of 60."""
    few, many = make(), make(accumulate_grad_batches=3)
    for i in range(0, 12, 3):
        x, y = (np.concatenate(part) for part in zip(*batches[i : i + 3], strict=True))
        before = many.model.flat_parameters
        losses = [many.step(*batches[i])]
        np.testing.assert_array_equal(many.model.flat_parameters, before)
        losses += [many.step(*batch) for batch in batches[i + 1 : i + 3]]
        assert few.step(x, y) == pytest.approx(np.mean(losses), rel=1e-12)
        np.testing.assert_allclose(
            many.model.flat_parameters, few.model.flat_parameters, rtol=0, atol=1e-14
        )
    assert (few.optimizer.steps, many.optimizer.steps) == (4, 4)


def test_a_fit_does_not_carry_gradients_into_the_next_epoch(rng):
    """Batches of 4, 4, 2 in twos: the last is an update of its own."""
    x, y = rng.standard_normal((10, 67)), rng.standard_normal((10, 5))
    trainer, shadow = make(accumulate_grad_batches=2), make().model
    trainer.fit(x, y, epochs=2, batch_size=4, shuffle=False)
    theta = shadow.flat_parameters
    for _ in range(2):
        for rows in ([slice(0, 4), slice(4, 8)], [slice(8, 10)]):
            shadow.flat_parameters = theta
            theta = theta - 0.1 * np.mean([gradient(shadow, x[r], y[r]) for r in rows], axis=0)
    np.testing.assert_allclose(trainer.model.flat_parameters, theta, rtol=0, atol=1e-14)
    assert trainer.optimizer.steps == 4


def test_accumulation_and_clipping_are_the_same_for_any_number_of_threads(rng):
    x = rng.standard_normal((500, 67)).astype(np.float32)
    y = rng.standard_normal((500, 5)).astype(np.float32)
    before, ends = tw.get_num_threads(), set()
    for threads in (1, 2, 3, 8):
        tw.set_num_threads(threads)
        model = nn.Sequential(nn.Linear(67, 700), nn.ReLU(), nn.Linear(700, 5), seed=4)
        trainer = tw.Trainer(
            model, loss=nn.MSELoss(), optimizer=optim.Adam(),
            clip_grad_norm=0.1, accumulate_grad_batches=2,
        )  # fmt: skip
        trainer.fit(x, y, epochs=2, batch_size=128)
        ends.add(model.flat_parameters.tobytes())
    tw.set_num_threads(before)
    assert len(ends) == 1


def test_gradients_that_are_not_finite_leave_everything_as_it_was():
    """The loss is finite in float32, its gradient is not."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float32")
    model.flat_parameters = [1e-10]
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1), clip_grad_norm=1.0
    )  # fmt: skip
    x, y = np.array([[1e28]], dtype=np.float32), np.array([[-1e18]], dtype=np.float32)
    with pytest.raises(tw.DivergedError):
        trainer.step(x, y)
    assert model.flat_parameters[0] == np.float32(1e-10)
    assert trainer.optimizer.steps == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_grad_norm": 0}, r"clip_grad_norm must be a finite number > 0; got 0"),
        ({"clip_grad_value": -1.0}, "clip_grad_value"),
        ({"clip_grad_value": "1"}, "clip_grad_value"),
        (
            {"clip_grad_norm": 1.0, "clip_grad_value": 1.0},
            r"not both; with clip_grad_norm, trainer\.gradient_hook\(lambda .*clip\(-c, c",
        ),
        ({"clip_grad_norm": float("nan")}, "clip_grad_norm"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be an integer >= 1"),
    ],
)
def test_limits_that_make_no_sense_are_named(options, message):
    with pytest.raises(tw.ArgumentError, match=message):
        make(**options)


def test_each_gradient_and_then_their_norm_can_be_limited(batches):
    trainer, shadow = make(clip_grad_norm=0.05), make().model
    theta = shadow.flat_parameters
    with trainer.gradient_hook(lambda gradient: gradient.clip(-0.01, 0.01)):
        for x, y in batches:
            shadow.flat_parameters = theta
            g = np.clip(gradient(shadow, x, y), -0.01, 0.01)
            norm = np.linalg.norm(g)
            theta = theta - 0.1 * g * min(1, 0.05 / (norm + 1e-6))
            trainer.step(x, y)
            assert trainer.grad_norm == pytest.approx(norm, rel=1e-12)
            np.testing.assert_allclose(trainer.model.flat_parameters, theta, rtol=0, atol=1e-13)


def test_an_infinite_limit_only_tells_the_norm(batches, tmp_path):
    """As PyTorch's users log it."""
    trainer, plain, model = make(clip_grad_norm=float("inf")), make(), make().model
    for x, y in batches:
        g = gradient(model, x, y)
        norm = nn.utils.clip_grad_norm_(model, np.inf)
        assert norm == pytest.approx(np.linalg.norm(g), rel=1e-12)
        np.testing.assert_array_equal(model.flat_gradients, g)
        optim.SGD(lr=0.1).step(model)
        trainer.step(x, y)
        plain.step(x, y)
        model.flat_parameters = trainer.model.flat_parameters
        assert trainer.grad_norm == pytest.approx(norm, rel=1e-12)
        np.testing.assert_allclose(
            trainer.model.flat_parameters, plain.model.flat_parameters, rtol=0, atol=1e-13
        )
    trainer.save(tmp_path / "trainer")
    again = tw.Trainer.load(tmp_path / "trainer")
    again.step(*batches[0])
    assert again.grad_norm > 0


@pytest.mark.parametrize("limit", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", size) for size in (9e37, 8e37, 1e36, 3e18, 1e-15, 1e-20, 1e-30)]
    + [("float64", size) for size in (9e307, 4.6e307, 1e300, 1e160, 1e-150, 1e-160, 1e-300)],
)
def test_gradients_of_any_size_are_clipped(dtype, size, limit):
    """Also where their squares, or the factor, are not numbers of the dtype, but 0 or infinite."""
    model = nn.Sequential(nn.Linear(2, 1), dtype=dtype)
    model.flat_gradients = g = np.array([size, -size / 2, size / 3], dtype)
    norm = math.hypot(*g.tolist())
    rtol = 4 * float(np.finfo(dtype).eps)
    assert nn.utils.clip_grad_norm_(model, limit) == pytest.approx(norm, rel=rtol, abs=0)
    # The factor is 1, or limit/norm, beside which 1e-6 is nothing; in an order that loses nothing.
    expected = g.astype(float) / norm * (limit if size > 1 else norm)
    np.testing.assert_allclose(model.flat_gradients, expected, rtol=2 * rtol, atol=0)


def test_clipping_by_hand_is_that_of_the_trainer(batches):
    trainer, model = make(clip_grad_norm=0.5), make().model
    optimizer = optim.SGD(lr=0.1)
    for x, y in batches:
        trainer.step(x, y)
        g = gradient(model, x, y)
        assert nn.utils.clip_grad_norm_(model, 0.5) == pytest.approx(np.linalg.norm(g), rel=1e-12)
        optimizer.step(model)
    # Its gradients are scaled here and there in another order, which rounds otherwise.
    np.testing.assert_allclose(
        model.flat_parameters, trainer.model.flat_parameters, rtol=0, atol=1e-13
    )
    g = gradient(model, *batches[0])
    nn.utils.clip_grad_value_(model, 0.01)
    np.testing.assert_array_equal(model.flat_gradients, np.clip(g, -0.01, 0.01))
    with pytest.raises(tw.ArgumentError, match="max_norm"):
        nn.utils.clip_grad_norm_(model, 0.0)


def test_gradients_of_several_models_are_clipped_together(rng):
    """As PyTorch clips those of an actor and a critic."""
    actor = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2), dtype="float64")
    critic = nn.Sequential(nn.Linear(5, 1))
    models = actor, critic
    # The second ones are so small that the 1e-6 of the formula shows.
    for scale, limit in ((1.0, 0.5), (1e-6, 1e-6), (1e-3, 0.5), (1.0, 1e9)):
        before = [scale * rng.standard_normal(m.num_parameters) for m in models]
        for model, g in zip(models, before, strict=True):
            model.flat_gradients = g
        norm = np.linalg.norm(np.concatenate(before))
        assert nn.utils.clip_grad_norm_(iter(models), limit) == pytest.approx(norm, rel=1e-6)
        factor = min(1, limit / (norm + 1e-6))
        for model, g in zip(models, before, strict=True):
            np.testing.assert_allclose(model.flat_gradients, factor * g, rtol=1e-6)
    nn.utils.clip_grad_value_(models, 0.01)
    for model, g in zip(models, before, strict=True):
        np.testing.assert_allclose(model.flat_gradients, np.clip(g, -0.01, 0.01), rtol=1e-6)
    critic.flat_gradients = np.zeros(6)
    for clip in (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_):
        with pytest.raises(tw.ArgumentError, match=r"model\[1\] is given twice"):
            clip([actor, actor], 1.0)
        for wrong in ([actor, None], None, "model"):
            with pytest.raises(tw.ArgumentError, match="model must be an nn"):
                clip(wrong, 1.0)
        critic.forward(np.full((1, 5), 3e38))
        critic.backward([[3.0]])  # overflows
        actor.flat_gradients = g = np.ones(actor.num_parameters)
        with pytest.raises(tw.DataError, match=r"model\[1\]: .* is inf"):
            clip(models, 0.5)
        np.testing.assert_array_equal(actor.flat_gradients, g)


def follow(trainer, batches):
    """Steps; gives the parameters after each."""
    path = []
    for x, y in batches:
        trainer.step(x, y)
        path.append(trainer.model.flat_parameters)
    return path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_moving_average_is_that_of_its_formula(dtype, batches):
    trainer = make(dtype, average=optim.EMA(0.8))
    path = follow(trainer, batches)
    mean = path[0].astype(float)
    for theta in path[1:]:
        mean = 0.8 * mean + 0.2 * theta
    tolerance = 1e-15 if dtype == "float64" else 1e-7
    model = trainer.average_model()
    np.testing.assert_allclose(model.flat_parameters, mean, rtol=0, atol=4 * tolerance)
    np.testing.assert_array_equal(trainer.model.flat_parameters, path[-1])  # stays as it is


def test_a_moving_average_is_pytorchs(batches):
    torch = pytest.importorskip("torch")
    swa_utils = torch.optim.swa_utils
    trainer = make(average=optim.EMA(0.9))
    net = torch.nn.Linear(1, trainer.model.num_parameters, bias=False).double()
    twin = swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    for theta in follow(trainer, batches):
        net.weight.data = torch.tensor(theta).reshape(-1, 1)
        twin.update_parameters(net)
    np.testing.assert_allclose(
        trainer.average_model().flat_parameters,
        twin.module.weight.detach().numpy().ravel(),
        rtol=0,
        atol=1e-15,
    )


def test_an_equal_average_takes_in_what_it_should(batches):
    """The ends of cycles, as in PyTorch's recipe that updates the average after each epoch."""
    trainer = make(average=optim.SWA(start=4, every=2))
    path = follow(trainer, batches)  # after 1, 2, ... updates
    np.testing.assert_allclose(
        trainer.average_model().flat_parameters, np.mean(path[5::2], axis=0), rtol=0, atol=1e-15
    )


def test_an_average_is_of_updates_not_of_batches(batches):
    trainer = make(average=optim.SWA(), accumulate_grad_batches=4)
    path = follow(trainer, batches)
    np.testing.assert_allclose(
        trainer.average_model().flat_parameters, np.mean(path[3::4], axis=0), rtol=0, atol=1e-15
    )


def test_a_divergence_takes_the_average_back(batches):
    trainer = make(average=optim.EMA(0.5))
    trainer.step(*batches[0])
    before = trainer.average_model().flat_parameters
    trainer.optimizer.lr = 1e6
    with pytest.raises(tw.DivergedError):
        trainer.fit(*batches[1], epochs=200, batch_size=20)
    np.testing.assert_array_equal(trainer.average_model().flat_parameters, before)


@pytest.mark.parametrize("every", [1, 10])
def test_definitions_of_an_averages_memory(every):
    """Against sums over the weights themselves; an update that is left out has the weight 0."""
    decay, ages = 0.93, np.arange(2000 * every)
    weights = np.where(ages % every == 0, (1 - decay) * decay ** (ages / every), 0)
    memory = optim.EMA(decay, every=every).memory
    assert memory("sum") == pytest.approx(weights.sum() / weights[0], rel=1e-12)
    assert memory("mean_age") == pytest.approx((weights * ages).sum(), rel=1e-12)
    assert memory("equal_variance") == pytest.approx(1 / (weights**2).sum(), rel=1e-12)
    assert decay ** (memory("half_life") / every) == pytest.approx(0.5, rel=1e-12)
    assert decay ** (memory("time_constant") / every) == pytest.approx(1 / np.e, rel=1e-12)
    with pytest.raises(tw.ArgumentError, match='did you mean "half_life"'):
        memory("halflife")


def test_averages_that_make_no_sense_are_named():
    with pytest.raises(tw.ArgumentError, match="decay"):
        optim.EMA(1.0)
    with pytest.raises(tw.ArgumentError, match="average must be"):
        make(average=0.999)
    with pytest.raises(tw.ArgumentError, match="without an average"):
        make().average_model()
    with pytest.raises(tw.ArgumentError, match="not averaged any parameters yet"):
        make(average=optim.SWA()).average_model()


@pytest.mark.parametrize("rows", [1, 20, 3000])
def test_backward_is_a_step_without_its_update(rows, rng):
    """Also where a fused step would go in waves; and gradients add up."""
    x, y = rng.standard_normal((rows, 67)), rng.standard_normal((rows, 5))
    weight = rng.uniform(0.5, 1, rows)
    trainer, by_hand = make(), make()
    for _ in range(3):
        by_hand.model.zero_grad()
        loss = by_hand.backward(x, y, weight)
        by_hand.optimizer.step(by_hand.model)
        assert trainer.step(x, y, weight) == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(
        by_hand.model.flat_parameters, trainer.model.flat_parameters, rtol=0, atol=1e-14
    )
    by_hand.model.zero_grad()
    by_hand.backward(x, y)
    once = by_hand.model.flat_gradients
    by_hand.backward(x, y)
    np.testing.assert_allclose(by_hand.model.flat_gradients, 2 * once, rtol=1e-13, atol=1e-16)
    expected = gradient(by_hand.model, x, y)
    np.testing.assert_allclose(once, expected, rtol=1e-11, atol=1e-14)


def test_a_loss_of_ones_own_goes_backward_too(batches):
    def mean_square(output, target):
        return np.mean((output - target) ** 2), 2 * (output - target) / output.size

    trainer = make()
    own = tw.Trainer(trainer.model, loss=mean_square, optimizer=optim.SGD(lr=0.1))
    assert own.backward(*batches[0]) == pytest.approx(trainer.evaluate(*batches[0])["loss"])
    np.testing.assert_allclose(
        trainer.model.flat_gradients, gradient(make().model, *batches[0]), rtol=1e-12, atol=1e-15
    )


def test_gradients_of_an_interrupted_fit_are_not_in_the_next(batches):
    class Stop:
        def on_step_end(self, trainer, record):
            return True

    x, y = batches[0]
    trainer = make(accumulate_grad_batches=3)
    trainer.fit(x, y, batch_size=8, shuffle=False, callbacks=[Stop()])  # one of three batches
    before, fresh = trainer.model.flat_parameters, make(accumulate_grad_batches=3)
    np.testing.assert_array_equal(before, fresh.model.flat_parameters)
    for one in (trainer, fresh):
        one.fit(x, y, batch_size=8, shuffle=False)
    np.testing.assert_array_equal(trainer.model.flat_parameters, fresh.model.flat_parameters)


def test_a_backward_that_fails_leaves_gradients_as_they_were(batches):
    trainer = make()
    trainer.backward(*batches[0])
    before = trainer.model.flat_gradients
    x, y = batches[1]
    x = x.copy()
    x[13, 3] = np.nan
    with pytest.raises(tw.DataError):
        trainer.backward(x, y)
    np.testing.assert_array_equal(trainer.model.flat_gradients, before)


def test_gradients_of_steps_are_not_in_the_next_fit(batches):
    """Nor do they disturb its schedule."""
    x, y = batches[0]
    options = {"accumulate_grad_batches": 2, "schedule": optim.schedules.CosineAnnealingLR(100)}
    trainer, fresh = make(**options), make(**options)
    trainer.step(x, 100 * y)
    for one in (trainer, fresh):
        one.fit(x, y, batch_size=10, shuffle=False)
    np.testing.assert_array_equal(trainer.model.flat_parameters, fresh.model.flat_parameters)


@pytest.mark.parametrize("options", [{"clip_grad_value": 1.0}, {"clip_grad_norm": 1.0}])
def test_gradients_whose_squares_overflow_are_clipped_all_the_same(options):
    model = nn.Sequential(nn.Linear(1, 1, bias=False, init="zeros"), dtype="float32")
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(reduction="sum"), optimizer=optim.SGD(lr=0.5), **options
    )  # fmt: skip
    trainer.step(np.full((1, 1), 1e10, np.float32), np.full((1, 1), 1e10, np.float32))
    assert model.flat_parameters[0] == pytest.approx(0.5, rel=1e-6)


def test_an_average_does_not_take_in_what_is_not_finite():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), dtype="float32")
    trainer = tw.Trainer(
        model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=1e30), average=optim.EMA(0.5)
    )  # fmt: skip
    x = np.full((1, 1), 1e10, np.float32)
    trainer.step(0 * x, 0 * x)
    before = trainer.average_model().flat_parameters
    trainer.step(x, 0 * x)  # its loss is finite, but not the weight that comes of it
    with pytest.raises(tw.DivergedError):
        trainer.step(x, 0 * x)
    np.testing.assert_array_equal(trainer.average_model().flat_parameters, before)


def overflowing(**options):
    """A trainer, and a batch whose update makes a weight infinite: of a loss whose slopes are."""
    model = nn.Sequential(nn.Linear(2, 1))
    trainer = tw.Trainer(model, loss=nn.L1Loss(), optimizer=optim.SGD(lr=1e10), **options)
    return trainer, np.full((3, 2), 1e30, np.float32), np.zeros((3, 1), np.float32)


def test_after_a_step_that_overflowed_the_next_says_so():
    """One step does not look at all parameters; no error says that all is as before, then."""
    trainer, x, y = overflowing()
    trainer.step(x, y)
    assert not np.isfinite(trainer.model.flat_parameters).all()
    for call in (trainer.step, trainer.backward):
        with pytest.raises(
            tw.DivergedError, match=r"infinite since an earlier step.*lr=10000000000"
        ):
            call(x / 1e30, y)


def test_a_fit_that_overflows_says_in_which_step_and_restores_the_weights():
    """The step that finds it does not know since when; the fit does: it began with finite ones."""
    trainer, x, y = overflowing()
    before = trainer.model.flat_parameters
    message = r"a parameter became infinite in step 1 .*as they were"
    with pytest.raises(tw.DivergedError, match=message):
        trainer.fit(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0), batch_size=3)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    assert trainer.optimizer.steps == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_average_takes_in_nothing_infinite(accumulate):
    trainer, x, y = overflowing(average=optim.EMA(0.5), accumulate_grad_batches=accumulate)
    trainer._core.train(x, y, None)
    trainer._core.flush()  # as at the end of batches
    assert not np.isfinite(trainer.model.flat_parameters).all()
    assert trainer._core.average()[1] == 0


@pytest.mark.parametrize(
    "keep", [lambda t, path: t.save(path), lambda t, _: t.copy(), lambda t, _: pickle.dumps(t)]
)
def test_accumulated_gradients_that_overflow_are_not_kept(keep, tmp_path):
    """The file could not be read."""
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(2, 1)),
        loss=nn.MSELoss(),
        optimizer=optim.SGD(lr=0.1),
        accumulate_grad_batches=3,
    )
    for _ in range(2):
        trainer.model.flat_gradients = np.full(3, 3e38)
        trainer.update()
    with pytest.raises(tw.DivergedError, match=r"accumulated gradients\[0\] is inf in step 0"):
        keep(trainer, tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_infinite_gradient_is_refused_also_where_it_would_wait(accumulate):
    """It was gathered without a word, and the next update, of a good gradient, failed."""
    trainer = tw.Trainer(
        nn.Sequential(nn.Linear(2, 1)),
        loss=nn.MSELoss(),
        optimizer=optim.SGD(lr=0.1),
        accumulate_grad_batches=accumulate,
    )
    model = trainer.model
    before = model.flat_parameters
    model.forward(np.full((4, 2), 1e30, np.float32))
    model.backward(np.full((4, 1), 1e20, np.float32))
    with pytest.raises(tw.DivergedError, match="a gradient became infinite in step 1"):
        trainer.update()
    np.testing.assert_array_equal(model.flat_parameters, before)
    model.flat_gradients = [1, 1, 1]
    for _ in range(accumulate):
        trainer.update()
    np.testing.assert_allclose(model.flat_parameters, before - 0.1, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_step_with_an_infinite_gradient_is_refused_also_where_it_would_wait(accumulate):
    """Or each later update would fail by it. What waited with it is gone."""
    model = nn.Sequential(nn.Linear(2, 1))
    model.flat_parameters = np.zeros(3)
    trainer = tw.Trainer(
        model,
        loss=nn.L1Loss(reduction="sum"),
        optimizer=optim.SGD(lr=0.1),
        accumulate_grad_batches=accumulate,
    )
    good, bad = np.ones((8, 2), np.float32), np.full((8, 2), 3e38, np.float32)
    y = np.ones(8, np.float32)
    trainer.step(good, y)
    with pytest.raises(tw.DivergedError, match="a gradient became infinite in step 1"):
        trainer.step(bad, y)
    for _ in range(accumulate):
        trainer.step(good, y)
    np.testing.assert_allclose(model.flat_parameters, 0.8, rtol=1e-6)


def test_gradients_of_a_trainer_leave_a_pass_by_hand_alone(batches):
    (x, y), trainer = batches[0], make()
    model = trainer.model
    expected = 2 * gradient(model, x, y)
    model.zero_grad()
    output = model.forward(x)
    trainer.backward(x, y)
    tw.curvature.jacobian(model, x)
    model.backward(2 * (output - y) / y.size)
    np.testing.assert_allclose(model.flat_gradients, expected, rtol=1e-12, atol=1e-15)


def of_outputs(output, target):
    return ((output - target) ** 2).mean(), 2 * (output - target) / target.size


def of_slopes(u, du, target):
    return (du**2).mean() + 0 * target.mean(), (None, 2 * du / du.size)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.DerivativeLoss(of_slopes, order=1), of_outputs])
def test_a_pass_by_hand_is_its_own_or_gone(loss, fails, batches):
    """A function of the outputs takes its place; `backward` went back through the function's."""
    (x, y), model = batches[0], make().model
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    expected = gradient(model, x, y)
    model.zero_grad()
    output = model.forward(x)
    if fails:
        with pytest.raises(tw.ThalwegError):
            trainer.backward(x + 1, y * np.nan)
    else:
        trainer.backward(x + 1, y)
    by_trainer = model.flat_gradients
    if loss is of_outputs or (fails and not isinstance(loss, nn.MSELoss)):
        with pytest.raises(tw.ArgumentError, match="backward needs a forward pass"):
            model.backward(2 * (output - y) / y.size)
        np.testing.assert_array_equal(model.flat_gradients, by_trainer)
    else:
        model.backward(2 * (output - y) / y.size)
        found = model.flat_gradients - by_trainer
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
