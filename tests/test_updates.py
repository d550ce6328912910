"""What comes between a gradient and the update: clipping, and averaging over several batches."""

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
        ({"clip_grad_norm": 0}, r"clip_grad_norm must be a finite number in \(0, inf\)"),
        ({"clip_grad_value": -1.0}, "clip_grad_value"),
        ({"clip_grad_value": "1"}, "clip_grad_value"),
        ({"clip_grad_norm": 1.0, "clip_grad_value": 1.0}, "not both"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be an integer >= 1"),
    ],
)
def test_limits_that_make_no_sense_are_named(options, message):
    with pytest.raises(tw.ArgumentError, match=message):
        make(**options)


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
