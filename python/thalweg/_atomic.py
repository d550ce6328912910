"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file to write to, which gets its name when it is complete.

    A file that was there is replaced then; after an error it is as it was.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    import threading  # most programs write no file: they need not wait for it

    target = os.fsdecode(path)
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:  # the user knows of one file only
        raise type(error)(error.errno, error.strerror, target) from None
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            os.unlink(temporary)
