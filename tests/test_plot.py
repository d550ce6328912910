"""Pictures: what they show, and what they refuse to draw. What is drawn is read off the axes."""

import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import thalweg as tw
from thalweg import continual, curvature, diagnostics, nn, optim
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


def test_a_history_can_be_drawn(figures):
    history = tw.History(loss=[1.0, 0.5, 0.25], val_loss=[2.0, 1.0, 0.75])
    axes = history.plot()
    assert [line.get_ydata().tolist() for line in axes.lines] == [
        [1.0, 0.5, 0.25],
        [2.0, 1.0, 0.75],
    ]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3]] * 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert axes.get_yscale() == "log"
    again = figures.figure().add_subplot()
    assert tw.plot.history([history, history], again) is again
    assert len(again.lines) == 4


def test_values_along_a_path_are_drawn_against_the_steps():
    """Of each method that descends one function, from the value before the first step on."""

    def bowl(theta):
        return (theta**2).sum(), 2 * theta

    methods = {"SGD": optim.SGD(lr=0.1), "Adam": optim.Adam(lr=0.1)}
    found = {
        name: optim.minimize(bowl, [1.0, 2.0, 3.0], method, 5) for name, method in methods.items()
    }
    ax = tw.plot.history(found)
    for line, one in zip(ax.lines, found.values(), strict=True):
        assert line.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert line.get_ydata().tolist() == one.values.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "value", "log")
    assert legend(ax) == ["SGD", "Adam"]
    assert len(tw.plot.history(found["SGD"]).lines) == 1
    with pytest.raises(tw.ArgumentError, match="draw them separately"):
        tw.plot.history([found["SGD"], tw.History(loss=[1.0])])


def test_a_history_that_diverged_can_be_seen(tmp_path):
    """Losses of a float64 run over 308 decades, whose end is beyond what matplotlib can do."""
    losses = np.logspace(-1, 307.9, 30)
    ax = tw.History(loss=losses.tolist()).plot()
    low, high = ax.get_ylim()
    ax.figure.savefig(tmp_path / "picture.png")
    assert low == losses[0]
    assert high == 1e250


@pytest.mark.parametrize(
    "losses", [[1e260, 1e270], [-1e308, 1e308], [-1, 1e308], [-1e308, -1e307]], ids=str
)
def test_losses_of_any_size_can_be_drawn(losses, tmp_path):
    ax = tw.History(loss=losses).plot()
    ax.figure.savefig(tmp_path / "picture.png")
    low, high = ax.get_ylim()
    assert low < high


def test_many_runs_have_colours_of_their_own_and_a_legend_beside_them(figures):
    runs = [tw.History(loss=[2.0, k + 1.0], val_loss=[3.0, k + 1.0]) for k in range(12)]
    ax = tw.plot.history(runs)
    colors = [tuple(np.atleast_1d(line.get_color())) for line in ax.lines]
    assert colors[::2] == colors[1::2]
    assert len(set(colors)) == 12
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] * 12
    assert legend(ax) == [f"run {k + 1}" for k in range(12)]
    box = ax.get_legend().get_window_extent()
    assert box.x0 >= ax.get_window_extent().x1
    assert legend(tw.plot.history(runs, "val_loss")) == [f"run {k + 1}" for k in range(12)]
    few = tw.plot.history(runs[:3])
    assert few.get_legend().get_window_extent().x0 < few.get_window_extent().x1


def test_the_limit_of_stability_is_marked():
    history = tw.History(loss=[1.0, 0.5], stability=[0.5, 0.9])
    assert [line.get_ydata()[0] for line in history.plot("stability").lines] == [0.5, 1]
    assert len(history.plot("loss").lines) == 1
    assert len(history.plot(["stability", "loss"]).lines) == 3


def test_ellipses_look_as_long_as_they_are():
    """So that steps are perpendicular to contours; unless the picture would be a mere stripe."""
    bowl = np.array([[2.0, 1.0], [1.0, -0.5], [0.0, 0.0]])
    assert tw.plot.path(bowl).get_aspect() == 1
    assert tw.plot.path(bowl * [20, 1]).get_aspect() == "auto"


