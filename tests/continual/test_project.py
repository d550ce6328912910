"""Gradients that are kept from going against earlier tasks, beside the formulas in NumPy."""

import copy
import functools

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import _batches, _project
from thalweg.continual._replay import kept_rows
from thalweg.errors import ArgumentError, UnsupportedError

from ..helpers import accuracy_on_permuted_digits

SIZES = (3, 8, 4)


def network(optimizer=None, **options):
    a, b, c = SIZES
    model = nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c), dtype="float64", seed=3)
    optimizer = optimizer or optim.SGD(lr=0.3)
    return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **options)


def unpacked(theta):
    a, b, c = SIZES
    parts = np.split(theta, np.cumsum([a * b, b, b * c])[:3])
    return parts[0].reshape(b, a), parts[1], parts[2].reshape(c, b), parts[3]


def slope(theta, x, y, weights=None):
    """The gradient of the mean cross-entropy, or of the sum of outputs times weights, by hand."""
    w, u, v, t = unpacked(theta)
    h = np.tanh(x @ w.T + u)
    z = h @ v.T + t
    if weights is None:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        d = (p / p.sum(axis=1, keepdims=True) - np.eye(len(t))[y]) / len(x)
    else:
        d = weights
    e = (d @ v) * (1 - h**2)
    return np.concatenate([(e.T @ x).ravel(), e.sum(0), (d.T @ h).ravel(), d.sum(0)])


@pytest.fixture
def tasks(rng):
    """Three tasks whose labels contradict each other, so that gradients do too."""
    made = []
    for k in range(3):
        x = rng.standard_normal((60, 3))
        y = (x @ rng.standard_normal((3, 4))).argmax(axis=1)
        made.append(continual.Task(x, y, x, y, k))
    return made


@pytest.mark.parametrize(
    "make",
    [lambda t: continual.AGEM(t, 30, batch_size=5), lambda t: continual.GEM(t, 4, margin=0.0)],
    ids=["AGEM", "GEM"],
)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_share_of_projected_updates_is_that_of_all_parts(make, accumulate, tasks, tmp_path):
    """Updates count, not rows: the last of an epoch has fewer."""
    scenario = continual.Scenario(tasks)
    options = {"epochs": 3, "batch_size": 14}
    whole, parts = (
        continual.run(
            make(network(optim.SGD(lr=0.01), accumulate_grad_batches=accumulate)), scenario, **more
        )
        for more in (options, options | {"save_every": 1, "checkpoint": tmp_path / "parts"})
    )
    shares = [share for history in whole.histories[1:] for share in history["projected"]]
    assert any(0 < share < 1 for share in shares)
    for found, wanted in zip(parts.histories[1:], whole.histories[1:], strict=True):
        assert found["projected"] == pytest.approx(wanted["projected"], rel=1e-12)


def steps_of(task, seed, steps, size=20):
    return [(x, y) for x, y, _ in
            _batches.chunks(task, seed=seed, steps=steps, batch_size=size, most=1)]  # fmt: skip


def follow(strategy, task, steps, project, lr=0.3):
    """Train on a task, and by hand with a function of parameters, gradient and step number."""
    theta = strategy.trainer.model.flat_parameters.copy()
    for number, (x, y) in enumerate(steps_of(task, strategy.trainer.model.seed, steps)):
        theta -= lr * project(theta, slope(theta, x, y), number)
    strategy.begin(task)
    history = strategy.learn(task, steps=steps, batch_size=20)
    found = strategy.trainer.model.flat_parameters
    assert np.abs(found - theta).max() <= 1e-10 * np.abs(theta).max()
    return history


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_a_gem_is_its_formula(eps, tasks):
    strategy = continual.AGEM(network(), 40, batch_size=15, eps=eps)
    strategy.fit(tasks[0], epochs=20, batch_size=20)
    memory = strategy.buffer.rows()
    chosen = kept_rows(40, 1, 3, 0, 9, 15)
    changed = []

    def project(theta, g, number):
        rows = chosen[number]
        r = slope(theta, memory["x"][rows], memory["y"][rows])
        changed.append(g @ r < 0)
        return g - (g @ r) / (r @ r + eps) * r if g @ r < 0 else g

    history = follow(strategy, tasks[1], 9, project)
    assert history["projected"] == [np.mean(changed)]
    assert any(changed)
    assert not all(changed)


