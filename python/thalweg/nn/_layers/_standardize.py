"""Scaling of columns by numbers that are not trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _arrays, _checks, _habits
from thalweg._description import description
from thalweg._warn import warn_maker
from thalweg.errors import ArgumentError, ShapeError
from thalweg.nn._layers._base import Layer
from thalweg.nn._layers._blocks import Block

#: Other libraries' names for the arguments of `Standardize`.
_ELSEWHERE = {
    **_habits.OF_LAYERS,
    **dict.fromkeys(("variance", "var", "var_", "scale", "scale_"), "it is std, the square root"),
    **dict.fromkeys(("with_mean", "with_std"), "use a mean of 0, or a std of 1, to leave it out"),
    **dict.fromkeys(("invert", "inverse_transform"), "it is inverse"),
    "mean_": "it is mean",
}

#: Number of columns listed in the repr.
_SHOWN = 8
#: How far apart numbers may be, in deviations of their column, before a float32 model warns.
_COARSE = 1e-3
#: Number of rows that `Standardize.of` reads at a time.
_ROWS = 16_384


@description
class Standardize(Layer):
    r"""Scales columns by means and standard deviations that are not trained.

    .. math:: y = \frac{x - \mu}{\sigma}, \quad\text{or with inverse=True}\quad y = \sigma x + \mu

    Before the first `Linear`, it lets the model take raw numbers in any units and learn as from
    standardized ones, and the model's file holds all that prediction needs. After the last one,
    with ``inverse=True``, outputs are in the units of the targets. It may be placed anywhere.

    Parameters
    ----------
    mean, std : array_like, shape (n,)
        :math:`\mu` and :math:`\sigma` of each column, such as `Standardize.of` computes from data.
    inverse : bool, keyword only, default False
        Whether to convert back from the common scale to that of the data.

    Raises
    ------
    ArgumentError
        If a deviation is not above 0, or a number does not fit the model's dtype (the latter is
        raised by `Sequential`).
    ShapeError
        If the two are not one-dimensional and of the same length.
    DataError, DtypeError
        If an entry is not finite or masked, or not a real number.

    Notes
    -----
    They are not parameters, but `Sequential.state_dict` holds them as ``"0.mean"`` and ``"0.std"``,
    and `Sequential.load_state_dict` sets them, also between steps of training; the description in
    ``model.layers`` then has the new numbers.
    The gradient with respect to `x` is that with respect to `y`, divided by :math:`\sigma` or
    multiplied by it. In float32, raw numbers are rounded before :math:`\mu` is subtracted: columns
    whose mean is a million times their deviation, such as dates in seconds, lose all information.
    Subtract an offset first, or use float64; a float32 model warns if numbers near a mean above
    2^24 are more than a thousandth of a deviation apart.

    Corresponds to scikit-learn's ``StandardScaler`` and Keras' ``Normalization``.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import nn
    >>> x = np.array([[0.0, 100.0], [2.0, 300.0]])
    >>> model = nn.Sequential(nn.Standardize.of(x), nn.Linear(2, 1))
    >>> model.layers[0]
    Standardize(mean=[1.0, 200.0], std=[1.0, 100.0])
    >>> model(x).shape
    (2, 1)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    inverse: bool

    # Written out, since two arguments may be any array.
    @_habits.takes("Standardize", _ELSEWHERE)
    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike, *, inverse: bool = False) -> None:
        rows = {"mean": _row("mean", mean), "std": _row("std", std)}
        if len(rows["mean"]) != len(rows["std"]):
            raise ShapeError(
                "Standardize: mean and std must have a number for each column; got shapes "
                f"({len(rows['mean'])},) and ({len(rows['std'])},)"
            )
        for index, value in enumerate(rows["std"]):
            if not value > 0:
                raise ArgumentError(
                    f"Standardize: std[{index}] must be > 0; got {value:g}. Use 1 for a column "
                    "that does not vary"
                )
        inverse = _checks.flag("Standardize: inverse", inverse)
        self._set(mean=rows["mean"], std=rows["std"], inverse=inverse)

    @classmethod
    @_habits.takes("Standardize.of", {"axis": "columns are scaled, each over all rows"})
    def of(
        cls, x: npt.ArrayLike, *, width: int | None = None, inverse: bool = False
    ) -> Standardize:
        r"""Compute means and deviations from the columns of an array.

        Parameters
        ----------
        x : array_like, shape (rows, columns) or (rows,)
            Inputs, or targets for ``inverse=True``; a one-dimensional array is one column.
        width : int, keyword only, optional
            Number of columns of the layer. Those after the columns of `x`, such as the vectors of
            categories that `TabularInput` puts after its numbers, are left unchanged (mean 0,
            deviation 1). Not for outputs that are more than the targets, such as the log-variances
            of `GaussianNLLLoss` or several quantiles, which have units, too: see Examples.
        inverse : bool, keyword only, default False
            As for the class.

        Returns
        -------
        Standardize
            With the means and (biased) standard deviations of the columns, in float64; the
            deviation is 1 for columns that do not vary.

        Raises
        ------
        ArgumentError
            If `width` is below the number of columns.
        ShapeError, DataError, DtypeError
            If `x` has another shape, has no rows, or contains something other than finite numbers.

        Examples
        --------
        Raw inputs, and raw targets:

        >>> import numpy as np
        >>> from thalweg import nn
        >>> x, y = np.array([[5.0], [15.0]]), np.array([1e3, 3e3])
        >>> back = nn.Standardize.of(y, inverse=True)
        >>> model = nn.Sequential(nn.Standardize.of(x), nn.Linear(1, 1), back)

        Numbers in columns 0 and 2, a weekday in column 1:

        >>> rows = np.array([[5.0, 6, 0.1], [15.0, 0, 0.3]])
        >>> table = nn.TabularInput(3, {1: (7, 4)})
        >>> nn.Standardize.of(rows[:, [0, 2]], width=table.out_features).out_features
        6

        Outputs that are a mean and a log-variance of each target, for `GaussianNLLLoss`, and those
        that are three quantiles, for `QuantileLoss`, of a model that learned standardized targets:

        >>> mean, std = np.array(back.mean), np.array(back.std)
        >>> scales = np.r_[mean, 2 * np.log(std)], np.r_[std, np.ones_like(std)]
        >>> of_gaussians = nn.Standardize(*scales, inverse=True)
        >>> of_quantiles = nn.Standardize(np.tile(mean, 3), np.tile(std, 3), inverse=True)
        """
        values = _arrays.as_numeric(x, "x")
        if values.ndim not in (1, 2) or 0 in values.shape:
            raise ShapeError(
                f"Standardize.of: x must have shape (rows, columns), both ≥ 1; got {np.shape(x)}"
            )
        columns = values.shape[1] if values.ndim == 2 else 1
        width = columns if width is None else _checks.integer("width", width, columns)
        mean, std = np.zeros(width), np.ones(width)
        mean[:columns], std[:columns] = _moments(values)
        return cls(mean, std, inverse=inverse)

    @property
    def in_features(self) -> int:
        """Width of a row of the input."""
        return len(self.mean)

    @property
    def out_features(self) -> int:
        """Width of a row of the output, the same."""
        return len(self.mean)

    def __repr__(self) -> str:
        inverse = ", inverse=True" if self.inverse else ""
        if len(self.mean) > _SHOWN:
            return f"Standardize({len(self.mean)} columns{inverse})"
        return f"Standardize(mean={list(self.mean)}, std={list(self.std)}{inverse})"

    def _spec(self) -> tuple[Any, ...]:
        return ("standardize", list(self.mean), list(self.std), self.inverse)


