"""Named arrays and some text in one file, in the safetensors format.

Eight bytes give the length of a JSON header (little-endian); the header gives name, dtype, shape
and position of each array; then follow the bytes of the arrays, one after another. Nothing in a
file can run code, and other libraries can read it. https://github.com/huggingface/safetensors

The header also holds text, and with it a checksum of everything in the file, by which damage is
found. Files without one, of other programs and of earlier versions, are read too.
"""

import contextlib
import numbers
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from thalweg import _atomic, _checks
from thalweg.errors import ArgumentError, DataError, ThalwegError, UnsupportedError

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

#: The name of the checksum in the text of a file: CRC-32 of the header without it, as JSON with
#: sorted keys, and then of all bytes of the arrays.
_CHECKSUM = "thalweg.crc32"

#: What Python raises if something in a file is invalid.
_OF_DAMAGE = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)

#: How files of other formats begin: zip archives, pickles, and PyTorch's before they were archives.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"


def can_hold(array: npt.NDArray[Any]) -> bool:
    """Whether a file can hold an array: numbers of at most 8 bytes, without a mask."""
    known = array.dtype.newbyteorder("<") in _NAMES
    return known and not isinstance(array, np.ma.MaskedArray)


def save(
    path: str | os.PathLike[str] | BinaryIO,
    arrays: Mapping[str, npt.NDArray[Any]],
    text: Mapping[str, str],
) -> None:
    """Write arrays and text, all or nothing: an existing file is replaced at the end.

    A file object is written to from where it is.

    Raises
    ------
    ArgumentError
        If the path is neither, or the object is for asynchronous use.
    OSError
        If the file cannot be written, or a file object takes only a part.
    """
    import json  # most programs write and read no file

    target = _checks.file("path", path, "write")
    known = dict(text)
    header: dict[str, Any] = {"__metadata__": known}
    data: list[npt.NDArray[np.uint8]] = []
    end = 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        # As bytes: of other elements, len() is not the size that many file objects take it for.
        flat = np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8)
        start, end = end, end + flat.nbytes
        kind = _NAMES[dtype]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        data.append(flat)
    known[_CHECKSUM] = _checksum(header, data)
    encoded = json.dumps(header, allow_nan=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the arrays are aligned
    parts = [memoryview(len(encoded).to_bytes(8, "little") + encoded), *(it.data for it in data)]
    place = _atomic.replacing(target) if isinstance(target, str) else contextlib.nullcontext(target)
    with place as file:
        for part in parts:
            written: Any = file.write(part)  # not all file objects say how much that is
            if not isinstance(written, numbers.Integral | None):
                raise ArgumentError(
                    f"{named(path)}.write must return the number of bytes, or None; it returned "
                    f"{_checks.short(written)}. In asynchronous code, save to an io.BytesIO(), and "
                    "write its getvalue()"
                )
            if written not in (None, part.nbytes):
                raise OSError(f"{named(path)} took {written} of {part.nbytes} bytes; it is cut off")


def _checksum(header: dict[str, Any], data: Iterable[Any]) -> str:
    """Return the checksum of a file whose header has none yet."""
    import json

    value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for part in data:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


@contextlib.contextmanager
def whole(
    path: str | os.PathLike[str] | BinaryIO,
    *,
    unless: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[None]:
    """Turn errors caused by the contents of a file into a `DataError` about the file.

    `UnsupportedError` remains one, with the name of the file: that of a later version is not
    damaged. Errors that have another cause, by `unless`, come out as they are.
    """
    try:
        yield
    except (ThalwegError, *_OF_DAMAGE) as error:
        if unless(error):
            raise
        if isinstance(error, UnsupportedError):
            raise UnsupportedError(f"{named(path)}: {_checks.clipped(str(error))}") from None
        what = str(error) if isinstance(error, ThalwegError) else repr(error)
        raise DataError(f"{named(path)} is a damaged file: {_checks.clipped(what)}") from None


def named(path: str | os.PathLike[str] | BinaryIO) -> str:
    """Return how an error names a file, or a file object."""
    return repr(os.fspath(path) if isinstance(path, os.PathLike) else path)


def load(
    path: str | os.PathLike[str] | BinaryIO,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Read arrays and text; of a file object, to its end.

    Raises
    ------
    ArgumentError
        If the path is neither, or the object is not one of bytes.
    OSError
        If the file cannot be read.
    DataError
        If it is not such a file, truncated, or does not match its checksum.
    """
    import json

    source = _checks.file("path", path, "read")
    raw: Any  # what a file object returns, until it is looked at
    empty = "it is empty"
    if isinstance(source, str):
        with open(source, "rb") as file:
            try:
                raw = file.read()
            except MemoryError:
                size = os.fstat(file.fileno()).st_size
                raise MemoryError(
                    f"there is not enough memory to read {source!r}, which has {size} bytes"
                ) from None
    else:
        raw, empty = source.read(), "there is nothing left to read; seek(0) goes to the beginning"
        try:
            raw = raw if isinstance(raw, bytes) else bytes(memoryview(raw))
        except TypeError:
            raise ArgumentError(
                f"{named(path)}.read must return bytes; it returned {_checks.short(raw)}. In "
                "asynchronous code, load from io.BytesIO(await file.read())"
            ) from None
    try:
        if not raw:
            raise ValueError(empty)
        start = 8 + int.from_bytes(raw[:8], "little")
        header: dict[str, Any] = json.loads(raw[8:start], object_pairs_hook=_of_pairs)
        data = memoryview(raw)[start:]  # arrays share it: a slice of bytes would be a copy
        checksum = header.get("__metadata__", {}).pop(_CHECKSUM, None)
        if checksum not in (None, _checksum(header, [data])):
            raise ValueError(
                f"its contents do not match the checksum {_CHECKSUM} in its metadata; a program "
                "that changes a file must leave that out"
            )
        text = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        arrays: dict[str, npt.NDArray[Any]] = {}
        places: list[tuple[int, int]] = []
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            if any(type(number) is not int for number in (first, last, *entry["shape"])):
                raise ValueError(f"{name} has numbers in its header that are not integers")
            if not 0 <= first <= last <= len(data):
                raise ValueError(f"{name} lies outside of the file")
            places.append((first, last))
            if min(entry["shape"], default=0) < 0:  # which NumPy would fill in
                raise ValueError(f"{name} has shape {entry['shape']}")
            if entry["dtype"] not in _DTYPES:
                raise ValueError(
                    f"{name} has dtype {entry['dtype']}; only {', '.join(_DTYPES)} can be read"
                )
            array = np.frombuffer(data[first:last], dtype=_DTYPES[str(entry["dtype"])])
            # A copy only where another program's header has left them at an odd address.
            arrays[name] = np.require(array, requirements="A").reshape(entry["shape"])
        end = 0
        for first, last in sorted(places):
            if first != end:
                raise ValueError(f"its arrays overlap or leave a gap at byte {min(first, end)}")
            end = last
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes follow its last array")
    except _OF_DAMAGE as error:
        damage = f"is not a complete safetensors file: {_checks.clipped(str(error))}"
        what = _of_others(raw) or damage
        raise DataError(f"{named(path)} {what}") from None
    return arrays, text


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of two values of a name, each reader might take another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _of_others(raw: bytes) -> str:
    """Say what to do with a file that is of another format, or return an empty string."""
    if raw[8:9] == b"{":  # where the header of a safetensors file begins
        return ""
    if raw.startswith(_TORCH) or (raw.startswith(_ZIP) and b"/data.pkl" in raw[:512]):
        return (
            "is a file of PyTorch. If it holds a state dict, make the model and call "
            "model.load_state_dict(torch.load(path, weights_only=True)); if it holds a module "
            "and you trust it, call tw.torch.from_torch(torch.load(path, weights_only=False))"
        )
    if raw.startswith(_PICKLE):
        return "is a pickle: if you trust it, read it with pickle.load"
    if raw.startswith(_ZIP):
        return (
            "is a zip archive; if np.savez has written it, make the model and call "
            "model.load_state_dict(np.load(path))"
        )
    return ""
