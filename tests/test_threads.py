"""Processes that fork and Python threads that call at the same time."""

import contextlib
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

from .helpers import squares

TASKS = Path("/proc/self/task")  # where Linux lists a process's threads


def make():
    """A network large enough to keep several threads busy, its trainer and its data."""
    rng = np.random.default_rng(3)
    model = nn.Sequential(nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 10), seed=2)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
    return trainer, rng.standard_normal((600, 100)).astype(np.float32), rng.integers(0, 10, 600)


def train():
    trainer, x, y = make()
    trainer.fit(x, y, epochs=2, batch_size=200)
    return trainer.model.flat_parameters.tobytes()


def has_worker():
    """Whether the pool of this process has a thread; true where the system does not say.

    Results do not tell: without one, the calling thread does all of the work.
    """
    if not TASKS.is_dir():
        return True
    for _ in range(500):  # a new thread may need a moment to take its name
        names = []
        for task in TASKS.iterdir():
            with contextlib.suppress(OSError):  # that thread has ended meanwhile
                names.append((task / "comm").read_text())
        if any(name.startswith("thalweg") for name in names):
            return True
        time.sleep(0.01)
    return False


def answer(connection):
    """What the child does: all kinds of calls, then the result through the pipe."""
    connection.send((tw.get_num_threads(), train(), has_worker()))
    connection.close()


@pytest.fixture
def two_threads():
    before = tw.get_num_threads()
    tw.set_num_threads(2)
    yield
    tw.set_num_threads(before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
# Newer Pythons warn of forking with threads about, which is just what is tested here.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_trains_like_its_parent(two_threads):
    expected = train()
    assert has_worker()  # the pool is running when the process forks
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(3):
        mine, its = context.Pipe(duplex=False)
        child = context.Process(target=answer, args=(its,))
        child.start()
        ends.append((mine, child))
    for mine, child in ends:
        assert mine.poll(60), "the child hangs"
        assert mine.recv() == (2, expected, True)
        child.join(60)
        assert child.exitcode == 0
    assert train() == expected  # and the parent is as it was


def bind_and_count(connection):
    """What a child does that is bound to a CPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    connection.send(tw.get_num_threads())
    connection.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_use_the_cpus_that_they_are_bound_to(method, monkeypatch):
    for name in ("THALWEG_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    code = textwrap.dedent(f"""
        import multiprocessing, os
        import thalweg as tw
        from tests.test_threads import bind_and_count
        if __name__ == "__main__":
            assert tw.get_num_threads() == len(os.sched_getaffinity(0))  # known before the fork
            context = multiprocessing.get_context("{method}")
            mine, its = context.Pipe(duplex=False)
            child = context.Process(target=bind_and_count, args=(its,))
            child.start()
            assert mine.poll(60)
            print(mine.recv())
    """)
    there = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=there, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def step(trainer, x, y, connection):
    """What a child does with its copy of a trainer that was in use."""
    connection.send((trainer.evaluate(x, y)["loss"], trainer.step(x, y)))
    connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_may_fork_while_other_threads_use_a_model(two_threads):
    """The child gets the model between two steps, not locked, nor half updated."""
    trainer, x, y = make()
    done = threading.Event()

    def use():
        while not done.is_set():
            trainer.fit(x, y, epochs=2, batch_size=100)

    def look():
        while not done.is_set():
            trainer.model(x)

    users = [threading.Thread(target=work) for work in (use, look)]
    for user in users:
        user.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(20):
            mine, its = context.Pipe(duplex=False)
            child = context.Process(target=step, args=(trainer, x, y, its))
            child.start()
            found = mine.recv() if mine.poll(20) else "the child hangs"
            child.kill()
            child.join()
            assert found != "the child hangs"
            assert found[0] == pytest.approx(found[1], rel=1e-5)  # of the same parameters
    finally:
        done.set()
        for user in users:
            user.join()


@pytest.mark.skipif(not TASKS.is_dir(), reason="needs the times of threads that Linux lists")
def test_idle_workers_take_no_processor_time():
    """They look for work for a moment, then sleep: as the kernel counts it, in ticks of 10 ms.

    A sleeping thread has none, however busy the machine.
    """
    script = """
        import time
        from pathlib import Path
        import numpy as np
        import thalweg as tw
        from thalweg import nn, optim

        def ticks():
            "Of each worker, in user and in kernel mode."
            found = {}
            for task in Path("/proc/self/task").iterdir():
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                if name.startswith("thalweg"):
                    found[task.name] = sum(map(int, rest.split()[11:13]))
            return found

        model = nn.Sequential(nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 10))
        trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
        data = np.zeros((256, 784)), np.zeros((256, 10))
        while not ticks():  # a new thread may need a moment to take its name
            trainer.step(*data)
        time.sleep(0.5)
        before = ticks()
        time.sleep(0.5)
        after = ticks()
        print(max(after[worker] - before[worker] for worker in before))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "THALWEG_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2  # of 50


