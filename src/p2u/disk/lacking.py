"""One list of the calls that file systems may lack: locks, syncs, modes, links, exchanges.

CIFS, Lustre, NFS, FUSE and the sandboxes of containers refuse calls that local disks have. Whoever
can do without such a call asks here.
"""

from __future__ import annotations

import errno

#: The file system, or the sandbox, does not have the call at all.
LACKING = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})


def lacks(error: OSError, *also: int) -> bool:
    """Whether an error means that the call does not exist here; ``also``: with these numbers."""
    return error.errno in LACKING or error.errno in also
