"""The reproduction of published figures: its data, its protocol on a few steps, and its page."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def reproduction(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import benches.reproduction.data
    import benches.reproduction.page
    import benches.reproduction.protocol

    return benches.reproduction


@pytest.fixture
def images(rng):
    """Ten classes of 28 x 28 pixels that a line in each picture tells apart."""
    y = np.tile(np.arange(10, dtype=np.uint8), 40)
    x = rng.integers(0, 60, (400, 28, 28)).astype(np.uint8)
    for label in range(10):
        x[y == label, 2 * label : 2 * label + 3] += 180
    return x[:300], y[:300], x[300:], y[300:]


@pytest.fixture
def npz(images, tmp_path):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "images.npz", **dict(zip(names, images, strict=True)))
    return tmp_path / "images.npz"


def test_images_are_read_from_npz_and_from_mnists_own_format(reproduction, images, npz, tmp_path):
    for name, array in zip(reproduction.data.SUMS, images, strict=True):
        raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        raw += array.tobytes()
        if "t10k" in name:  # one of each
            (tmp_path / name).write_bytes(gzip.compress(raw))
        else:
            (tmp_path / name.removesuffix(".gz")).write_bytes(raw)
    for path in (npz, tmp_path):
        x, y, x_test, y_test = reproduction.data.load(path)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, images[0].reshape(300, 784) / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, images[1])
        np.testing.assert_allclose(x_test, images[2].reshape(100, 784) / 255, rtol=1e-6)
        np.testing.assert_array_equal(y_test, images[3])


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benches.reproduction", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_figures_are_computed_once_and_shown(npz, tmp_path):
    out = tmp_path / "figures"
    options = ["--data", npz, "--out", out, "--seeds", "1-2", "--steps", 3]
    first = run(*options, "--methods", "none,er", "--scenarios", "class")
    assert len(first.splitlines()) == 4
    with (out / "results.csv").open(newline="") as file:
        before = list(csv.DictReader(file))
    assert {(row["method"], row["seed"]) for row in before} == {
        ("none", "1"), ("er", "1"), ("none", "2"), ("er", "2"),
    }  # fmt: skip
    # Only what is missing is run: the same figure for the same seed.
    more = run(*options, "--methods", "none", "--scenarios", "class,domain")
    assert len(more.splitlines()) == 2
    assert "domain" in more
    assert not list(out.glob("unfinished*"))
    assert (out / "reproduction.md").exists()


def test_the_page_has_means_and_standard_errors(reproduction, tmp_path):
    fields = reproduction.page.FIELDS
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        for seed, accuracy in enumerate((0.80, 0.84, 0.88), 1):
            writer.writerow(["MNIST", "class", "er", seed, 2000, accuracy, 0.1, 30, "0"])
        writer.writerow(["MNIST", "class", "er", 4, 10, 0.1, 0.9, 1, "0"])  # a trial
    (tmp_path / "published.csv").write_text(
        "data,scenario,method,mean,error,seeds,checked,source\n"
        "MNIST,class,er,88.79,0.20,20,no,x\n"
        "MNIST,task,er,98.98,0.07,20,yes,x\n"
    )
    reproduction.page.write(tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    # Standard deviation 4, over the root of 3.
    assert "| ER, 100 per class | class | 88.79 ± 0.20 † | 84.00 ± 2.31 | 3 |" in text
    assert "| ER, 100 per class | task | 98.98 ± 0.07 | not run yet | 0 |" in text


def test_the_page_of_the_manual_is_that_of_its_figures(reproduction, tmp_path):
    docs = ROOT / "docs" / "continual"
    for name in ("results.csv", "published.csv"):
        if (docs / name).exists():
            (tmp_path / name).write_bytes((docs / name).read_bytes())
    reproduction.page.write(tmp_path)
    made = (tmp_path / "reproduction.md").read_text(encoding="utf-8")
    assert made == (docs / "reproduction.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:task . brings new classes", "ignore:the penalty of")
def test_every_method_runs_in_every_scenario(reproduction, npz):
    data = reproduction.data.load(npz)
    for method in reproduction.protocol.METHODS:
        if not reproduction.protocol.available(method):
            continue
        for kind in reproduction.protocol.SCENARIOS:
            result = reproduction.protocol.run(data, method, kind, seed=1, steps=4)
            assert np.isfinite(result.r).all()
            assert result.ends == [4, 8, 12, 16, 20]
