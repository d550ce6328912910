"""Converts user data to what the core reads: C-contiguous, aligned, 2-D, of one dtype.

An array of that kind passes through without a copy; it may be read-only. So do samples of uint8,
float16, float32 and float64, which the core converts one batch at a time. Everything else is
converted by these rules:

- booleans, integers and floats of any width become the model's dtype, rounded to nearest;
- a finite value that would become infinite is an error that names its position;
- arrays of objects that are all such numbers are converted too: pandas makes them from columns of
  different kinds;
- other objects, strings, dates, complex numbers and masked entries are errors: the user has to say
  what they should become.

The core has to read every value anyway, so it checks for NaN and infinity, and that widths and
lengths fit.
"""

import contextlib
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from thalweg.errors import DataError, DtypeError, ShapeError

#: float32 or float64, as the model, whose type does not tell; a union would have to be cast.
Array: TypeAlias = npt.NDArray[Any]
Samples: TypeAlias = Array | npt.NDArray[np.uint8] | npt.NDArray[np.float16]
Labels: TypeAlias = npt.NDArray[np.int64]

#: Targets as users pass them: an array, or for custom losses several by name.
Targets: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]

#: An iterable of batches, or a function that returns one.
Batches: TypeAlias = Iterable[Any] | Callable[[], Iterable[Any]]

#: Dtypes that the core converts itself.
_CONVERTED = tuple(np.dtype(kind) for kind in ("uint8", "float16", "float32", "float64"))


def is_ready(array: Any, dtype: np.dtype[Any], ndim: int) -> bool:
    """Return whether the core can read `array` as it is."""
    return (
        # Subclasses need a closer look: a masked array is more than its values.
        type(array) is np.ndarray
        and array.dtype == dtype
        and array.ndim == ndim
        and array.flags.c_contiguous
        and array.flags.aligned
    )


def as_numeric(value: Any, name: str, *, labels: bool = False) -> npt.NDArray[Any]:
    """Return `value` as an array of booleans, integers or floats, of any shape.

    With `labels`, errors speak of class labels.

    Raises
    ------
    ShapeError
        If nested sequences have rows of different lengths.
    DtypeError
        If the values are not real numbers.
    DataError
        If `value` is a masked array with masked entries.
    """
    array = as_array(value, name)
    if array.dtype.kind == "O":
        array = _of_objects(array, name)
    if array.dtype.kind not in "biuf":
        from thalweg import _bad_arrays

        raise DtypeError(_bad_arrays.not_numbers(value, array, name, labels))
    return array


def as_array(value: Any, name: str) -> npt.NDArray[Any]:
    """Return `value` as an array, whatever it holds.

    Raises
    ------
    ShapeError
        If nested sequences have rows of different lengths.
    DtypeError
        If it is sparse, a tensor that cannot be converted, or a table whose dates would become
        numbers.
    DataError
        If it is a masked array with masked entries.
    """
    refuse_masked(value, name)
    if hasattr(value, "toarray"):
        raise DtypeError(f"{name} is a sparse {type(value).__name__}; pass {name}.toarray()")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} cannot be made an array: {error}") from None
    except (TypeError, RuntimeError) as error:
        from thalweg import _bad_arrays

        more = _bad_arrays.of_tensor(value, name)
        raise DtypeError(f"{name} cannot be made an array: {error}{more}") from None
    if array.dtype.kind in "biuf":
        refuse_times(value, name)  # from Polars, beside numbers: days, microseconds, nanoseconds
    return array