def test_what_a_gem_remembers_does_not_get_worse_to_first_order(tasks):
    """With all of the memory as the reference, the update and its gradient make no obtuse angle."""
    strategy = continual.AGEM(network(), 40, batch_size=40)
    strategy.fit(tasks[0], epochs=20, batch_size=20)
    memory, model = strategy.buffer.rows(), strategy.trainer.model
    strategy.begin(tasks[1])
    products = []
    for number in range(30):
        before = model.flat_parameters.copy()
        reference = slope(before, memory["x"], memory["y"])
        strategy.learn(tasks[1], steps=1, start=number, batch_size=20)
        update = (before - model.flat_parameters) / 0.3
        products.append(update @ reference / np.linalg.norm(reference) / np.linalg.norm(update))
    assert min(products) >= -1e-12
    assert min(products) <= 1e-12  # some were on the border


def dual(memory, g, margin, convention):
    """GEM's coefficients by SciPy: min v'Pv/2 + q'v is |L'v + inv(L) q|² with P = LL'."""
    from scipy.optimize import nnls

    p, q = memory @ memory.T, memory @ g
    if convention == "avalanche":
        p = p + 1e-3 * np.eye(len(p))
        q = q + p @ np.full(len(p), margin)
    factor = np.linalg.cholesky(p)
    return nnls(factor.T, -np.linalg.solve(factor, q))[0] + margin


@pytest.mark.parametrize("convention", ["paper", "avalanche"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_is_its_formula(convention, margin, tasks):
    pytest.importorskip("scipy")
    strategy = continual.GEM(network(), 25, margin=margin, convention=convention)
    for task in tasks[:2]:
        strategy.fit(task, epochs=15, batch_size=20)
    memories, several = strategy.state_dict()["memories"], []

    def project(theta, g, number):
        rows = np.stack([slope(theta, m["x"], m["y"]) for m in memories])
        if (rows @ g >= 0).all():
            return g
        v = dual(rows, g, margin, convention)
        several.append((v > margin).sum())
        if margin == 0 and convention == "paper":  # conditions of Karush, Kuhn and Tucker
            assert (rows @ (g + v @ rows) >= -1e-9).all()
            assert np.abs(v * (rows @ (g + v @ rows))).max() <= 1e-9
        return g + v @ rows

    history = follow(strategy, tasks[2], 12, project)
    assert history["projected"] == [len(several) / 12]
    assert several if margin else {1, 2} <= set(several)


@pytest.mark.parametrize("outputs", ["label", "all"])
def test_ogd_is_its_formula(outputs, tasks):
    strategy = continual.OGD(network(), 5, outputs=outputs)
    model, seen = strategy.trainer.model, []
    for task in tasks[:2]:
        strategy.fit(task, epochs=5, batch_size=20)
        theta = model.flat_parameters
        rows = np.sort(np.random.default_rng((0, task.index)).choice(60, 5, replace=False))
        for row in rows:
            for k in range(4) if outputs == "all" else [task.y[row]]:
                seen.append(slope(theta, task.x[[row]], None, np.eye(4)[[k]]))
    basis = strategy.directions
    assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-13
    span = np.linalg.qr(np.stack(seen).T)[0]
    assert len(basis) == len(seen)
    np.testing.assert_allclose(basis.T @ (basis @ span), span, atol=1e-12)  # the same space
    follow(strategy, tasks[2], 6, lambda theta, g, number: g - span @ (span.T @ g))


@pytest.mark.parametrize(
    ("loss", "outputs", "y"),
    [
        (nn.BCEWithLogitsLoss(), 1, lambda labels: labels % 2),
        (nn.MSELoss(), 1, lambda labels: labels + 7),
        (nn.CrossEntropyLoss(), 4, lambda labels: np.where(labels == 2, -100, labels)),
    ],
    ids=["yes or no", "numbers", "ignored"],
)
def test_integers_are_labels_for_ogd_only_where_the_loss_takes_them_as_such(
    loss, outputs, y, tasks
):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs), dtype="float64")
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.01))
    strategy = continual.OGD(trainer, 12)
    for task in tasks:
        strategy.fit(task.with_data(task.x, y(task.y)))
    # Of each task, 12 samples whose label is not ignored.
    assert len(strategy.directions) == min(3 * 12, model.num_parameters)


