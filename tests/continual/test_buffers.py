"""Buffers keep what they say, with the chances that they say."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from thalweg.continual import BalancedBuffer, Buffer, RecentBuffer, ReservoirBuffer
from thalweg.continual._balanced import herd
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError


def offer(buffer, numbers, labels=None, **more):
    numbers = np.asarray(numbers)
    labels = np.zeros(len(numbers), int) if labels is None else labels
    buffer.add(x=numbers[:, None].astype(np.float32), y=labels, **more)
    return buffer


def kept(buffer):
    return buffer.rows()["x"][:, 0].astype(int)


def is_uniform(counts, trials, size):
    """Pearson's test that every item is kept equally often; at 1 in a thousand."""
    stats = pytest.importorskip("scipy.stats")
    share = size / len(counts)
    # Under simple random sampling the counts' variance is trials * share * (1 - share).
    statistic = ((counts - trials * share) ** 2).sum() / (trials * share * (1 - share))
    statistic *= (len(counts) - 1) / len(counts)
    return stats.chi2.sf(statistic, len(counts) - 1) > 1e-3


@pytest.mark.parametrize(("capacity", "items", "parts"), [(10, 100, 1), (10, 100, 4), (1, 4, 1)])
def test_a_reservoir_is_a_uniform_sample_of_all(capacity, items, parts):
    """2000 times, items offered at once or in parts; of few items, a slight bias shows too."""
    counts = np.zeros(items)
    for seed in range(2000):
        buffer = ReservoirBuffer(capacity, seed=seed)
        for some in np.split(np.arange(items), parts):
            offer(buffer, some)
        assert len(set(kept(buffer))) == capacity
        counts[kept(buffer)] += 1
    assert is_uniform(counts, 2000, capacity)


def test_pearsons_test_would_see_a_bias(rng):
    """Items of the first half are kept a tenth more often."""
    chances = np.where(np.arange(100) < 50, 1.1, 1.0)
    picked = [rng.choice(100, 10, False, chances / chances.sum()) for _ in range(3000)]
    assert not is_uniform(np.bincount(np.concatenate(picked), minlength=100), 3000, 10)


@pytest.mark.parametrize("sizes", [[1] * 30, [4, 9, 17], [30], [3]])
def test_a_window_has_the_latest_samples(sizes):
    """Whether they come one by one, or more at once than it keeps."""
    buffer, end = RecentBuffer(7), 0
    for size in sizes:
        offer(buffer, np.arange(end, end + size), np.arange(end, end + size))
        end += size
        latest = list(range(max(0, end - 7), end))
        assert sorted(kept(buffer)) == latest
        np.testing.assert_array_equal(buffer.rows()["y"], kept(buffer))
        assert (len(buffer), buffer.seen) == (len(latest), end)


@pytest.mark.parametrize("per_class", [False, True])
def test_a_balanced_buffer_is_a_uniform_sample_of_each_class_also_after_giving_room(per_class):
    """Class 0 comes in two parts, before and after class 1 took its share."""
    counts = np.zeros(80)
    for seed in range(1000):
        buffer = BalancedBuffer(8 if per_class else 16, per_class=per_class, seed=seed)
        offer(buffer, np.arange(20))
        offer(buffer, np.arange(40, 80), np.ones(40, int))
        offer(buffer, np.arange(20, 40))
        assert len(buffer) == 16
        counts[kept(buffer)] += 1
    assert counts[:40].sum() == counts[40:].sum() == 8 * 1000
    assert is_uniform(counts[:40], 1000, 8)
    assert is_uniform(counts[40:], 1000, 8)


def test_a_reservoir_does_not_depend_on_how_samples_are_dealt_out():
    whole = offer(ReservoirBuffer(7, seed=4), np.arange(200))
    parts = ReservoirBuffer(7, seed=4)
    for some in np.split(np.arange(200), [1, 2, 3, 50, 199]):
        offer(parts, some)
    np.testing.assert_array_equal(kept(whole), kept(parts))
    assert whole.seen == parts.seen == 200


