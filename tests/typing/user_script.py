"""A user's script, for type checkers: ``mypy`` looks at it, and at nothing but the types is looked.

What is wrong on purpose has the error that is due behind it; ``mypy`` says so if it is not.
"""

import dataclasses
import io
from array import array
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import thalweg as tw
from thalweg import nn, optim
from thalweg.callbacks import EarlyStopping
from thalweg.optim import schedules

x, y = np.zeros((8, 2), np.float32), np.zeros(8, np.int64)
model = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2), seed=1)
loss = nn.CrossEntropyLoss(label_smoothing=0.1)


class Enough:
    """A callback need not derive from `Callback`."""

    def on_epoch_end(self, trainer: tw.Trainer, record: dict[str, float]) -> bool:
        return record["val_loss"] < 0.1


def right() -> None:
    trainer = tw.Trainer(
        model, loss=loss, optimizer=optim.AdamW(lr=1e-3), schedule=schedules.StepLR(10)
    )
    stop = EarlyStopping(patience=3)
    history = trainer.fit(x, y, validation_data=(x, y), callbacks=[stop, Enough()])
    assert_type(history["loss"], list[float])
    assert_type(trainer.step(x, y), float)
    assert_type(trainer.evaluate(x, y), dict[str, float])
    assert_type(trainer.loss, nn.Loss | Any)  # may be None, but need not be checked for it
    trainer.loss.gradient(model(x), y)
    assert_type(nn.LeakyReLU(0.1).negative_slope, float)
    assert_type(tw.find_lr(trainer, x, y), tw.LRFinder)
    for layer in model:
        assert_type(layer, nn.Layer)
    assert_type((model[0], model[1:]), tuple[nn.Layer, nn.Sequential])
    assert_type(tw.show_config("dicts")["isa"], Any)
    assert_type(tw.show_config(), None)
    number: float = loss(model(x), y) + loss(model(x), y)
    precise: npt.NDArray[np.float64] = model.astype("float64").flat_parameters
    print(number, precise)
    trainer.loss = dataclasses.replace(loss, label_smoothing=0.0)
    trainer.optimizer.lr = 0.1
    model.flat_parameters = 0.5 * model.flat_parameters + 0.5 * model(x)[0, 0]


def squares(output: Any, target: Any) -> tuple[float, Any]:
    return float(((output - target) ** 2).sum()), 2 * (output - target)


class Own(nn.Sequential):
    pass


def files_and_options() -> None:
    model.save(file := io.BytesIO())
    assert_type(Own.load(file), Own)
    model.save(b"bytes")  # type: ignore[arg-type]
    trainer = tw.Trainer.load(file, loss=squares)
    tw.Trainer.load("file", loss="mse")  # type: ignore[arg-type]
    trainer.set_penalty(np.ones(3), [0.0, 0.0, 0.0])
    trainer.set_penalty(model)  # type: ignore[arg-type]
    tw.train_many([trainer], [x], [y])
    tw.train_many([trainer], lambda: iter([(x, y)]), None)
    tw.train_many([trainer], x, model)  # type: ignore[arg-type]
    model(x, training=True)  # type: ignore[call-arg]


def second_derivatives() -> None:
    v = np.ones(model.num_parameters)
    tw.curvature.hvp(model, x, y, v, loss=squares)
    tw.curvature.hvp(model, x, {"labels": y}, v, loss=nn.CustomLoss(squares))
    tw.curvature.hvp(model, x, y, v, loss="mse")  # type: ignore[arg-type]
    tw.curvature.top_eigenvalues(model, x, y, loss=squares)
    tw.curvature.trace(model, x, y, loss=squares)
    tw.curvature.sample_gradients(model, x, {"labels": y}, loss=squares)
    tw.gradgradcheck(model, x, y, loss=squares)
    tw.gradgradcheck(model, model, y, loss=loss)  # type: ignore[arg-type]
    tw.check_gradient(lambda t: t["w"].sum(), {"w": v}, {"w": v})
    tw.diagnostics.SpectralBias(v, np.sin, range(1, 3))


def data_of_all_kinds() -> None:
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    rows, labels = [[0.0, 1.0], [1.0, 0.0]], (0, 1)
    trainer.step(rows, labels)
    trainer.step([np.zeros(2), np.ones(2)], array("q", labels), sample_weight=range(1, 3))
    trainer.step(x, {"action": y, "advantage": [1.0]})  # for a custom loss
    batches: list[tuple[npt.NDArray[np.float32], list[int]]] = [(x, list(y))]
    trainer.fit(batches, validation_data=[(rows, labels)])
    trainer.fit(lambda: zip([x], [y], strict=True), validation_data=(rows, labels))
    trainer.evaluate(iter(batches))
    assert_type(model.unflatten(model.flat_gradients)["0.weight"], npt.NDArray[Any])
    tw.solve.ridge(rows, labels, alpha=1.0)
    tw.continual.Task(rows, labels, x, y).y_test[:2]  # attributes of a task stay what they are


