"""Checking the gradient of any function of NumPy arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from thalweg import _checks
from thalweg._arrays import Targets
from thalweg._gradcheck import _blocks
from thalweg._gradcheck._blocks import Vector
from thalweg._gradcheck._differences import (
    COMPLEX_STEP,
    EPS,
    HALVINGS,
    METHODS,
    RICHARDSON_STEP,
    UNDEFINED,
    Name,
    richardson,
)
from thalweg._gradcheck._report import RTOL, Columns, GradcheckReport, report
from thalweg._habits import takes
from thalweg.errors import ArgumentError, DataError, DtypeError, ShapeError

#: Steps of methods that use the same for every precision.
_STEPS = {"complex": COMPLEX_STEP, "richardson": RICHARDSON_STEP}


@takes("check_gradient", {})
def check_gradient(
    f: Callable[[Any], Any],
    grad: Callable[[Any], Any] | Targets,
    theta: Targets,
    *,
    method: Name | Literal["complex", "richardson"] = "central",
    h: float | None = None,
    rtol: float = RTOL,
    atol: float | None = None,
) -> GradcheckReport:
    r"""Check the gradient of any function of NumPy arrays.

    Parameters
    ----------
    f : callable
        Called with an argument of the form of `theta`, in float64; returns a number. If the number
        is float32, step and resolution are based on float32's :math:`ε = 2^{-23}`. Without `h`,
        this also applies to Python floats if all values seen are float32 numbers.
    grad : callable or array_like or mapping
        The gradient under test: its value at `theta`, or a function that computes it there.
    theta : array_like, or mapping of str to array_like
        Where to check, converted to float64. A mapping is reported block by block.
    method : {"forward", "central", "fourth", "complex", "richardson"}, keyword only
        How derivatives are computed without `grad`; see the table below.
    h : float, keyword only, optional
        The step is ``h * max(1, abs(theta))``; for the default `h` see the table. Where
        ``abs(theta)`` is below 1, the step is not relative: if `f` varies on a scale of 1e-6, as
        1/θ does at 1e-6, pass a smaller `h`. The minimum is ε, which still moves `theta`; for
        "richardson", whose last step is 1/512 of the first, 512 ε; for "complex" there is none.
    rtol : float, keyword only, default 1e-7
        Tolerance for the norm-relative error of a block.
    atol : float, keyword only, optional
        Error of a single difference that is attributed to the difference and not to the gradient;
        by default it is estimated, for differences from as many evaluations again, or twice as
        many where truncation errors matter: they are then subtracted. If given, no block is
        "unresolved".

    Returns
    -------
    GradcheckReport
        A block does not pass if differences are not exact enough to check it, because rounding of a
        large `f` hides its gradient, or because `f` is noisy or varies within a step: it is
        "unresolved", and the report says what to try.

        Where the gradient disagrees with differences taken with a step, differences on both sides
        of the point are used to find out whether `f` has a kink in between. If so, and if the
        gradient lies between the two slopes, the parameter is left out and counted. Other kinks are
        not searched for: `f` should be smooth around `theta`.

    Raises
    ------
    ArgumentError
        If `f` cannot be called, or an option is outside its range.
    ShapeError
        If the gradient does not have the shape of `theta`.
    DataError
        If `theta`, `f` or the gradient is not finite, or a block of `theta` is empty.
    DtypeError
        If one of them does not hold real numbers.

    Notes
    -----
    ================  ============================================  ============  ==============
    method            difference                                    default `h`   error at exp
    ================  ============================================  ============  ==============
    ``"forward"``     :math:`(f(θ+h) - f(θ)) / h`                   ε^(1/2)       2e-8
    ``"central"``     :math:`(f(θ+h) - f(θ-h)) / 2h = D(h)`         ε^(1/3)       1e-11
    ``"fourth"``      :math:`(4 D(h) - D(2h)) / 3`                  ε^(1/5)       1e-13
    ``"richardson"``  :math:`D(0.1 / 2^k)`, extrapolated to 0       0.1           1e-14
    ``"complex"``     :math:`\operatorname{Im} f(θ + ih) / h`       1e-30         rounding
    ================  ============================================  ============  ==============

    ε is :math:`2^{-52}`, or the machine epsilon of what `f` returns if that is less exact.

    ``"complex"`` subtracts nothing and is therefore exact up to rounding, but `f` must consist of
    analytic operations that accept complex numbers (no ``abs``, no comparison). If `f` has kinks
    nearby, use ``"central"``, which has the smallest step.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> report = tw.check_gradient(lambda t: (t**2).sum(), lambda t: 2 * t, np.ones(3))
    >>> bool(report)
    True
    >>> tw.check_gradient(lambda t: (t**2).sum(), lambda t: t, np.ones(3)).failed
    ('theta',)
    """
    _checks.function("f", f)
    _checks.one_of("method", method, (*METHODS, *_STEPS))
    # Smaller steps do not move theta, except with the complex method.
    least = {"complex": np.finfo(float).tiny, "richardson": EPS * 2**HALVINGS}.get(method, EPS)
    h = None if h is None else _checks.real("h", h, least)
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    atol = None if atol is None else _checks.real("atol", atol, 0)
    blocks, point, named = _blocks.of(theta)

    def evaluate(values: npt.NDArray[Any]) -> Any:
        value = np.asarray(f(_blocks.shaped(values, blocks, named)))
        if value.size != 1:
            raise ShapeError(f"f must return one number; got shape {value.shape}")
        if value.dtype.kind not in "biufc":
            raise DtypeError(f"f must return a number; got {value.item()!r}")
        if value.dtype.kind == "c" and method != "complex":
            raise DtypeError(f"f must return a real number; got {value.item()}")
        if not np.isfinite(value).all():
            raise DataError(f"f is {value.item()} near theta; it must be finite to be checked")
        return value.reshape(())[()]

    first = evaluate(point)
    value = float(first.real)
    exact = first.dtype.kind not in "fc" or np.finfo(first.dtype).eps <= EPS
    eps = EPS if exact else float(np.finfo(first.dtype).eps)
    chosen, single, moves = h is not None, exact, False
    if h is None:
        h = METHODS[method].step(eps) if method in METHODS else _STEPS[method]
    largest = abs(value)
    given = grad(_blocks.shaped(point, blocks, named)) if callable(grad) else grad
    analytic = _blocks.join(given if named else {_blocks.ALONE: given}, blocks, "grad")
    steps = h * np.maximum(1.0, np.abs(point))

    def along(i: int) -> Any:
        def line(wanted: Vector) -> tuple[Vector, Vector]:
            nonlocal largest, single, moves
            values, made = np.empty_like(wanted), np.empty_like(wanted)
            for k, step in enumerate(wanted):
                moved = point.copy()
                moved[i] += step
                values[k], made[k] = evaluate(moved), moved[i] - point[i]
            largest = max(largest, float(np.abs(values).max()))
            with np.errstate(over="ignore"):
                single &= bool((values == values.astype(np.float32)).all())
            moves |= bool((values != value).any())
            return values, made

        return line

    def imaginary(moved: npt.NDArray[Any]) -> float:
        needed = 'method="complex" needs an f that computes with complex numbers; this one'
        try:
            result = evaluate(moved)
        except TypeError as error:  # from NumPy functions that do not accept complex numbers
            raise ArgumentError(
                f'{needed} raised "{error}". Use method="central", or functions in f that accept '
                "complex numbers"
            ) from error
        if not np.iscomplexobj(result):
            raise ArgumentError(
                f'{needed} returned the real number {result.item()!r}. Use method="central", or '
                "functions in f that keep the imaginary part"
            )
        return float(result.imag)

    def lines(block: int, direction: Vector, wanted: npt.NDArray[Any]) -> Any:
        part = _blocks.slices(blocks)[block]
        values = []
        for step in wanted:
            moved = point.astype(wanted.dtype)
            moved[part] += step * direction
            real = wanted.dtype.kind == "f"
            values.append(float(evaluate(moved).real) if real else 1j * imaginary(moved))
        return np.array(values), float(analytic[part] @ direction)

    places = range(point.size)
    smooth = np.zeros(point.size, bool)
    if method in METHODS:
        rule = METHODS[method]

        def differences(factor: float) -> Vector:
            return np.array([rule(along(i), factor * steps[i], value) for i in places])

        def further() -> tuple[Vector, npt.NDArray[np.bool_]]:
            four = np.full_like(point, np.nan)
            for i in places:
                with contextlib.suppress(*UNDEFINED), np.errstate(all="ignore"):
                    four[i] = rule(along(i), 4 * steps[i], value)
            return four, smooth

        numeric = differences(1)
        found = Columns(blocks, analytic, numeric, steps, smooth)
        if atol is None:
            found = replace(found, doubled=differences(2), further=further)
        order, noise = rule.order, rule.noise
    elif method == "complex":
        numeric = np.array([imaginary(_moved(point, i, 1j * steps[i])) / steps[i] for i in places])
        estimate = np.full_like(point, eps * np.abs(numeric).max())  # nothing is subtracted
        found = Columns(blocks, analytic, numeric, steps, smooth, estimate=estimate)
        order, noise = 2, 0.0
    else:
        both = [richardson(along(i), steps[i], eps) for i in places]
        numeric, estimate = (np.array(column) for column in zip(*both, strict=True))
        # No difference resolves more than the function's last bit at the largest step.
        estimate = np.maximum(estimate, eps * largest / steps)
        found = Columns(blocks, analytic, numeric, steps, smooth, estimate=estimate)
        order, noise = 2, 1.0
    if single and moves and not chosen:  # Python floats computed in float32
        return check_gradient(
            lambda t: np.float32(f(t)), grad, theta, method=method, rtol=rtol, atol=atol
        )
    return report(
        found,
        value=value,
        method=method,
        order=order,
        noise=noise,
        rtol=rtol,
        atol=atol,
        lines=lines,
        eps=eps,
    )


def _moved(point: Vector, i: int, step: complex) -> npt.NDArray[np.complex128]:
    moved = point.astype(np.complex128)
    moved[i] += step
    return moved
