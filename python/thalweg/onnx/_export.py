"""The function `export`.

`_layers` and `_activations` define each layer in ONNX; `_graph` collects the nodes.
"""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import _atomic, _checks, _habits
from thalweg._parts import checked
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Embedding,
    Flatten,
    Loss,
    PoissonNLLLoss,
    Sequential,
)
from thalweg.onnx._graph import OPSET, Graph, Tensor
from thalweg.onnx._layers import write

if TYPE_CHECKING:
    from onnx import ModelProto
else:  # what typing.get_type_hints finds
    ModelProto = Any

#: What other exporters call the arguments.
_OF_OTHERS = {
    **dict.fromkeys(("f", "file", "filename", "output_path"), "it is path"),
    **dict.fromkeys(("input_names", "initial_types"), "it is input_name: there is one input"),
    "output_names": "it is output_name: there is one output",
    **dict.fromkeys(("dynamic_axes", "dynamic_shapes"), "the number of rows is left open"),
    **dict.fromkeys(
        ("opset", "opset_version", "target_opset"),
        f"it is {OPSET}; onnx.version_converter.convert_version converts the graph to others",
    ),
    "doc_string": "it is doc",
}


@_habits.takes("onnx.export", _OF_OTHERS)
def export(
    model: Sequential,
    path: str | os.PathLike[str] | None = None,
    *,
    loss: Loss | None = None,
    input_name: str = "input",
    output_name: str = "output",
    input_shape: Sequence[int] | None = None,
    doc: str = "",
) -> "ModelProto":
    r"""Make an ONNX graph of a model, for runtimes such as ONNX Runtime, and write it to a file.

    Parameters
    ----------
    model : Sequential
    path : str or path-like, optional
        Usually ``"….onnx"``. An existing file is replaced once the new one is complete; by default,
        no file is written.
    loss : CrossEntropyLoss, BCEWithLogitsLoss or PoissonNLLLoss, keyword only, optional
        If given, the graph's output is what ``loss.probabilities`` makes of the model's output, or,
        with `PoissonNLLLoss`, rates. (The output of a model trained with `MSELoss`, `L1Loss` or
        `HuberLoss` is the prediction itself, and these losses change nothing.)
    input_name, output_name : str, keyword only, default "input" and "output"
        The names of input and output in the graph.
    input_shape : sequence of int, keyword only, optional
        The shape of a sample for a model that begins with `nn.Flatten`, such as (28, 28); by
        default (in_features,), as for all others.
    doc : str, keyword only, default ""
        A human-readable description, kept in the graph.

    Returns
    -------
    onnx.ModelProto
        With one input of shape (batch, in_features), or (batch, \*input_shape), and one output of
        shape (batch, out_features), both of the model's dtype; a batch may have any number of rows.
        If the model begins with `nn.Embedding`, the input holds int64 codes, shape (batch,): unlike
        the model, the graph does not accept a column, (batch, 1).

    Raises
    ------
    ImportError
        If the package onnx is not installed.
    ArgumentError, ShapeError
        If an argument makes no sense for this model.
    UnsupportedError
        If a layer is not one of thalweg's, or the model has 2 GiB or more.
    DivergedError
        If a parameter is infinite or NaN.
    OSError
        If the file cannot be written.

    Notes
    -----
    The graph computes what ``model(x)`` does, that is, in evaluation: `BatchNorm1d` uses its
    running averages, and `Dropout` is absent. Arrays have the names of `Sequential.state_dict`,
    and nodes those of layers. The graph has opset 17, uses only the standard's operators, and has
    passed ``onnx.checker.check_model``. The graph of ``model.fold()`` has fewer nodes.

    For an estimator of `thalweg.sklearn`, use ``export(clf.model_, loss=clf.trainer_.loss)``. For
    two classes, the graph then has one column, the probability of ``classes_[1]``. What precedes
    the estimator in a pipeline is not in the graph. A ``StandardScaler`` can be added as a layer:
    ``raw = nn.Sequential(nn.Standardize(scaler.mean_, scaler.scale_), *clf.model_.layers)``, and
    ``raw.flat_parameters = clf.model_.flat_parameters``, as `nn.Standardize` has no parameters.

    A negative code for an `Embedding` or a `TabularInput`, such as the -1 of unknown categories in
    pandas, becomes one that is too large by one: for both, ONNX Runtime raises an error, as thalweg
    does. A code of 1.5, an error in thalweg, is 1 in the graph.

    Examples
    --------
    >>> import thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> proto = tw.onnx.export(model, loss=nn.CrossEntropyLoss())
    >>> [node.op_type for node in proto.graph.node]
    ['Gemm', 'Relu', 'Gemm', 'Softmax']
    """
    model = checked(model)
    if path is not None:
        path = _checks.path("path", path)
    names = [_name("input_name", input_name), _name("output_name", output_name)]
    if input_name == output_name:
        raise ArgumentError(f"input_name and output_name must differ; both are {input_name!r}")
    if not isinstance(doc, str):
        raise ArgumentError(f"doc must be text; got {doc!r}")
    shape = _sample_shape(model, input_shape)
    graph = Graph(model._finite_state_dict(), model.dtype, *names)
    output = write(graph, model.layers, input_name)
    if loss is not None:
        _write_meaning(graph, loss, output, model.out_features)
    codes = isinstance(model.layers[0], Embedding)
    made = graph.model(
        Tensor(input_name, np.int64, ()) if codes else Tensor(input_name, model.dtype, shape),
        Tensor(output_name, model.dtype, (model.out_features,)),
        doc,
    )
    if path is not None:
        with _atomic.replacing(path) as file:
            file.write(made.SerializeToString())
    return made


