"""`make reproduce`: every method of every protocol runs, and the page says what was found."""

import sys

import numpy as np
import pytest
from benches.reproduction import __main__ as program
from benches.reproduction import page, protocol


@pytest.fixture
def images(tmp_path, rng):
    """Ten classes of images that a few steps can tell apart."""
    y = np.arange(400) % 10
    x = (rng.uniform(0, 60, (400, 28, 28)) + 19 * y[:, np.newaxis, np.newaxis]).astype(np.uint8)
    np.savez(
        tmp_path / "images.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:]
    )
    return tmp_path


def reproduce(monkeypatch, directory, *arguments):
    common = ["--data", str(directory / "images.npz"), "--name", "MNIST", "--out", str(directory)]
    monkeypatch.setattr(sys, "argv", ["reproduce", *common, *arguments])
    program.main()
    return page.read(directory / "results.csv")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of penalties that hardly matter so early
def test_every_method_runs_once(monkeypatch, images):
    monkeypatch.setattr(protocol, "PROTOCOLS", {k: small(v) for k, v in protocol.PROTOCOLS.items()})
    rows = reproduce(monkeypatch, images, "--seeds", "1", "--steps", "2")
    assert len(rows) == sum(len(p.kinds) * len(p.methods) for p in protocol.PROTOCOLS.values())
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    again = reproduce(monkeypatch, images, "--seeds", "1", "--steps", "2")
    assert again == rows, "what is there is not computed again"
    assert not list(images.glob("unfinished*"))


def small(each):
    return each._replace(width=8)


def test_the_page_shows_means_errors_and_distances(tmp_path):
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
    page.write(tmp_path)
    lines = (tmp_path / "reproduction.md").read_text().splitlines()
    # 97 with a standard error of 1, and 99 with one of 1: -2 of their sqrt(2).
    assert "| EWC | task | 99 ± 1 † | 97.00 ± 1.00 | 2 | 2.00 ± 1.00 | 11 | -1.4 |" in lines
    assert "Not run yet." in lines
