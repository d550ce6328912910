"""Named arrays and some text in one file, in the safetensors format.

Eight bytes give the length of a JSON header (little-endian); the header gives name, dtype, shape
and position of each array; then follow the bytes of the arrays, one after another. Nothing in a
file can run code, and other libraries can read it. https://github.com/huggingface/safetensors
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg import _atomic
from thalweg.errors import DataError, ThalwegError, UnsupportedError

_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

#: What Python raises if something in a file is invalid.
_OF_DAMAGE = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], text: Mapping[str, str]
) -> None:
    """Write arrays and text, all or nothing: an existing file is replaced at the end.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    import json  # most programs write and read no file

    header: dict[str, Any] = {"__metadata__": dict(text)}
    data: list[npt.NDArray[Any]] = []
    end = 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        start, end = end, end + array.nbytes
        kind = _NAMES[array.dtype]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        data.append(array)
    encoded = json.dumps(header, allow_nan=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the arrays are aligned
    with _atomic.replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in data:
            file.write(array.tobytes())


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors caused by the contents of a file into a `DataError` about the file.

    `UnsupportedError` is kept: a file from a later version is not damaged.
    """
    try:
        yield
    except UnsupportedError:
        raise
    except (ThalwegError, *_OF_DAMAGE) as error:
        what = error if isinstance(error, ThalwegError) else repr(error)
        raise DataError(f"{os.fspath(path)!r} is a damaged file: {what}") from None


def load(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Read arrays and text.

    Raises
    ------
    OSError
        If the file cannot be read.
    DataError
        If it is not such a file, or truncated.
    """
    import json

    with open(path, "rb") as file:
        raw = file.read()
    try:
        start = 8 + int.from_bytes(raw[:8], "little")
        header: dict[str, Any] = json.loads(raw[8:start])
        text = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, entry in header.items():
            first, last = (start + int(place) for place in entry["data_offsets"])
            if not start <= first <= last <= len(raw):
                raise ValueError(f"{name} lies outside of the file")
            if entry["dtype"] not in _DTYPES:
                raise ValueError(
                    f"{name} has dtype {entry['dtype']}; only {', '.join(_DTYPES)} can be read"
                )
            array = np.frombuffer(raw[first:last], dtype=_DTYPES[str(entry["dtype"])])
            arrays[name] = array.reshape(entry["shape"])
    except _OF_DAMAGE as error:
        raise DataError(
            f"{os.fspath(path)!r} is not a complete safetensors file: {error}"
        ) from None
    return arrays, text
