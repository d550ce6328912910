"""The examples and the demonstration do what they say, as a user would run them."""

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import _demo, nn, optim
from thalweg.__main__ import main

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(arguments, directory):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=directory,  # what is written goes there
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    return done


def needs_the_demo_extra():
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)


def accuracies(text):
    seeds = re.findall(r"seed \d: held-out accuracy ([\d.]+)%", text)
    mean = re.search(r"mean held-out accuracy: ([\d.]+)%", text)
    return [float(seed) for seed in seeds], float(mean[1])


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_every_example_has_a_test():
    assert [path.name for path in EXAMPLES] == [
        "cartpole.py", "digits.py", "heat.py", "pendulum.py", "xor.py",
    ]  # fmt: skip


def test_xor(tmp_path):
    text = run([ROOT / "examples" / "xor.py"], tmp_path).stdout
    answers = re.findall(r"(\d) xor (\d) = (\d)", text)
    assert answers == [("0", "0", "0"), ("0", "1", "1"), ("1", "0", "1"), ("1", "1", "0")]


def test_heat(tmp_path):
    needs_the_demo_extra()  # for the bar
    text = run([ROOT / "examples" / "heat.py"], tmp_path).stdout
    k, off = re.search(r"k = ([\d.]+), .* by ([\d.]+)", text).groups()
    assert abs(float(k) - 0.2) < 0.01
    assert float(off) < 0.01  # the noise
    least, most = re.search(r"k is ([\d.]+) to ([\d.]+)", text).groups()
    assert float(most) - float(least) < 0.01  # it is one number


def test_the_rows_of_heat_are_told_by_what_they_hold(rng):
    """Not by their places: fits shuffle rows, and take them in parts."""
    heat = runpy.run_path(str(ROOT / "examples" / "heat.py"))
    points = rng.random((30, 2))
    measured = np.where(np.arange(30)[:, np.newaxis] < 10, heat["temperature"](points), np.nan)
    loss = nn.DerivativeLoss(heat["loss"], order=heat["ORDER"])
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2), dtype="float64")
    assert tw.gradcheck(model, points, measured, loss=loss)
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    order = rng.permutation(30)
    evaluated = trainer.evaluate(points, measured)
    assert trainer.evaluate(points[order], measured[order]) == pytest.approx(evaluated, rel=1e-12)
    for rows in (slice(0, 10), slice(10, 30)):  # of one kind only
        assert np.isfinite(trainer.step(points[rows], measured[rows]))


def test_xor_needs_numpy_only(tmp_path):
    """None of the optional packages is imported along the way."""
    script = (
        f"exec(open({str(ROOT / 'examples' / 'xor.py')!r}).read())\n"
        "import sys\n"
        "print(sorted({'matplotlib', 'sklearn', 'tqdm', 'scipy', 'torch'} & set(sys.modules)))"
    )
    assert run(["-c", script], tmp_path).stdout.endswith("[]\n")


def test_cartpole(tmp_path):
    """The poles stand; untrained, they fall within 50 steps or so."""
    text = run([ROOT / "examples" / "cartpole.py"], tmp_path).stdout
    lasting = [int(steps) for steps in re.findall(r"episodes last (\d+) steps", text)]
    assert lasting[-1] > 400
    assert int(re.search(r"(\d+) of 100 poles stand", text)[1]) >= 95


def test_pendulum(tmp_path):
    """It swings up and stays there; at random, an episode returns some -1200."""
    text = run([ROOT / "examples" / "pendulum.py"], tmp_path).stdout
    assert "\npassed (central differences" in text  # the gradient of the random actions
    returns = [int(mean) for mean in re.findall(r"episodes returned (-\d+)", text)]
    assert returns[0] < -1000
    assert returns[-1] > -400
    assert int(re.search(r"(\d+) of 10 pendulums", text)[1]) >= 9


def test_digits(tmp_path):
    needs_the_demo_extra()
    text = run([ROOT / "examples" / "digits.py"], tmp_path).stdout
    seeds, mean = accuracies(text)
    assert len(seeds) == 3
    assert mean >= 97
    assert mean == pytest.approx(sum(seeds) / 3, abs=0.02)
    assert "\npassed (central differences" in text
    assert is_picture(tmp_path / "thalweg-digits.png")


def test_the_demonstration(tmp_path):
    needs_the_demo_extra()
    done = run(["-m", "thalweg"], tmp_path)
    seeds, mean = accuracies(done.stdout)
    assert len(seeds) == 3
    assert mean >= 97
    assert "\npassed (central differences" in done.stdout
    times = re.search(r"thalweg ([\d.]+) us, scikit-learn MLPClassifier ([\d.]+) us", done.stdout)
    assert float(times[1]) > 0
    assert float(times[2]) > 0
    for figure in ("epoch 40/40: 100%", "loss=", "accuracy=", "val_accuracy="):
        assert figure in done.stderr  # the progress bar
    assert is_picture(tmp_path / "thalweg-digits.png")


def test_the_command_line_tells_what_a_bug_report_needs(tmp_path):
    printed = run(["-m", "thalweg", "--config"], tmp_path).stdout
    assert {"version", "isa", "kernels", "threads"} <= {
        line.split()[0] for line in printed.splitlines()
    }
    assert run(["-m", "thalweg", "--version"], tmp_path).stdout.startswith("thalweg ")
    assert "--config" in run(["-m", "thalweg", "--help"], tmp_path).stdout


def test_a_demonstration_that_cannot_write_its_picture_says_so(tmp_path, monkeypatch, capsys):
    """In one line. A folder that is not there stands for one that takes no files."""
    needs_the_demo_extra()
    picture = tmp_path / "none" / "digits.png"
    monkeypatch.setattr(_demo, "PICTURE", str(picture))
    monkeypatch.setattr(_demo, "SEEDS", (0,))
    monkeypatch.setattr(_demo, "train", functools.partial(_demo.train, epochs=1))
    monkeypatch.setattr(_demo, "compare", lambda data: (1.0, 1.0))
    assert main([]) == 1
    out, err = capsys.readouterr()
    assert "held-out accuracy" in out
    why = "cannot be written here: No such file or directory; run this in another folder"
    assert err.endswith(f"\n{picture} {why}\n")


def test_a_demonstration_without_its_packages_says_what_to_install(tmp_path):
    """In one line, without a traceback, and before it has trained anything."""
    for package in ("sklearn", "tqdm", "matplotlib"):
        script = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from thalweg.__main__ import main\n"
            "sys.exit(main([]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.endswith("pip install scikit-learn tqdm matplotlib\n")
        assert "Traceback" not in done.stderr
        assert "accuracy" not in done.stdout
