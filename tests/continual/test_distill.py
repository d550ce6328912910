"""Strategies that keep old outputs: their losses against the formulas, and their runs."""

import dataclasses

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import _losses
from thalweg.errors import ArgumentError, DataError, UnsupportedError


def softmax(values):
    values = np.exp(np.asarray(values) - np.max(values))
    return values / values.sum()


def check(loss, output, target):
    """The gradient is that of the value, by central differences."""
    value, gradient = loss(output.copy(), target)
    numeric = np.zeros_like(output)
    for place in np.ndindex(output.shape):
        for sign in (1, -1):
            moved = output.copy()
            moved[place] += sign * 1e-5
            numeric[place] += sign * loss(moved, target)[0] / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=1e-9)
    return value


LOSSES = {
    "task": lambda: nn.CrossEntropyLoss(heads=(2, 2, 2)),
    "domain": lambda: nn.CrossEntropyLoss(),
    "class": lambda: nn.CrossEntropyLoss(active=(0, 1)),
    "class_all": lambda: nn.CrossEntropyLoss(),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_of_lwf(kind, clouds, trainer, rng):
    scenario = continual.split(*clouds.all, tasks=3, kind=kind.removesuffix("_all"))
    if kind == "class_all":  # all outputs compete from the beginning
        tasks = [dataclasses.replace(task, active="all") for task in scenario]
        scenario = continual.Scenario(tasks, "class")
    mine = trainer(outputs=2 if kind == "domain" else 6, loss=LOSSES[kind]())
    lwf = continual.LwF(mine, strength=0.7, temperature=3)
    for task in scenario[:2]:
        lwf.fit(task)
    task = scenario[2]
    lwf.begin(task)
    columns = mine.model.out_features
    output, old = rng.standard_normal((2, 5, columns))
    labels = rng.choice(task.classes, 5)
    value = check(lwf._loss(task), output, np.column_stack([labels, old]))
    heads, old_ones, factor = {
        "task": ([[0, 1], [2, 3]], [0, 1, 2, 3], 0.7),
        "domain": ([[0, 1]], [0, 1], 0.7 * 2),
        "class": ([range(6)], [0, 1, 2, 3], 0.7),
        "class_all": ([range(6)], range(6), 0.7),
    }[kind]
    mine_too = {"task": [4, 5], "domain": [0, 1]}.get(kind, range(6))
    by_hand = 0
    for row in range(5):
        new = softmax(output[row][list(mine_too)])
        by_hand -= np.log(new[list(mine_too).index(labels[row])]) / 5
        for head in heads:
            p = softmax(output[row][list(head)] / 3)
            there = [c for c in head if c in old_ones]
            q = softmax(old[row][there] / 3)
            by_hand -= (
                factor * sum(q[i] * np.log(p[list(head).index(c)]) for i, c in enumerate(there)) / 5
            )
    assert value == pytest.approx(by_hand, abs=1e-12)


def test_lwf_is_naive_on_the_first_task_and_knows_the_old_network_on_the_second(clouds, trainer):
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    lwf, naive = trainer(outputs=2), trainer(outputs=2)
    strategy = continual.LwF(lwf)
    strategy.fit(scenario[0])
    continual.Naive(naive).fit(scenario[0])
    np.testing.assert_array_equal(lwf.model.flat_parameters, naive.model.flat_parameters)
    old = lwf.model(scenario[1].x)
    strategy.fit(scenario[1], epochs=2)
    np.testing.assert_array_equal(strategy._logits[1], old)


def test_lwf_counts_tasks_and_needs_no_index(clouds, trainer):
    """Its factor on the third task is 2, also where all tasks have the index 0."""
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    found = []
    for indexed in (True, False):
        strategy = continual.LwF(trainer(outputs=2))
        for task in scenario:
            index = task.index if indexed else 0
            one = continual.Task(task.x, task.y, task.x_test, task.y_test, index)
            strategy.begin(one)
            strategy.learn(one, steps=5, shuffle=False)  # orders go by the index
            strategy.end(one)
        found.append(strategy.trainer.model.flat_parameters)
    np.testing.assert_array_equal(*found)


def test_lwf_asks_the_network_of_each_beginning(clouds, trainer):
    """A task that is learned again, with other rows."""
    first, second, _ = continual.split(*clouds.all, tasks=3, kind="domain")
    strategy = continual.LwF(trainer(outputs=2))
    for task in (first, second, second.with_data(second.x[:50], second.y[:50])):
        old = strategy.trainer.model(task.x)
        strategy.fit(task)
    np.testing.assert_array_equal(strategy._logits[1], old)


def test_lwf_holds_on_to_heads_of_tasks_that_do_not_name_their_classes(clouds, trainer):
    known = continual.split(*clouds.all, tasks=3, kind="task")
    lwf, plain = (trainer(loss=nn.CrossEntropyLoss(heads=known.heads)) for _ in range(2))
    one, other = continual.LwF(lwf), continual.Naive(plain)
    for task in known:
        hand_made = continual.Task(task.x, task.y, task.x_test, task.y_test, task.index)
        one.fit(hand_made)
        other.fit(hand_made)
        assert one._learned == list(range(2 * task.index + 2))
    assert not np.array_equal(lwf.model.flat_parameters, plain.model.flat_parameters)


def test_a_trainer_with_the_loss_is_made_once_for_a_stream(clouds, trainer, monkeypatch):
    made = []
    with_loss = _losses.with_loss
    monkeypatch.setattr(_losses, "with_loss", lambda *a: made.append(a) or with_loss(*a))
    mine = trainer()
    strategy = continual.ERACE(mine, 20)
    made.clear()
    for first in range(0, 60, 6):
        strategy.step(clouds.x[first : first + 6], clouds.y[first : first + 6])
    assert len(made) == 1
    mine.loss = nn.CrossEntropyLoss(active=(0, 1, 2, 3, 4, 5))  # the loss is another one then
    strategy.step(clouds.x[:6], clouds.y[:6])
    assert len(made) == 2
    mine.set_penalty(np.ones(mine.model.num_parameters), strength=1e6)
    held = mine.model.flat_parameters
    for _ in range(50):  # a penalty holds from the next step on
        strategy.step(clouds.x[:6], clouds.y[:6])
    assert len(made) == 2
    assert np.abs(mine.model.flat_parameters - held).max() < 0.02


@pytest.mark.parametrize("make", [continual.DER, continual.DERpp, continual.ERACE])
def test_buffers_that_choose_by_features_are_refused(make, trainer):
    buffer = continual.BalancedBuffer(20, select="herding")
    with pytest.raises(UnsupportedError, match=r"after each step.*herding.*or Replay"):
        make(trainer(), buffer)


@pytest.mark.parametrize("alpha", [0, 0.3])
@pytest.mark.parametrize("beta", [0, 0.6])
def test_steps_of_der(alpha, beta, scenario):
    """Each batch's loss, from the buffer as it was and the logits as they were."""
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6), dtype="float64", seed=1)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.1))
    strategy = continual.DER(trainer, 15, alpha=alpha, beta=beta, batch_size=4)
    twin = continual.ReservoirBuffer(15)
    x, y = scenario[0].x, scenario[0].y
    task = continual.Task(x, y, x, y)  # all outputs compete
    strategy.begin(task)
    for step in range(6):
        before = model.flat_parameters.copy()
        x, y = task.x[9 * step : 9 * step + 9], task.y[9 * step : 9 * step + 9]
        logits = model(x)
        history = strategy.learn(task, steps=1, start=step, batch_size=9, shuffle=False)
        ce = -np.mean([np.log(softmax(z)[label]) for z, label in zip(logits, y, strict=True)])
        after = model.flat_parameters.copy()
        model.flat_parameters = before
        if step:
            if alpha:
                kept = twin.sample(4)
                ce += alpha * np.mean((model(kept["x"]) - kept["logits"]) ** 2)
            if beta:
                kept = twin.sample(4)
                ce -= beta * np.mean(
                    [
                        np.log(softmax(z)[label])
                        for z, label in zip(model(kept["x"]), kept["y"], strict=True)
                    ]
                )
        model.flat_parameters = after
        assert history["loss"] == [pytest.approx(ce, rel=1e-12)]
        twin.add(x=x, y=y, logits=logits)
    np.testing.assert_allclose(
        strategy.buffer.rows()["logits"], twin.rows()["logits"], rtol=1e-12, atol=1e-14
    )


