"""Calls of the function of a loss, and checks of what it takes and returns."""

import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from thalweg import _arrays, _checks, _figures
from thalweg._arrays import Array
from thalweg._figures import Figures
from thalweg._jets import NAMES
from thalweg._targets import explain, parts, shown, targets
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError
from thalweg.nn import DerivativeLoss
from thalweg.nn._losses import FunctionLoss


def of_outputs(
    loss: FunctionLoss, outputs: Any, target: Any, sample_weight: Any
) -> tuple[float, tuple[Array, ...]]:
    """Return the loss of precomputed outputs, and its gradients with respect to them."""
    arrays = _copies(loss, outputs)
    weight = _arrays.weights(sample_weight, arrays[0].dtype, "sample_weight")
    value, gradients, _ = call(loss, arrays, targets(target, "target"), weight)
    return value, tuple(gradients)


def _copies(loss: FunctionLoss, outputs: Any) -> tuple[Array, ...]:
    """Return copies of a loss's arguments, since the function may write to them."""
    names = names_of(loss)
    if not isinstance(outputs, (tuple, list)) or len(outputs) != len(names):
        raise ArgumentError(
            f"output must be a tuple ({', '.join(names)}), as curvature.jet returns it; got "
            f"{_checks.how_many(outputs)}"
        )
    copies = (np.array(_arrays.as_numeric(*pair)) for pair in zip(outputs, names, strict=True))
    return tuple(copy if copy.dtype.kind == "f" else copy.astype(np.float64) for copy in copies)


def names_of(loss: FunctionLoss) -> tuple[str, ...]:
    """Name the arrays that a loss takes."""
    if not isinstance(loss, DerivativeLoss):
        return ("output",)
    return NAMES[: 1 + (loss.order if isinstance(loss.order, int) else max(loss.order))]


def check_order(loss: DerivativeLoss) -> None:
    """Raise if a loss's function is written for derivatives of another order."""
    signature = _signature(loss)
    if signature is None:
        return
    names = (*names_of(loss), "target")
    other = 2 if len(names) == 3 else 1
    fits, others = (
        _binds(signature, *given) or _binds(signature, *given, "weight")
        for given in (names, (*NAMES[: 1 + other], "target"))
    )
    arguments = list(signature.parameters)
    weights, last, place = (["weight"], ["sample_weight"]), names[-2], len(names) - 1
    advice = ""
    if arguments[place - 1 : place] == [last] and arguments[place : place + 1] in ([], *weights):
        advice = f"add target after {last}, for the rows of y"
    elif other == 2 and arguments[2:3] == ["d2u"]:
        advice = "pass order=2, or remove d2u"
    elif others and (not fits or (other == 1 and arguments[3:4] in weights)):
        advice = f"pass order={other}"  # such a weight is in the place of the target
    if advice:
        raise ArgumentError(
            f"nn.DerivativeLoss with order={loss.order!r} calls f({', '.join(names)}), but "
            f"{_shown(loss, signature)}: {advice}"
        )
    if not fits:
        check_arguments(loss, False)


def _signature(loss: FunctionLoss) -> inspect.Signature | None:
    try:
        # Not that of a wrapped function, which is called differently.
        return inspect.signature(loss.function, follow_wrapped=False)
    except (TypeError, ValueError):  # compiled functions may not tell
        return None


def _binds(signature: inspect.Signature, *given: str) -> bool:
    try:
        signature.bind(*given)
    except TypeError:
        return False
    return True


def _shown(loss: FunctionLoss, signature: inspect.Signature) -> str:
    name = getattr(loss.function, "__name__", type(loss.function).__name__)
    return f"{name} takes ({', '.join(map(str, signature.parameters.values()))})"


def check_arguments(loss: FunctionLoss, weighted: bool) -> None:
    """Raise unless a loss's function accepts as many arrays as it is given."""
    signature = _signature(loss)
    if signature is None:
        return
    takes = partial(_binds, signature)
    names = (*names_of(loss), "target")
    given = (*names, "weight") if weighted else names
    if takes(*given):
        return
    kind = f"{'with' if weighted else 'without'} sample_weight, a custom loss"
    if isinstance(loss, DerivativeLoss):
        kind += f" (nn.DerivativeLoss with order={loss.order!r})"
    what = f"{kind} is called as f({', '.join(given)})"
    more = ""
    if weighted and takes(*names):
        more = ": add a last argument, weight, or leave sample_weight out"
    elif not weighted and takes(*names, "weight"):
        more = ": pass sample_weight, or give its last argument a default, weight=None"
        if names[1:] == ("du", "target"):
            more += ". If its third argument is d2u, pass order=2 instead"
    raise ArgumentError(f"{what}, but {_shown(loss, signature)}{more}")