@pytest.mark.parametrize("outputs", ["label", "all"])
def test_ogd_draws_its_samples_from_those_that_count(outputs, tasks):
    """The directions are those of the task without the rows that the loss ignores."""
    task, rare = tasks[0], np.arange(60) % 20 == 3
    some = continual.OGD(network(), 2, outputs=outputs)
    some.fit(task.with_data(task.x, np.where(rare, task.y, -100)), steps=1)
    only = continual.OGD(network(), 2, outputs=outputs)
    only.trainer.model.flat_parameters = some.trainer.model.flat_parameters
    only.begin(task), only.end(task.with_data(task.x[rare], task.y[rare]))
    assert len(some.directions) == (2 if outputs == "label" else len(only.directions))
    np.testing.assert_array_equal(some.directions, only.directions)


def test_it_is_said_how_many_updates_ogd_has_changed(tasks):
    strategy = continual.OGD(network(), 5)
    assert "projected" not in strategy.fit(tasks[0])
    assert strategy.fit(tasks[1])["projected"] == [1.0]


def test_ogd_leaves_a_linear_model_s_outputs_as_they_are(rng):
    model = nn.Sequential(nn.Linear(30, 2), dtype="float64")
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.05, momentum=0.5))
    strategy = continual.OGD(trainer, 8)
    tasks = [rng.standard_normal((8, 30)) for _ in range(3)]
    for k, x in enumerate(tasks):
        y = rng.standard_normal((8, 2))
        # Momentum of the last task would go on in its own direction.
        trainer.optimizer.load_state_dict(optim.SGD(lr=0.05, momentum=0.5).state_dict(), model)
        before = model(np.concatenate(tasks[:k])) if k else None
        strategy.fit(continual.Task(x, y, x, y, k), epochs=300, batch_size=8)
        assert np.abs(model(x) - y).mean() < 0.02
        if k:
            np.testing.assert_allclose(model(np.concatenate(tasks[:k])), before, atol=1e-10)
    assert len(strategy.directions) == 3 * 8 * 2


def test_directions_that_are_nearly_known_are_orthogonal_to_the_last_bit(rng):
    """What is left of them after one subtraction is mostly its rounding."""
    model = nn.Sequential(nn.Linear(20, 1, bias=False), dtype="float64")
    strategy = continual.OGD(tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD(lr=0.1)), 8)
    x, y = rng.standard_normal((8, 20)), rng.standard_normal((8, 1))
    for k, rows in enumerate((x, x + 1e-9 * rng.standard_normal((8, 20)))):
        strategy.begin(task := continual.Task(rows, y, rows, y, k))
        strategy.end(task)
    basis = strategy.directions
    assert len(basis) == 16
    assert np.abs(basis @ basis.T - np.eye(16)).max() < 1e-13


def test_a_direction_that_is_known_is_not_kept_twice(tasks):
    strategy = continual.OGD(network(), 60)
    for _ in range(2):
        strategy.begin(tasks[0])
        strategy.end(tasks[0])
    # 60 gradients of 68 numbers span no more when they come again.
    assert len(strategy.directions) == np.linalg.matrix_rank(strategy.directions) <= 60