def test_a_history_without_epochs_is_drawn_without_a_warning(figures):
    """What a fit that fails in its first epoch leaves."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tw.History().plot().lines


def test_figures_of_some_epochs_are_joined_and_marked():
    """A single one, too, or those of every third epoch: a line between two points has no gaps."""
    history = tw.History(loss=[1.0, 0.5, 0.25, 0.2], sharpness=[2.0, np.nan, np.nan, 3.0])
    whole, some = history.plot(["loss", "sharpness"]).lines
    assert (whole.get_marker(), some.get_marker()) == ("None", ".")
    assert some.get_xydata().tolist() == [[1, 2.0], [4, 3.0]]
    (one,) = tw.History(loss=[1.0]).plot().lines
    assert (one.get_marker(), one.get_xydata().tolist()) == (".", [[1, 1.0]])


def test_the_training_figure_shows_what_was_wrong(figures, tmp_path, rng):
    images, labels = rng.random((50, 16)), np.arange(50) % 10
    predicted = labels.copy()
    predicted[[3, 7]] = 9, 0
    path = tmp_path / "figure.png"
    history = tw.History(loss=[1.0, 0.5])
    figure = tw.plot.training(history, images, labels, predicted, path)
    titles = [axes.get_title() for axes in figure.get_axes()]
    assert titles == ["loss", "3, not 9", "7, not 0"]
    curve, *pictures = figure.get_axes()
    assert curve.lines[0].get_xydata().tolist() == [[1, 1.0], [2, 0.5]]
    for ax, wrong in zip(pictures, (3, 7), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[wrong].reshape(4, 4))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert tw.plot.training(history, images, labels, labels)  # nothing wrong, nothing to show


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
    assert legend(ax) == ["training, Adam", "validation, Adam", "training, 0.1"]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2, 1], [3, 2], [4, 3]]
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
    vars(report)["blocks"] = (*report.blocks[:9], nan)
    ax = report.plot()
    assert [line.get_label() for line in ax.lines[:2]] == ["b9", "b8"]


def test_blocks_whose_gradient_is_zero_are_named_but_have_no_curve(rng):
    """A bias before BatchNorm1d: relative to 0, its rounding is an error of 1e13."""
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)
    model = nn.Sequential(*layers, dtype="float64")
    x, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    report = tw.gradcheck(model, x, y, loss=nn.MSELoss())
    assert report.passed
    ax = report.plot()
    names = [block.name for block in report.blocks if block.name != "0.bias"]
    assert legend(ax)[:6] == [*names, "0.bias: gradient 0"]
    assert max(line.get_ydata().max() for line in ax.lines[:5]) < 1e3
    assert ax.get_legend().get_title().get_text() == ""
    # At a minimum, nothing else is left to draw.
    flat = tw.check_gradient(lambda t: (t**2).sum(), lambda t: 2 * t, np.zeros(3))
    assert flat.plot().lines[0].get_label() == flat.blocks[0].name


def test_blocks_that_are_all_drawn_are_in_their_order():
    ax = check_with_mistakes({"b2": 1e-3}, 3).plot()
    assert [line.get_label() for line in ax.lines[:3]] == ["b0", "b1", "b2"]
    assert ax.get_legend().get_title().get_text() == ""


@pytest.mark.parametrize(("method", "order"), [("forward", 1), ("central", 2)])
def test_errors_are_drawn_against_steps_with_the_slopes_of_the_first(method, order):
    theta = {"a": np.full(2, 0.3), "b": np.full(3, 40.0)}
    report = tw.check_gradient(
        lambda t: np.sin(t["a"]).sum() + np.sqrt(t["b"]).sum(),
        lambda t: {"a": np.cos(t["a"]), "b": 0.5 / np.sqrt(t["b"])},
        theta,
        method=method,
    )
    ax = report.plot()
    *blocks, round_off, truncation = ax.lines
    curves = [report.curve(name) for name in theta]
    for line, curve in zip(blocks, curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.h)
        np.testing.assert_array_equal(line.get_ydata(), np.maximum(curve.error, 1e-17))
    first = curves[0]
    for line, name, power, height, style in (
        (round_off, "round-off", -1, first.round_off, "--"),
        (truncation, "truncation", order, first.truncation, ":"),
    ):
        h, shown = line.get_data()
        assert len(h) > 50
        np.testing.assert_allclose(shown, height * h ** float(power))
        assert np.polyfit(np.log(h), np.log(shown), 1)[0] == pytest.approx(power)
        assert ((shown > 1e-17) & (shown < 10)).all()
        assert (line.get_label(), line.get_linestyle()) == (f"{name}, slope {power:+d}", style)
    used = [h for block in report.blocks for h in block.h]
    (span,) = ax.patches
    np.testing.assert_allclose(
        ax.transData.inverted().transform(span.get_extents())[:, 0], [min(used), max(used)]
    )
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step h", "relative error")


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
    low, high = found.range
    np.testing.assert_allclose(
        [at[0], at[-1]], [low - 0.05 * (high - low), 1.05 * high - 0.05 * low]
    )
    ax = found.plot(sigma=2.0)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.density(at, 2.0))
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eigenvalue", "density")
    # A single eigenvalue of the fifty is in sight, and so is the peak.
    most = found.density(at, 2.0).max()
    np.testing.assert_allclose(ax.get_ylim(), [most / 50e3, 2 * most])
    with pytest.raises(tw.ArgumentError, match="sigma"):
        found.plot(sigma=0.0)


@pytest.mark.parametrize(
    ("shown", "options", "message"),
    [
        ((3,), {}, "depends on time alone.*thalweg.optim.schedules.*; got 3"),
        ((schedules.StepLR,), {}, "got the class StepLR"),
        ((schedules.StepLR(9), schedules.ReduceLROnPlateau()), {}, "got ReduceLROnPlateau"),
        ((), {}, "nothing to draw: pass a schedule"),
        ((schedules.StepLR(9),), {"steps": -5}, r"steps must be an integer >= 1; got -5"),
        ((schedules.StepLR(9),), {"steps": 2.5}, "steps must be an integer"),
        ((schedules.StepLR(9),), {"base": "1"}, "base must be a finite number"),
        ((schedules.WarmupStableDecay(5, 6),), {"steps": 10}, "more than the total of 10 steps"),
    ],
)
def test_what_is_no_schedule_is_not_drawn(figures, shown, options, message):
    with pytest.raises(tw.ArgumentError, match=message):
        tw.plot.schedule(*shown, **options)
    assert not figures.get_fignums()


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_schedules_are_drawn_as_their_rates(per):
    shown = [
        schedules.LinearWarmup(10, then=schedules.CosineAnnealingLR(per=per), per=per),
        schedules.StepLR(30, per=per),
    ]
    ax = tw.plot.schedule(*shown, base=0.3, steps=50)
    for line, one in zip(ax.lines, shown, strict=True):
        assert line.get_xdata().tolist() == list(range(50))
        rates = [one.lr(t, base=0.3, total=50) for t in range(50)]
        np.testing.assert_allclose(line.get_ydata(), rates)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (per, "learning rate")
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")


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
    assert tw.plot.schedule(warm, ax=mine) is tw.plot.schedule(warm, mine) is mine
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
        ((RUN, np.ones((4, 5)), LABELS, LABELS), tw.ShapeError, r"square.*\(4, 5\).*5 is not a sq"),
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
        (
            {"loss": [1.0]},
            tw.ArgumentError,
            r"got \{'loss': .*: convert it with thalweg.History\(...\)",
        ),
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


# --- figures of a history by name -------------------------------------------------------------

FIGURES = {
    "loss": [3.0, 2.0, 1.0],
    "val_loss": [3.0, 2.5, 2.0],
    "accuracy": [0.1, 0.5, 0.6],
    "val_accuracy": [0.2, 0.4, 0.5],
    "sharpness": [1.0, 2.0, 3.0],
}


@pytest.mark.parametrize(
    ("keys", "labels", "scale"),
    [
        (None, {"loss": "training", "val_loss": "validation"}, "log"),
        ("loss", {"loss": "training", "val_loss": "validation"}, "log"),
        (["loss"], {"loss": "training", "val_loss": "validation"}, "log"),
        ("val_loss", {"val_loss": "validation"}, "log"),
        ("accuracy", {"accuracy": "training", "val_accuracy": "validation"}, "linear"),
        ("sharpness", {"sharpness": "training"}, "linear"),
        (("sharpness", "val_accuracy"), {"sharpness": None, "val_accuracy": None}, "linear"),
        (["loss", "val_loss"], {"loss": "training", "val_loss": "validation"}, "log"),
        (["loss", "sharpness"], {"loss": None, "val_loss": None, "sharpness": None}, "linear"),
    ],
)
def test_any_figure_of_a_history_can_be_drawn(keys, labels, scale):
    ax = tw.History(FIGURES).plot(keys)
    assert [line.get_ydata().tolist() for line in ax.lines] == [FIGURES[key] for key in labels]
    assert legend(ax) == [label or key for key, label in labels.items()]
    dashed = [line.get_linestyle() == "--" for line in ax.lines]
    assert dashed == [key.startswith("val_") for key in labels]
    assert ax.get_yscale() == scale
    again = tw.plot.history(tw.History(FIGURES), keys)
    assert legend(again) == legend(ax)


def test_figures_of_several_runs_have_colours_by_run_and_figure():
    runs = {"a": tw.History(FIGURES), "b": tw.History(loss=[1.0])}
    ax = tw.plot.history(runs, "accuracy")
    assert legend(ax) == ["training, a", "validation, a"]
    ax = tw.plot.history(runs, ["loss", "sharpness"])
    assert legend(ax) == ["loss, a", "val_loss, a", "sharpness, a", "loss, b"]
    assert [line.get_color() for line in ax.lines] == ["C0", "C0", "C1", "C2"]
    assert ax.get_ylabel() == "loss, sharpness"


def test_axes_may_be_the_second_argument_too(figures):
    run = tw.History(FIGURES)
    for draw in (
        lambda ax: run.plot(ax),
        lambda ax: run.plot(ax=ax),
        lambda ax: run.plot("accuracy", ax),
        lambda ax: tw.plot.history(run, ax),
        lambda ax: tw.plot.history(run, "accuracy", ax=ax),
    ):
        ax = figures.figure().add_subplot()
        assert draw(ax) is ax
        assert len(ax.lines) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("acuracy", "no figures 'acuracy' to draw; there are loss, .*did you mean \"accuracy\""),
        (["loss", "f1"], "no figures 'f1' to draw; there are loss, val_loss, accuracy"),
        (["loss", 3], "keys must be names of figures"),
        (3, "ax must be Axes of matplotlib, e.g. plt.gca\\(\\); got 3"),
    ],
)
def test_what_is_no_figure_is_not_drawn(figures, keys, message):
    with pytest.raises(tw.ArgumentError, match=message):
        tw.History(FIGURES).plot(keys)
    assert not figures.get_fignums()


def test_a_fit_without_epochs_has_no_figures_but_can_be_drawn():
    assert not tw.History().plot("accuracy").lines


# --- range tests, frequencies, tasks ----------------------------------------------------------


FOUND = tw.LRFinder(
    lr=np.array([0.01, 0.1, 1.0]),
    before=np.array([5.0, 4.0, 3.0]),
    after=np.array([4.5, 2.5, 9.0]),
    gain=np.array([0.5, 1.5, -6.0]),
    suggestion=0.1,
    diverged_at=3.0,
    unstable_at=2.0,
)


def test_a_range_test_shows_loss_and_reduction_and_marks_rates():
    ax = FOUND.plot()
    after, gain, *marks = ax.lines
    assert after.get_xydata().tolist() == [[0.01, 4.5], [0.1, 2.5], [1.0, 9.0]]
    assert gain.get_xydata().tolist() == [[0.01, 0.5], [0.1, 1.5], [1.0, -6.0]]
    assert [line.get_xdata() for line in marks] == [[0.1, 0.1], [2.0, 2.0], [3.0, 3.0]]
    assert legend(ax) == [
        "loss after the update",
        "reduction by the update",
        "suggestion 0.1",
        "unstable from 2 on",
        "diverged at 3",
    ]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "loss")
    ax = replace(FOUND, diverged_at=None, unstable_at=None).plot()
    assert len(ax.lines) == 3


def frequencies():
    """What a fit of three records may have left: two of three frequencies are learned."""
    x = np.arange(32) / 32
    y = sum(np.sin(2 * np.pi * k * x) for k in (1, 3, 5))
    found = diagnostics.SpectralBias(x, y, [1, 3, 5])
    found.steps += [0, 10, 15]
    found.residuals += [np.array(row) for row in ([1.5, 1, 1], [0.05j, 0.4, -1], [0.01, 0.02, 0.9])]
    return found


def test_frequencies_are_rows_and_updates_columns():
    ax = frequencies().plot()
    (mesh,) = ax.collections
    shown = [[1, 0.05, 0.01], [1, 0.4, 0.02], [1, 1, 0.9]]  # at most what an untrained net lacks
    np.testing.assert_allclose(mesh.get_array().reshape(3, 3), shown)
    assert mesh.get_clim() == (0, 1)
    across, up = np.moveaxis(mesh.get_coordinates(), 2, 0)
    np.testing.assert_array_equal(across, [[0, 10, 15, 20]] * 4)
    np.testing.assert_array_equal(up.T, [[-0.5, 0.5, 1.5, 2.5]] * 4)
    (marks,) = ax.lines
    assert marks.get_xydata().tolist() == [[10, 0], [15, 1]]
    assert ax.get_yticks().tolist() == [0, 1, 2]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "3", "5"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("update", "frequency, periods")


def a_run(more=0.0, metric="accuracy"):
    """A run of two tasks, judged in the middle of each too."""
    scores = np.array([[0.5, 0.4], [0.7, 0.45], [0.8, 0.3], [0.6, 0.75], [0.65, 0.9]]) + more
    names, steps, ends = ("first", "second"), [0, 2, 4, 7, 10], [4, 10]
    return continual.Result(names, "task", metric, steps, scores.tolist(), ends)


def test_tasks_are_drawn_before_while_and_after_they_are_learned():
    ax = tw.plot.tasks(a_run())
    steps, curve = np.array([0, 2, 4, 7, 10]), a_run().curve
    *lines, mean = ax.lines
    for task, begin, end in ((0, 0, 4), (1, 4, 10)):
        *parts, mark = lines[4 * task : 4 * task + 4]
        when = (steps <= begin, (begin <= steps) & (steps <= end), end <= steps)
        for line, part in zip(parts, when, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), steps[part])
            np.testing.assert_array_equal(line.get_ydata(), curve[part, task])
            assert line.get_color() == f"C{task}"
        assert [line.get_linestyle() for line in parts] == [":", "-", "-"]
        assert [line.get_linewidth() for line in parts] == [1, 2.5, 1]
        assert mark.get_xdata() == [begin, begin]
    assert mean.get_color() == "k"
    assert mean.get_xdata().tolist() == [2, 4, 7, 10]
    np.testing.assert_allclose(mean.get_ydata(), [0.7, 0.8, 0.675, 0.775])
    assert legend(ax)[:2] == ["first", "second"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "accuracy")


def test_lines_of_several_runs_are_means_within_a_deviation():
    runs = [a_run(), a_run(0.06), a_run(-0.03)]
    ax, one = tw.plot.tasks(runs), tw.plot.tasks(a_run())
    for line, alone in zip(ax.lines, one.lines, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), alone.get_xdata())
    curve, spread = a_run(0.01).curve, np.std([0, 0.06, -0.03], ddof=1)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), curve[:3, 0])
    np.testing.assert_allclose(ax.lines[5].get_ydata(), curve[2:, 1])
    np.testing.assert_allclose(ax.lines[-1].get_ydata()[-1], curve[-1].mean())
    drawn = [line for line in ax.lines if line.get_color() != "0.85"]
    for line, band in zip(drawn, ax.collections, strict=True):
        middle = dict(line.get_xydata().tolist())
        for step, height in band.get_paths()[0].vertices:
            assert abs(height - middle[step]) == pytest.approx(spread)


def test_rows_of_the_matrix_are_tasks_learned_and_columns_tasks_judged():
    ax = tw.plot.task_matrix(a_run())
    matrix = [[0.8, 0.3], [0.65, 0.9]]
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
    for text in ax.texts:
        column, row = text.get_position()
        assert text.get_text() == f"{matrix[row][column]:.2f}"
    assert len(ax.texts) == 4
    assert ax.get_ylim() == (1.5, -0.5)  # from above to below
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["first", "second"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("accuracy on task", "after learning task")
    shown = tw.plot.task_matrix([a_run(0.0, "r2"), a_run(0.1, "r2")])
    np.testing.assert_allclose(shown.images[0].get_array(), np.add(matrix, 0.05))
    assert shown.get_xlabel() == "R² on task"
    assert tw.plot.tasks(a_run(0.0, "r2")).get_ylabel() == "R²"


def content(ax):
    """What can be read off axes."""
    lines = [(line.get_label(), line.get_xydata().tolist(), line.get_color()) for line in ax.lines]
    values = [drawn.get_array().tolist() for drawn in (*ax.images, *ax.collections[:1])]
    return lines, values, [text.get_text() for text in ax.texts], ax.get_xlabel(), ax.get_ylabel()


@pytest.mark.parametrize(
    ("name", "method", "make"),
    [
        ("history", "plot", lambda: tw.History(loss=[2.0, 1.0])),
        ("lr_finder", "plot", lambda: FOUND),
        ("path", "plot", lambda: tw.optim.minimize(bowl, [2.0, 1.0], tw.optim.SGD(lr=0.08), 5)),
        ("gradcheck", "plot", lambda: check_with_mistakes({"b0": 1e-3}, 2)),
        ("spectrum", "plot", lambda: curvature.spectral_density(np.diag([1.0, 2.0, 4.0]))),
        ("spectral_bias", "plot", frequencies),
        ("tasks", "plot", a_run),
        ("task_matrix", "plot_matrix", a_run),
    ],
)
def test_methods_of_results_draw_what_the_functions_draw(name, method, make):
    result, function = make(), getattr(tw.plot, name)
    drawn = content(getattr(result, method)())
    assert drawn == content(function(result))
    assert any(drawn[:2])
    # And each says so of the other.
    assert f"the same as `thalweg.plot.{name}`" in getattr(type(result), method).__doc__
    assert f"`{type(result).__name__}.{method}` is the same" in function.__doc__


def test_the_module_shows_functions_only():
    names = [name for name in dir(tw.plot) if not name.startswith("_")]
    assert names == [
        "gradcheck", "history", "lr_finder", "path", "schedule", "spectral_bias", "spectrum",
        "task_matrix", "tasks", "training",
    ]  # fmt: skip


def test_importing_it_loads_neither_matplotlib_nor_what_it_draws():
    code = "import sys, thalweg.plot; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    parts = {f"thalweg.{name}" for name in ("continual", "curvature", "diagnostics", "_gradcheck")}
    assert not {"matplotlib", "thalweg._lr_finder", *parts} & set(done.stdout.split())


def drawn_by_all():
    """A call of each function that draws on given axes."""
    run, density = tw.History(loss=[1.0]), curvature.spectral_density(np.eye(3))
    report = check_with_mistakes({}, 1)
    return {
        "history": lambda ax: tw.plot.history(run, ax=ax),
        "lr_finder": lambda ax: tw.plot.lr_finder(FOUND, ax),
        "spectrum": lambda ax: tw.plot.spectrum(density, ax),
        "schedule": lambda ax: tw.plot.schedule(schedules.CosineAnnealingLR(), ax=ax),
        "gradcheck": lambda ax: tw.plot.gradcheck(report, ax),
        "path": lambda ax: tw.plot.path([[1.0, 2.0]], ax=ax),
        "spectral_bias": lambda ax: tw.plot.spectral_bias(frequencies(), ax),
        "tasks": lambda ax: tw.plot.tasks(a_run(), ax),
        "task_matrix": lambda ax: tw.plot.task_matrix(a_run(), ax),
    }


@pytest.mark.parametrize(
    "name",
    [
        "history", "lr_finder", "spectrum", "schedule", "gradcheck", "path", "spectral_bias",
        "tasks", "task_matrix",
    ],
)  # fmt: skip
def test_what_are_no_axes_is_said(figures, name):
    draw = drawn_by_all()[name]
    figure = figures.figure()
    for wrong, message in (
        ("loss", "got 'loss'"),
        (figure, r"got a Figure: pass figure.add_subplot\(\)"),
        (figures.subplots(), r"got a tuple with a Figure.*: pass its second item"),
        (figures.subplots(1, 2)[1], r"got an array of shape \(2,\): pass one of its items"),
        (figures, "got <module"),
    ):
        with pytest.raises(tw.ArgumentError, match=f"ax must be Axes of matplotlib.*{message}"):
            draw(wrong)
    assert draw(figure.add_subplot()).figure is figure


# --- paths ------------------------------------------------------------------------------------


def bowl(theta):
    """A quadratic with the axes 1 and 10."""
    return theta[0] ** 2 + 10 * theta[1] ** 2, np.array([2.0, 20.0]) * theta


def test_a_path_is_drawn_on_the_contours_of_its_function():
    descent = tw.optim.minimize(bowl, [2.0, 1.0], tw.optim.SGD(lr=0.08), 10)
    for ax in (
        tw.plot.path(descent, bowl),
        descent.plot(bowl),
        tw.plot.path(descent.path.tolist(), lambda theta: bowl(theta)[0]),
    ):
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), descent.path)
        np.testing.assert_array_equal(ax.lines[1].get_xydata(), descent.path[:1])
        np.testing.assert_array_equal(ax.lines[2].get_xydata(), descent.path[-1:])
        (contours,) = ax.collections
        levels = contours.levels
        assert len(levels) == 20
        # Points of each contour are on the ellipse of its level, up to interpolation in the grid.
        for level, outline in list(zip(levels, contours.get_paths(), strict=True))[8:]:
            values = outline.vertices**2 @ [1, 10]
            np.testing.assert_allclose(values, level, rtol=0.05, atol=0.02)
        # Evenly spaced on a logarithmic scale above the least value of the grid.
        gaps = np.diff(levels)
        np.testing.assert_allclose(gaps[1:] / gaps[:-1], 10**0.2)
        low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
        size = np.ptp(descent.path, axis=0)
        np.testing.assert_allclose(descent.path.min(axis=0) - low, size / 4)
        np.testing.assert_allclose(high - descent.path.max(axis=0), size / 4)
        assert [line.get_marker() for line in ax.lines] == [".", "o", "*"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("theta[0]", "theta[1]")
        assert ax.get_legend() is None


def test_a_path_of_one_parameter_is_drawn_on_the_graph_of_its_function():
    def well(theta):
        return (theta**4 - theta**2).sum(), 4 * theta**3 - 2 * theta

    descent = tw.optim.minimize(well, [1.0], tw.optim.SGD(lr=0.05), 10)
    ax = descent.plot(well)
    graph, path, start, end = ax.lines
    x, y = graph.get_xydata().T
    np.testing.assert_allclose(y, x**4 - x**2)
    theta = descent.path[:, 0]
    assert x[0] < theta.min() < theta.max() < x[-1]
    np.testing.assert_array_equal(path.get_xydata(), np.c_[theta, descent.values])
    np.testing.assert_array_equal(start.get_xydata(), path.get_xydata()[:1])
    np.testing.assert_array_equal(end.get_xydata(), path.get_xydata()[-1:])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("theta[0]", "value")
    # The function need not be finite everywhere.
    graph = tw.plot.path([[0.1], [0.5]], lambda t: np.log(t)).lines[0].get_xydata()
    np.testing.assert_array_equal(np.isnan(graph[:, 1]), graph[:, 0] <= 0)


def test_several_paths_have_labels_and_colours(figures):
    start = [2.0, 1.0]
    first = tw.optim.minimize(bowl, start, tw.optim.SGD(lr=0.08), 10)
    second = tw.optim.minimize(bowl, start, tw.optim.Adam(lr=0.1), 5)
    ax = figures.figure().add_subplot()
    assert tw.plot.path({"SGD": first, 0.1: second.path}, bowl, ax) is ax
    assert legend(ax) == ["SGD", "0.1"]
    assert len({line.get_color() for line in ax.lines}) == 2
    for k, descent in enumerate((first, second)):
        for line, points in zip(
            ax.lines[3 * k : 3 * k + 3], (slice(None), slice(1), slice(-1, None)), strict=True
        ):
            np.testing.assert_array_equal(line.get_xydata(), descent.path[points])
            assert line.get_color() == ax.lines[3 * k].get_color()
    assert legend(tw.plot.path([first, second])) == ["path 1", "path 2"]
    assert tw.plot.path([first]).get_legend() is None


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ([[1.0, 2.0]], bowl),  # a single point
        ([[1e12, 2.0]] * 2, bowl),  # one that does not move
        ([[0.0, 0.0], [1.0, 0.0]], bowl),  # along an axis
        ([[0.1, 0.1], [0.5, 1.0]], lambda t: np.log(t).sum()),  # not finite everywhere, negative
        ([[0.0, 0.0], [1.0, 1.0]], lambda t: 3.0),  # without contours
        ([[0.0, 0.0], [1.0, 1.0]], lambda t: 1e20 + t[0]),  # constant but for rounding
        ([[0.0, 0.0], [1.2e154, 1.0]], lambda t: (t**2).sum()),  # too large at the margin
    ],
)
def test_any_path_and_function_can_be_drawn(path, function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = tw.plot.path(path, function)
        ax.figure.canvas.draw()
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    assert ((low < np.min(path, axis=0)) & (np.max(path, axis=0) < high)).all()


@pytest.mark.parametrize(
    ("path", "function", "error", "message"),
    [
        (np.ones((3, 1)), None, tw.ShapeError, r"got \(3, 1\): pass the function, on whose graph"),
        ({1: np.ones((3, 1)), 2: np.ones((3, 2))}, bowl, tw.ShapeError, "some of two"),
        ([[1.0]], lambda t: np.nan, tw.DataError, "not finite anywhere near the path"),
        (np.ones((3, 4)), None, tw.ShapeError, r"choose two parameters, e.g. path\[:, :2\]"),
        (np.ones(2), None, tw.ShapeError, r"got \(2,\)"),
        (np.ones((0, 2)), None, tw.ShapeError, r"got \(0, 2\)"),
        ({}, None, tw.ArgumentError, "no paths"),
        ({"Adam": np.ones(2)}, None, tw.ShapeError, "path 'Adam' must have shape"),
        ([[1.0, np.nan]], None, tw.DataError, r"path\[0, 1\] is nan"),
        ([[-1e308, 0], [1e308, 0]], None, tw.DataError, "too long for float64"),
        ("path", None, tw.DtypeError, "path"),
        ([[1.0, 2.0]], 3, tw.ArgumentError, "function must be a function of theta; got 3"),
        ([[1.0, 2.0]], lambda t: t, tw.ShapeError, r"must be one number; got \(2,\)"),
        ([[1.0, 2.0]], lambda t: np.nan, tw.DataError, "not finite anywhere near the path"),
    ],
)
def test_what_is_no_path_is_not_drawn(figures, path, function, error, message):
    with pytest.raises(error, match=message):
        tw.plot.path(path, function)
    assert not figures.get_fignums()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (tw.plot.spectrum, "found must be a SpectralDensity, .*spectral_density returns; got None"),
        (tw.plot.spectral_bias, "found must be a SpectralBias, .*spectral_bias returns; got None"),
        (tw.plot.lr_finder, r"found must be a LRFinder, which thalweg\.find_lr returns; got None"),
        (tw.plot.gradcheck, "report must be a GradcheckReport, .*check_gradient returns; got None"),
    ],
)
def test_what_is_no_result_is_not_drawn(figures, draw, message):
    with pytest.raises(tw.ArgumentError, match=message):
        draw(None)
    assert not figures.get_fignums()
