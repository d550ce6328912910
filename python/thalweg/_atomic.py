"""Files that are written completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only once it is complete.

    An existing file is then replaced; after an error, it is unchanged.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    import threading  # most programs write no file

    target = os.fsdecode(path)
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:  # the user only knows the target
        raise type(error)(error.errno, error.strerror, target) from None
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has been renamed by now
            os.unlink(temporary)