def call(
    loss: FunctionLoss, outputs: tuple[Array, ...], target: Any, weight: Array | None
) -> tuple[float, list[Array], Figures]:
    """Call the function of a loss, and check what it returns."""
    expected = [(output.shape, output.dtype) for output in outputs]  # the function may write to it
    result = _returned(loss, outputs, target, weight)
    several = isinstance(loss, DerivativeLoss)
    value = _one_number(result[0])
    finite = math.isfinite(value)
    if several:
        ready = _gradients(names_of(loss), result[1], expected, target, finite)
    else:
        what = "the gradient of the loss", "the output"
        one = _gradient(what, result[1], *expected[0], target, finite)
        ready = [_arrays.as_dtype(one, one.dtype, what[0])]
    # If the loss is not finite, figures may be anything.
    figures = _figures.checked(result[2]) if len(result) == 3 and finite else {}
    return value, ready, figures


def is_single(
    loss: FunctionLoss, outputs: tuple[Array, ...], target: Any, weight: Array | None
) -> bool:
    """Return whether a function that `call` accepts has gradients of fewer digits than float64."""
    given = _returned(loss, outputs, target, weight)[1]
    gradients = given if isinstance(loss, DerivativeLoss) else [given]
    return any(np.asarray(it).dtype.itemsize < 8 for it in gradients if it is not None)


def _returned(
    loss: FunctionLoss, outputs: tuple[Array, ...], target: Any, weight: Array | None
) -> Any:
    """Return what the function of a loss returns, if it is a tuple of two or three."""
    more = () if weight is None else (shown(weight),)
    try:
        result: Any = loss.function(*outputs, shown(target), *more)  # may be anything
    except TypeError:
        check_arguments(loss, weight is not None)  # Python's error would not mention weights
        raise
    except KeyError as error:
        explain(error, target)
        raise
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        by = "gradients" if isinstance(loss, DerivativeLoss) else "gradient"
        raise ArgumentError(
            f"the loss function must return a tuple (loss, {by}), or (loss, {by}, figures) with a "
            f"dict of numbers for the history; it returned {_checks.how_many(result)}"
        )
    return result


def _one_number(given: Any) -> float:
    """Return a function's loss as a float."""
    if isinstance(given, float):  # the usual case
        return float(given)
    _real(given, "the loss")
    number = _arrays.as_numeric(given, "the loss")
    if number.size != 1:
        raise ShapeError(f"the loss must be one number; got shape {number.shape}")
    return float(number.item())


def _real(given: Any, name: str) -> None:
    if np.iscomplexobj(_arrays.as_array(given, name)):
        raise DtypeError(
            f"{name} must be real; got complex numbers. Compute it from z.real and z.imag of what "
            "is complex in it: abs(z)**2 is z.real**2 + z.imag**2"
        )


def _gradients(
    names: tuple[str, ...],
    given: Any,
    expected: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    target: Any,
    finite: bool,
) -> list[Array]:
    """Return a function's gradients with respect to several arrays, if they fit."""
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        raise ArgumentError(
            f"the gradients of the loss must be a tuple with one for each of {', '.join(names)}, "
            f"or None for one that is 0; the function returned {_checks.how_many(given)}"
        )
    return [
        np.zeros(*of)
        if gradient is None
        else _gradient(
            (f"the gradient of the loss with respect to {name}", name),
            gradient,
            *of,
            target,
            finite,
        )
        for gradient, name, of in zip(given, names, expected, strict=True)
    ]


def _gradient(
    what: tuple[str, str],
    given: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    target: Any,
    finite: bool,
) -> Array:
    """Return a function's gradient, if it fits."""
    name, by = what
    _real(given, name)
    gradient = _arrays.as_numeric(given, name)
    if gradient.shape != shape:
        text = f"{name} has shape {gradient.shape}, but {by} has {shape}"
        raise ShapeError(text + _of_broadcasting(gradient.shape, shape, target))
    if gradient.dtype.kind != "f":
        raise DtypeError(f"{name} has dtype {gradient.dtype}; floats are needed")
    # Derivatives may be laid out as those that the function was given, which saves copies.
    ready = gradient if gradient.dtype == dtype else _arrays.as_dtype(gradient, dtype, name)
    if finite and (found := _arrays.not_finite(ready, name)):  # otherwise report that first
        raise DataError(
            f"{found}, although the loss is finite. Usual causes are a square root or a logarithm "
            "at 0, 0/0, and an overflow in values that np.where or a mask leaves out"
        )
    return ready


def _of_broadcasting(found: tuple[int, ...], shape: tuple[int, ...], target: Any) -> str:
    """Say which target was broadcast as a row, although it was meant as a column."""
    rows = shape[0]
    if shape != (rows, 1) or found != (rows, rows):
        return ""
    for name, array in parts(target).items():
        if np.shape(array) == (rows,):
            written = name.replace("y", "target", 1)
            return (
                f": {name} of shape ({rows},) was broadcast to a row; use {written}[:, None], a "
                "column like the output"
            )
    return ""


def not_finite(target: Any) -> str:
    """Say which target is not finite, or nothing."""
    for name, array in parts(target).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            off = ~np.isfinite(array).reshape(len(array), -1)
            row = int(off.any(axis=1).argmax())
            kind = "NaN" if np.isnan(array[row]).any() else "an infinite number"
            return f"{name} has {kind} in row {row} of the batch"
    return ""
