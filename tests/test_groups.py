"""Groups of parameters: other decay, other rates, none at all."""

import copy
import decimal
import fractions

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


def make(optimizer, dtype="float64", **options):
    model = nn.Sequential(
        nn.Linear(67, 40, bias=False),  # a bias would have a gradient of mere rounding
        nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 5), dtype=dtype, seed=1,
    )  # fmt: skip
    return tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer, **options)


@pytest.fixture
def batch(rng):
    return rng.standard_normal((30, 67)), rng.standard_normal((30, 5))


def grouped():
    optimizer = optim.AdamW(lr=1e-2, weight_decay=0.1)
    optimizer.add_group("*.bias", weight_decay=0.0)
    optimizer.add_group("1.*", lr_scale=3.0)
    optimizer.add_group("1.weight", weight_decay=0.02)
    return optimizer.add_group("3.weight", lr_scale=0.25)


RULES = {"0.weight": (0.1, 1), "1.weight": (0.02, 3), "1.bias": (0, 3)}
RULES |= {"3.weight": (0.1, 0.25), "3.bias": (0, 1)}


def unseen(trainer, batch):
    """Take a step; return the names of parameters whose gradients a hook sees as 0."""
    gradients = []

    def hook(gradient):
        gradients.append(gradient.copy())
        return gradient

    with trainer.gradient_hook(hook):
        trainer.step(*batch)
    return [name for name, g in trainer.model.unflatten(gradients[0]).items() if not g.any()]


def test_a_group_leaves_what_others_say_of_its_parameters(batch):
    """A frozen part, and no decay of biases: in either order, its biases stay frozen."""
    decay = ("*.bias", {"weight_decay": 0.0}), ("0.*", {"frozen": True})
    for groups in (decay, decay[::-1]):
        model = nn.Sequential(nn.Linear(67, 9), nn.Tanh(), nn.Linear(9, 5), dtype="float64", seed=1)
        optimizer = optim.AdamW(lr=1e-2, weight_decay=0.1)
        for pattern, options in groups:
            optimizer.add_group(pattern, **options)
        before = model.state_dict()
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
        trainer.step(*batch)
        after = model.state_dict()
        moved = [name for name in after if not np.array_equal(after[name], before[name])]
        assert moved == ["2.weight", "2.bias"]
        assert unseen(trainer, batch) == ["0.weight", "0.bias"]
        optimizer.add_group("0.bias", frozen=False)
        before = model.state_dict()["0.bias"]
        assert unseen(trainer, batch) == ["0.weight"]
        assert not np.array_equal(model.state_dict()["0.bias"], before)
        assert np.array_equal(model.state_dict()["0.weight"], after["0.weight"])


def test_muons_choice_is_left_alone_by_other_groups(rng):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), dtype="float64", seed=1)
    optimizer = optim.Muon(matrices="none", weight_decay=0.0).add_group("0.weight", muon=True)
    optimizer.add_group("*", lr_scale=2.0)
    before = model.state_dict()["0.weight"]
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optimizer)
    trainer.step(rng.standard_normal((6, 4)), rng.standard_normal((6, 4)))
    step = (model.state_dict()["0.weight"] - before) / (2 * optimizer.lr)
    # Orthogonal, up to the accuracy of the iteration (its singular values are from 0.7 to 1.2).
    assert np.abs(np.linalg.svd(step, compute_uv=False) - 1).max() < 0.35


@pytest.mark.parametrize("clip", [None, 0.05])
def test_groups_are_pytorchs(clip, batch):
    """Fused, and in a second pass over the parameters."""
    torch = pytest.importorskip("torch")
    trainer = make(grouped(), clip_grad_norm=clip)
    twin = tw.torch.to_torch(trainer.model).train()
    groups = [
        {"params": [p], "weight_decay": RULES[name][0], "lr": 1e-2 * RULES[name][1]}
        for name, p in twin.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups)
    x, y = (torch.tensor(part) for part in batch)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(twin(x), y).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
        optimizer.step()
        trainer.step(*batch)
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(
            trainer.model.state_dict()[name], parameter.detach().numpy(), rtol=1e-9, atol=1e-11
        )


