"""Here is `export`.

`_layers` and `_activations` say what each layer is in ONNX, `_graph` collects it.
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
    import onnx

#: What other exporters call the arguments.
_OF_OTHERS = {
    **dict.fromkeys(("f", "file", "filename", "output_path"), "it is path"),
    **dict.fromkeys(("input_names", "initial_types"), "it is input_name: there is one input"),
    "output_names": "it is output_name: there is one output",
    **dict.fromkeys(("dynamic_axes", "dynamic_shapes"), "the number of rows is left open"),
    **dict.fromkeys(
        ("opset", "opset_version", "target_opset"),
        f"it is {OPSET}; onnx.version_converter.convert_version makes others of it",
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
) -> "onnx.ModelProto":
    r"""Make an ONNX graph of a model, for runtimes such as ONNX Runtime, and write it to a file.

    Parameters
    ----------
    model : Sequential
    path : str or path-like, optional
        Usually ``"….onnx"``. A file that is there is replaced once the new one is complete; by
        default none is written.
    loss : CrossEntropyLoss, BCEWithLogitsLoss or PoissonNLLLoss, keyword only, optional
        If given, the output is not that of the model, but what ``loss.probabilities`` makes of it,
        or, with `PoissonNLLLoss`, rates.
    input_name, output_name : str, keyword only, default "input" and "output"
        What they are called in the graph.
    input_shape : sequence of int, keyword only, optional
        Shape of a sample for a model that begins with `nn.Flatten`, such as (28, 28); by default
        (in_features,), as for all others.
    doc : str, keyword only, default ""
        Text for people, which is kept in the graph.

    Returns
    -------
    onnx.ModelProto
        With one input of shape (batch, in_features), or (batch, \*input_shape), and one output of
        shape (batch, out_features), both of the model's dtype, where any number of rows is a batch.
        If the model begins with `nn.Embedding`, the input holds int64 codes, shape (batch,): a
        column (batch, 1), which the model takes, too, is not one of the graph's.

    Raises
    ------
    ImportError
        If the package onnx is not installed.
    ArgumentError, ShapeError
        If an argument makes no sense for this model.
    UnsupportedError
        If there is a layer that is not one of thalweg's, or the model has 2 GiB or more.
    DivergedError
        If a parameter is infinite or NaN.
    OSError
        If the file cannot be written.

    Notes
    -----
    The graph computes what ``model(x)`` does, so in evaluation: `BatchNorm1d` takes its running
    averages, and `Dropout` is not there. Arrays in it have the names of `Sequential.state_dict`,
    nodes those of layers. It is of opset 17, in the operators of the standard alone, and has
    passed ``onnx.checker.check_model``. The graph of ``model.fold()`` has fewer nodes.

    Of an estimator of `thalweg.sklearn` pass ``export(clf.model_, loss=clf.trainer_.loss)``. Of two
    classes the graph then has one column, the probability of ``classes_[1]``. What stands before
    the estimator in a pipeline is not in the graph. A ``StandardScaler`` can be, as a layer:
    ``raw = nn.Sequential(nn.Standardize(scaler.mean_, scaler.scale_), *clf.model_.layers)``, and
    ``raw.flat_parameters = clf.model_.flat_parameters``, for `nn.Standardize` has no parameters.

    What is no code for an `Embedding` or a `TabularInput` is an error of thalweg's, but not of all
    runtimes: there -1 may be the last code, and 1.5 is 1.

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
    """How an error shows what is no loss."""
    plain = isinstance(loss, (Loss, type))
    return _checks.given(loss) if plain else _habits.shown(loss)


def _name(argument: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ArgumentError(f"{argument} must be a name; got {value!r}")


def _sample_shape(model: Sequential, given: Any) -> tuple[int, ...]:
    """Give the shape of a sample, or raise if the model takes none of the shape that is given."""
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
    """Add what makes probabilities of outputs, or rates."""
    if isinstance(loss, BCEWithLogitsLoss):
        graph.op("Sigmoid", output)
    elif isinstance(loss, PoissonNLLLoss):
        if loss.log_input:
            graph.op("Exp", output)
    elif isinstance(loss, CrossEntropyLoss):
        if outputs == 1:
            raise ArgumentError(
                "the softmax of one output is 1, whatever it is: with nn.BCEWithLogitsLoss() one "
                "output stands for two classes"
            )
        competes = loss._competing(np.zeros((1, outputs)), None)[1][0]
        if not competes.all():
            active = graph.array(np.where(competes, 0.0, -np.inf), "active")
            output = graph.op("Add", output, active)
        graph.op("Softmax", output, axis=1)
    else:
        raise ArgumentError(
            "loss must be one whose outputs are not what they stand for, nn.CrossEntropyLoss(), "
            "nn.BCEWithLogitsLoss() or nn.PoissonNLLLoss(); "
            f"got {_given(loss)}{_habits.kind_meant(loss, Loss, 'nn')}"
        )
