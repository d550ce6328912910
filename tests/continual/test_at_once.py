"""Buffers that several threads use, processes that fork meanwhile, and signals in between."""

import copy
import multiprocessing
import os
import sys
import threading

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import BalancedBuffer, RecentBuffer, ReservoirBuffer

from ..test_interrupts import interrupted

KINDS = [ReservoirBuffer, BalancedBuffer, RecentBuffer]


def mixed_up(columns):
    """The rows with a label of another one."""
    found = zip(columns["x"][:, 0].tolist(), columns["y"].tolist(), strict=True)
    return [row for row in found if row[1] != row[0] % 4]


def numbered(values):
    """Rows whose label follows from their value."""
    return {"x": np.asarray(values, np.float32)[:, np.newaxis], "y": np.asarray(values) % 4}


@pytest.fixture
def impatient():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*works):
    """Run functions in a thread each, and raise what they raise."""
    failed = []

    def attempt(work):
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=attempt, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    if failed:
        raise failed[0]
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"


@pytest.mark.parametrize("capacity", [301, 4000])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_add_to_a_buffer_do_not_mix_up_its_rows(kind, capacity, impatient):
    buffer, done = kind(capacity), threading.Event()

    def add(first):
        for value in range(first, 4000, 2):
            buffer.add(**numbered([value]))

    def add_all():
        at_once(lambda: add(0), lambda: add(1))
        done.set()

    def look():
        while not done.is_set():
            assert not mixed_up(buffer.sample(50) or numbered([]))
            assert not mixed_up(copy.deepcopy(buffer).rows() or numbered([]))

    at_once(add_all, look)
    assert len(np.unique(buffer.rows()["x"])) == len(buffer)
    assert capacity - 4 < len(buffer) <= capacity  # a balanced one has equally many of each label
    assert not mixed_up(buffer.rows())


def test_threads_that_step_a_replay_store_each_row_once(impatient):
    model = nn.Sequential(nn.Linear(1, 4), seed=1)
    trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=1e-6))
    replay = continual.Replay(trainer, 1000)

    def step(first):
        for value in range(first, 1000, 2):
            replay.step(*numbered([value]).values())

    at_once(lambda: step(0), lambda: step(1))
    np.testing.assert_array_equal(np.sort(replay.buffer.rows()["x"][:, 0]), np.arange(1000))
    assert not mixed_up(replay.buffer.rows())
    assert trainer.optimizer.steps == 1000


def draws():
    """Drawing takes so long that a fork falls into it."""
    buffer = ReservoirBuffer(100_000)
    buffer.add(**numbered(np.arange(100_000)))
    return lambda: buffer.sample(100_000)


def asks_the_core():
    """Adding calls the model, which waits for a fork to end."""
    model = nn.Sequential(nn.Linear(1, 4))
    buffer = BalancedBuffer(10, select="herding")
    return lambda: buffer.add(**numbered(range(20)), features=model)


def is_asked_by_the_core():
    """A step, which a fork waits for, calls a function that draws."""
    buffer = ReservoirBuffer(10)
    buffer.add(**numbered(range(10)))

    def loss(output, target):
        buffer.sample(5)
        return 0.0, np.zeros_like(output)

    model = nn.Sequential(nn.Linear(1, 1))
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    return lambda: trainer.step(np.ones((8, 1)), np.ones((8, 1)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("make", [draws, asks_the_core, is_asked_by_the_core])
def test_a_process_may_fork_while_another_thread_uses_a_buffer(make, impatient):
    use, done = make(), threading.Event()

    def use_on():
        while not done.is_set():
            use()

    def fork():
        try:
            for _ in range(10):
                child = multiprocessing.get_context("fork").Process(target=use)
                child.start()
                child.join(20)
                hung = child.is_alive()
                child.kill()
                child.join()
                assert not hung
        finally:
            done.set()

    at_once(use_on, fork)


@pytest.mark.parametrize("kind", KINDS)
def test_what_interrupts_adding_leaves_each_row_with_its_label(kind):
    """Wherever Ctrl-C or another signal's handler raises: all new rows are added, or none."""

    def half_full():
        buffer = kind(6, seed=1)
        buffer.add(**numbered(range(5)))
        return buffer

    def add(buffer):
        buffer.add(**numbered(range(5, 30)))

    before, after = half_full(), half_full()
    add(after)
    outcomes, calls, error = [], 0, True
    while error:
        buffer = half_full()
        error = interrupted(lambda buffer=buffer: add(buffer), calls)
        restored = kind(6)
        restored.load_state_dict(copy.deepcopy(buffer).state_dict())
        for one in (buffer, restored):
            assert len(one) == len(one.rows()["y"])
            assert not mixed_up(one.rows())
            outcomes.append(one.rows()["x"].tolist())
        calls += 1
    expected = [one.rows()["x"].tolist() for one in (before, after)]
    assert [found for found in outcomes if found not in expected] == []
    assert all(one in outcomes for one in expected)
    at_once(lambda: buffer.sample(1))  # nor does it leave anything locked