def test_rates_follow_the_optimizers(batch):
    trainer = make(optim.SGD(lr=1.0).add_group("3.*", lr_scale=0.5), clip_grad_norm=1e9)
    plain = make(optim.SGD(lr=1.0))
    for lr in (0.1, 0.02):
        for one in (trainer, plain):
            one.optimizer.lr = lr
        plain.model.load_state_dict(trainer.model.state_dict())
        before = trainer.model.state_dict()
        for one in (trainer, plain):
            one.step(*batch)
        half, whole = trainer.model.state_dict(), plain.model.state_dict()
        for name in before:
            if "running" in name:
                continue
            scale = 0.5 if name.startswith("3.") else 1
            np.testing.assert_allclose(
                half[name] - before[name], scale * (whole[name] - before[name]), atol=1e-15
            )


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.5}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize("pattern", ["0.*", "*.weight", "3.bias", "1.*"])
def test_what_is_frozen_stays(pattern, options, batch):
    trainer = make(optim.Adam(lr=1e-2).add_group(pattern, frozen=True), **options)
    before = trainer.model.state_dict()
    trainer.fit(*batch, epochs=5, batch_size=10)
    for name, values in trainer.model.state_dict().items():
        if "running" in name:
            continue
        index, kind = name.split(".")
        frozen = pattern in (f"{index}.*", f"*.{kind}", name)
        assert (values == before[name]).all() == frozen, name


@pytest.mark.parametrize("rows", [30, 700])  # of which the second step goes in shards, or in blocks
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_layers_behind_frozen_ones_learn_as_if_they_were_alone(norm, rows, rng):
    """Nothing goes back through the frozen ones, and nothing behind them misses it."""
    x, y = rng.standard_normal((rows, 7)), rng.standard_normal((rows, 3))

    def rest():
        return [nn.Linear(40, 20), norm(20), nn.Tanh(), nn.Linear(20, 3)]

    body = nn.Sequential(nn.Linear(7, 40), nn.Tanh(), dtype="float64", seed=1)
    whole = nn.Sequential(nn.Linear(7, 40), nn.Tanh(), *rest(), dtype="float64", seed=2)
    alone = nn.Sequential(*rest(), dtype="float64", seed=3)
    whole.load_state_dict(
        body.state_dict()
        | {f"{int(name[0]) + 2}{name[1:]}": values for name, values in alone.state_dict().items()}
    )
    frozen = optim.Adam(lr=1e-2).add_group("0.*", frozen=True)
    one = tw.Trainer(whole, loss=nn.MSELoss(), optimizer=frozen)
    other = tw.Trainer(alone, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-2))
    for _ in range(5):
        one.step(x, y)
        other.step(body(x), y)
    for name, values in alone.state_dict().items():
        found = whole.state_dict()[f"{int(name[0]) + 2}{name[1:]}"]
        np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-9)


def test_what_is_frozen_does_not_count_for_clipping(batch):
    """The rest is clipped by its own norm."""
    limit = 0.01
    trainer = make(optim.SGD(lr=1.0).add_group("0.*", frozen=True), clip_grad_norm=limit)
    before = trainer.model.flat_parameters
    trainer.step(*batch)
    assert np.linalg.norm(trainer.model.flat_parameters - before) == pytest.approx(limit, rel=1e-3)


def test_steps_by_hand_know_groups(batch):
    x, y = batch
    trainer, model, optimizer = make(grouped()), make(grouped()).model, grouped()
    for _ in range(20):
        trainer.step(x, y)
        model.zero_grad()
        model.backward(2 * (model.forward(x) - y) / y.size)
        optimizer.step(model)
    for name, values in trainer.model.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], values, rtol=1e-10, atol=1e-12, err_msg=name
        )


def test_of_several_groups_the_last_counts_and_they_can_come_later(batch):
    trainer = make(optim.SGD(lr=0.1).add_group("*", frozen=True).add_group("3.bias", frozen=False))
    before = trainer.model.state_dict()
    trainer.step(*batch)
    after = trainer.model.state_dict()
    moved = {k for k in before if "running" not in k and (before[k] != after[k]).any()}
    assert moved == {"3.bias"}
    trainer.optimizer.add_group("3.weight", lr_scale=2.0)  # which says nothing about that
    trainer.step(*batch)
    assert (trainer.model.state_dict()["3.weight"] == after["3.weight"]).all()
    trainer.optimizer.add_group("3.*", frozen=False)
    trainer.step(*batch)
    assert (trainer.model.state_dict()["3.weight"] != after["3.weight"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1}, "'lr': it is lr_scale"),
        ({"requires_grad": False}, "'requires_grad': frozen=True"),
        ({"weight_dcay": 0}, r"did you mean weight_decay\?.* takes pattern, lr_scale"),
    ],
)
def test_options_of_others_groups(options, message):
    with pytest.raises(TypeError, match=rf"add_group\(\) has no argument.*{message}"):
        optim.AdamW().add_group("*.bias", **options)


