"""Disk errors: an OSError becomes a DiskError that names the file, the reason and the remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from p2u.errors import DiskError

Doing = Literal["read", "write"]

#: Remedies for a full disk: a pull, a new version, anything else.
RESUMES = "Free some space and run the command again: it goes on where it was"
UNPUBLISHED = "Free some disk space; nothing was published"
TRY_AGAIN = "Free some space and try again"
#: The remedy where a process has too many files open.
OPEN_FILES = "Raise the limit of open files: `ulimit -n 4096`, then run the command again"

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def disk_error(
    error: OSError, file: str | Path, doing: Doing = "write", full: str = RESUMES
) -> DiskError:
    """The DiskError of an OSError.

    Args:
        error: What the system said.
        file: What the message calls the file.
        doing: What failed.
        full: The remedy if the disk is full.
    """
    if error.errno in _FULL:
        hint = full
    elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
        hint = "Check its permissions"
        if doing == "write":
            hint = "Check the permissions of the folder and of its parent"
    elif error.errno in (errno.EXDEV, errno.EBUSY):
        hint = "It is a mount point; mount the folder that it is in instead"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        hint = OPEN_FILES
    elif error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        hint = "This file system lacks something that P2U needs; choose a folder on another one"
    elif error.errno == errno.ELOOP:
        hint = "It is a link where a file is expected, perhaps somebody else's; remove it"
    else:
        hint = "Check the path and the disk"
    return DiskError(f"cannot {doing}: {error.strerror or error}", file=str(file), hint=hint)


@contextmanager
def disk_errors(path: str | Path, doing: Doing = "write", full: str = RESUMES) -> Iterator[None]:
    """Raise the DiskError of any OSError in the block, and of names that no file can have here.

    Args:
        path: The file concerned, unless the error names one.
        doing: See `disk_error`.
        full: See `disk_error`.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        file = os.fsdecode(name) if isinstance(name, str | bytes) and name else path
        raise disk_error(error, file, doing, full) from error
    except UnicodeEncodeError as error:
        raise _unnameable(error) from error


def _unnameable(error: UnicodeEncodeError) -> DiskError:
    """The error of a name with a character that the encoding of file names lacks."""
    name = str(error.object).encode("ascii", "backslashreplace").decode()
    return DiskError(
        f"file names are in {error.encoding} here, which lacks a character of this one",
        file=name,
        hint="Choose a UTF-8 locale, as in LC_ALL=C.UTF-8, or set PYTHONUTF8=1",
    )
