r"""Compares gradients with differences of the function itself, in float64.

For each parameter :math:`\theta_i` the central difference

.. math:: n_i = \frac{f(\theta + h_i e_i) - f(\theta - h_i e_i)}{2 h_i},
          \qquad h_i = \varepsilon^{1/3} \max(1, |\theta_i|)

is compared with the gradient :math:`a_i` under test. The step balances the two errors of such a
difference: truncation, which grows as :math:`h^2`, and the round-off of subtracting two nearly
equal numbers, which grows as :math:`1/h`. (:math:`\varepsilon = 2^{-52}`; Nocedal & Wright 2006,
"Numerical optimization", section 8.1.)

A block of parameters passes if

.. math:: \lVert a - n \rVert \le \max(r \lVert n \rVert, \lVert\delta\rVert)

with the tolerance `r`, 1e-7 by default, and with :math:`\delta_i`, what a difference cannot
resolve. It is estimated without looking at `a`, from the same difference with twice the step: in
:math:`n_i(2h) - n_i(h)` truncation is three times, and round-off about, what it is in
:math:`n_i(h)`. So near a minimum, where gradients are tiny and differences are not exact enough to
judge them by `r`, the report says "ok to resolution" and not that a right gradient is wrong.

Float32 gradients cannot be checked by float32 differences, whose errors are as large as 1e-3: a
float32 model is checked through its float64 copy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _core
from thalweg._custom import call
from thalweg.errors import ArgumentError, DataError, ShapeError
from thalweg.nn import CustomLoss, Loss, Sequential

_Vector = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)

#: Central differences of smooth networks agree to about 1e-9; wrong formulas are off by far more.
_RTOL = 1e-7

#: Step of the complex-step derivative: nothing is subtracted, so it may be so small that its square
#: vanishes beside any number.
_COMPLEX_STEP = 1e-30


@dataclass(frozen=True, slots=True)
class BlockReport:
    r"""The comparison for one block of parameters, such as one weight matrix.

    Attributes
    ----------
    name : str
        E.g. ``"0.weight"``.
    shape : tuple of int
        Shape of the block.
    h : tuple of two floats
        The smallest and the largest step that was used.
    max_abs_error : float
        The largest :math:`|a_i - n_i|`.
    max_rel_error : float
        The largest :math:`|a_i - n_i| / \max(|a_i|, |n_i|, \delta_i / r)`. Below
        :math:`\delta_i / r` its own errors are all that a difference shows.
    norm_rel_error : float
        :math:`\lVert a - n \rVert / \max(\lVert n \rVert, \lVert\delta\rVert / r)`; the block
        passes if it is at most `r`.
    worst_index : tuple of int
        Where in the block the largest absolute error is.
    worst_analytic, worst_numeric : float
        The two values there.
    kinks : int
        Parameters left out because a ReLU-like kink lies between the two points.
    verdict : str
        ``"ok"``; ``"ok to resolution"`` if differences are not exact enough to resolve `r`;
        ``"FAILED"``; ``"all kinks"`` if nothing was left to compare.
    """

    name: str
    shape: tuple[int, ...]
    h: tuple[float, float]
    max_abs_error: float
    max_rel_error: float
    norm_rel_error: float
    worst_index: tuple[int, ...]
    worst_analytic: float
    worst_numeric: float
    kinks: int
    verdict: str

    @property
    def size(self) -> int:
        """How many parameters the block has."""
        return int(np.prod(self.shape))

    @property
    def passed(self) -> bool:
        """Whether analytic and numeric gradients agree."""
        return self.verdict.startswith("ok")


@dataclass(frozen=True, slots=True, repr=False)
class GradcheckReport:
    """What a gradient check found; true if everything passed. Print it to see the table.

    Attributes
    ----------
    blocks : tuple of BlockReport
        One for each block of parameters, in order.
    method : str
        How the numeric gradient was had.
    rtol : float
        The tolerance `r`.
    value : float
        The function, or loss, at the point of the check.
    """

    blocks: tuple[BlockReport, ...]
    method: str
    rtol: float
    value: float

    @property
    def passed(self) -> bool:
        """Whether every block passed."""
        return all(block.passed for block in self.blocks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the blocks that did not pass."""
        return tuple(block.name for block in self.blocks if not block.passed)

    @property
    def max_abs_error(self) -> float:
        """The largest absolute error of all blocks."""
        return max(block.max_abs_error for block in self.blocks)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of all blocks; see `BlockReport`."""
        return max(block.max_rel_error for block in self.blocks)

    @property
    def norm_rel_error(self) -> float:
        """The largest norm-relative error of all blocks: what the verdict is taken from."""
        return max(block.norm_rel_error for block in self.blocks)

    @property
    def kinks(self) -> int:
        """How many parameters were left out because of a kink."""
        return sum(block.kinks for block in self.blocks)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return (
            f"GradcheckReport(passed={self.passed}, norm_rel_error={self.norm_rel_error:.1e}, "
            f"failed={list(self.failed)}, kinks={self.kinks})"
        )

    def __str__(self) -> str:
        rows = [
            ("block", "size", "h", "max abs", "max rel", "norm rel", "worst at", "analytic",
             "numeric", "kinks", "verdict")
        ]  # fmt: skip
        for b in self.blocks:
            low, high = (f"{h:.1e}" for h in b.h)
            rows.append(
                (
                    b.name,
                    str(b.size),
                    low if low == high else f"{low}..{high}",
                    f"{b.max_abs_error:.1e}",
                    f"{b.max_rel_error:.1e}",
                    f"{b.norm_rel_error:.1e}",
                    str(list(b.worst_index)),
                    f"{b.worst_analytic:.6e}",
                    f"{b.worst_numeric:.6e}",
                    str(b.kinks),
                    b.verdict,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        end = "passed" if self.passed else f"FAILED: {', '.join(self.failed)}"
        lines.append(
            f"{end} ({self.method} differences in float64, tolerance {self.rtol:g}, "
            f"largest norm-relative error {self.norm_rel_error:.1e})"
        )
        return "\n".join(lines)


def check_gradient(
    f: Callable[[Any], Any],
    grad: Any,
    theta: Any,
    *,
    method: str = "central",
    h: float | None = None,
    rtol: float = _RTOL,
    atol: float | None = None,
) -> GradcheckReport:
    """Check the gradient of any function of NumPy arrays.

    Parameters
    ----------
    f : callable
        Called with something of the form of `theta`; returns a number. It must be smooth around
        `theta`: here nothing is known about kinks.
    grad : callable or array_like or mapping
        The gradient under test: its value at `theta`, or a function that gives it there.
    theta : array_like, or mapping of str to array_like
        Where to check, converted to float64. A mapping is reported block by block.
    method : {"central", "complex"}, keyword only
        ``"complex"`` is the complex-step derivative, Im f(theta + ih) / h: exact to rounding, but
        `f` must be made of analytic operations that accept complex numbers.
    h : float, keyword only, optional
        The step is ``h * max(1, abs(theta))``; by default `h` is ``eps**(1/3)``, for ``"complex"``
        1e-30.
    rtol : float, keyword only, default 1e-7
        Tolerance for the norm-relative error of a block.
    atol : float, keyword only, optional
        Error of a single difference that is put down to the difference and not to the gradient; by
        default it is estimated, which takes as many evaluations again.

    Returns
    -------
    GradcheckReport

    Raises
    ------
    ArgumentError
        If an option is outside its range.
    ShapeError
        If the gradient has not the shape of `theta`.
    DataError
        If `theta`, `f` or the gradient is not finite.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> report = tw.check_gradient(lambda t: (t**2).sum(), lambda t: 2 * t, np.ones(3))
    >>> bool(report)
    True
    >>> tw.check_gradient(lambda t: (t**2).sum(), lambda t: t, np.ones(3)).failed
    ('theta',)
    """
    method = _checks.one_of("method", method, ("central", "complex"))
    default = _EPS ** (1 / 3) if method == "central" else _COMPLEX_STEP
    h = default if h is None else _checks.real("h", h, 0, closed="()")
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    atol = None if atol is None else _checks.real("atol", atol, 0)

    named = isinstance(theta, Mapping)
    arrays = {str(key): np.asarray(value) for key, value in theta.items()} if named else {
        "theta": np.asarray(theta)
    }  # fmt: skip
    blocks = [(name, array.shape) for name, array in arrays.items()]
    point = _join(arrays, blocks, "theta")

    def shaped(values: npt.NDArray[Any]) -> Any:
        parts = _split(values.copy(), blocks)
        return parts if named else parts["theta"]

    def evaluate(values: npt.NDArray[Any]) -> Any:
        value = np.asarray(f(shaped(values)))
        if value.size != 1:
            raise ShapeError(f"f must return one number; got shape {value.shape}")
        if not np.isfinite(value).all():
            raise DataError(f"f is {value.item()} near theta; it must be finite to be checked")
        return value.item()

    value = float(evaluate(point))
    given = grad(shaped(point)) if callable(grad) else grad
    analytic = _join(given if named else {"theta": given}, blocks, "grad")

    steps = h * np.maximum(1.0, np.abs(point))
    smooth = np.zeros(point.size, bool)

    def central(factor: float) -> _Vector:
        numeric = np.empty_like(point)
        for i in range(point.size):
            up, down = point.copy(), point.copy()
            up[i] += factor * steps[i]
            down[i] -= factor * steps[i]
            # Divided by the step that was really made: theta + h is rounded, too.
            numeric[i] = (evaluate(up) - evaluate(down)) / (up[i] - down[i])
        return numeric

    def complex_step() -> _Vector:
        numeric = np.empty_like(point)
        for i in range(point.size):
            moved = point.astype(np.complex128)
            moved[i] += 1j * steps[i]
            result = evaluate(moved)
            if not isinstance(result, complex):
                raise ArgumentError(
                    'method="complex" needs an f that carries complex numbers through; '
                    f"this one returned the real {result!r}"
                )
            numeric[i] = result.imag / steps[i]
        return numeric

    numeric = central(1) if method == "central" else complex_step()
    if atol is not None:
        delta = np.full_like(point, atol)
    elif method == "central":
        delta = _resolution(numeric, central(2), smooth, steps, value, blocks)
    else:
        delta = np.full_like(point, _EPS * np.abs(numeric).max())  # nothing is subtracted
    return _report(blocks, analytic, numeric, smooth, steps, delta, method, rtol, value)


def gradcheck(
    model: Sequential,
    x: Any,
    y: Any,
    *,
    loss: Loss | Callable[..., tuple[float, Any]],
    sample_weight: Any = None,
    h: float | None = None,
    rtol: float = _RTOL,
    atol: float | None = None,
) -> GradcheckReport:
    """Check a model's gradients of a loss, for every parameter, by central differences.

    Parameters
    ----------
    model : Sequential
        Is not changed. A float32 model is checked through a float64 copy of it.
    x, y : array_like
        A batch, as in `Trainer.fit`. It is evaluated four times for every parameter; some ten rows
        are enough.
    loss : Loss or callable, keyword only
        As for `Trainer`. A custom loss is called in float64, three times or so for every parameter,
        and must not use the model meanwhile.
    sample_weight : array_like, shape (n,), keyword only, optional
        As in `Trainer.fit`.
    h : float, keyword only, optional
        The step is ``h * max(1, abs(theta))``; by default `h` is ``eps**(1/3)``.
    rtol, atol : float, keyword only
        As in `check_gradient`.

    Returns
    -------
    GradcheckReport
        Parameters for which a kink lies between the two points are left out and counted: of a
        ReLU-like activation, or of `nn.L1Loss`, `nn.HuberLoss`, `nn.QuantileLoss` and the bound of
        `nn.GaussianNLLLoss`. Kinks of a custom loss nobody knows of.

    Raises
    ------
    ArgumentError
        If an option is outside its range.
    ShapeError, DataError, DtypeError
        If `x` and `y` do not fit the model.

    Examples
    --------
    >>> import numpy as np, thalweg as tw
    >>> from thalweg import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> report = tw.gradcheck(model, np.eye(3), [0, 1, 1], loss=nn.CrossEntropyLoss())
    >>> report.passed
    True
    """
    from thalweg._trainer import Trainer
    from thalweg.optim import SGD

    h = _EPS ** (1 / 3) if h is None else _checks.real("h", h, 0, closed="()")
    rtol = _checks.real("rtol", rtol, 0, closed="()")
    atol = None if atol is None else _checks.real("atol", atol, 0)
    copy = model.astype("float64")
    trainer = Trainer(copy, loss=loss, optimizer=SGD(lr=0.0))
    x, y, weight = trainer._ready(x, y, sample_weight)
    x = _arrays.matrix(x, copy.dtype, "x")
    value = trainer.evaluate(x, y, weight)["loss"]
    steps = h * np.maximum(1.0, np.abs(copy.flat_parameters.astype(np.float64)))
    blocks = copy._core.blocks()
    known = trainer._loss

    def differences(h: float) -> tuple[_Vector, _Vector, npt.NDArray[np.bool_]]:
        if isinstance(known, CustomLoss):
            return _core.central_differences_of(copy._core, partial(_call, known, y, weight), x, h)
        spec = known._spec(copy.out_features)
        return _core.central_differences(copy._core, spec, x, y, h, weight)

    analytic, numeric, kinked = differences(h)
    if atol is None:
        _, doubled, also = differences(2 * h)
        delta = _resolution(numeric, doubled, kinked | also, steps, value, blocks)
    else:
        delta = np.full_like(steps, atol)
    return _report(blocks, analytic, numeric, kinked, steps, delta, "central", rtol, value)


def _call(loss: CustomLoss, y: Any, weight: Any, output: Any) -> tuple[float, Any]:
    return call(loss, output, y, weight)


def _resolution(
    numeric: _Vector,
    doubled: _Vector,
    kinked: npt.NDArray[np.bool_],
    steps: _Vector,
    value: float,
    blocks: list[tuple[str, tuple[int, ...]]],
) -> _Vector:
    """Estimate the error of each difference from that with twice the step, without the gradient."""
    # As an error of f, which for round-off is one number whatever the parameter and its step. The
    # last bit of f is the least that there can be.
    errors = np.abs(doubled - numeric) * steps
    floor = _EPS / 2 * abs(value)
    if not kinked.all():
        floor = max(floor, float(np.median(errors[~kinked])))
    delta = np.empty_like(steps)
    for indices in _split(np.arange(steps.size), blocks).values():
        kept = errors[indices][~kinked[indices]]
        # A median, for a kink that nobody knows of makes a single error huge. Twice that is about
        # one and a half standard deviations.
        typical = max(floor, float(np.median(kept))) if kept.size else floor
        delta[indices] = 2 * typical / steps[indices]
    return delta


def _report(
    blocks: list[tuple[str, tuple[int, ...]]],
    analytic: _Vector,
    numeric: _Vector,
    kinked: npt.NDArray[np.bool_],
    steps: _Vector,
    delta: _Vector,
    method: str,
    rtol: float,
    value: float,
) -> GradcheckReport:
    """Compare two gradients block by block."""
    columns = [_split(array, blocks) for array in (analytic, numeric, kinked, steps, delta)]
    reports = [
        _compare(name, *(column[name] for column in columns), rtol=rtol) for name, _ in blocks
    ]
    return GradcheckReport(tuple(reports), method, rtol, value)


def _compare(
    name: str,
    analytic: _Vector,
    numeric: _Vector,
    kinked: npt.NDArray[np.bool_],
    steps: _Vector,
    delta: _Vector,
    *,
    rtol: float,
) -> BlockReport:
    """Compare one block; see the head of this file for the criterion."""
    kinks = int(kinked.sum())
    error = np.where(kinked, 0.0, np.abs(analytic - numeric))
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), delta / rtol)
    # Where even delta is zero (f = 0), equal numbers agree and all others do not.
    relative = np.divide(error, scale, out=np.zeros_like(error), where=scale > 0)
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))

    kept = ~kinked
    size = float(np.linalg.norm(numeric[kept]))
    floor = float(np.linalg.norm(delta[kept]))
    distance = float(np.linalg.norm(error))
    reference = max(size, floor / rtol)
    norm_relative = distance / reference if reference > 0 else (np.inf if distance > 0 else 0.0)
    if kinks == analytic.size:
        verdict = "all kinks"
    elif norm_relative > rtol:
        verdict = "FAILED"
    else:
        verdict = "ok" if size * rtol > floor else "ok to resolution"
    return BlockReport(
        name=name,
        shape=analytic.shape,
        h=(float(steps.min()), float(steps.max())),
        max_abs_error=float(error.max()),
        max_rel_error=float(relative.max()),
        norm_rel_error=float(norm_relative),
        worst_index=worst,
        worst_analytic=float(analytic[worst]),
        worst_numeric=float(numeric[worst]),
        kinks=kinks,
        verdict=verdict,
    )


def _join(arrays: Any, blocks: list[tuple[str, tuple[int, ...]]], what: str) -> _Vector:
    """Put the arrays of all blocks in one float64 vector, each seen to be finite and fitting."""
    if not isinstance(arrays, Mapping) or list(arrays) != [name for name, _ in blocks]:
        raise ArgumentError(
            f"{what} must be a mapping with the keys {[name for name, _ in blocks]} in this order; "
            f"got {list(arrays) if isinstance(arrays, Mapping) else type(arrays).__name__}"
        )
    parts = []
    for name, shape in blocks:
        label = what if name == "theta" else f"{what}[{name!r}]"
        array = _arrays.as_numeric(arrays[name], label)
        if array.shape != shape:
            raise ShapeError(f"{label} has shape {array.shape}; that of theta is {shape}")
        array = _arrays.as_dtype(array, np.dtype(np.float64), label)
        parts.append(_arrays.finite(array, label).ravel())
    flat: _Vector = np.concatenate(parts) if parts else np.empty(0)
    if flat.size == 0:
        raise DataError(f"{what} is empty: there is nothing to check")
    return flat


def _split(
    values: npt.NDArray[Any], blocks: list[tuple[str, tuple[int, ...]]]
) -> dict[str, npt.NDArray[Any]]:
    """Undo `_join`: views into `values`, shaped and named."""
    parts = {}
    start = 0
    for name, shape in blocks:
        stop = start + int(np.prod(shape))
        parts[name] = values[start:stop].reshape(shape)
        start = stop
    return parts
