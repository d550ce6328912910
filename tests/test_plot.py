"""Pictures: what they show, and what they refuse to draw. What is drawn is read off the axes."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import curvature
from thalweg.optim import schedules

matplotlib = pytest.importorskip("matplotlib")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def figures():
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ({"loss": [-1.0, -2.0]}, "linear"),
        ({"loss": [1.0, 0.0]}, "linear"),
        ({"loss": [2.0, 1.0], "val_loss": [2.0, -1.0]}, "linear"),
        ({"loss": [2.0, np.nan, np.inf, 1.0]}, "log"),
    ],
)
def test_losses_are_on_a_logarithmic_scale_where_all_have_a_logarithm(losses, scale):
    ax = tw.plot.history(tw.History(losses))
    assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    for line in ax.lines:
        shown = line.get_ydata()[np.isfinite(line.get_ydata())]
        assert ((low <= shown) & (shown <= high)).all()


def test_a_run_with_a_negative_loss_makes_the_scale_linear_for_all():
    runs = [tw.History(loss=[-1.0, -2.0]), tw.History(loss=[2.0, 1.0])]
    assert tw.plot.history(runs).get_yscale() == "linear"
    figure = tw.plot.training(iter(runs), np.ones((2, 4)), [0, 1], [0, 1])
    assert len(figure.get_axes()[0].lines) == 2
    assert figure.get_axes()[0].get_yscale() == "linear"


def test_runs_are_labelled():
    first, second = tw.History(loss=[2.0, 1.0], val_loss=[3.0, 2.0]), tw.History(loss=[4.0, 3.0])
    ax = tw.plot.history({"Adam": first, 0.1: second})
    assert legend(ax) == ["training, Adam", "held out, Adam", "training, 0.1"]
    assert legend(tw.plot.history([first, second]))[2] == "training, run 2"
    assert legend(tw.plot.history([second])) == legend(tw.plot.history(second)) == ["training"]
    figure = tw.plot.training({"Adam": first}, np.ones((2, 4)), [0, 1], [0, 1])
    assert legend(figure.get_axes()[0])[0] == "training, Adam"
    with pytest.raises(tw.ArgumentError, match=r"dict \{label: History\} or .*; got 5"):
        tw.plot.history({"Adam": first, "SGD": 5})


def check_with_mistakes(wrong, count=10):
    """A check of so many blocks, of which some have gradients that are wrong by a share."""
    theta = {f"b{k}": np.full(2, 0.3 + k) for k in range(count)}

    def grad(t):
        return {name: np.cos(v) * (1 + wrong.get(name, 0)) for name, v in t.items()}

    return tw.check_gradient(lambda t: sum(np.sin(v).sum() for v in t.values()), grad, theta)


def test_blocks_that_failed_are_drawn_first():
    report = check_with_mistakes({"b8": 1e-6, "b9": 1e-3})
    assert report.failed == ("b8", "b9")
    ax = report.plot()
    shown = [line.get_label() for line in ax.lines[:8]]
    assert shown[:2] == ["b9", "b8"]
    errors = [block.norm_rel_error for name in shown for block in report.blocks[:8]
              if block.name == name]  # fmt: skip
    assert len(errors) == 6
    assert errors == sorted(errors, reverse=True)
    assert ax.get_legend().get_title().get_text() == "8 of 10 blocks"


def test_a_block_whose_error_is_no_number_is_drawn_before_all_others():
    report = check_with_mistakes({"b8": 1.0, "b9": 1e-3})
    nan = replace(report.blocks[9], norm_rel_error=np.nan)
    ax = replace(report, blocks=(*report.blocks[:9], nan)).plot()
    assert [line.get_label() for line in ax.lines[:2]] == ["b9", "b8"]


def test_blocks_that_are_all_drawn_are_in_their_order():
    ax = check_with_mistakes({"b2": 1e-3}, 3).plot()
    assert [line.get_label() for line in ax.lines[:3]] == ["b0", "b1", "b2"]
    assert ax.get_legend().get_title().get_text() == ""


def test_a_report_without_a_function_leaves_no_empty_figure(figures):
    import pickle

    with pytest.raises(tw.ArgumentError, match="unpickled"):
        pickle.loads(pickle.dumps(check_with_mistakes({}, 1))).plot()
    assert not figures.get_fignums()


@pytest.mark.parametrize(
    "matrix",
    [np.eye(4), 1e-9 * np.eye(4), -1e6 * np.eye(5), np.zeros((3, 3)), np.diag([1, 1 + 1e-12])],
    ids=["one", "small", "large", "zero", "two"],
)
def test_a_spectrum_of_one_eigenvalue_is_a_peak(matrix):
    found = curvature.spectral_density(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = found.plot()
        ax.figure.canvas.draw()
    at, density = ax.lines[0].get_data()
    high = density > density.max() / 2
    assert 2 <= high.sum() <= 20  # of 1000 places: a line that is seen, and narrow
    assert at[high].min() <= matrix[0, 0] <= at[high].max()
    # All of the one eigenvalue is there, and the picture is as wide as it is large.
    assert density.sum() * (at[1] - at[0]) == pytest.approx(1, rel=1e-6)
    assert np.ptp(at) == pytest.approx(2e-3 * abs(matrix[0, 0]) or 2, rel=1e-6)


def test_a_spectrum_of_many_eigenvalues_is_drawn_as_densities_are():
    found = curvature.spectral_density(np.diag(np.arange(50.0)), steps=20)
    at, density = found.plot().lines[0].get_data()
    np.testing.assert_array_equal(density, found.density(at))
    with pytest.raises(tw.ArgumentError, match="sigma"):
        found.plot(sigma=0.0)


@pytest.mark.parametrize(
    ("shown", "options", "message"),
    [
        ((3,), {}, "thalweg.optim.schedules; got 3"),
        ((schedules.StepLR,), {}, "got the class StepLR"),
        ((schedules.StepLR(9), schedules.ReduceLROnPlateau()), {}, "got ReduceLROnPlateau"),
        ((), {}, "nothing to draw: give a schedule"),
        ((schedules.StepLR(9),), {"steps": -5}, r"steps must be an integer >= 1; got -5"),
        ((schedules.StepLR(9),), {"steps": 2.5}, "steps must be an integer"),
        ((schedules.StepLR(9),), {"base": "1"}, "base must be a finite number"),
        ((schedules.WarmupStableDecay(5, 6),), {"steps": 10}, "more than the 10 steps"),
    ],
)
def test_what_is_no_schedule_is_not_drawn(figures, shown, options, message):
    with pytest.raises(tw.ArgumentError, match=message):
        tw.plot.schedule(*shown, **options)
    assert not figures.get_fignums()


def test_the_legend_of_schedules_covers_none_of_them(figures):
    warm = schedules.LinearWarmup(10, then=schedules.CosineAnnealingLR())
    ax = tw.plot.schedule(warm, schedules.LinearWarmup(10), schedules.StepLR(30), steps=100)
    assert legend(ax) == ["LinearWarmup,\nthen CosineAnnealingLR", "LinearWarmup", "StepLR"]
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert not box.overlaps(ax.bbox)
    assert box.x1 <= ax.figure.bbox.x1
    # Beside axes of the caller's there may be no room.
    mine = figures.figure().add_subplot()
    assert tw.plot.schedule(warm, ax=mine) is mine
    assert mine.get_legend().get_window_extent().overlaps(mine.bbox)


def test_the_picture_of_schedules_in_the_manual_is_what_contributing_says(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"## Pictures of the manual\n.*?```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    path = Path("docs", "_static", "schedules.svg")
    path.parent.mkdir(parents=True)
    drawn = []
    with matplotlib.rc_context():
        for _ in range(2):
            exec(code, {})
            drawn.append(path.read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]
    # Versions of matplotlib place things differently; what is written is the same in all.
    kept = (ROOT / path).read_text(encoding="utf-8")
    words = [re.findall("<!-- (.*?) -->", svg, re.DOTALL) for svg in (kept, drawn[0])]
    assert words[0] == words[1]
    assert {"LinearWarmup,", "then CosineAnnealingLR"} <= set(words[0])


IMAGES, LABELS = np.ones((4, 4)), np.arange(4)
RUN = tw.History(loss=[1.0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((RUN, np.ones((4, 5)), LABELS, LABELS), tw.ShapeError, r"square.*\(4, 5\).*5 is no sq"),
        ((RUN, np.ones((4, 0)), LABELS, LABELS), tw.ShapeError, r"square.*\(4, 0\)"),
        ((RUN, np.ones((4, 4, 4)), LABELS, LABELS), tw.ShapeError, r"\(4, 4, 4\); pass images.re"),
        ((RUN, np.ones(4), LABELS, LABELS), tw.ShapeError, r"images must be 2-D.*got shape \(4,\)"),
        ((RUN, [["a"]], [0], [0]), tw.DtypeError, "images has dtype"),
        ((RUN, IMAGES, LABELS, LABELS[:3]), tw.ShapeError, "images has 4 rows but predicted has 3"),
        ((RUN, IMAGES, LABELS[:3], LABELS), tw.ShapeError, "images has 4 rows but labels has 3"),
        ((RUN, IMAGES, LABELS[:, None], LABELS), tw.ShapeError, r"\(4, 1\): pass labels.ravel\(\)"),
        ((RUN, IMAGES, LABELS, np.ones((4, 3))), tw.ShapeError, r"pass predicted.argmax\(axis=1\)"),
        ((RUN, IMAGES, 1, LABELS), tw.ShapeError, r"labels must be 1-D.*of 4 images.*shape \(\)"),
        ((RUN, IMAGES, [[1], [2, 3]], LABELS), tw.ShapeError, "labels cannot be made an array"),
        (({"loss": [1.0]}, IMAGES, LABELS, LABELS), tw.ArgumentError, "run must be a History"),
    ],
)
def test_what_does_not_fit_is_not_drawn(figures, arguments, error, message):
    with pytest.raises(error, match=message):
        tw.plot.training(*arguments)
    assert not figures.get_fignums()


def test_classes_may_have_names():
    figure = tw.plot.training(RUN, IMAGES, ["a", "b", "a", "b"], np.array(["a", "b", "b", "b"]))
    assert [ax.get_title() for ax in figure.get_axes()] == ["loss", "a, not b"]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        ({"loss": [1.0]}, tw.ArgumentError, r"got \{'loss': .*: thalweg.History\(...\) makes"),
        ([RUN, {"loss": [1.0]}], tw.ArgumentError, r"a sequence of them; got \{'loss'"),
        ("loss", tw.ArgumentError, "run must be a sequence; got 'loss'"),
        (3, tw.ArgumentError, r"run must be a History, a dict .* or a sequence of them; got 3"),
        (tw.History(loss=3.0), tw.ShapeError, r"history\['loss'\] must be 1-D.*shape \(\)"),
        (tw.History(loss=["low"]), tw.DtypeError, r"history\['loss'\] has dtype"),
    ],
)
def test_what_is_no_history_is_not_drawn(figures, run, error, message):
    with pytest.raises(error, match=message):
        tw.plot.history(run)
    assert not figures.get_fignums()


def test_a_trainer_is_told_where_its_history_is(classifier):
    with pytest.raises(tw.ArgumentError, match=r"got a Trainer: pass its \.history"):
        tw.plot.history(classifier)
