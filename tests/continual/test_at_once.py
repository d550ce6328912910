"""Buffers that several threads use, processes that fork meanwhile, and signals in between."""

import contextlib
import copy
import dis
import itertools
import multiprocessing
import os
import sys
import threading

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, nn, optim
from thalweg.continual import BalancedBuffer, RecentBuffer, ReservoirBuffer, _buffers
from thalweg.continual._memory import Drawing

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

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


def test_a_refused_step_takes_its_draws_back_when_no_other_thread_draws():
    """Setting a generator's state while it draws would leave it in neither of the two states."""
    buffer, order = ReservoirBuffer(9), []
    buffer.add(**numbered(range(9)))
    before = buffer.state_dict()

    def refused():
        with contextlib.suppress(ZeroDivisionError), Drawing(buffer):
            order.append("drawn")
            buffer.sample(3)
            drawn.set()
            held.wait(10)
            1 / 0  # noqa: B018
        order.append("taken back")

    drawn, held = threading.Event(), threading.Event()
    thread = threading.Thread(target=refused, daemon=True)
    thread.start()
    drawn.wait(10)
    with _buffers.LOCK:
        held.set()
        thread.join(0.2)
        order.append("released")
    thread.join(10)
    assert order == ["drawn", "released", "taken back"]
    assert buffer.state_dict()["generator"] == before["generator"]


def in_child(use, seconds=20):
    """Use something in a forked process."""
    child = multiprocessing.get_context("fork").Process(target=use)
    child.start()
    child.join(seconds)
    hung = child.is_alive()
    child.kill()
    child.join()
    assert not hung
    assert child.exitcode == 0


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_features_may_come_from_other_threads_and_processes():
    """As from a pool, whose threads fork. Meanwhile, other buffers can be used, and this one."""
    buffer, other = BalancedBuffer(8, select="herding"), ReservoirBuffer(8)
    buffer.add(**numbered(range(8)), features=np.asarray)
    other.add(**numbered(range(8)))

    def features(x):
        for use in (lambda: other.sample(3), lambda: buffer.sample(3)):
            at_once(use, lambda use=use: in_child(use))
        return x

    buffer.add(**numbered(range(8, 16)), features=features)
    assert len(buffer) == 8


def test_what_is_added_while_features_are_computed_is_kept_too():
    buffer, asked = BalancedBuffer(100, select="herding"), []

    def features(x):
        if not asked:
            at_once(lambda: buffer.add(**numbered(range(20, 40)), features=np.asarray))
        asked.append(len(x))
        return x

    buffer.add(**numbered(range(20)), features=features)
    np.testing.assert_array_equal(np.sort(buffer.rows()["x"][:, 0]), np.arange(40))
    assert not mixed_up(buffer.rows())
    assert asked == [5] * 4 + [10] * 4  # for each label, and again with what has come


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_can_use_buffers_that_its_parent_was_using():
    """As if a signal's handler had forked: the child has no thread that would release them."""
    buffer = ReservoirBuffer(10)
    buffer.add(**numbered(range(10)))

    def use():
        thread = threading.Thread(target=buffer.sample, args=(3,), daemon=True)
        thread.start()
        thread.join(10)
        os._exit(thread.is_alive())

    with _buffers.LOCK:
        in_child(use)
    in_child(lambda: in_child(use))


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


@forks
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
                in_child(use)
        finally:
            done.set()

    at_once(use_on, fork)


def interrupted(function, place):
    """Raise KeyboardInterrupt at the `place`-th place of our code where Python runs a handler.

    That is once a function has begun, after calls and jumps back: also between two columns that a
    loop writes, where no function is called. Return whether there is such a place.
    """
    places, latest = itertools.count(), {}

    def watch(frame, event, _):
        if os.path.join("thalweg", "continual") not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            code, at = frame.f_code.co_code, frame.f_lasti
            runs = latest.get(frame, "").startswith(("RESUME", "CALL", "JUMP_BACKWARD"))
            if runs and next(places) == place:
                sys.settrace(None)
                raise KeyboardInterrupt
            latest[frame] = dis.opname[code[at]]
        return watch

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for such a frame only here
    sys.settrace(watch)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("rows", [5, 9], ids=["growing", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_interrupts_adding_leaves_each_row_with_its_label(kind, rows):
    """Wherever Ctrl-C or another signal's handler raises: all new rows are added, or none."""

    def filled():
        buffer = kind(6, seed=1)
        buffer.add(**numbered(range(rows)))
        return buffer

    def add(buffer):
        buffer.add(**numbered(range(9, 30)))

    before, after = filled(), filled()
    add(after)
    outcomes, place, there = [], 0, True
    while there:
        buffer = filled()
        there = interrupted(lambda buffer=buffer: add(buffer), place)
        at_once(lambda buffer=buffer: buffer.sample(1))  # nothing is left locked
        restored = kind(6)
        restored.load_state_dict(copy.deepcopy(buffer).state_dict())
        for one in (buffer, restored):
            assert len(one) == len(one.rows()["y"])
            assert not mixed_up(one.rows())
            outcomes.append(one.rows()["x"].tolist())
        place += 1
    expected = [one.rows()["x"].tolist() for one in (before, after)]
    assert [found for found in outcomes if found not in expected] == []
    assert all(one in outcomes for one in expected)
