"""The same bits for any number of threads, and an orderly end when training is interrupted."""

import ctypes
import itertools
import os
import platform
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import thalweg as tw
from thalweg import nn, optim

pytestmark = pytest.mark.usefixtures("threads_restored")


@pytest.fixture
def threads_restored():
    before = tw.get_num_threads()
    yield
    tw.set_num_threads(before)


# layers, rows, batch size: wide and narrow, odd and even, few rows and many.
SHAPES = {
    "digits": ([64, 128, 64, 10], 1000, 128),
    "wide": ([784, 512, 10], 300, 128),
    "odd": ([33, 129, 65, 7], 501, 77),
    "few rows": ([256, 1024, 256, 3], 24, 8),
    "many rows": ([20, 64, 5], 9000, 4096),
    "one row": ([100, 300, 10], 20, 1),
}


def train(widths, rows, batch_size, dtype, loss, optimizer, activation):
    """All that a training leaves behind, as bytes."""
    rng = np.random.default_rng(8)
    layers = [nn.Linear(*widths[:2])]
    for pair in itertools.pairwise(widths[1:]):
        layers += [activation, nn.Linear(*pair)]
    model = nn.Sequential(*layers, dtype=dtype, seed=6)
    trainer = tw.Trainer(model, loss=loss, optimizer=optimizer)
    x = rng.standard_normal((rows, widths[0])).astype(dtype)
    labels = rng.integers(0, widths[-1], rows)
    y = labels if isinstance(loss, nn.CrossEntropyLoss) else np.eye(widths[-1], dtype=dtype)[labels]
    history = trainer.fit(x, y, epochs=2, batch_size=batch_size, validation_data=(x, y))
    history.pop("seconds")
    model.forward(x[:batch_size])
    back = model.backward(np.ones((min(rows, batch_size), widths[-1])))
    return (
        model.flat_parameters.tobytes(),
        model.flat_gradients.tobytes(),
        model(x).tobytes(),
        back.tobytes(),
        dict(history),
        trainer.step(x[:batch_size], y[:batch_size]),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_number_of_threads_changes_no_bit(shape, dtype):
    settings = [
        (nn.CrossEntropyLoss(), lambda: optim.AdamW(), nn.ReLU()),
        (nn.MSELoss(), lambda: optim.SGD(lr=0.01, momentum=0.9), nn.Tanh()),
    ]
    for loss, optimizer, activation in settings:
        results = []
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            assert tw.get_num_threads() == threads
            results.append(train(*SHAPES[shape], dtype, loss, optimizer(), activation))
        assert results[0] == results[1] == results[2]


def test_threads_may_change_between_epochs():
    """A run that changes its threads on the way ends where one that does not ends."""

    def run(counts):
        rng = np.random.default_rng(8)
        model = nn.Sequential(nn.Linear(200, 300), nn.GELU(), nn.Linear(300, 10))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        x, y = rng.standard_normal((500, 200)), rng.integers(0, 10, 500)
        for count in counts:
            tw.set_num_threads(count)
            trainer.fit(x, y, batch_size=100)
        return model.flat_parameters.tobytes()

    assert run([1, 1, 1]) == run([2, 3, 1])


@pytest.mark.parametrize("extra", [nn.Dropout(0.4), nn.LayerNorm(300), nn.RMSNorm(300)])
def test_layers_that_draw_or_normalize_change_no_bit(extra):
    def run(threads):
        tw.set_num_threads(threads)
        rng = np.random.default_rng(8)
        model = nn.Sequential(
            nn.Linear(20, 300),
            extra,
            nn.SiLU(),
            nn.Linear(300, 300),
            nn.Dropout(0.2),
            nn.Linear(300, 5),
        )
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        x, y = rng.standard_normal((2500, 20)), rng.integers(0, 5, 2500)
        trainer.fit(x, y, epochs=2, batch_size=1200)
        return model.flat_parameters.tobytes(), model.forward(x[:333]).tobytes()

    one = run(1)
    assert all(run(threads) == one for threads in (2, 3, 8))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
@pytest.mark.parametrize("progress", [False, True])
def test_ctrl_c_stops_between_two_steps_and_leaves_a_usable_model(progress):
    """In a process of its own, as a user would: a fit without end, and SIGINT while it runs."""
    if progress:
        pytest.importorskip("tqdm")
    script = """
        import os, signal, threading, time
        import numpy as np
        import thalweg as tw
        from thalweg import nn, optim

        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2000, 50)).astype("float32"), rng.integers(0, 5, 2000)
        model = nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 5))
        trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam())
        sent = []

        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        # A shell's job in the background begins with Ctrl-C ignored, and its children with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(1.0, interrupt).start()
        try:
            trainer.fit(x, y, epochs=10**9, progress=PROGRESS)
            raise SystemExit("it was not interrupted")
        except KeyboardInterrupt:
            late = time.monotonic() - sent[0]
        assert late < 10.0, late  # milliseconds, where nothing else runs
        ended = trainer.history.epochs
        assert ended > 0, "the history holds the epochs that ended"
        # No epoch was lost: the optimizer has taken their steps, and those of less than one more.
        steps = trainer.optimizer.state_dict()["steps"]
        assert 0 <= steps - ended * 63 < 63, (steps, ended)
        assert np.isfinite(model.flat_parameters).all()
        # It goes on from there. (By now the loss may be as low as it can get.)
        assert trainer.fit(x, y, epochs=3).epochs == 3
        assert trainer.optimizer.state_dict()["steps"] == steps + 3 * 63
        assert np.isfinite(trainer.evaluate(x, y)["loss"])
        print("usable")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script).replace("PROGRESS", str(progress))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "THALWEG_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "usable\n"


PART = 16 * 1024  # rows between two polls for Ctrl-C


def test_rows_of_a_long_prediction_are_those_of_short_ones(rng):
    model = nn.Sequential(
        nn.Linear(7, 33), nn.BatchNorm1d(33), nn.Tanh(), nn.Residual(nn.Linear(33, 33)),
        nn.Linear(33, 5), seed=0,
    )  # fmt: skip
    x = rng.standard_normal((2 * PART + 1, 7))
    for kind in ("float32", "float64", "float16"):
        data = x.astype(kind)
        pieces = [model(data[i : i + 5000]) for i in range(0, len(data), 5000)]
        assert model(data).tobytes() == np.concatenate(pieces).tobytes()
    x[PART + 3, 2] = np.nan
    with pytest.raises(tw.DataError, match=rf"x\[{PART + 3}, 2\] is NaN"):
        model(x)
    with pytest.raises(tw.ShapeError, match=rf"shape \({2 * PART + 1}, 6\)"):
        model(x[:, :6])
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    model.flat_parameters = [1.0, 1e30]
    data = np.ones((PART + 9, 1), np.float32)
    data[PART + 5] = 1e10
    with pytest.raises(tw.DivergedError, match=rf"output\[{PART + 5}, 1\] is inf"):
        model(data)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_signals_are_answered_during_a_long_call(call):
    """A handler runs between its parts. It may even use the model."""
    tw.set_num_threads(1)
    model = nn.Sequential(nn.Linear(16, 128), nn.Tanh(), nn.Linear(128, 128), nn.Linear(128, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    x, y = np.zeros((8 * PART, 16), np.float32), np.zeros((8 * PART, 1), np.float32)
    calls = {"predict": lambda: model(x), "evaluate": lambda: trainer.evaluate(x, y)}
    alone, heard = calls[call](), []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(model(x[:2]).shape))
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)  # a part takes much longer
    try:
        found = calls[call]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Signals that come while nobody listens are one.
    assert len(heard) >= 6
    np.testing.assert_array_equal(found, alone)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
def test_signals_are_answered_during_a_long_product_with_the_hessian():
    """With more rows until it is long enough for that, as it is for 2^21 on the fastest machine."""
    tw.set_num_threads(1)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 1))
    v, heard = np.ones(model.num_parameters), []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(model(x[:2]).shape))
    for rows in (2**17, 2**19, 2**21):
        x, y = np.zeros((rows, 2), np.float32), np.zeros((rows, 1), np.float32)
        alone = tw.curvature.hvp(model, x, y, v, loss=nn.MSELoss())
        heard.clear()
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        try:
            found = tw.curvature.hvp(model, x, y, v, loss=nn.MSELoss())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        np.testing.assert_array_equal(found, alone)
        if len(heard) > 4:  # more than before the first part and after the last
            break
    signal.signal(signal.SIGALRM, before)
    assert len(heard) > 4


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
def test_ctrl_c_ends_a_fit_in_a_long_validation():
    """Between two of its parts: the last step has been taken, but its epoch has not ended."""
    tw.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 512), nn.Tanh(), nn.Linear(512, 512), nn.Linear(512, 1))
    trainer = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.SGD())
    x, y = np.zeros((4 * PART, 8), np.float32), np.zeros((4 * PART, 1), np.float32)

    def interrupt(*_):
        if trainer.optimizer.steps == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(x[:4], y[:4], epochs=1, batch_size=2, validation_data=(x, y))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (trainer.history.epochs, trainer.optimizer.steps) == (0, 2)
    # It goes on from there.
    assert trainer.fit(x[:4], y[:4], epochs=1).epochs == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the C library has another name")
def test_in_another_rounding_mode_the_number_of_threads_changes_no_bit(threads_restored):
    """As C and Fortran programs may set it; threads share a step in the default mode."""
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
    if upward is None:
        pytest.skip("the number of its rounding mode is not known here")

    def run(threads):
        tw.set_num_threads(threads)
        loss, optimizer = nn.MSELoss(), optim.Adam(1e-2)
        return train([64, 256, 256, 4], 320, 64, "float32", loss, optimizer, nn.GELU())

    run(3)  # the threads are there before
    found, mode = [], ctypes.CDLL(None)
    nearest = mode.fegetround()
    try:
        assert mode.fesetround(upward) == 0
        assert np.float64(1) + 1e-30 > 1, "sums are rounded upwards"
        found += [run(threads) for threads in (3, 3, 2, 1)]
    finally:
        mode.fesetround(nearest)
    assert all(result == found[0] for result in found)


def test_an_environment_variable_sets_the_number_of_threads():
    for variables, expected, warned in [
        ({"THALWEG_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3", False),
        ({"OMP_NUM_THREADS": "5"}, "5", False),
        ({"THALWEG_NUM_THREADS": "4,2"}, "4", False),  # a list by levels, as of OpenMP
        ({"THALWEG_NUM_THREADS": "many", "OMP_NUM_THREADS": "5"}, "5", True),
        ({"THALWEG_NUM_THREADS": "0", "OMP_NUM_THREADS": "5"}, "5", True),
        ({"THALWEG_NUM_THREADS": "384"}, "256", False),
        ({"THALWEG_NUM_THREADS": "9" * 20, "OMP_NUM_THREADS": "5"}, "5", True),
        ({"THALWEG_NUM_THREADS": "9" * 5000, "OMP_NUM_THREADS": "5"}, "5", True),
    ]:
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        found = subprocess.run(
            [sys.executable, "-c", "import thalweg; print(thalweg.get_num_threads())"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**clean, **variables},
            check=True,
        )
        assert found.stdout.strip() == expected
        warning = "THALWEG_NUM_THREADS must be an integer of at least 1; got"
        assert (warning in found.stderr) == warned
