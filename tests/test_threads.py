"""Processes that fork and Python threads that call at the same time."""

import multiprocessing
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim


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


def answer(connection):
    """What the child does: all kinds of calls, then the result through the pipe."""
    connection.send((tw.get_num_threads(), train()))
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
    expected = train()  # the pool is running when the process forks
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(3):
        mine, its = context.Pipe(duplex=False)
        child = context.Process(target=answer, args=(its,))
        child.start()
        ends.append((mine, child))
    for mine, child in ends:
        assert mine.poll(60), "the child hangs"
        assert mine.recv() == (2, expected)
        child.join(60)
        assert child.exitcode == 0
    assert train() == expected  # and the parent is as it was


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