def test_reference_batches_go_by_updates_not_by_calls(tasks):
    """Three batches of seven a pass to an update, whichever parts the steps come in."""
    found = []
    for parts in ([70], [3, 4, 7, 56], [66, 4], [63, 7]):
        strategy, at = continual.AGEM(network(accumulate_grad_batches=3), 40, batch_size=7), 0
        strategy.fit(tasks[0], epochs=9, batch_size=20)
        strategy.begin(tasks[1])
        for steps in parts:
            strategy.learn(tasks[1], steps=steps, start=at, batch_size=9)
            at += steps
        found.append(strategy.trainer.model.flat_parameters)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("options", [{"clip_grad_norm": 0.05}, {"accumulate_grad_batches": 3}])
def test_clipping_and_accumulation_are_around_the_projection(options, tasks):
    strategy = continual.AGEM(network(**options), 40, batch_size=40, eps=1e-3)
    strategy.fit(tasks[0], epochs=9, batch_size=20)
    memory, model = strategy.buffer.rows(), strategy.trainer.model
    theta, gathered = model.flat_parameters.copy(), []
    for x, y in steps_of(tasks[1], model.seed, 3):
        gathered.append(slope(theta, x, y))
        if "accumulate_grad_batches" in options and len(gathered) < 3:
            continue
        g, gathered = np.mean(gathered, axis=0), []
        r = slope(theta, memory["x"], memory["y"])
        g = g - (g @ r) / (r @ r + 1e-3) * r if g @ r < 0 else g
        if "clip_grad_norm" in options:
            g = g * min(1, 0.05 / (np.linalg.norm(g) + 1e-6))
        theta -= 0.3 * g
    strategy.begin(tasks[1])
    strategy.learn(tasks[1], steps=3, batch_size=20)
    np.testing.assert_allclose(model.flat_parameters, theta, atol=1e-12)


def test_the_penalty_is_a_part_of_what_is_projected(tasks):
    strategy = continual.L2(continual.AGEM(network(), 40, batch_size=40), 0.7)
    strategy.fit(tasks[0], epochs=20, batch_size=20)
    memory, anchor = strategy.inner.buffer.rows(), strategy.anchor

    def project(theta, g, number):
        g = g + 0.7 * (theta - anchor)
        r = slope(theta, memory["x"], memory["y"])
        return g - (g @ r) / (r @ r) * r if g @ r < 0 else g

    follow(strategy, tasks[1], 6, project)


def test_frozen_layers_stay(tasks):
    optimizer = optim.SGD(lr=0.3)
    optimizer.add_group("0.*", frozen=True)
    strategy = continual.GEM(network(optimizer), 25, margin=0.5)
    before = strategy.trainer.model.state_dict()["0.weight"].copy()
    for task in tasks:
        strategy.fit(task, epochs=3, batch_size=20)
    state = strategy.trainer.model.state_dict()
    np.testing.assert_array_equal(state["0.weight"], before)


@pytest.mark.parametrize("layer", ["0.*", "2.*"])
def test_ogd_is_orthogonal_in_what_is_not_frozen(layer, tasks):
    """Frozen parameters have no part in a step, so they must have none in its directions."""
    optimizer = optim.SGD(lr=0.3)
    optimizer.add_group(layer, frozen=True)
    strategy = continual.OGD(network(optimizer), 5)
    strategy.fit(tasks[0], epochs=5, batch_size=20)
    before = strategy.trainer.model.flat_parameters
    strategy.begin(tasks[1])
    strategy.learn(tasks[1], steps=3, batch_size=20)
    moved = strategy.trainer.model.flat_parameters - before
    assert np.linalg.norm(moved) > 0.01
    assert np.abs(strategy.directions @ moved).max() < 1e-14
    assert np.abs(strategy.directions @ strategy.directions.T - np.eye(5)).max() < 1e-13


