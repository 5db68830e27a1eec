"""Exchange two directories in one step, where the system can.

Python has no call for it: Linux has ``renameat2(RENAME_EXCHANGE)``, macOS ``renamex_np(
RENAME_SWAP)``. With them, whoever looks at a path sees the old directory or the new one, and never
none.
"""

from __future__ import annotations

import errno
import os
import sys

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2

#: The system or this file system does not have the call.
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(first: str, second: str) -> bool:
    """Exchange two existing paths on one file system, atomically.

    Returns:
        False if this is not supported here; nothing has changed then.

    Raises:
        OSError: It failed for another reason (permission, other file system, not there).
    """
    if sys.platform not in ("linux", "darwin"):
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    one, two = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "linux":
            status = libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE)
        else:
            status = libc.renamex_np(one, two, _RENAME_SWAP)
    except AttributeError:  # a C library before these calls, such as musl's
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), first, None, second)
