"""Data too large for the memory are a MemoryError, and everything is as it was."""

import platform
import re
import subprocess
import sys
import textwrap

import pytest

from thalweg import nn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")

CALLS = {
    "step on derivatives": "slopes.step(x, y)",
    "Hessian product": "tw.curvature.hvp(normed, x, y, v, loss=nn.MSELoss())",
    "Jacobian product": "tw.curvature.jvp(normed, x, v, training=True)",
    "forward": "model.forward(x)",
}


@pytest.mark.parametrize("call", CALLS)
def test_too_little_memory_is_an_error(call):
    script = f"""
        import resource
        import numpy as np, thalweg as tw
        from thalweg import nn, optim

        wide = nn.Linear(256, 256)
        model = nn.Sequential(nn.Linear(20, 256), nn.Tanh(), wide, nn.Tanh(), nn.Linear(256, 1))
        function = lambda u, du, d2u, target: 1 / 0
        slopes = tw.Trainer(model, loss=nn.DerivativeLoss(function), optimizer=optim.Adam())
        plain = tw.Trainer(model, loss=nn.MSELoss(), optimizer=optim.Adam())
        few = np.zeros((2, 20), "f4"), np.zeros((2, 1), "f4")
        plain.step(*few)
        normed = nn.Sequential(nn.Linear(20, 256), nn.BatchNorm1d(256), nn.Linear(256, 1))
        v, before = normed.flat_parameters, model.flat_parameters
        x, y = np.zeros((200_000, 20), "f4"), np.zeros((200_000, 1), "f4")
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
        try:
            {CALLS[call]}
        except MemoryError as error:
            print(error)
        assert np.array_equal(model.flat_parameters, before)
        plain.step(*few)
        print("went on")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    error, *rest = done.stdout.splitlines()
    assert rest == ["went on"], done.stdout + done.stderr
    # All that is needed is asked for at once. When many small blocks had taken the last of the
    # memory, the next small thing that any thread needed ended the process.
    elements = re.fullmatch(r"there is not enough memory for .*: (\d+) elements; use .*", error)
    assert elements is not None, error
    assert 4 * int(elements[1]) > 2**27, error


def test_a_file_that_does_not_fit_is_named(tmp_path):
    """The error was empty."""
    path = tmp_path / "model"
    with open(path, "wb") as file:
        file.truncate(2**30)  # nothing of it is on the disk
    script = f"""
        import resource
        from thalweg import nn

        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
        try:
            nn.Sequential.load({str(path)!r})
        except MemoryError as error:
            print(error)
    """
    script = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    expected = f"there is not enough memory to read {str(path)!r}, which has {2**30} bytes\n"
    assert done.stdout == expected, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep freed memory or do not")
@pytest.mark.parametrize("how", ["loss", "hook"])
def test_steps_in_python_do_not_get_their_memory_from_the_system_again(how):
    """The pages of two copies, 160 of them, took several times as long as the rest of a step."""
    script = f"""
        import contextlib, resource
        import numpy as np, thalweg as tw
        from thalweg import nn, optim

        def squares(output, target):
            return float(((output - target) ** 2).mean()), 2 * (output - target) / output.size

        model = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 4))
        loss = squares if {how == "loss"} else nn.MSELoss()
        trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
        with contextlib.ExitStack() as stack:
            if {how == "hook"}:
                stack.enter_context(trainer.gradient_hook(lambda gradient: 2 * gradient))
            for step in range(150):
                if step == 50:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                trainer.step(np.zeros((1, 64), "f4"), np.ones((1, 4), "f4"))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 100)
    """
    script = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert float(done.stdout) < 10, done.stderr


@pytest.mark.parametrize(
    ("call", "most"),
    {
        "model.state_dict()": 1,
        "model.save(path)": 1,
        # The contents of the file, the model, and its numbers in order, or a copy in the core.
        "nn.Sequential.load(path)": 3,
    }.items(),
)
def test_a_model_is_saved_and_loaded_with_few_copies_of_it(call, most, tmp_path):
    """Each took one more: a large model has to fit into memory several times."""
    path = tmp_path / "model"
    nn.Sequential(nn.Linear(3000, 3000, bias=False)).save(path)
    script = f"""
        from thalweg import nn

        def memory(name):
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith(name))

        path, size = {str(path)!r}, 3000**2 * 4 / 1024
        if "model" in {call!r}:
            model = nn.Sequential(nn.Linear(3000, 3000, bias=False))
        before = memory("VmRSS")
        {call}
        print((memory("VmHWM") - before) / size)
    """
    script = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert float(done.stdout) < most + 0.6, done.stderr