STRATEGIES = {
    "AGEM": lambda t, s: continual.AGEM(t, 30, batch_size=7),
    "AGEM of EWC": lambda t, s: continual.AGEM(continual.EWC(t, 10.0), 30),
    "AGEM of Replay": lambda t, s: continual.AGEM(continual.Replay(t, 20), 30),
    "GEM": lambda t, s: continual.GEM(t, 20),
}


@pytest.mark.filterwarnings("ignore:task . brings new classes", "ignore:the penalty of")
@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_and_resumed(name, scenario, trainer, tmp_path, resumed_is_the_same):
    resumed_is_the_same(STRATEGIES[name], scenario, trainer, tmp_path)


def test_ogd_stopped_and_resumed(scenario, trainer, tmp_path, resumed_is_the_same):
    def plain(dropout):  # OGD is not for dropout
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6), seed=1)
        return tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.01))

    resumed_is_the_same(lambda t, s: continual.OGD(t, 20), scenario, plain, tmp_path)


def test_a_stream_that_is_not_learned_against_what_is_kept(scenario, trainer):
    strategy = continual.AGEM(trainer(), 60, batch_size=30)
    model, stream = strategy.trainer.model, continual.stream(scenario, batch_size=4, seed=1)
    for x, y in stream:
        kept = strategy.buffer.rows()["x"] if len(strategy.buffer) else x
        before = model(kept)
        assert np.isfinite(strategy.step(x, y))
        assert not np.array_equal(model(kept), before)
        assert strategy.trainer._core.projected() is None
    assert strategy.buffer.seen == 360


def test_a_buffer_that_chooses_by_features_is_for_tasks(scenario, trainer):
    """A step of a stream is refused before it is taken."""
    for make in (continual.AGEM, continual.Replay):
        strategy = make(trainer(), continual.BalancedBuffer(30, select="herding"))
        before = strategy.trainer.model.flat_parameters
        with pytest.raises(UnsupportedError, match=r"does not support step: .*herding"):
            strategy.step(scenario[0].x, scenario[0].y)
        np.testing.assert_array_equal(strategy.trainer.model.flat_parameters, before)
        strategy.fit(scenario[0])


def test_permuted_digits_are_remembered():
    """Margins of the mean accuracy over three tasks and seeds; measured: .12, .17, .07."""
    pytest.importorskip("sklearn")
    accuracy = accuracy_on_permuted_digits
    sgd = functools.partial(optim.SGD, lr=0.05)
    plain, scaled = accuracy(continual.Naive, sgd), accuracy(continual.Naive)
    assert accuracy(lambda t: continual.AGEM(t, 100)) >= scaled + 0.06
    assert accuracy(lambda t: continual.GEM(t, 50), sgd) >= plain + 0.1
    assert accuracy(lambda t: continual.OGD(t, 40), sgd) >= plain + 0.04


def test_what_cannot_be_joined_is_said(scenario, trainer):
    mine = trainer()
    strategy = continual.AGEM(mine, 20)
    for task in scenario[:2]:
        strategy.fit(task)
    mine.fit(scenario[0].x, scenario[0].y)  # nothing is left of the projection
    assert mine._core.projected() is None
    with pytest.raises(UnsupportedError, match="Dropout"):
        continual.OGD(trainer(dropout=0.1))
    model = nn.Sequential(nn.Linear(2, 6))
    sam = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SAM(optim.SGD(lr=0.1)))
    for make in (lambda: continual.AGEM(sam, 20), lambda: continual.GEM(sam, 20)):
        with pytest.raises(
            UnsupportedError, match=r"GEM changes the gradient .* use SAM's base optimizer"
        ):
            make()


def test_weighted_tasks_are_refused_also_after_a_replay():
    """That gives weights to rows of its steps, which are not the weights of a task."""
    first, second = _two_tasks()
    weighted = first.with_data(first.x, first.y, np.linspace(0, 2, len(first.y)))
    inner = continual.OGD(_accumulating(1), 5)
    replay = continual.Replay(inner, 20)
    for task in (first, second):
        replay.fit(task)
    replay.begin(second)
    replay.step(second.x, second.y)
    replay.end(second)
    for strategy in (replay, inner):
        with pytest.raises(UnsupportedError, match="does not support tasks with sample_weight"):
            strategy.fit(weighted)