def test_groups_that_make_no_sense_are_named(batch):
    nothing = r'"2.weight"; it matches no parameter.*3\.weight'
    optimizer = optim.AdamW().add_group("2.weight", frozen=True)
    with pytest.raises(tw.ArgumentError, match=nothing):  # when the trainer is made
        make(optimizer)
    with pytest.raises(tw.ArgumentError, match=nothing):
        make(optim.SAM(optimizer))
    trainer = make(optim.AdamW())
    before = trainer.model.flat_parameters
    with pytest.raises(tw.ArgumentError, match=nothing):
        optimizer.step(trainer.model)
    trainer.optimizer.add_group("2.weight", frozen=True)  # too late for that
    with pytest.raises(tw.ArgumentError, match=nothing):
        trainer.step(*batch)
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    with pytest.raises(tw.ArgumentError, match="Rprop has no weight_decay"):
        optim.Rprop().add_group("*", weight_decay=0.1)
    for options in ({"lr_scale": -1.0}, {"weight_decay": -1.0}, {"frozen": 1}):
        with pytest.raises(tw.ArgumentError, match=next(iter(options))):
            optim.AdamW().add_group("*", **options)
    with pytest.raises(tw.ArgumentError, match="pattern"):
        optim.AdamW().add_group(0)


def test_what_is_frozen_later_does_not_count_for_clipping_either(batch):
    limit = 0.01
    trainer = make(optim.SGD(lr=1.0), clip_grad_norm=limit)
    trainer.step(*batch)
    trainer.optimizer.add_group("0.*", frozen=True)
    twin = trainer.copy()
    before = trainer.model.flat_parameters
    for one in (trainer, twin):
        one.step(*batch)
    np.testing.assert_array_equal(trainer.model.flat_parameters, twin.model.flat_parameters)
    length = np.linalg.norm(trainer.model.flat_parameters - before)
    assert length == pytest.approx(limit, rel=2e-5)  # but for the 1e-6 in the formula


def test_a_loss_of_ones_own_knows_what_is_frozen(batch):
    def mean_square(output, target):
        return np.mean((output - target) ** 2), 2 * (output - target) / output.size

    def run(loss):
        optimizer = optim.SGD(lr=1.0).add_group("0.*", frozen=True)
        trainer = tw.Trainer(
            make(optimizer).model, loss=loss, optimizer=optimizer, clip_grad_norm=0.01
        )
        trainer.step(*batch)
        return trainer.model.flat_parameters

    np.testing.assert_allclose(run(mean_square), run(nn.MSELoss()), rtol=0, atol=1e-15)


def test_groups_survive_a_step_that_diverges(batch):
    optimizer = optim.SGD(lr=1e3).add_group("0.*", frozen=True)
    model = make(optimizer, dtype="float32").model
    model.flat_gradients = np.full(model.num_parameters, 3e38)
    with pytest.raises(tw.DivergedError):
        optimizer.step(model)
    optimizer.lr = 0.1
    before = model.state_dict()
    model.flat_gradients = np.ones(model.num_parameters)
    optimizer.step(model)
    np.testing.assert_array_equal(model.state_dict()["0.weight"], before["0.weight"])
    assert (model.state_dict()["3.weight"] != before["3.weight"]).all()


def test_a_scale_that_makes_a_step_overflow_is_noticed():
    optimizer = optim.SGD(lr=1.0).add_group("*", lr_scale=1e30)
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    model.flat_gradients = [1e10]
    before = model.flat_parameters
    with pytest.raises(tw.DivergedError):
        optimizer.step(model)
    np.testing.assert_array_equal(model.flat_parameters, before)


def test_states_say_which_groups_they_belong_to(batch):
    trainer = make(optim.Adam().add_group("0.*", frozen=True))
    trainer.step(*batch)
    state = trainer.optimizer.state_dict()
    with pytest.raises(tw.ArgumentError, match=r"groups.*call add_group for them first"):
        optim.Adam().load_state_dict(state, trainer.model)
    same = optim.Adam().add_group("0.*", frozen=True)
    same.load_state_dict(state, trainer.model)
    assert repr(same) == repr(trainer.optimizer)
    assert "add_group(pattern='0.*'" in repr(same)


