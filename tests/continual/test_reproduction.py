"""The reproduction of published figures: its data, its protocol on a few steps, and its page."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw

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


def reproduce(*arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benches.reproduction", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_figures_are_computed_once_and_shown(npz, tmp_path):
    out = tmp_path / "figures"
    options = ["--data", npz, "--out", out, "--protocols", "split", "--seeds", "1-2", "--steps", 3]
    first = reproduce(*options, "--methods", "none,er", "--scenarios", "class")
    assert len(first.splitlines()) == 4
    with (out / "results.csv").open(newline="") as file:
        before = list(csv.DictReader(file))
    assert {(row["method"], row["seed"]) for row in before} == {
        ("none", "1"), ("er", "1"), ("none", "2"), ("er", "2"),
    }  # fmt: skip
    version, commit = before[0]["version"].split()
    assert version == tw.__version__
    assert commit  # a ? where there is no git
    # Only what is missing is run: the same figure for the same seed.
    more = reproduce(*options, "--methods", "none", "--scenarios", "class,domain")
    assert len(more.splitlines()) == 2
    assert "domain" in more
    assert not list(out.glob("unfinished*"))
    assert (out / "reproduction.md").exists()


def test_which_outputs_compete_is_what_tells_two_class_incremental_scenarios_apart(
    reproduction, npz
):
    """van de Ven 2019 has the classes so far in the softmax, van de Ven 2022 all ten."""
    data, split = reproduction.data.load(npz), reproduction.protocol.split
    so_far, always = split(data, "class", 3), split(data, "class_all", 3)
    assert [task.active for task in so_far] == [tuple(range(k)) for k in (2, 4, 6, 8, 10)]
    assert [task.active for task in always] == ["all"] * 5
    assert so_far.kind == always.kind == "class"
    for one, other in zip(so_far, always, strict=True):
        np.testing.assert_array_equal(one.y, other.y)
        assert one.classes == other.classes


def test_the_page_shows_means_errors_and_distances(reproduction, tmp_path):
    (tmp_path / "results.csv").write_text(
        "protocol,data,scenario,method,seed,steps,accuracy,forgetting,seconds,version\n"
        "split,MNIST,task,ewc,1,,0.98,0.01,10,x\n"
        "split,MNIST,task,ewc,2,,0.96,0.03,12,x\n"
        "split,MNIST,task,ewc,3,50,0.10,0.9,1,a trial\n"
        "split,MNIST,task,ewc,101,,0.10,0.9,1,another seed\n"
    )
    (tmp_path / "published.csv").write_text(
        "protocol,data,scenario,method,mean,error,seeds,checked,source\n"
        "split,MNIST,task,ewc,99,1,20,no,somewhere\n"
    )
    reproduction.page.write(tmp_path)
    lines = (tmp_path / "reproduction.md").read_text().splitlines()
    # 97 with a standard error of 1, and 99 with one of 1: -2 of their sqrt(2).
    assert "| EWC | task | 99 ± 1 † | 97.00 ± 1.00 | 2 | 2.00 ± 1.00 | 11 | -1.4 |" in lines
    assert "Not run yet." in lines
    # The deviation of a standard error from n seeds is 1 / sqrt(2 (n - 1)) of it.
    assert "- A standard error from 2 seeds is itself uncertain by about 71 %, and so are" in lines


def test_the_page_of_the_manual_is_that_of_its_figures(reproduction, tmp_path):
    docs = ROOT / "docs" / "continual"
    for name in ("results.csv", "published.csv"):
        if (docs / name).exists():
            (tmp_path / name).write_bytes((docs / name).read_bytes())
    reproduction.page.write(tmp_path)
    made = (tmp_path / "reproduction.md").read_text(encoding="utf-8")
    assert made == (docs / "reproduction.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of penalties that hardly matter so early
def test_every_method_of_every_protocol_runs(reproduction, npz, monkeypatch):
    data, protocols = reproduction.data.load(npz), reproduction.protocol.PROTOCOLS
    small = {name: each._replace(width=8) for name, each in protocols.items()}
    monkeypatch.setattr(reproduction.protocol, "PROTOCOLS", small)
    for name, protocol in small.items():
        for method in protocol.methods:
            for kind in set(protocol.kinds) - set(protocol.methods[method].without):
                result = reproduction.protocol.run(data, name, kind, method, seed=1, steps=4)
                assert np.isfinite(result.r).all()
                assert result.ends == [4 * (i + 1) for i in range(len(result.ends))]