def test_steps_of_a_task_are_of_that_task(scenario, trainer):
    """ER-ACE's new samples compete with all classes of the task, also in a batch of one of them."""
    by_step, by_learn = (continual.ERACE(trainer(), continual.BalancedBuffer(12)) for _ in range(2))
    for task in scenario:
        alike = [task.with_data(task.x[task.y == c], task.y[task.y == c]) for c in task.classes]
        for strategy in (by_step, by_learn):
            strategy.begin(task)
        for part in alike:
            loss = by_step.step(part.x[:20], part.y[:20])
            one = part.with_data(part.x[:20], part.y[:20])
            learned = by_learn.learn(one, steps=1, batch_size=20, shuffle=False)
            assert learned["loss"] == [loss]
        for strategy in (by_step, by_learn):
            strategy.end(task)
    groups = by_step.buffer.state_dict()["groups"]
    assert {*groups} == {f"{k}/{label}" for k in range(3) for label in (2 * k, 2 * k + 1)}
    np.testing.assert_array_equal(
        by_step.trainer.model.flat_parameters, by_learn.trainer.model.flat_parameters
    )
    by_step.begin(scenario[2])
    with pytest.raises(DataError, match=r"task 2 has the labels \[1\], but classes=\(4, 5\)"):
        by_step.step(scenario[0].x[:2], np.array([1, 1]))
    # On a stream, nothing but the batch tells its classes; and one competes with no other.
    stream = continual.ERACE(trainer(), 10)
    before = stream.trainer.model.flat_parameters
    assert stream.step(scenario[0].x[:1], scenario[0].y[:1]) == 0
    np.testing.assert_array_equal(stream.trainer.model.flat_parameters, before)