def _given(loss: Any) -> str:
    """Show in an error what is not a loss."""
    plain = isinstance(loss, (Loss, type))
    return _checks.given(loss) if plain else _habits.shown(loss)


def _name(argument: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ArgumentError(f"{argument} must be a name; got {value!r}")


def _sample_shape(model: Sequential, given: Any) -> tuple[int, ...]:
    """Return the shape of a sample, or raise if the model does not take the given shape."""
    if given is None:
        return (model.in_features,)
    given = _checks.sequence("input_shape", given)
    shape = tuple(_checks.integer(f"input_shape[{i}]", n, 1) for i, n in enumerate(given))
    if not isinstance(model.layers[0], Flatten):
        raise ArgumentError(
            "input_shape is for models that begin with nn.Flatten(); samples of this one are rows "
            f"of {model.in_features}"
        )
    if math.prod(shape) != model.in_features:
        raise ShapeError(
            f"input_shape {shape} has {math.prod(shape)} numbers; the model takes "
            f"{model.in_features}"
        )
    return shape


def _write_meaning(graph: Graph, loss: Any, output: str, outputs: int) -> None:
    """Add what turns outputs into probabilities or rates."""
    if isinstance(loss, BCEWithLogitsLoss):
        graph.op("Sigmoid", output)
    elif isinstance(loss, PoissonNLLLoss):
        if loss.log_input:
            graph.op("Exp", output)
    elif isinstance(loss, CrossEntropyLoss):
        if outputs == 1:
            raise ArgumentError(
                "the softmax of a single output is always 1: for two classes with one output, use "
                "nn.BCEWithLogitsLoss()"
            )
        competes = loss._competing(np.zeros((1, outputs)), None)[1][0]
        if not competes.all():
            active = graph.array(np.where(competes, 0.0, -np.inf), "active")
            output = graph.op("Add", output, active)
        graph.op("Softmax", output, axis=1)
    elif getattr(loss, "_outputs", None) != "predictions":
        raise ArgumentError(
            "loss must be one that turns outputs into probabilities or rates, "
            "nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss() or nn.PoissonNLLLoss(); got "
            f"{_given(loss)}{_habits.kind_meant(loss, Loss, 'nn')}"
        )