def test_a_spawned_process_trains_like_its_parent():
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(its,))
    child.start()
    assert mine.poll(60), "the child hangs"
    assert mine.recv()[1] == train()
    child.join(60)


def test_python_threads_train_models_of_their_own(two_threads):
    expected = train()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: train(), range(8)))
    assert set(results) == {expected}


def test_python_threads_may_share_a_model_for_inference(two_threads):
    trainer, x, _ = make()
    expected = trainer.model(x).tobytes()
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: trainer.model(x).tobytes(), range(40))
        assert set(results) == {expected}


def test_threads_take_turns_with_a_model():
    """A thread that calls again at once does not go before one that waits.

    `evaluate` gives the model away every 16,384 rows.
    """
    parts = 30
    model = nn.Sequential(
        nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam())
    x, y = (np.zeros((16_384 * parts, width), np.float32) for width in (4, 2))
    calls, done = 0, threading.Event()

    def predict():
        nonlocal calls
        while not done.is_set():
            model(x[:1])
            calls += 1

    other = threading.Thread(target=predict)
    other.start()
    while not calls:
        time.sleep(0.001)
    before = calls
    trainer.evaluate(x, y)
    done.set()
    other.join()
    assert calls - before > parts / 4  # without turns, it was 1


def test_a_model_can_be_used_while_another_thread_trains_it(two_threads):
    """Calls wait for a step to end; none sees half a step, none is an error."""
    trainer, x, y = make()
    done = threading.Event()
    problems = []

    def use():
        while not done.is_set():
            try:
                assert np.isfinite(trainer.model(x)).all()
                assert np.isfinite(trainer.model.flat_parameters).all()
                trainer.evaluate(x, y)
                trainer.step(x[:50], y[:50])
            except BaseException as problem:
                problems.append(problem)
                return

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    trainer.fit(x, y, epochs=20, batch_size=100)
    done.set()
    for user in users:
        user.join(60)
        assert not user.is_alive(), "a thread hangs"
    assert problems == []
    assert trainer.history.epochs == 20


class Slow:
    """A loss or a hook that waits in the middle of its first step."""

    def __init__(self):
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.process = os.getpid()

    def wait(self):
        if os.getpid() == self.process and not self.inside.is_set():
            self.inside.set()
            assert self.go_on.wait(60)

    def loss(self, output, target):
        self.wait()
        return squares(output, target)

    def hook(self, gradient):
        self.wait()
        return gradient


#: What steps consist of several calls of the core for, and the loss and the optimizer of each.
IN_PYTHON = {
    "a custom loss": lambda slow: (slow.loss, optim.SGD(lr=0.5)),
    "SAM": lambda slow: (slow.loss, optim.SAM(optim.SGD(lr=0.5))),
    "LBFGS": lambda slow: (slow.loss, optim.LBFGS(max_iter=2)),
    "a gradient hook": lambda slow: (nn.MSELoss(), optim.SGD(lr=0.5)),
}