@pytest.mark.parametrize("make", [continual.DER, continual.DERpp, continual.ERACE])
def test_labels_of_steps_compete_in_the_loss(make, scenario, trainer):
    """Steps say which do not in the words of the trainer's own, and have changed nothing."""
    strategy = make(trainer(loss=nn.CrossEntropyLoss(active=(0, 1))), 10)
    strategy.step(scenario[0].x[:4], scenario[0].y[:4])
    before = strategy.trainer.model.flat_parameters
    x, y = scenario[0].x[:3], np.array([0, 4, 1])
    errors = []
    for step in (strategy.step, trainer(loss=nn.CrossEntropyLoss(active=(0, 1))).step):
        with pytest.raises(DataError, match=r"y\[1\] is 4, which is not an active class") as raised:
            step(x, y)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert strategy.buffer.seen == 4


@pytest.mark.parametrize("dtype", [np.uint64, np.uint8, np.int16, bool])
@pytest.mark.parametrize("make", [continual.DER, continual.ERACE])
def test_labels_may_have_any_integer_type(make, dtype, clouds, trainer):
    """They are kept as int64 in every task, and in steps on a stream."""
    plain, other = (make(trainer(outputs=2), 20) for _ in range(2))
    scenario = continual.split(*clouds.all, tasks=3, kind="domain")
    for task in scenario:
        plain.fit(task, batch_size=40)
        other.fit(task.with_data(task.x, task.y.astype(dtype)), batch_size=40)
    plain.step(task.x[:9], task.y[:9]), other.step(task.x[:9], task.y[:9].astype(dtype))
    assert other.buffer.rows()["y"].dtype == np.int64
    np.testing.assert_array_equal(
        plain.trainer.model.flat_parameters, other.trainer.model.flat_parameters
    )


