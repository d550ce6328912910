"""What is wrong with an array, and how to fix it; imported only after an error."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _habits
from thalweg._arrays import columns, is_real, is_time, times


def code(value: Any, name: str) -> str:
    """Return the code that converts `value` to an array: some lack an array's methods."""
    name = _variable(name)
    if hasattr(value, "to_numpy"):  # pandas, Polars
        return f"{name}.to_numpy()"
    return name if hasattr(value, "reshape") else f"np.array({name})"


def column(value: Any, place: tuple[int, ...]) -> str:
    """Return ``" (column 'city')"`` for a place in a table with named columns, or nothing."""
    names = [*columns(value)]
    return f" (column {names[place[1]]!r})" if names and len(place) == 2 else ""


def not_finite(value: Any, array: npt.NDArray[Any], name: str) -> str:
    """Describe what is NaN or infinite in a table with named columns."""
    off = ~np.isfinite(array)
    row, place = (int(k) for k in np.argwhere(off)[0])
    kind = "NaN" if np.isnan(array[row, place]) else "infinite"
    count = int(off[:, place].sum())
    return (
        f"{name}[{row}, {place}]{column(value, (row, place))} is {kind}; {count} of its "
        f"{len(array)} rows are NaN or infinite: fill them, or leave those rows out"
    )


def not_numbers(value: Any, array: npt.NDArray[Any], name: str, labels: bool) -> str:
    """Describe the contents of an array that does not hold real numbers."""
    if array.dtype.kind == "O" and array.ndim == 0:
        item = array.item()
        if item is None:
            return f"{name} is None; an array is needed"
        return f"{name} is {_habits.named(item)}; an array of numbers is needed"
    if times(value) and not labels:
        return of_times(value, name)
    short = _variable(name)
    kind = array.dtype.kind
    dtype = getattr(value, "dtype", array.dtype)  # pandas and Polars make objects of some times
    if is_time(dtype) and not labels:
        return f"{name} has dtype {dtype}, expected real numbers; pass {_seconds(short, dtype)}"
    text = f"{name} has dtype {array.dtype}, expected real numbers; "
    if array.dtype.type.__module__ == "ml_dtypes":  # JAX's bfloat16 and the like
        return text + f'pass {short}.astype("{"int64" if labels else "float32"}")'
    if kind == "c":
        return text + f"pass {short}.real and {short}.imag as separate features"
    if kind == "O":
        items = np.ndenumerate(array)
        place, item = next((place, item) for place, item in items if not is_real(type(item)))
        text += f"{short}[{', '.join(map(str, place))}]{column(value, place)} is {item!r}"
        if item is None or type(item).__name__ in ("NAType", "NaTType"):
            return text + ", a missing value: fill it, or leave its row out"
        if not isinstance(item, str):
            return text + f", of type {type(item).__name__}"
        text += ": "
    if labels:
        return (
            text + f"number the classes: classes, {short} = np.unique({short}, return_inverse=True)"
        )
    if kind in "OUS":
        return text + "encode text as numbers, e.g. as integer codes for nn.TabularInput"
    if array.dtype.names:
        return text + (
            f"pass np.lib.recfunctions.structured_to_unstructured({short}), after import "
            "numpy.lib.recfunctions"
        )
    return text + "encode its values as numbers first"


def of_times(value: Any, name: str) -> str:
    """Describe the first column of dates or times in a table, and how to convert it."""
    found = times(value)
    assert found is not None
    column, dtype = found
    return (
        f"{name} has a column {column!r} of type {dtype}, which is not a number: put numbers in "
        f"its place, such as {_seconds(f'{_variable(name)}[{column!r}]', dtype)}"
    )


def _seconds(short: str, dtype: Any) -> str:
    """Return the code that makes numbers of dates or times of a type."""
    if hasattr(dtype, "is_temporal"):  # Polars
        kind = str(dtype).partition("(")[0]
        if kind == "Time":  # nanoseconds since midnight
            return f"{short}.to_physical() / 1e9"
        return f"{short}.dt." + ("total_seconds()" if kind == "Duration" else 'epoch("s")')
    if dtype.kind == "M":  # since a fixed date: the data's first is another in use than in training
        in_arrow = getattr(dtype, "pyarrow_dtype", None)
        has_zone = any(getattr(kind, "tz", None) is not None for kind in (dtype, in_arrow))
        day = 'pd.Timestamp("2020-01-01", tz="UTC")' if has_zone else 'np.datetime64("2020-01-01")'
        short = f"({short} - {day})"
    return f'{short} / np.timedelta64(1, "s")'


def masked(value: Any, name: str) -> str:
    """Describe a masked array with masked entries."""
    count = int(np.ma.getmaskarray(value).sum())
    what = "1 masked entry; fill it" if count == 1 else f"{count} masked entries; fill them"
    return f"{name} has {what} first, e.g. with {_variable(name)}.filled(0)"


def _variable(name: str) -> str:
    """Return what the user's code calls it: x of "validation x", mean of "Standardize: mean"."""
    return name.rpartition(" ")[2]


def of_tensor(value: Any, name: str) -> str:
    """Say how to convert a PyTorch tensor that NumPy cannot."""
    short = _variable(name)
    written = f"{short}.detach()" if getattr(value, "requires_grad", False) else short
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        written += ".float()"
    return "" if written == short else f": pass {written}"


def not_rows(value: Any, array: npt.NDArray[Any], name: str) -> str:
    """Say how to convert an array that is not 2-D to rows."""
    written = code(value, name)
    if array.ndim == 1:  # only the user knows which of the two is meant
        return (
            f"; reshape it with {written}.reshape(-1, 1) if its values are rows of one feature, "
            f"or {written}.reshape(1, -1) if they are one row"
        )
    if array.ndim == 0:
        return f"; one row of one feature is [[{_variable(name)}]]"
    return (
        f"; reshape it with {written}.reshape(-1, {array.shape[-1]}) if its last axis holds the "
        "features; for images, begin the model with nn.Flatten()"
    )
