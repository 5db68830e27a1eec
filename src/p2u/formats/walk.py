"""List all files of a model directory, in a fixed order."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from p2u.errors import DiskError, FormatError

#: Names that another system would read as a path, or that cannot be shown.
BAD_NAME = re.compile(r"[\\\x00-\x1f\x7f]")


def _status(path: str, file: str, is_link: bool) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116 - strings throughout
    except OSError as error:
        raise DiskError(
            f"the link leads nowhere: {error.strerror}"
            if is_link
            else f"cannot read it: {error.strerror}",
            file=file,
            hint="Complete the download, or remove the link" if is_link else "Check permissions",
        ) from error


def _check_name(name: str, file: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(
            "the file name is not UTF-8", file=ascii(file), hint="Rename the file"
        ) from None
    if BAD_NAME.search(name):
        raise FormatError(
            "file names must not have backslashes or control characters",
            file=ascii(file),
            hint="Rename the file",
        )


def _check_folder_link(path: str, file: str, root: str) -> None:
    """Refuse a linked folder outside the model: it could bring anything into the package."""
    real = os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        raise FormatError(
            "a link to a folder outside the model directory",
            file=file,
            hint="Replace the link by the folder's files, or remove it",
        )


def walk_files(root: str) -> list[tuple[str, int]]:
    """List the files of a directory and of the folders in it.

    Names that begin with a dot are skipped (``.git``, ``.cache``, ``.gitattributes``). Links to
    files are followed: Hugging Face's cache is made of them. Links to folders are followed inside
    the directory only.

    Args:
        root: The directory.

    Returns:
        ``(path, size in bytes)``, sorted by path; paths are relative and separated by ``/``.

    Raises:
        DiskError: A folder cannot be read or a link is broken.
        FormatError: A link leaves the directory or runs in a circle, a file is not a regular
            one, or its name cannot be kept.
    """
    return sorted(_walk(root, "", os.path.realpath(root), ()))


def _walk(
    folder: str, prefix: str, root: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, int]]:
    """As ``walk_files``; ``above`` identifies the folders on the way down (device, inode)."""
    status = _status(folder, prefix or folder, is_link=False)
    # Not on Windows' older file systems, where the inode is 0; there links need rights anyway.
    here = (status.st_dev, status.st_ino)
    if here in above and status.st_ino:
        raise FormatError(
            "a link runs in a circle", file=prefix.rstrip("/"), hint="Remove the link"
        )
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise DiskError(
            f"cannot list the folder: {error.strerror}",
            file=prefix.rstrip("/") or folder,
            hint="Check its permissions",
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        file = prefix + entry.name
        _check_name(entry.name, file)
        status = _status(entry.path, file, entry.is_symlink())
        if stat.S_ISDIR(status.st_mode):
            if entry.is_symlink():
                _check_folder_link(entry.path, file, root)
            yield from _walk(entry.path, f"{file}/", root, (*above, here))
        elif stat.S_ISREG(status.st_mode):
            yield file, status.st_size
        else:
            raise FormatError(
                "neither a file nor a folder (a pipe, socket or device)",
                file=file,
                hint="Remove it from the model directory",
            )