@pytest.mark.parametrize("make", [continual.DERpp, continual.ERACE])
def test_gradients_of_the_losses(make, scenario, trainer, rng, monkeypatch):
    """By central differences, with new and kept rows in one batch."""
    functions = []
    with_loss = _losses.with_loss

    def noted(mine, function, who):
        functions.append(function)
        return with_loss(mine, function, who)

    monkeypatch.setattr(_losses, "with_loss", noted)
    make(trainer(), 20).fit(scenario[1])
    output, more = rng.standard_normal((2, 4, 6))
    labels = [2, 3, 0, 1]
    if make is continual.ERACE:
        value = check(functions[-1], output, np.column_stack([labels, [0.5] * 4, [1, 1, 0, 0]]))
        # New rows: the softmax of classes 2 and 3; kept ones: of all four that are active.
        by_hand = [softmax(output[0, 2:4])[0], softmax(output[1, 2:4])[1]]
        by_hand += [softmax(output[2, :4])[0], softmax(output[3, :4])[1]]
        assert value == pytest.approx(-0.5 * np.log(by_hand).sum(), abs=1e-12)
    else:
        target = np.column_stack([labels, [0.5, 0.5, 0, 0.1], [0, 0, 0.02, 0], more])
        check(functions[-1], output, target)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda t: continual.DER(t, 60, alpha=0.5), 0.6),
        (lambda t: continual.DERpp(t, 60), 0.75),
        (lambda t: continual.ERACE(t, 60), 0.75),
    ],
    ids=["DER", "DERpp", "ERACE"],
)
def test_they_remember(make, least, scenario, trainer):
    result = continual.run(make(trainer()), scenario, epochs=15)
    assert continual.metrics.average_accuracy(result.r) > least


STRATEGIES = {
    "LwF": continual.LwF,
    "DER": lambda t: continual.DER(t, 20),
    "DERpp": lambda t: continual.DERpp(t, 20),
    "ERACE": lambda t: continual.ERACE(t, continual.BalancedBuffer(12)),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_and_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(lambda t, s: STRATEGIES[name](t), scenario, trainer, tmp_path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_classes_that_are_held_on_to_compete(name, clouds, trainer):
    """Without them the loss of what is kept would be no number, or of nothing."""
    known = continual.split(*clouds.all, tasks=3, kind="task")
    alone = [dataclasses.replace(task, active=task.classes) for task in known]
    strategy = STRATEGIES[name](trainer())
    strategy.fit(alone[0])
    before, loss = strategy.trainer.model.flat_parameters, strategy.trainer.loss
    with pytest.raises(ArgumentError, match=rf"{name} .*the classes \[0, 1\]"):
        strategy.fit(alone[1])
    np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
    assert strategy.trainer.loss == loss
    strategy.fit(dataclasses.replace(known[1], active=(0, 1, 2, 3)))
    heads = STRATEGIES[name](trainer(loss=nn.CrossEntropyLoss(heads=known.heads)))
    heads.fit(known[0]), heads.fit(known[1])


@pytest.mark.parametrize("make", [continual.LwF, lambda t: continual.ERACE(t, 9)])
def test_classes_that_are_gone_by_are_all_that_occur(make, scenario, trainer):
    task = dataclasses.replace(scenario[0], classes=(0,), active=None)
    with pytest.raises(DataError, match=r"task 0 has the labels \[1\], but classes=\(0,\)"):
        make(trainer()).fit(task)


def test_what_is_wrong_is_said(scenario, trainer):
    for make in STRATEGIES.values():
        with pytest.raises(UnsupportedError, match="around a Trainer"):
            make(continual.Naive(trainer()))
        with pytest.raises(UnsupportedError, match="without weight or label_smoothing"):
            make(trainer(loss=nn.CrossEntropyLoss(label_smoothing=0.1)))
        with pytest.raises(UnsupportedError, match=r'and with reduction="mean"; got .*"?sum'):
            make(trainer(loss=nn.CrossEntropyLoss(reduction="sum")))
        with pytest.raises(UnsupportedError, match="leave out accumulate_grad_batches"):
            make(trainer(accumulate_grad_batches=2))
        sam = optim.SAM(optim.SGD(lr=0.1))
        twice = tw.Trainer(trainer().model, loss=nn.CrossEntropyLoss(), optimizer=sam)
        with pytest.raises(UnsupportedError, match="SAM makes two"):
            make(twice)
        strategy = make(trainer())
        one_hot = scenario[0].with_data(scenario[0].x, np.eye(6)[scenario[0].y])
        with pytest.raises(
            UnsupportedError, match=r"needs labels.*shape \(120, 6\) and dtype float64"
        ):
            strategy.fit(one_hot)
        for ignored in (-100, 1):
            strategy = make(trainer(loss=nn.CrossEntropyLoss(ignore_index=ignored)))
            y = np.where(scenario[0].y == 1, ignored, 0)
            with pytest.raises(
                UnsupportedError, match=f"some labels in y are ignore_index={ignored}"
            ):
                strategy.fit(scenario[0].with_data(scenario[0].x, y))