def _accumulating(batches=4):
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2), seed=0)
    optimizer, loss = optim.SGD(lr=0.1), nn.CrossEntropyLoss()
    return tw.Trainer(model, loss=loss, optimizer=optimizer, accumulate_grad_batches=batches)


def _two_tasks(rows=100):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 2)).astype("float32"), np.arange(rows) % 2
    return continual.Task(x, y, x, y), continual.Task(x, 1 - y, x, y, 1)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_last_update_of_a_task_has_a_reference_batch(batch_size):
    """Not the whole buffer; and none is handed over if no gradient waits."""
    first, second = _two_tasks()
    strategy = continual.AGEM(_accumulating(), 90, batch_size=batch_size)
    strategy.fit(first)
    sizes, ready = [], strategy._ready
    strategy._ready = lambda rows: sizes.append(len(rows["y"])) or ready(rows)
    strategy.begin(second)
    for _ in range(3):
        strategy.step(second.x[:8], second.y[:8])
    strategy.end(second)
    assert sizes == [8, 8, 8, 8]
    strategy.begin(second.with_data(second.x, second.y))
    strategy.learn(second, steps=4)
    del sizes[:]
    strategy.end(second)
    assert sizes == []


def test_a_restored_strategy_ends_a_task_with_the_same_update():
    """Its reference batch is as large as the latest step, which only the state tells."""
    first, second = _two_tasks()
    found, made = [], continual.AGEM(_accumulating(), 90)
    made.fit(first, epochs=20)
    made.begin(second)
    made.step(second.x[:8], second.y[:8])
    state = made.state_dict()
    for loaded in (False, True):
        strategy = copy.deepcopy(made)
        if loaded:
            strategy = continual.AGEM(made.trainer.copy(), 90)
            strategy.load_state_dict(state)
        strategy.end(second)
        found.append(strategy.trainer.model.flat_parameters)
    np.testing.assert_array_equal(*found)
    del state["rows_of_latest"]
    with pytest.raises(ArgumentError, match="does not match this AGEM: it has no rows_of_latest;"):
        made.load_state_dict(state)


@pytest.mark.parametrize("ignored", [1, 20, 40], ids=["a row", "batches", "an update"])
@pytest.mark.parametrize("make", [lambda t: continual.AGEM(t, 90), continual.Naive])
def test_ignored_rows_cut_training_only_where_it_is_skipped(make, ignored, monkeypatch):
    """Every update was a fit of its own if a single row of the task was ignored."""
    first, second = _two_tasks(960)
    y = second.y.copy()
    y[480 : 480 + ignored] = -100
    fits = []
    for name in ("fit", "_pass"):
        taken = getattr(tw.Trainer, name)
        monkeypatch.setattr(
            tw.Trainer, name, lambda *a, _taken=taken, **o: fits.append(1) or _taken(*a, **o)
        )
    counts = []
    for labels in (second.y, y):
        strategy = make(_accumulating())
        strategy.fit(first, batch_size=8)
        strategy.begin(second)
        del fits[:]
        task = second.with_data(second.x, labels)
        strategy.learn(task, steps=240, batch_size=8, shuffle=ignored == 1)
        counts.append(len(fits))
    whole, some = counts
    assert some <= whole + (0 if ignored == 1 else 4)  # two passes, each cut before and after