LATE = {
    "SGD": ({"lr": 0.05, "momentum": 0.9, "dampening": 0.3}, 1e-11),
    "Adagrad": ({"lr": 0.05, "lr_decay": 0.1}, 1e-11),
    "Adam": ({"lr": 1e-2}, 1e-11),
    "AdamW": ({"lr": 1e-2, "amsgrad": True}, 1e-11),
    "Adamax": ({"lr": 1e-2}, 1e-11),
    "NAdam": ({"lr": 1e-2}, 1e-7),  # PyTorch keeps its product of momenta in float32
    "RAdam": ({"lr": 1e-2}, 1e-11),
    "Rprop": ({"lr": 1e-2, "step_sizes": (0, 50)}, 1e-11),
    "RMSprop": ({"lr": 1e-3, "centered": True}, 1e-11),
}


@pytest.mark.parametrize("way", ["fused", "by hand", "saved and loaded"])
@pytest.mark.parametrize("name", LATE)
def test_what_was_frozen_makes_its_own_steps(name, way, rng):
    """As in PyTorch, where each parameter counts them: its moments are as old as its own steps."""
    torch = pytest.importorskip("torch")
    options, tolerance = LATE[name]
    x, y = rng.standard_normal((60, 10)), rng.standard_normal((60, 4))
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4), dtype="float64", seed=3)
    twin = tw.torch.to_torch(model)
    theirs = getattr(torch.optim, name)(twin.parameters(), **options)

    def make():
        return getattr(optim, name)(**options)

    def train(part, ours, steps, frozen):
        ours.add_group(part, frozen=frozen)
        for parameter_name, parameter in twin.named_parameters():
            if parameter_name.startswith(part[0]):
                parameter.requires_grad_(not frozen)
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=ours)
        for step in range(steps):
            rows = slice(20 * (step % 3), 20 * (step % 3) + 20)
            theirs.zero_grad()
            torch.nn.functional.mse_loss(
                twin(torch.tensor(x[rows])), torch.tensor(y[rows])
            ).backward()
            theirs.step()
            if way == "by hand":
                model.zero_grad()
                trainer.backward(x[rows], y[rows])
                trainer.update()
            else:
                trainer.step(x[rows], y[rows])

    ours, groups = make(), []
    # The first layer joins late; then the second rests for a while, and the first again.
    for part, steps, frozen in [
        ("0.*", 30, True), ("0.*", 7, False), ("2.*", 5, True),
        ("2.*", 6, False), ("0.*", 4, True), ("0.*", 9, False),
    ]:  # fmt: skip
        train(part, ours, steps, frozen)
        groups.append((part, frozen))
        if way == "saved and loaded":
            state, ours = ours.state_dict(), make()
            for one, is_frozen in groups:
                ours.add_group(one, frozen=is_frozen)
            ours.load_state_dict(state, model)
    assert ours.steps == 61
    for parameter_name, parameter in twin.named_parameters():
        np.testing.assert_allclose(
            model.state_dict()[parameter_name],
            parameter.detach().numpy(),
            rtol=tolerance,
            atol=tolerance,
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LAMB", {}),
        ("Adafactor", {}),
        ("Muon", {"matrices": "all"}),
        ("Shampoo", {"start_preconditioning_step": 3, "precondition_frequency": 2}),
        ("ScheduleFreeAdamW", {}),
    ],
)
def test_what_was_frozen_starts_as_with_a_new_optimizer(name, options, rng):
    x, y = rng.standard_normal((40, 10)), rng.standard_normal((40, 4))
    late = getattr(optim, name)(**options).add_group("0.*", frozen=True)
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4), dtype="float64", seed=3)
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=late)
    for _ in range(5):
        trainer.step(x, y)
    late.add_group("0.*", frozen=False).add_group("2.*", frozen=True)
    fresh = getattr(optim, name)(**options).add_group("2.*", frozen=True)
    twin = tw.Trainer(copy.deepcopy(model), loss=nn.MSELoss(), optimizer=fresh)
    for _ in range(8):
        assert trainer.step(x, y) == twin.step(x, y)
    np.testing.assert_array_equal(model.flat_parameters, twin.model.flat_parameters)