def losses_of_ones_own() -> None:
    Vector = npt.NDArray[np.float32]

    def squares(output: Vector, target: Vector) -> tuple[np.floating[Any], Vector]:
        return ((output - target) ** 2).mean() / 2, (output - target)

    def with_figures(output: Vector, target: Vector) -> tuple[float, Vector, dict[str, float]]:
        return float(output.mean()), np.ones_like(output), {"largest": float(output.max())}

    for function in (squares, with_figures, nn.CustomLoss(squares)):
        tw.Trainer(model, loss=function, optimizer=optim.Adam())
    per_row = nn.MSELoss(reduction="none")(model(x), model(x))
    print(per_row.mean(), per_row[:2])


def wrong_data() -> None:
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.SGD(lr=0.1))
    trainer.step(zip(x, y, strict=True), y)  # type: ignore[arg-type]
    trainer.step({"x": x}, y)  # type: ignore[arg-type]
    trainer.step(x, None)  # type: ignore[arg-type]
    trainer.fit(None, y)  # type: ignore[arg-type]
    model(model)  # type: ignore[arg-type]
    tw.solve.least_squares(iter(x), y)  # type: ignore[arg-type]


def wrong_names() -> None:
    tw.Trianer  # type: ignore[attr-defined]
    nn.Swish  # type: ignore[attr-defined]
    optim.adam  # type: ignore[attr-defined]
    tw.callbacks.CSVLogger  # type: ignore[attr-defined]
    model.parameters  # type: ignore[attr-defined]
    model.flat_params = 3  # type: ignore[attr-defined]
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    trainer.predict  # type: ignore[attr-defined]
    trainer.lr = 0.1  # type: ignore[attr-defined]
    trainer.optimizer.zero_grad  # type: ignore[attr-defined]
    tw.History().history  # type: ignore[attr-defined]


def wrong_arguments() -> None:
    nn.ReLU(inplace=True)  # type: ignore[call-arg]
    nn.LeakyReLU(slope=0.1)  # type: ignore[call-arg]
    schedules.StepLR()  # type: ignore[call-arg]
    loss.label_smoothing = 0.2  # type: ignore[misc]
    tw.Trainer(model, loss=loss, optimizer="adam")  # type: ignore[arg-type]
    nn.Linear(2, 3, init="kaimingnormal")  # type: ignore[arg-type]
    nn.CrossEntropyLoss(reduction="avg")  # type: ignore[arg-type]
    nn.Sequential(nn.Linear(2, 3), dtype="float16")  # type: ignore[arg-type]
    EarlyStopping(mode="lowest")  # type: ignore[arg-type]
    tw.Trainer(model, loss=loss, optimizer=optim.Adam(), precision="fp16")  # type: ignore[arg-type]
    optim.Adam(convention="tensorflow")  # type: ignore[arg-type]
    optim.RAdam(convention="keras")  # type: ignore[arg-type]
    optim.Muon(matrices="some", adjust_lr_fn="original")  # type: ignore[arg-type]
    optim.Muon(matrices="all", adjust_lr_fn="rms")  # type: ignore[arg-type]
    optim.Shampoo(grafting="sgd")  # type: ignore[arg-type]
    optim.LBFGS(line_search_fn="wolfe")  # type: ignore[arg-type]
    optim.EMA().memory("mean")  # type: ignore[arg-type]
    schedules.StepLR(5, per="steps")  # type: ignore[arg-type]
    schedules.OneCycleLR(0.1, anneal_strategy="cosine")  # type: ignore[arg-type]
    schedules.WarmupStableDecay(1, 2, decay="sqrt")  # type: ignore[arg-type]
    nn.GELU(approximate="sigmoid")  # type: ignore[arg-type]
    nn.utils.quantile_edges(x, dtype="int8")  # type: ignore[arg-type]
    tw.continual.fisher_diagonal(model, x, kind="true")  # type: ignore[arg-type]
    tw.continual.metrics.bwt(np.eye(2), "gem code")  # type: ignore[arg-type]
    tw.continual.BalancedBuffer(5, select="icarl")  # type: ignore[arg-type]
    tw.curvature.top_eigenvalues(model, x, y, loss=loss, which="LM")  # type: ignore[arg-type]
    tw.curvature.trace(model, x, y, loss=loss, kind="ggn")  # type: ignore[arg-type]
    tw.curvature.logdet(model, model, y, loss=loss)  # type: ignore[arg-type]
    tw.check_gradient(sum, x, x, method="romberg")  # type: ignore[arg-type]
    tw.solve.last_layer(model, x, y, alpha="cv")  # type: ignore[arg-type]
    tw.GradcheckReport((), "central", 1e-7, 0.0, None)  # type: ignore[call-arg]
    trainer = tw.Trainer(model, loss=loss, optimizer=optim.Adam())
    trainer.fit(x, y, lr="automatic")  # type: ignore[arg-type]
    trainer.fit(x, y, callbacks=[EarlyStopping])  # type: ignore[list-item]
    trainer.fit(x, y, callbacks=["early stopping"])  # type: ignore[list-item]
    trainer.fit(x, y, verbose=1)  # type: ignore[call-arg]
