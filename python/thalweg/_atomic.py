"""Files that are written completely or not at all."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

#: What Python raises if a folder takes no new files.
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
#: The age, in seconds, at which an unfinished file is one that a killed process has left.
_ABANDONED = 3600.0
#: How many characters of a file's name that of its unfinished one has: with the rest, and four
#: bytes each, it stays below 255 bytes, the most that file systems take.
_KEPT = 50
#: The names of unfinished files: that of the file, the process, and random digits.
_UNFINISHED = re.compile(r".+\.[0-9]+-[0-9a-f]{16}\.part", re.DOTALL)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only once it is complete, and on the disk.

    An existing file is then replaced, and keeps its owner and permissions; after an error, it is
    unchanged. A link stays one: the file that it leads to is replaced. A file that is mounted by
    itself, as in containers, cannot be replaced: it is overwritten once the new one is complete.
    What is no file, such as a pipe or a device, is written to directly.

    Until then, the file is beside its place, as ``"<name>.<process>-<random digits>.part"``. Such
    files in this folder that are more than an hour old, of any name, are removed: the processes
    that wrote them have been killed.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    named = os.fsdecode(path)
    found, temporary, folder = None, "", ""
    try:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(named)
        # No file has a name that is empty, or ends like that of a folder: `open` says so.
        special = found is not None and not stat.S_ISREG(found.st_mode)
        if special or os.path.basename(named) in ("", os.curdir, os.pardir):
            with open(named, "wb") as file:
                yield file
            return
        target = os.path.realpath(named)
        folder, name = os.path.split(target)
        # At random: a signal handler may write the same file while this does, and so may other
        # machines that share the folder.
        unfinished = f"{name[:_KEPT]}.{os.getpid()}-{os.urandom(8).hex()}.part"
        temporary = os.path.join(folder, unfinished)
        # For nobody else until it has the permissions of the old one: who has opened it keeps it.
        with open(temporary, "xb", opener=None if found is None else _private) as file:
            if found is not None:
                _give(temporary, found)
            # Before anything is written: a full disk may be full of abandoned files.
            _sweep(folder, os.stat(temporary).st_mtime)
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut might leave the name with an empty file
        try:
            os.replace(temporary, target)
            _settle(folder)  # or a power cut might bring back the file that was replaced
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            import shutil

            with open(temporary, "rb") as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:  # the user only knows the path
        opened = error.filename == temporary and not error.filename2  # not: renamed
        if temporary and opened and error.errno in _DENIED:
            why = f"{error.strerror}: no new file, to replace {named!r}, can be made in this folder"
            raise type(error)(error.errno, why, folder) from None
        raise type(error)(error.errno, error.strerror, named) from None
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has been renamed by now
            os.unlink(temporary)


def _private(path: str, flags: int) -> int:
    """Open a file that is new for its owner only."""
    return os.open(path, flags, 0o600)


def _give(path: str, like: os.stat_result) -> None:
    """Give a file the owner and the permissions of another, as far as the system allows."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(path, like.st_uid, like.st_gid)
    with contextlib.suppress(PermissionError):
        os.chmod(path, stat.S_IMODE(like.st_mode))


def _settle(folder: str) -> None:
    """Wait until a folder's names are on the disk, where the system can do this.

    Windows opens no folders, and some file systems do not sync them. The new file is complete all
    the same, so that an error would be misunderstood.
    """
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _sweep(folder: str, now: float) -> None:
    """Remove what processes that were killed while they wrote to a folder have left there."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _UNFINISHED.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # of another user, or another process was faster
                found = entry.stat(follow_symlinks=False)
                # By age, since other machines that share the folder have processes of their own.
                if stat.S_ISREG(found.st_mode) and now - found.st_mtime > _ABANDONED:
                    os.unlink(entry.path)
