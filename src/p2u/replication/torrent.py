"""A torrent of a package, by the library libtorrent: hybrid (BEP 52), with web seeds (BEP 19).

BEP 52 puts the files of a hybrid torrent into the order of their names; a client fetches those of
the base first if they are chosen first. In a torrent of version 1 they come first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from p2u.disk.durable import replace_file
from p2u.disk.errors import disk_errors
from p2u.errors import FormatError, UnsupportedError, UsageError
from p2u.package.keys import keys_to, sizes
from p2u.package.manifest import MAX_MANIFEST
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.stores.local import LocalStore

#: Ends the name of a torrent.
SUFFIX = ".torrent"


@dataclass(frozen=True, slots=True)
class TorrentResult:
    """The result of `torrent`.

    Attributes:
        path: The torrent.
        magnet: Its link.
        sha1: Info-hash of version 1, in hex.
        sha256: Info-hash of version 2, in hex; None of a torrent without.
        piece: Bytes of a piece.
        base: Files of the base, by their numbers in the torrent, from 1 as clients count them.
        base_end: Bytes after which a client that fetches in order has the base.
        bytes: Of all pieces.
    """

    path: str
    magnet: str
    sha1: str
    sha256: str | None
    piece: int
    base: tuple[int, ...]
    base_end: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TorrentProgress:
    """How far a torrent has come.

    Attributes:
        phase: ``"hash"``.
        done: Bytes that are hashed.
        total: Bytes of all pieces.
    """

    phase: str
    done: int
    total: int


def torrent(
    package: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    web_seed: Sequence[str] = (),
    tracker: Sequence[str] = (),
    v1: bool = False,
    progress: Callable[[TorrentProgress], None] | None = None,
) -> TorrentResult:
    """Write a torrent of all files that the manifest of a package names.

    Args:
        package: Its folder; its name is that of the torrent.
        out: The torrent; None: next to the folder, ``minilm.p2u.torrent``.
        web_seed: URLs of the same package on web servers, as `p2u pull` takes them.
        tracker: URLs to announce to.
        v1: Of version 1 only, for clients that cannot read hybrid ones.
        progress: Called as files are hashed.

    Raises:
        UsageError: A URL is none, or ends in another name than the folder's.
        UnsupportedError: libtorrent is not installed.
        FormatError: An object has another size than the manifest states.
        NotFoundError, DiskError: The package is not complete, or the torrent cannot be written.
    """
    folder = Path(os.path.realpath(package))
    seeds = [_parent_url(url, folder.name) for url in web_seed]
    for url in tracker:
        _check_url(url, ("http", "https", "udp", "ws", "wss"))
    libtorrent = _library()
    store = LocalStore(folder)
    data = store.read(MANIFEST_KEY, limit=MAX_MANIFEST)
    manifest = parse_manifest(data)
    files = {MANIFEST_KEY: len(data), **sizes(manifest)}
    for key, size in files.items():
        _check_size(store.locate(key), size)
    base = [MANIFEST_KEY, *keys_to(manifest, manifest.latest.states[0])]
    exact = keys_to(manifest, manifest.latest.states[-1])
    order = list(dict.fromkeys([*base, *exact, *sorted(files)]))
    if not v1:
        order.sort(key=lambda key: key.encode().split(b"/"))
    entries = [libtorrent.create_file_entry(f"{folder.name}/{key}", files[key]) for key in order]
    flags = libtorrent.create_torrent.v1_only if v1 else 0
    made = libtorrent.create_torrent(entries, flags=flags)
    made.set_creator("P2U")
    for url in tracker:
        made.add_tracker(url)
    for url in seeds:
        made.add_url_seed(url)
    with disk_errors(folder, "read"):
        _hash(libtorrent, made, folder, progress)
    data = libtorrent.bencode(made.generate())
    path = Path(out) if out is not None else folder.with_name(folder.name + SUFFIX)
    with disk_errors(path):
        replace_file(path, data)
    return _result(libtorrent, path, data, order, base)


def _result(
    libtorrent: Any, path: Path, data: bytes, order: Sequence[str], base: Sequence[str]
) -> TorrentResult:
    """What a torrent says of itself, as its readers see it."""
    info = libtorrent.bdecode(data)[b"info"]
    ends: dict[str, tuple[int, int]] = {}
    at = 0
    for number, entry in enumerate(info[b"files"], start=1):
        at += entry[b"length"]
        if b"p" not in entry.get(b"attr", b""):  # bytes up to the next piece are no file
            ends["/".join(part.decode() for part in entry[b"path"])] = number, at
    assert list(ends) == list(order), "libtorrent has put the files into another order"
    found = libtorrent.load_torrent_buffer(data)
    return TorrentResult(
        str(path),
        libtorrent.make_magnet_uri(found),
        str(found.info_hashes.v1),
        str(found.info_hashes.v2) if found.info_hashes.has_v2() else None,
        info[b"piece length"],
        tuple(sorted(ends[key][0] for key in base)),
        max(ends[key][1] for key in base),
        at,
    )


def _hash(
    libtorrent: Any, made: Any, folder: Path, progress: Callable[[TorrentProgress], None] | None
) -> None:
    size, total = made.piece_length(), made.num_pieces()

    def piece(number: int) -> None:
        if progress is not None:
            progress(TorrentProgress("hash", size * (number + 1), size * total))

    try:
        libtorrent.set_piece_hashes(made, str(folder.parent), piece)
    except RuntimeError as error:  # the library's way to say that it cannot read a file
        raise OSError(str(error)) from error


def _check_size(path: Path, size: int) -> None:
    with disk_errors(path, "read"):
        found = path.stat().st_size
    if found != size:
        raise FormatError(
            f"has {found} bytes, expected {size}",
            file=str(path),
            hint="Check the package with `p2u verify`",
        )


def _parent_url(url: str, name: str) -> str:
    """The folder of a package's URL, to which clients append the torrent's name and a file's."""
    _check_url(url, ("http", "https"))
    parts = urlsplit(url)
    path = parts.path.removesuffix(f"/{MANIFEST_KEY}").rstrip("/")
    before, _, last = path.rpartition("/")
    if unquote(last) != name:
        raise UsageError(
            f"ends in {unquote(last)!r}, and the package's folder is {name!r}; clients need one "
            "name for both",
            file=url,
            hint="Rename the folder here or there",
        )
    return f"{parts.scheme}://{parts.netloc}{quote(before, safe='/%')}/"


def _check_url(url: str, schemes: Sequence[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.netloc or "@" in parts.netloc:
        raise UsageError(
            f"not a URL of {', '.join(schemes)}, without credentials, as everybody reads a torrent",
            file=url.split("?")[0].split("@")[-1],
        )
    if parts.query and schemes == ("http", "https"):
        raise UsageError("a web seed's URL has no query", file=url.split("?")[0])


def _library() -> Any:
    try:
        import libtorrent
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "p2u torrent needs the library libtorrent, which is not installed",
            hint="Install it: pip install 'p2u-models[torrent]', in a clone '.[torrent]'",
        ) from error
    return libtorrent
