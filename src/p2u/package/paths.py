"""The one rule for the paths of a model's files and for the keys of a package."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from p2u.errors import FormatError

#: The key of the manifest.
MANIFEST_KEY = "p2u.json"
#: Beginning of names that the client uses for itself next to a model's files.
RESERVED = ".p2u"

#: Limits in bytes of UTF-8: of a whole path, and of each of its parts.
MAX_PATH = 4096
MAX_PART = 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_path(path: str, what: str = "path") -> tuple[str, ...]:
    """The parts of a path or key that is relative, portable and stays below its root.

    Manifests name paths and keys, and strangers write manifests.

    Args:
        path: Its parts are separated by ``/``.
        what: ``"path"`` or ``"key"``, for messages.

    Raises:
        FormatError: It is empty, absolute or too long, or has ``.``, ``..``, a backslash, a control
            character, a drive letter or a reserved name, or UTF-8 cannot encode it.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        size = MAX_PATH + 1
    parts = tuple(path.split("/"))
    bad = (
        size > MAX_PATH
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_PART for part in parts)
        or "\\" in path
        or _CONTROL.search(path)
        or _DRIVE.match(path)
    )
    if bad:
        raise FormatError(
            f"not a valid {what}: expected a relative name with '/' between its parts, without "
            "'.' and '..', backslashes, control characters and drive letters",
            file=ascii(path[:200]),
            hint="Rename the file; if it is a package of somebody else's, do not use it",
        )
    if any(part.lower().startswith(RESERVED) for part in parts):
        raise FormatError(
            f"not a valid {what}: names that begin with {RESERVED} are reserved",
            file=ascii(path[:200]),
            hint="Rename the file",
        )
    return parts


def check_paths(paths: Sequence[str], what: str = "path") -> None:
    """Check each path, and that any file system can hold all of them in one folder.

    Raises:
        FormatError: One is not valid, two are equal but for case or Unicode form, or one is a
            file in one place and a folder in another.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path, what)
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            raise FormatError(
                f"the {what}s {seen[key]!r} and {path!r} are the same on some systems",
                file=path,
                hint="Rename one of them",
            )
        seen[key] = path
        at = key.rfind("/")
        while at > 0 and key[:at] not in folders:
            folders[key[:at]] = path
            at = key.rfind("/", 0, at)
    if both := seen.keys() & folders.keys():
        path = seen[min(both)]
        raise FormatError(
            f"the {what} is a file, and a folder in {folders[min(both)]!r}",
            file=path,
            hint="Rename one of them",
        )