def begun(kind, method, slow):
    """A trainer in another thread, in the middle of a step."""
    loss, optimizer = IN_PYTHON[kind](slow)
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=loss, optimizer=optimizer)

    def train():
        hook = slow.hook if "hook" in kind else lambda gradient: gradient
        with trainer.gradient_hook(hook) if "hook" in kind else contextlib.nullcontext():
            if method == "fit":
                trainer.fit(*DATA, batch_size=None)
            else:
                getattr(trainer, method)(*DATA)

    thread = threading.Thread(target=train)
    thread.start()
    assert slow.inside.wait(60)
    return trainer, thread


DATA = np.eye(2), np.ones((2, 1))


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, method) for kind in IN_PYTHON for method in ("step", "fit")]
    + [("a custom loss", "backward")],
)
def test_a_step_in_python_is_alone_on_its_model(kind, method):
    """Gradients of several threads were mixed up in silence; others are refused meanwhile."""
    slow = Slow()
    trainer, thread = begun(kind, method, slow)
    message = r"^another thread is in a step of this model with|evaluates the loss more than once"
    others = [
        trainer,
        tw.Trainer(trainer.model, loss=nn.MSELoss(), optimizer=optim.SGD()),
        tw.Trainer(trainer.model, loss=squares, optimizer=optim.SGD()),
    ]
    for other in others:
        for call in (other.step, other.backward, other.fit, lambda *data, of=other: of.update()):
            if call == trainer.fit and method == "fit":
                continue  # it is in one
            with pytest.raises((tw.ArgumentError, tw.UnsupportedError), match=message):
                call(*DATA)
    trainer.model(DATA[0])  # is possible at any time, and so is another model
    trainer.copy().step(*DATA)
    slow.go_on.set()
    thread.join(60)
    alone = Slow()
    alone.inside.set()
    expected, thread = begun(kind, method, alone)
    thread.join(60)
    assert trainer.model.flat_parameters.tolist() == expected.model.flat_parameters.tolist()
    assert trainer.optimizer.steps == expected.optimizer.steps
    trainer.step(*DATA)  # as before


def test_a_lock_lets_threads_share_a_trainer_with_a_hook():
    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=nn.MSELoss(), optimizer=optim.SGD(1))
    trainer.model.flat_parameters = [0, 0, 0]
    lock = threading.Lock()

    def train(_):
        with lock:
            trainer.step(*DATA)

    with trainer.gradient_hook(np.ones_like), ThreadPoolExecutor(4) as pool:
        list(pool.map(train, range(200)))
    assert trainer.model.flat_parameters.tolist() == [-200, -200, -200]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", IN_PYTHON)
def test_a_process_that_forks_within_another_threads_step_can_train(kind):
    """That thread is not in the child."""
    slow = Slow()
    trainer, thread = begun(kind, "step", slow)

    def train(connection):
        trainer.model.flat_parameters = [1, 2, 3]
        kept = copy.deepcopy(trainer.model).flat_parameters  # not those where that step began
        trainer.step(*DATA)
        connection.send((kept.tolist(), trainer.optimizer.steps))
        connection.close()

    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=train, args=(theirs,))
    child.start()
    assert ours.poll(60), "the child hangs"
    assert ours.recv() == ([1, 2, 3], 1)
    child.join(60)
    slow.go_on.set()
    thread.join(60)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_forks_within_another_threads_fit_can_fit():
    """A web server that trains in the background starts a worker; that thread is not in it."""
    slow = Slow()

    class Waiting(tw.callbacks.Callback):
        def on_epoch_end(self, trainer, record):
            slow.wait()

    trainer = tw.Trainer(nn.Sequential(nn.Linear(2, 1)), loss=nn.MSELoss(), optimizer=optim.SGD())
    thread = threading.Thread(target=trainer.fit, args=DATA, kwargs={"callbacks": [Waiting()]})
    thread.start()
    assert slow.inside.wait(60)
    with pytest.raises(tw.UnsupportedError, match="already in a fit"):
        trainer.fit(*DATA)

    def train(connection):
        trainer.loss = nn.L1Loss()
        with trainer.gradient_hook(np.ones_like):
            trainer.fit(*DATA, epochs=2)
        connection.send(trainer.epochs)
        connection.close()

    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=train, args=(theirs,))
    child.start()
    theirs.close()  # or `recv` would wait for a child that has failed
    assert ours.recv() == 3
    child.join(60)
    slow.go_on.set()
    thread.join(60)
    assert trainer.epochs == 1


