"""List all files of a model directory, in a fixed order, and what of it is left out."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field

from p2u.errors import DiskError, FormatError
from p2u.package.paths import RESERVED

#: Names that another system would read as a path, or that cannot be shown.
BAD_NAME = re.compile(r"[\\\x00-\x1f\x7f]")

#: Files and folders of tools, not of the model: version control, caches, file managers.
TOOLS = {".git", ".hg", ".svn", ".cache", "__pycache__", ".DS_Store"}
#: What macOS and NFS add next to a file, under its name.
_TWINS = ("._", ".nfs")


def is_left_out(name: str) -> bool:
    """Whether a file or folder with this name is no part of a model: a tool's, or one of ours."""
    ours = name.lower().startswith(RESERVED) or (name.startswith(".") and name.endswith(".p2u"))
    return ours or name in TOOLS or name.startswith(_TWINS)


def is_hidden(file: str) -> bool:
    """Whether a path has a name that begins with a dot: such files are carried, never read."""
    return file.startswith(".") or "/." in file


@dataclass(slots=True)
class ModelFolder:
    """The files of a folder.

    Attributes:
        files: Path and size in bytes of each, sorted.
        left_out: Paths of what is no part of the model, sorted; those of folders end in ``/``, and
            of a folder only it itself is listed. Empty folders are left out, too.
        links: Links to files, or to folders, in the same folder: their content is there twice.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


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
            "the file name is not UTF-8",
            file=ascii(file),
            hint="Rename the file"
            if sys.getfilesystemencoding() == "utf-8"
            else "Choose a UTF-8 locale, as in LC_ALL=C.UTF-8, or rename the file",
        ) from None
    if BAD_NAME.search(name):
        raise FormatError(
            "file names must not have backslashes or control characters",
            file=ascii(file),
            hint="Rename the file",
        )


def _check_folder_link(path: str, file: str, root: str) -> None:
    """Refuse a linked folder outside the model: it could bring anything into the package."""
    if not _is_below(path, root):
        raise FormatError(
            "a link to a folder outside the model directory",
            file=file,
            hint="Replace the link by the folder's files, or remove it",
        )


def _is_below(path: str, root: str) -> bool:
    """Whether a path leads to something in a folder, through all links."""
    return os.path.commonpath([os.path.realpath(path), root]) == root


def walk_files(root: str) -> ModelFolder:
    """List the files of a directory and of the folders in it.

    Links to files are followed: Hugging Face's cache is made of them. Links to folders are followed
    inside the directory only.

    Args:
        root: The directory.

    Returns:
        Paths are relative and separated by ``/``.

    Raises:
        DiskError: A folder cannot be read or a link is broken.
        FormatError: A link leaves the directory or runs in a circle, a file is not a regular
            one, or its name cannot be kept.
    """
    walk = _Walk(os.path.realpath(root))
    walk.folder(root, "", ())
    content = walk.content
    for paths in (content.files, content.left_out, content.links):
        paths.sort()
    return content


class _Walk:
    """One walk through a directory; ``root`` is its real path."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.content = ModelFolder()

    def folder(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        """List a folder; ``above`` identifies those on the way down (device, inode)."""
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
        if not entries and prefix:
            self.content.left_out.append(prefix)
        for entry in entries:
            self._entry(entry, prefix, (*above, here))

    def _entry(
        self, entry: os.DirEntry[str], prefix: str, above: tuple[tuple[int, int], ...]
    ) -> None:
        file = prefix + entry.name
        if is_left_out(entry.name):
            is_folder = entry.is_dir(follow_symlinks=False)
            self.content.left_out.append(f"{file}/" if is_folder else file)
            return
        _check_name(entry.name, file)
        is_link = entry.is_symlink()
        status = _status(entry.path, file, is_link)
        if is_link and _is_below(entry.path, self._root):
            self.content.links.append(file)
        if stat.S_ISDIR(status.st_mode):
            if is_link:
                _check_folder_link(entry.path, file, self._root)
            self.folder(entry.path, f"{file}/", above)
        elif stat.S_ISREG(status.st_mode):
            self.content.files.append((file, status.st_size))
        else:
            raise FormatError(
                "neither a file nor a folder (a pipe, socket or device)",
                file=file,
                hint="Remove it from the model directory",
            )