def test_classes_of_different_tasks_are_different():
    buffer = BalancedBuffer(3, per_class=True)
    offer(buffer, range(10), np.arange(10) % 2, group=0)
    offer(buffer, range(10, 20), np.arange(10) % 2, group=1)
    assert len(buffer) == 12
    assert sorted(buffer.rows()["y"]) == [0] * 6 + [1] * 6


@pytest.mark.parametrize("select", ["random", "herding"])
def test_what_small_classes_leave_is_shared_by_the_others(select):
    """However they come; of each class, all that were offered or a full share are kept."""
    y = np.repeat([0, 1, 2], [5, 300, 200])
    x = np.arange(len(y), dtype=np.float32)[:, None] + 1
    for order in (np.arange(len(y)), np.arange(len(y))[::-1], np.argsort(x[:, 0] % 7)):
        buffer = BalancedBuffer(101, select=select)
        for rows in np.array_split(order, 9):
            buffer.add(x=x[rows], y=y[rows], features=lambda rows: rows)
        assert np.bincount(buffer.rows()["y"]).tolist() == [5, 48, 48]
        assert len(np.unique(buffer.rows()["x"])) == 101
        # More of the small class: the others give room.
        buffer.add(x=x[:95] + 1000, y=np.zeros(95, int), features=lambda rows: rows)
        assert np.bincount(buffer.rows()["y"]).tolist() == [33, 33, 33]


def test_shares_of_classes_are_balanced_by_the_largest():
    y = np.repeat([0, 1, 2], [90, 8, 2])
    shares = np.eye(3)[y] * 0.7 + 0.1
    buffer = offer(BalancedBuffer(30), np.arange(100), shares)
    by_label = offer(BalancedBuffer(30), np.arange(100), y)
    np.testing.assert_array_equal(buffer.rows()["x"], by_label.rows()["x"])
    assert np.bincount(buffer.rows()["y"].argmax(axis=1)).tolist() == [20, 8, 2]
    # Numbers, and several answers, are of one class.
    for numbers in (shares - 1, 2 * shares, shares[:, :1]):
        assert len(offer(BalancedBuffer(1), np.arange(100), numbers)) == 1


def test_a_label_is_never_another_one():
    for make in (ReservoirBuffer, BalancedBuffer, RecentBuffer):
        buffer = make(400)
        offer(buffer, np.arange(3), np.arange(3, dtype=np.uint8))
        offer(buffer, np.arange(3), np.array([256, 257, 300], np.uint16))
        offer(buffer, np.arange(3), np.array([1, 2, 3], np.uint8))
        assert sorted(buffer.rows()["y"].tolist()) == [0, 1, 1, 2, 2, 3, 256, 257, 300]
        assert set(buffer.sample(9)["y"].tolist()) == {0, 1, 2, 3, 256, 257, 300}
        offer(buffer, np.arange(3), -np.arange(3))  # int64, which holds all of them
        assert sorted(buffer.rows()["y"].tolist())[:4] == [-2, -1, 0, 0]
        with pytest.raises(DtypeError, match="keeps y as int64, which cannot hold uint64"):
            offer(buffer, np.arange(3), np.arange(3, dtype=np.uint64))
        assert len(buffer) == 12


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_samples_are_kept_in_a_type_that_holds_all_of_them_in_any_order(make):
    parts = [np.array([[v]], t) for v, t in ((255, "u1"), (0.5, "f4"), (1e-9, "f8"), (-3, "i2"))]
    for order in (parts, parts[::-1]):
        buffer = make(9)
        for x in order:
            buffer.add(x=x, y=[0])
        kept = buffer.rows()["x"]
        assert kept.dtype == np.float64
        assert sorted(kept.ravel()) == sorted(float(x[0, 0]) for x in parts)


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_a_state_is_not_what_the_buffer_goes_on_with(make):
    buffer = offer(make(5), np.zeros(5))
    state = buffer.state_dict()
    offer(buffer, np.ones(100))
    buffer.load_state_dict(state)
    assert not buffer.rows()["x"].any()
    offer(buffer, np.ones(100))
    buffer.load_state_dict(state)
    assert not buffer.rows()["x"].any()


