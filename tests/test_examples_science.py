"""The examples of science: each runs as a user would run it, and its numbers hold.

What they print is read here and held against the figures of theory or of the literature.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCIENCE = Path(__file__).parent.parent / "examples" / "science"
NUMBER = r"([-+\d.e]+|inf)"


def figures(text, pattern):
    """The numbers in the line that the pattern is of; # stands for a number."""
    found = re.search(re.escape(pattern).replace(r"\#", NUMBER), text)
    assert found, f"nothing like {pattern!r} in\n{text}"
    return [float(number) for number in found.groups()]


def closed_form(text):
    qr, normal = figures(text, "condition 1e6: QR #, normal equations #")
    assert qr <= 1e-10 < 1e-7 < normal
    (gap,) = figures(text, "formula's after 3000 steps: #")
    assert gap <= 1e-14
    (slope,) = figures(text, "smallest fit: slope # in the penalty")
    assert slope == pytest.approx(1, abs=0.01)
    assert "refused: h is indefinite: its smallest eigenvalue is -3" in text


def gradient_checking(text):
    for method, order in (("forward", 1), ("central", 2), ("fourth", 4)):
        up, down, best, theory, error = figures(
            text, f"{method}: slopes # and #, best step # (theory #), error #"
        )
        assert up == pytest.approx(order, abs=0.02)
        assert down == pytest.approx(-1, abs=0.06)
        assert theory / 20 < best < theory * 20
        assert error < {1: 1e-7, 2: 1e-10, 4: 2e-12}[order]
    assert "\npassed (central differences in float64" in text
    (single,) = figures(text, "float32 gradients differ from float64 ones by #")
    assert single <= 2e-6
    assert "along 3 directions a block: GradcheckReport(passed=True" in text
    assert "found in ('wrong',)" in text


def conditioning(text):
    before, after = figures(text, "along the axes: condition #, normalized #")
    assert (before, after) == (10, 1)
    before, after = figures(text, "turned by pi/5: condition #, normalized #")
    assert (before, after) == (10, 9.52)
    assert figures(text, "whitened: condition #")[0] == pytest.approx(1, abs=1e-3)
    before, after = figures(text, "Hessian of least squares: #, normalized #")
    assert before > 1e9
    assert after < 1.6
    assert figures(text, "of 30 rows: rank #, condition #") == pytest.approx([28, 1])


def ill_posedness(text):
    for decay in ("0", "0.001"):
        raw, scaled, aligned, function = figures(
            text,
            f"other start, same data, L2 {decay}: raw #, modulo scale #, "
            "and permutation #, function #",
        )
        assert raw > 1  # unrelated weights,
        assert aligned < raw / 2  # more alike than they look,
        assert function < 0.3  # for functions that are nearly one
        assert aligned <= scaled
    moved = "same start, moved data, L2 # : raw #, modulo scale #, and permutation #, function #"
    free, decayed = (figures(text, moved.replace("# :", f"{d}:")) for d in ("0", "0.001"))
    assert decayed[-1] < free[-1]  # the functions are closer,
    assert decayed[0] > free[0]  # the weights are not
    raw, scaled, function = figures(text, "powers of two: raw #, scaled #, function #")
    assert raw > 1
    assert scaled < 1e-12
    assert function == 0
    assert figures(text, "slope # in the rate for SGD")[0] == pytest.approx(1, abs=0.1)
    sgd, adam = figures(text, "smallest rate: SGD #, Adam #")
    assert adam > 100 * sgd


def spectral_bias(text):
    learned = figures(text, "ReLU: frequencies [1, 3, 5, 10] learned at #, #, #, #")
    assert learned == sorted(learned)
    assert learned[2] > 5 * learned[0]
    encoded = figures(text, "Fourier features: frequencies [1, 3, 5, 10] learned at #, #, #, #")
    assert max(encoded) <= 50
    (plain,) = figures(text, "kernel on x: eigenvalue 30 is # of the first")
    (features,) = figures(text, "kernel on Fourier features: eigenvalue 30 is # of the first")
    assert features > 10 * plain
    assert "warned: frequencies [23] are not below the Nyquist frequency, 10 of 20" in text


def minibatch_noise(text):
    bias, variance = figures(text, "all 56 batches: bias #, variance # of")
    assert bias <= 1e-12
    assert variance == pytest.approx(1, abs=1e-11)
    start, end = figures(text, "noise scale: # rows at the start, # after 32 epochs")
    assert end > 10 * start
    assert figures(text, "drawn batches: # of the predicted")[0] == pytest.approx(1, abs=0.1)


def edge_of_stability(text):
    for name in (
        *(f"GD 0.2, degree 4, seed {seed}" for seed in range(3)),
        *("GD 0.2, degree 5", "GD 0.1, degree 5", "heavy ball 0.5", "Nesterov 0.9"),
        *("Adam", "RMSprop"),
    ):
        start, mean, low, high, before, after = figures(
            text, f"{name}: start #, then mean # (# to #), loss # -> #"
        )
        assert start < 0.9
        # Long memory overshoots from time to time, and comes back from below.
        assert (0.9 if "Nesterov" in name else 0.95) <= mean <= 1.08
        assert 0.8 < low <= high < 1.25
        assert after < before / (100 if "degree 4" in name else 3)
    lr, sharpness, product, threshold, safe = figures(
        text, "lr * sharpness = # * # = #, beyond #: on a quadratic, steps diverge; the largest "
        "part of the sharpest direction is in 0.weight (100%); steps diverge from lr=# on"
    )  # fmt: skip
    assert (lr, sharpness, product, threshold, safe) == (0.05, 100, 5, 2, 0.02)
    assert figures(text, "at 0.9 of the largest stable rate: loss #")[0] < 1e-12


def optimizer_paths(text):
    assert figures(text, "gradient descent is its formula to #")[0] < 1e-12
    (below,) = figures(text, "below the stable rate: the steep coordinate goes from 1 to #")
    (above,) = figures(text, "above the stable rate: the steep coordinate goes from 1 to #")
    assert (below, above) == pytest.approx((0.99**200, 1.01**200), rel=1e-2)
    # With the condition number k: (k - 1) / (k + 1), and (sqrt k - 1) / (sqrt k + 1) from above.
    (plain,) = figures(text, "gradient descent at its best rate: error times # a step")
    (heavy,) = figures(text, "heavy ball at its best rate: error times # a step")
    assert plain == pytest.approx(9 / 11, abs=1e-3)
    assert 0.519 < heavy < 0.56
    names = "gradient descent", "momentum 0.9", "Adam", "L-BFGS"
    values = [figures(text, f"{name}: value # after # steps")[0] for name in names]
    assert values[0] > values[1] > values[3]
    assert values[2] < 1


#: What an example needs beside matplotlib, and how its output is judged.
EXAMPLES = {
    "closed_form": ((), closed_form),
    "optimizer_paths": ((), optimizer_paths),
    "gradient_checking": ((), gradient_checking),
    "conditioning": ((), conditioning),
    "ill_posedness": (("scipy",), ill_posedness),
    "spectral_bias": ((), spectral_bias),
    "minibatch_noise": ((), minibatch_noise),
    "edge_of_stability": ((), edge_of_stability),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_numbers_hold(name, tmp_path):
    needed, judge = EXAMPLES[name]
    for package in ("matplotlib", *needed):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, "-W", "error", SCIENCE / f"{name}.py"],
        cwd=tmp_path,  # the figure goes there
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    judge(done.stdout)
    (figure,) = tmp_path.iterdir()
    assert figure.name == f"{name.replace('_', '-')}.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 10_000