@pytest.mark.parametrize("make", [lambda: optim.SAM(optim.SGD(lr=0.5)), optim.LBFGS])
def test_what_is_saved_or_copied_within_a_step_is_where_it_began(make, tmp_path):
    """Such optimizers try other parameters meanwhile; a signal handler may save them, too."""
    model = nn.Sequential(nn.Linear(2, 1))
    seen = []

    def saving(output, target):
        model.save(tmp_path / "model")
        trainer.save(tmp_path / "trainer")
        kept = [nn.Sequential.load(tmp_path / name) for name in ("model", "trainer")]
        kept += [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), trainer.copy().model]
        seen.append([it.flat_parameters.tolist() for it in (model, *kept)])
        return squares(output, target)

    trainer = tw.Trainer(model, loss=saving, optimizer=make())
    before = model.flat_parameters.tolist()
    trainer.step(*DATA)
    assert all(kept == 5 * [before] for _, *kept in seen)
    assert any(now != before for now, *_ in seen)
    model.save(tmp_path / "model")
    now = nn.Sequential.load(tmp_path / "model").flat_parameters.tolist()
    assert now == model.flat_parameters.tolist() != before


def test_fit_lets_other_python_threads_run():
    """While the core works, Python is free: a counter in another thread goes on."""
    trainer, x, y = make()
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(time.monotonic())

    counter = threading.Thread(target=tick)
    counter.start()
    epochs, start, end = 50, 0, 0
    while end - start < 0.1:  # long enough to tell, on a machine of any speed
        start = time.monotonic()
        trainer.fit(x, y, epochs=epochs, batch_size=100)
        end = time.monotonic()
        epochs *= 2
    done.set()
    counter.join(60)
    inside = [at for at in ticks if start < at < end]
    # A fit that held the lock would let none through.
    assert len(inside) > 3


def test_the_number_of_threads_can_be_set_and_is_shown(capsys):
    before = tw.get_num_threads()
    try:
        tw.set_num_threads(3)
        assert tw.get_num_threads() == 3
        assert tw.show_config("dicts")["threads"] == 3
        assert tw.show_config("dicts")["threads_from"] == "set_num_threads"
    finally:
        tw.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_function_that_gradcheck_calls():
    """It may take long, or wait for the thread that forks: here it does."""
    inside, forked = threading.Event(), threading.Event()

    def fork():
        assert inside.wait(60)
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        forked.set()

    waited = []

    def loss(output, target):
        inside.set()
        waited.append(forked.wait(30))
        return float(((output - target) ** 2).sum()), 2 * (output - target)

    thread = threading.Thread(target=fork)
    thread.start()
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), dtype="float64")
    assert tw.gradcheck(model, *DATA, loss=loss)
    thread.join(60)
    assert all(waited)


def test_a_model_that_is_reloaded_in_use_is_the_old_one_or_the_new_one():
    """Parameters and the numbers of `Standardize`, which are set together."""
    model = nn.Sequential(nn.Standardize([0] * 4, [1] * 4), nn.Linear(4, 1, bias=False), seed=0)
    x, ones = np.ones((1, 4), np.float32), np.ones(4)
    states = [
        {"0.mean": 0 * ones, "0.std": ones, "1.weight": ones[np.newaxis]},
        {"0.mean": 11 * ones, "0.std": 0.5 * ones, "1.weight": 3 * ones[np.newaxis]},
    ]
    model.load_state_dict(states[0])
    seen, over = set(), threading.Event()

    def look():
        while not over.is_set():
            seen.add(float(model(x)[0, 0]))
            first = model.state_dict()
            assert first["1.weight"][0, 0] == (1 if first["0.mean"][0] == 0 else 3)

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        # In no order: threads take turns, so those that look could meet the same one every time.
        for i in np.random.default_rng(0).integers(0, 2, 4000):
            model.load_state_dict(states[i])
        over.set()
        for future in looking:
            future.result()
    assert seen == {4.0, -240.0}