def test_what_is_kept_does_not_depend_on_the_process():
    """Sets of text are in another order in each."""
    code = (
        "import numpy as np; from thalweg.continual import BalancedBuffer; b = BalancedBuffer(30)\n"
        "for k in range(7): b.add(x=np.arange(99.)[:, None], y=np.full(99, k))\n"
        "print(b.rows()['x'].ravel().tolist())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1]


def test_a_sample_of_a_balanced_buffer_is_of_its_rows(monkeypatch):
    """The same as by numbers of all rows put together, which would take longer."""
    buffer = offer(BalancedBuffer(60, seed=3), np.arange(500), np.arange(500) % 7)
    twin = BalancedBuffer(60)
    twin.load_state_dict(buffer.state_dict())
    rows = buffer.rows()
    empty = BalancedBuffer(5)
    monkeypatch.delattr(BalancedBuffer, "rows")
    for size in (1, 9, 60):
        some = buffer.sample(size)
        places = twin._generator.choice(len(rows["y"]), min(size, len(rows["y"])), replace=False)
        for name, column in rows.items():
            np.testing.assert_array_equal(some[name], column[places])
    assert empty.sample(3) == {}


@pytest.mark.parametrize("silent", [0, 2])
def test_herding_against_all_that_could_be_chosen(silent, rng):
    """Each choice is the best of those that are left, by the definition.

    Features of rectified units may all be 0: such rows have no unit length, and may be chosen.
    """
    features = rng.standard_normal((12, 3)) + 1
    features[:silent] = 0
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    chosen = herd(features, 6)
    assert silent == 0 or {0, 1} & set(chosen)
    for k in range(6):
        left = [i for i in range(12) if i not in chosen[:k]]
        distance = [
            np.linalg.norm(unit.mean(0) - (unit[chosen[:k]].sum(0) + unit[i]) / (k + 1))
            for i in left
        ]
        assert chosen[k] == left[int(np.argmin(distance))]


def test_a_herd_that_gives_room_keeps_its_first(rng):
    x = rng.standard_normal((30, 2)).astype(np.float32)
    buffer = BalancedBuffer(10, select="herding")
    buffer.add(x=x, y=np.zeros(30, int), features=lambda rows: rows)
    first = buffer.rows()["x"].copy()
    np.testing.assert_array_equal(first, x[herd(x, 10)])
    buffer.add(x=x, y=np.ones(30, int), features=lambda rows: rows)
    np.testing.assert_array_equal(buffer.rows()["x"][:5], first[:5])


def test_features_that_cannot_be_computed_leave_a_herd_as_it_was(rng):
    buffer = BalancedBuffer(10, select="herding")
    x = rng.standard_normal((30, 2))
    buffer.add(x=x, y=np.zeros(30, int), features=lambda rows: rows)
    before = buffer.rows()["x"].copy()

    def broken(rows):
        raise ShapeError("no features")

    with pytest.raises(ShapeError, match="no features"):
        buffer.add(x=x, y=np.ones(30, int), features=broken)
    np.testing.assert_array_equal(buffer.rows()["x"], before)


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_state(make):
    buffer = offer(make(6, seed=1), np.arange(50), np.arange(50) % 3)
    twin = make(6, seed=99)
    twin.load_state_dict(buffer.state_dict())
    for one in (buffer, twin):
        offer(one, np.arange(50, 90), np.arange(40) % 3)
    np.testing.assert_array_equal(kept(buffer), kept(twin))
    np.testing.assert_array_equal(buffer.sample(3)["x"], twin.sample(3)["x"])


@pytest.mark.parametrize(
    "copied",
    [
        lambda buffer: copy.deepcopy(buffer),
        lambda buffer: pickle.loads(pickle.dumps(buffer)),
        lambda buffer: _loaded(ReservoirBuffer(50000), buffer.state_dict()),
    ],
)
@pytest.mark.parametrize("rows", [0, 10])
def test_empty_rows_of_a_reservoir_are_not_copied(rows, copied):
    """A large one with a few samples is as small as these, and goes on as before."""
    buffer = ReservoirBuffer(50000)
    if rows:
        offer(buffer, np.arange(rows))
    state = buffer.state_dict()["columns"]
    assert [len(column) for column in state.values()] == [10, 10][:rows]
    assert len(pickle.dumps(buffer)) < 4000
    twin = copied(buffer)
    assert len(twin) == rows
    for one in (buffer, twin):
        offer(one, np.arange(60000), np.arange(60000) % 3)
    assert len(twin) == 50000
    np.testing.assert_array_equal(kept(buffer), kept(twin))


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_adding_does_not_change_a_copy_that_is_being_made(make):
    """Copies and pickles begin with this, and another thread may add before they end."""
    buffer = offer(make(6), np.zeros(50))
    begun = buffer.__reduce_ex__(2)[2]
    before = copy.deepcopy(begun)
    offer(buffer, np.ones(50))
    for state in (begun, before):
        state["_generator"] = state["_generator"].bit_generator.state
    np.testing.assert_equal(begun, before)


def test_another_name_of_the_generator_stays_that_in_copies():
    """A subclass that draws by it goes on as before."""

    class Draws(ReservoirBuffer):
        def __init__(self, capacity):
            super().__init__(capacity)
            self.rng = self._generator

    buffer = offer(Draws(5), np.arange(9))
    twin = copy.deepcopy(buffer)
    for one in (buffer, twin):
        one.rng.random()
        offer(one, np.arange(9, 30))
    np.testing.assert_array_equal(kept(buffer), kept(twin))


class Bare(Buffer):
    """Leaves out the constructor of buffers, as it draws nothing."""

    def __init__(self, capacity):
        self.capacity, self.columns = capacity, {}

    def add(self, *, group=0, features=None, **columns):
        self.columns = columns

    def rows(self):
        return self.columns

    def __len__(self):
        return len(self.columns.get("y", ()))


def test_a_buffer_without_a_generator_is_copied_and_pickled():
    buffer = offer(Bare(9), np.arange(9))
    for twin in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        np.testing.assert_array_equal(kept(twin), kept(buffer))


def test_what_needs_the_generator_says_who_makes_it():
    with pytest.raises(
        AttributeError, match=r"Bare has .*: its __init__ must call super\(\)\.__in"
    ):
        offer(Bare(9), np.arange(9)).state_dict()


def test_attributes_of_a_subclass_may_have_names_of_arguments():
    class Counts(BalancedBuffer):
        def __init__(self):
            super().__init__(5)
            self.select = 0

        def add(self, **columns):
            self.select += 1
            super().add(**columns)

    buffer, again = offer(Counts(), np.arange(9)), Counts()
    again.load_state_dict(buffer.state_dict())
    assert again.select == buffer.select == 1


class Grows(ReservoirBuffer):
    """Has more room for each batch, which counts differently every time."""

    def __init__(self, capacity, more=1, *, seed=0):
        super().__init__(capacity, seed=seed)
        self.more = more

    def add(self, **columns):
        super().add(**columns)
        self.capacity, self.more = self.capacity + self.more, self.more + 1


class Herds(BalancedBuffer):
    """Without a constructor of its own."""

    def add(self, **columns):
        super().add(**columns)
        self.select = "random"


@pytest.mark.parametrize(
    ("make", "names"),
    [(lambda: Grows(300), ["capacity", "more"]), (lambda: Herds(6, select="herding"), ["select"])],
)
def test_arguments_that_are_set_later_are_part_of_the_state(make, names):
    """Which is still one of a buffer made with those of the constructor."""
    one, again, later = make(), make(), make()
    first = {name: getattr(one, name) for name in names}
    fresh = one.state_dict()
    for buffer in (one, later):
        offer(buffer, np.arange(400.0), features=lambda x: x)
    offer(later, np.arange(9.0))
    state = one.state_dict()
    assert {*state["attributes"]} == {*names}
    twins = [again, later, copy.deepcopy(one), pickle.loads(pickle.dumps(one))]
    for twin in twins[:2]:
        twin.load_state_dict(state)
    offer(one, np.arange(50.0))
    for twin in twins:
        offer(twin, np.arange(50.0))
        assert str(twin.state_dict()) == str(one.state_dict())
    one.load_state_dict(fresh)
    assert {name: getattr(one, name) for name in names} == first
    assert one.state_dict()["attributes"] == {}


def test_a_state_is_of_one_capacity_however_it_has_grown():
    grown = Grows(6)
    offer(grown, np.arange(9.0))
    assert (grown.capacity, grown.more) == (7, 2)
    with pytest.raises(ArgumentError, match="with capacity=6, but this one has capacity=7"):
        Grows(7).load_state_dict(grown.state_dict())


@pytest.mark.parametrize("kind", [ReservoirBuffer, RecentBuffer, BalancedBuffer])
def test_a_state_is_of_one_kind_of_buffer(kind):
    """A reservoir's rows are not the latest ones, although both are kept in the same form."""

    class Own(kind):
        pass

    others = {ReservoirBuffer, RecentBuffer, BalancedBuffer} - {kind}
    for other in others:
        state = offer(other(6), np.arange(9)).state_dict()
        buffer = offer(kind(6), np.arange(4))
        with pytest.raises(ArgumentError, match="load it into a buffer of the kind that it came f"):
            buffer.load_state_dict(state)
        assert len(buffer) == 4
    own = _loaded(Own(6), offer(Own(6), np.arange(9)).state_dict())
    assert len(own) == 6


def _loaded(buffer, state):
    buffer.load_state_dict(state)
    return buffer


def test_samples_are_different_ones_with_what_belongs_to_them():
    buffer = offer(ReservoirBuffer(20), np.arange(100), np.arange(100) % 7)
    for _ in range(50):
        some = buffer.sample(5)
        assert len(set(some["x"][:, 0])) == 5
        np.testing.assert_array_equal(some["x"][:, 0] % 7, some["y"])
    assert len(buffer.sample(1000)["y"]) == 20


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ReservoirBuffer(0), ArgumentError, "capacity must be an integer >= 1"),
        (lambda: BalancedBuffer(5, select="best"), ArgumentError, "select must be one of"),
        (lambda: offer(BalancedBuffer(2), range(3), np.arange(3)), ArgumentError, "each of 3"),
        (lambda: offer(BalancedBuffer(2, select="herding"), range(3)), ArgumentError, "features"),
        (lambda: ReservoirBuffer(2).add(x=np.ones((2, 1)), y=[1]), ShapeError, "number of rows"),
    ],
)
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_a_capacity_that_is_never_reached_takes_no_memory(make):
    buffer = make(2**63 - 1)
    for start in (0, 5, 10):
        offer(buffer, range(start, start + 5))
    assert sorted(buffer.rows()["x"][:, 0]) == list(range(15))


@pytest.mark.parametrize("make", [ReservoirBuffer, BalancedBuffer, RecentBuffer])
def test_numbers_are_kept_in_types_that_a_file_can_hold(make):
    buffer = make(4)
    buffer.add(x=np.ones((2, 1), np.longdouble), y=np.zeros(2, object))
    assert buffer.rows()["x"].dtype == np.float64
    assert buffer.rows()["y"].dtype == np.int64
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        with pytest.raises(DataError, match=r"x\[1, 0\] = .* is too large for float64"):
            buffer.add(x=np.array([["1"], ["1e400"]], np.longdouble), y=np.zeros(2, int))
        assert len(buffer) == 2


def test_a_buffer_says_what_it_holds():
    some = offer(ReservoirBuffer(5), range(3))
    assert repr(some) == "<ReservoirBuffer: 3 of at most 5 rows>"
    some = offer(BalancedBuffer(5, select="random"), range(3), np.arange(3))
    assert repr(some) == ("<BalancedBuffer: 3 rows of 3 classes, at most 5 rows, select='random'>")
    assert "at most 5 of each class, select='herding'" in repr(
        BalancedBuffer(5, per_class=True, select="herding")
    )