def refuse_masked(value: Any, name: str) -> None:
    """Raise `DataError` if `value` is a masked array with masked entries."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        from thalweg import _bad_arrays

        raise DataError(_bad_arrays.masked(value, name))


def refuse_times(value: Any, name: str) -> None:
    """Raise `DtypeError` if `value` is a table with a column of dates or times."""
    if times(value):
        from thalweg import _bad_arrays

        raise DtypeError(_bad_arrays.of_times(value, name))


def times(value: Any) -> tuple[Any, Any] | None:
    """Return the name and type of a table's first column of dates or times, if it has any."""
    names = columns(value)
    dtypes = getattr(value, "dtypes", ()) if len(names) else ()
    # The different ones are few, where columns are many; with pandas, each look takes time.
    if not any(map(is_time, set(dtypes))):
        return None
    return next(pair for pair in zip(names, dtypes, strict=False) if is_time(pair[1]))


def is_time(dtype: Any) -> bool:
    """Return whether values of a type of NumPy, pandas or Polars are dates or times."""
    in_polars = hasattr(dtype, "is_temporal") and bool(dtype.is_temporal())
    return in_polars or getattr(dtype, "kind", "") in ("M", "m")


def columns(value: Any) -> Collection[Any]:
    """Return the names of the columns of a frame, as it has them; none for anything else."""
    names = getattr(value, "columns", ())
    # A Series of pandas gives its entry of that name, and some matrices give how many they have.
    # Frames of Polars have no ndim.
    return names if getattr(value, "ndim", 2) == 2 and isinstance(names, Collection) else ()