def check_offsets(layers: Iterable[Layer]) -> None:
    """Warn if float32 numbers near a column's mean are far apart for its deviation.

    Only of numbers that float32 does not distinguish even if they are whole: of smaller ones, it is
    not known whether anything is lost. Columns with a deviation of 1 may be those that do not vary.
    """
    for place, layer in enumerate(layers):
        if not isinstance(layer, Standardize) or layer.inverse:
            continue
        for column, (mean, std) in enumerate(zip(layer.mean, layer.std, strict=True)):
            apart = math.ldexp(1.0, math.frexp(mean)[1] - 24)  # neighbouring numbers
            if apart > 1 and apart > _COARSE * std and std != 1:
                warn_maker(
                    f"layer {place} is a Standardize whose column {column} has a mean of {mean:g} "
                    f"and a deviation of {std:g}: in float32, such numbers are {apart:g} apart, "
                    "and what is between them is lost. Subtract an offset from this column first, "
                    'or use Sequential(..., dtype="float64")'
                )
                break


def _moments(x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the means of columns, and their deviations, 1 for those that do not vary.

    Some rows at a time, which are merged as in Chan, Golub & LeVeque 1983, "Algorithms for
    computing the sample variance", The American Statistician 37: a memory map may be larger than
    memory, and in half precision.
    """
    seen, mean, squares, varies = 0, np.zeros(1), np.zeros(1), np.zeros(1, bool)
    for start in range(0, len(x), _ROWS):
        block = x[start : start + _ROWS]
        if _arrays.not_finite(block, "x"):
            _arrays.finite(x, "x")  # raises, with the row's place in all
        rows = block.reshape(len(block), -1).astype(np.float64)
        varies = varies | (rows != x[0].astype(np.float64)).any(axis=0)
        if start == 0:
            offset = rows.mean(axis=0)
        rows -= offset  # or means of blocks would differ by the rounding of a large one
        own = rows.mean(axis=0)
        rows -= own
        share = len(rows) / (seen + len(rows))
        with np.errstate(under="ignore"):
            squares = squares + (rows**2).sum(axis=0)
            squares += seen * share * (own - mean) ** 2
        mean = mean + share * (own - mean)
        seen += len(rows)
    return offset + mean, np.where(varies, np.sqrt(squares / seen), 1.0)


def with_numbers(
    layers: tuple[Layer, ...], numbers: Mapping[str, npt.NDArray[Any]], place: str = ""
) -> tuple[Layer, ...]:
    """Return the layers, each `Standardize` with the numbers that a model has for it by name.

    What equals them after rounding to the model's dtype stays as it was given.
    """
    made = []
    for index, layer in enumerate(layers):
        here = f"{place}{index}."
        new: dict[str, Any] = {}
        if isinstance(layer, Standardize):
            for name in ("mean", "std"):
                now = numbers[here + name]
                if not np.array_equal(now, np.asarray(getattr(layer, name), now.dtype)):
                    new[name] = tuple(now.tolist())
        elif isinstance(layer, Block):
            inside = with_numbers(layer.layers, numbers, here)
            if inside != layer.layers:
                new["layers"] = inside
        if new:
            layer = copy.copy(layer)  # not through the __init__ of a user's subclass
            layer._set(**new)
        made.append(layer)
    return tuple(made)


def _row(name: str, values: Any) -> tuple[float, ...]:
    row: npt.NDArray[Any] = _arrays.as_numeric(values, f"Standardize: {name}")
    if row.ndim != 1 or len(row) == 0:
        raise ShapeError(
            f"Standardize: {name} must have shape (columns,), a number for each; got {row.shape}"
            + f". For the same in all columns, pass np.full(columns, {row})" * (row.ndim == 0)
        )
    return tuple(float(value) for value in _arrays.finite(row, f"Standardize: {name}"))