def test_a_fit_that_fails_gives_back_the_steps_of_what_was_frozen(batch):
    x, y = batch
    trainer = make(optim.Adam(lr=1e-2).add_group("0.*", frozen=True))
    trainer.step(x, y)
    trainer.optimizer.add_group("0.*", frozen=False)
    trainer.step(x, y)
    before, state = trainer.model.flat_parameters, trainer.optimizer.state_dict()
    assert state["scalars"] == {"steps of 0.weight": 1}
    with pytest.raises(tw.DivergedError):
        trainer.fit(x, y, epochs=9, batch_size=10, lr=1e300)
    after = trainer.optimizer.state_dict()
    assert after["scalars"] == state["scalars"]
    np.testing.assert_array_equal(trainer.model.flat_parameters, before)
    twin = trainer.copy()
    for one in (trainer, twin):
        one.step(x, y)
    np.testing.assert_array_equal(twin.model.flat_parameters, trainer.model.flat_parameters)


def test_parameters_are_chosen_by_shape_in_a_loop():
    """Optax's usual mask, ``p.ndim > 1``: what `nn.LayerNorm` calls its weight is a vector."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1), dtype="float64")
    optimizer = optim.AdamW(lr=0.1, weight_decay=0.5)
    before = model.state_dict()
    for name, values in model.unflatten(model.flat_parameters).items():
        if values.ndim == 1:
            optimizer.add_group(name, weight_decay=0.0)
    optimizer.step(model)  # along gradients of 0: only the decay
    for name, values in model.state_dict().items():
        kept = 1 - 0.1 * 0.5 if name in ("0.weight", "2.weight") else 1
        np.testing.assert_allclose(values, kept * before[name], rtol=1e-15)
    with pytest.raises(tw.ArgumentError, match=r"by shape .*model\.unflatten\(.*\)\.items\(\)"):
        optimizer.add_group(lambda name, values: values.ndim == 1, weight_decay=0.0)


def test_parts_have_optimizers_of_their_own_each_freezes_the_others(batch):
    """As Optax's ``multi_transform``: each does what it would do if it were alone."""
    of_first, of_last = optim.SGD(lr=0.1, momentum=0.9), optim.Adam(lr=1e-2)
    of_first.add_group("3.*", frozen=True)
    of_last.add_group("0.*", frozen=True).add_group("1.*", frozen=True)
    both = make(optim.SGD())  # only for the gradients
    alone = make(optim.SGD(lr=0.1, momentum=0.9)), make(optim.Adam(lr=1e-2))
    for _ in range(5):
        both.model.zero_grad()
        both.backward(*batch)
        for trainer, optimizer in zip(alone, (of_first, of_last), strict=True):
            optimizer.step(both.model)
            trainer.model.flat_gradients = both.model.flat_gradients
            trainer.optimizer.step(trainer.model)
    first, last = (trainer.model.state_dict() for trainer in alone)
    for name, values in both.model.state_dict().items():
        if "running" not in name:
            wanted = last[name] if name.startswith("3.") else first[name]
            np.testing.assert_array_equal(values, wanted, err_msg=name)


@pytest.mark.parametrize("kind", [np.float32, np.array, decimal.Decimal, fractions.Fraction])
def test_numbers_of_any_kind_are_saved(kind, batch, tmp_path):
    """Training worked, but then a file of it could not be written."""
    optimizer = optim.AdamW().add_group("0.*", weight_decay=kind(0.5), lr_scale=kind(2))
    trainer = make(optimizer.add_group("3.*", frozen=np.False_))
    trainer.step(*batch)
    trainer.save(tmp_path / "one.safetensors")
    again = tw.Trainer.load(tmp_path / "one.safetensors").optimizer
    assert again.state_dict()["groups"] == optimizer.state_dict()["groups"]
    assert repr(optimizer).endswith(
        ".add_group(pattern='0.*', weight_decay=0.5, lr_scale=2.0)"
        ".add_group(pattern='3.*', frozen=False)"
    )


def test_a_state_with_impossible_steps_is_refused(batch):
    trainer = make(optim.Adam(lr=1e-2).add_group("0.*", frozen=True))
    trainer.step(*batch)
    state = trainer.optimizer.state_dict()
    for scalars, message in (
        ({"steps of 0.weight": 2}, "0.weight has made 2 of its 1 steps"),
        ({"steps of 9.weight": 0}, "9.weight has made 0 of its 1 steps"),
        ({"steps of 0.weight": 0.5}, "has scalars"),
        ({"steps of 0.weight": -1}, "has scalars"),
        ({"mu of 0.weight": 0}, "has scalars"),
    ):
        with pytest.raises(tw.ArgumentError, match=message):
            trainer.optimizer.load_state_dict({**state, "scalars": scalars}, trainer.model)
        assert trainer.optimizer.state_dict()["scalars"] == state["scalars"]