def _of_objects(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Convert an array of objects to numbers, if all are: pandas makes such of mixed columns."""
    kinds = set(map(type, array.ravel()))
    if not array.ndim or not all(is_real(kind) for kind in kinds):
        return array
    if all(issubclass(kind, (numbers.Integral, np.bool_)) for kind in kinds):
        with contextlib.suppress(OverflowError):
            return array.astype(np.int64)
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise DataError(f"{name} holds a number that is too large for float64") from None
    except ValueError as error:  # Decimal("sNaN")
        raise DataError(f"{name} cannot be converted to float64: {error}") from None


def is_real(kind: type) -> bool:
    """Return whether objects of this class are booleans or numbers that convert to float."""
    if issubclass(kind, (numbers.Real, np.bool_)):
        return True
    return issubclass(kind, numbers.Number) and not issubclass(kind, numbers.Complex)  # Decimal


def as_dtype(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> Array:
    """Return real numbers as C-contiguous, aligned `dtype`; copied only if necessary.

    Raises
    ------
    DataError
        If a finite value is too large for `dtype`.
    """
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    # Only a wider float can overflow.
    if array.dtype.kind != "f" or array.dtype.itemsize <= dtype.itemsize:
        return array.astype(dtype, order="C")
    # The first is checked below, with its position; the second is rounding.
    with np.errstate(over="ignore", under="ignore"):
        result: Array = array.astype(dtype, order="C")
    infinite = np.isinf(result)
    if infinite.any():
        lost = infinite & np.isfinite(array)
        if lost.any():
            place = tuple(int(i) for i in np.argwhere(lost)[0])
            raise DataError(
                f"{name}[{', '.join(map(str, place))}] = {array[place]:g} is too large for "
                f"{dtype}, whose largest number is {np.finfo(dtype).max:g}; "
                f'scale {name}, or use dtype="float64"'
            )
    return result


def matrix(value: Any, dtype: np.dtype[Any], name: str) -> Array:
    """Return `value` as rows of features, shape (n, k), ready for the core.

    Raises
    ------
    ShapeError
        If it is not 2-D.
    DataError
        If a value is too large for `dtype`.
    DtypeError
        If its values are not real numbers.
    """
    if is_ready(value, dtype, 2):
        return value  # type: ignore[no-any-return]
    array = as_numeric(value, name)
    if array.ndim != 2:
        from thalweg import _bad_arrays

        advice = _bad_arrays.not_rows(value, array, name)
        raise ShapeError(f"{name} must be 2-D, (rows, features); got shape {array.shape}{advice}")
    return as_dtype(array, dtype, name)


def samples(value: Any, dtype: np.dtype[Any], name: str) -> Samples:
    """Return `value` as rows of features, shape (n, k), which the core converts batch by batch.

    Arrays of uint8, float16, float32 and float64 pass through, since the core converts them on the
    fly; everything else is converted here.

    Raises
    ------
    ShapeError, DtypeError
        As in `matrix`.
    DataError
        As in `matrix`; also if a value is NaN or infinite and columns have names, which the error
        gives.
    """
    if is_ready(value, dtype, 2):  # the usual case
        return value  # type: ignore[no-any-return]
    if type(value) is np.memmap:
        value = np.asarray(value)  # a memory map: the same memory without the file's name
    if any(is_ready(value, kind, 2) for kind in _CONVERTED):
        return value  # type: ignore[no-any-return]
    array = matrix(value, dtype, name)
    if len(columns(value)) and not np.isfinite(array).all():  # the core has no names
        from thalweg import _bad_arrays

        raise DataError(_bad_arrays.not_finite(value, array, name))
    return array


def labels(value: Any, name: str) -> Labels:
    """Return `value` as class labels, shape (n,), int64, ready for the core.

    Booleans become 0 and 1. The core checks whether each label is one of the classes.

    Raises
    ------
    ShapeError
        If it is not 1-D: a column (n, 1) is rejected, as in PyTorch.
    DataError
        If one does not fit into int64.
    DtypeError
        If they are not integers.
    """
    if is_ready(value, np.dtype(np.int64), 1):
        return value  # type: ignore[no-any-return]
    array = as_numeric(value, name, labels=True)
    if array.ndim != 1:
        from thalweg import _bad_arrays

        text = f"{name} must be 1-D class labels, (rows,); got "
        if array.ndim == 0:
            raise ShapeError(f"{text}shape (); the label of a single row is [{name}]")
        written = _bad_arrays.code(value, name)
        if array.ndim == 2 and array.shape[1] == 1:
            raise ShapeError(f"{text}the column {array.shape}: pass {written}.ravel()")
        raise ShapeError(
            f"{text}shape {array.shape}; from one-hot rows or probabilities, "
            f"pass {written}.argmax(axis=1)"
        )
    if array.dtype.kind == "f" and array.size:  # an empty list becomes floats
        text = f"{name} has dtype {array.dtype}, but class labels are integers; "
        if np.isnan(array).any():
            row = int(np.isnan(array).argmax())
            raise DtypeError(f"{text}{name}[{row}] is NaN, a missing label: leave its row out")
        raise DtypeError(
            f'{text}if its values are whole numbers, pass {name}.astype("int64"); for regression, '
            "use nn.MSELoss"
        )
    # All else fits into int64; a wrapped-around value would be reported wrongly.
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        place = int(array.argmax())
        raise DataError(f"{name}[{place}] = {array[place]} is not a class label")
    return np.require(array, np.int64, ["C_CONTIGUOUS", "ALIGNED"])


def labels_or_shares(value: Any, dtype: np.dtype[Any], name: str) -> Labels | Array:
    """Return `value` as class labels, or as rows with one number per class if it is 2-D.

    Raises
    ------
    ShapeError, DataError, DtypeError
        As in `labels` and `matrix`.
    """
    if is_ready(value, dtype, 2) or is_ready(value, np.dtype(np.int64), 1):
        return value  # type: ignore[no-any-return]
    array = as_numeric(value, name, labels=True)
    if array.ndim == 2 and array.shape[1] != 1:
        return as_dtype(array, dtype, name)
    return labels(value, name)


def weights(value: Any, dtype: np.dtype[Any], name: str) -> Array | None:
    """Return `value` as one weight per row, shape (n,), ready for the core, or None for None.

    Raises
    ------
    ShapeError
        If it is not 1-D.
    DataError
        If a value is negative, too large for `dtype`, or so small that it would count as 0.
    DtypeError
        If its values are not real numbers.
    """
    if value is None:
        return None
    if is_ready(value, dtype, 1):
        _check_weights(value, dtype, name)
        return value  # type: ignore[no-any-return]
    if isinstance(value, (str, dict)):
        raise DtypeError(
            f"{name} must be an array with one number per row; got "
            f"{'a dict' if isinstance(value, dict) else repr(value)}. For class weights, use "
            "nn.CrossEntropyLoss(weight=[...])"
        )
    array = as_numeric(value, name)
    if array.ndim != 1:
        from thalweg import _bad_arrays

        column = array.ndim == 2 and array.shape[1] == 1
        raise ShapeError(
            f"{name} must be 1-D, (rows,); got shape {array.shape}"
            + (f": pass {_bad_arrays.code(value, name)}.ravel()" if column else "")
        )
    _check_weights(array, dtype, name)
    return as_dtype(array, dtype, name)


def _check_weights(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> None:
    """Raise if a weight is negative, or subnormal: the core's arithmetic treats those as 0."""
    least = _LEAST[dtype.itemsize]
    if not array.size or not array.min() < least:  # the usual case
        return
    if array.min() < 0:
        row = int((array < 0).argmax())
        raise DataError(
            f"{name}[{row}] is {array[row]:g}; a finite number >= 0 is needed. Advantages, which "
            "may be negative, are not weights: use them in a custom loss, see nn.CustomLoss"
        )
    small = (array > 0) & (array < least)
    if small.any():
        row = int(small.argmax())
        wider = "" if dtype.itemsize == 8 else ', use dtype="float64"'
        raise DataError(
            f"{name}[{row}] is {array[row]:g}, which {dtype} arithmetic treats as 0, since its "
            f"smallest number above 0 is {least:.3g}: set it to 0 to leave the row out{wider}, or "
            "multiply all weights (and an estimator's alpha) by the same number, which changes "
            "only losses that are sums"
        )


#: The smallest normal number, by item size.
_LEAST = {kind().itemsize: float(np.finfo(kind).tiny) for kind in (np.float32, np.float64)}


def targets(value: Any, dtype: np.dtype[Any], width: int, name: str) -> Array:
    """Return `value` as rows of target values, shape (n, width), ready for the core.

    A 1-D array becomes the column (n, 1) if the width is 1: nothing else can be meant.

    Raises
    ------
    ShapeError, DataError, DtypeError
        As in `matrix`.
    """
    if is_ready(value, dtype, 2):
        return value  # type: ignore[no-any-return]
    array = as_numeric(value, name)
    if array.ndim == 1 and width == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2:
        shape = f"(rows, {width})" + (" or (rows,)" if width == 1 else "")
        raise ShapeError(
            f"{name} must have shape {shape} for this network and loss; got shape {array.shape}"
        )
    return as_dtype(array, dtype, name)


def flat(value: Any, dtype: np.dtype[Any], size: int, name: str) -> Array:
    """Return `value` as one number per parameter, shape (size,), ready for the core.

    Raises
    ------
    ShapeError
        If its shape is not (size,).
    DataError
        If a value is NaN, infinite or too large for `dtype`.
    DtypeError
        If its values are not real numbers.
    """
    array = value if is_ready(value, dtype, 1) else as_numeric(value, name)
    if array.shape != (size,):
        raise ShapeError(f"{name} must have shape ({size},); got {array.shape}")
    return finite(as_dtype(array, dtype, name), name)


def finite(array: Array, name: str) -> Array:
    """Return `array` itself if all its values are finite; else raise, naming the position."""
    if found := not_finite(array, name):
        raise DataError(f"{found}; only finite numbers are accepted")
    return array


def not_finite(array: Array, name: str) -> str:
    """Say which number of `array` is the first that is not finite, or nothing."""
    good = np.isfinite(array)
    if np.count_nonzero(good) == good.size:  # sooner than all()
        return ""
    place = tuple(int(i) for i in np.argwhere(~good)[0])
    where = f"{name}[{', '.join(map(str, place))}]" if place else name
    return f"{where} is {array[place]}"