@pytest.mark.parametrize("accumulate", [1, 3])
def test_reference_rows_are_the_same_however_steps_are_cut(accumulate, monkeypatch):
    """Those of updates in which no row counts are left out."""
    first, second = _two_tasks(220)
    y = second.y.copy()
    y[40:90] = -100
    found = []
    for chunk in (64, 1):
        monkeypatch.setattr(_project, "_CHUNK", chunk)
        strategy = continual.AGEM(_accumulating(accumulate), 90)
        strategy.fit(first)
        strategy.begin(second)
        task = second.with_data(second.x, y)
        history = strategy.learn(task, steps=60, batch_size=8, shuffle=False)
        assert history["projected"][0] > 0
        found.append(strategy.trainer.model.flat_parameters)
    np.testing.assert_array_equal(*found)


INSIDE = {
    "Cumulative": continual.Cumulative,
    "Joint": continual.Joint,
    "GDumb": lambda t, s: continual.GDumb(t, 20),
}


def _some_ignored():
    """Tasks of 26, 7 and 10 rows; of some batches, no row counts."""
    rng, tasks = np.random.default_rng(0), []
    for index, rows in enumerate((26, 7, 10)):
        x, y = rng.standard_normal((rows, 3)), rng.integers(0, 4, rows)
        y[3 : rows // 2] = -100
        tasks.append(continual.Task(x, y, x, np.abs(y) % 4, index))
    return continual.Scenario(tasks)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("inside", INSIDE)
def test_a_gem_that_changes_no_gradient_changes_nothing_around_other_rows(inside, accumulate):
    """Passes are over the rows of the strategy inside, and so updates end where it ends them."""
    scenario, make, found = _some_ignored(), INSIDE[inside], []
    for around in (continual.Naive, lambda s: continual.AGEM(s, 12, eps=1e300)):
        strategy = around(make(network(accumulate_grad_batches=accumulate), scenario))
        continual.run(strategy, scenario, steps=25, batch_size=3)
        found.append(strategy.trainer)
    plain, other = found
    assert other.optimizer.steps == plain.optimizer.steps
    np.testing.assert_array_equal(other.model.flat_parameters, plain.model.flat_parameters)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("inside", INSIDE)
def test_reference_rows_around_other_rows_do_not_depend_on_pauses(inside, accumulate, tmp_path):
    scenario, found = _some_ignored(), []
    for options in ({}, {"evaluate_every": 4}, {"save_every": 7, "checkpoint": tmp_path / "run"}):
        trainer = network(accumulate_grad_batches=accumulate)
        strategy = continual.AGEM(INSIDE[inside](trainer, scenario), 12, batch_size=2)
        result = continual.run(strategy, scenario, steps=25, batch_size=2, **options)
        assert any(share > 0 for share in result.histories[-1]["projected"])
        found.append(trainer.model.flat_parameters)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_reference_rows_are_the_same_if_updates_begin_within_those_of_a_pass(monkeypatch):
    """As after a pause of one step: updates of three begin at 1, 4, ... in a pass of 70."""
    first, second = _two_tasks(140)
    found = []
    for chunk in (1000, 64, 1):
        monkeypatch.setattr(_project, "_CHUNK", chunk)
        strategy = continual.AGEM(_accumulating(3), 90)
        strategy.fit(first)
        strategy.begin(second)
        for steps, start in ((1, 0), (139, 1)):
            history = strategy.learn(second, steps=steps, start=start, batch_size=2)
        assert 0 < history["projected"][0] < 1
        found.append(strategy.trainer.model.flat_parameters)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_an_update_that_waits_when_a_task_is_learned_further_has_its_own_reference_batch():
    """As large as the latest step, and drawn as for the steps; `learn` needs the whole buffer."""
    first, second = _two_tasks()
    strategy = continual.AGEM(_accumulating(), 90)
    strategy.fit(first)
    sizes, ready = [], strategy._ready
    strategy._ready = lambda rows: sizes.append(len(rows["y"])) or ready(rows)
    strategy.begin(second)
    before = strategy.trainer.optimizer.steps
    strategy.step(second.x[:8], second.y[:8])
    strategy.learn(second, steps=4)
    assert sizes == [8, 8, 90]
    assert strategy.trainer.optimizer.steps - before == 2
