"""``p2u inspect``: show the states and tensors of a package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2u.cli.options import Json

if TYPE_CHECKING:
    from p2u.package.layout import Tensor
    from p2u.package.manifest import Manifest

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u inspect model.p2u --tensors\n\n"
    "  p2u inspect https://example.org/model.p2u --json"
)


def inspect(
    package: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="Also list the tensors.")] = False,
    as_json: Json = False,
) -> None:
    """Show the contents of a package: states, sizes, quality, tensors."""
    from p2u.cli.bars import retries_reported
    from p2u.client.transfer.package_reader import PackageReader

    reader = PackageReader(package)
    with reader.store, retries_reported():
        manifest = reader.manifest
        layout = reader.layout(manifest.latest).tensors if tensors else ()
    if as_json:
        _print_json(manifest, layout if tensors else None)
        return
    _print_package(manifest)
    if tensors:
        _print_tensors(manifest, layout)


def _original(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.latest.files)


def _print_json(manifest: Manifest, layout: tuple[Tensor, ...] | None) -> None:
    import json

    from p2u.cli import show

    tree: dict[str, Any] = json.loads(manifest.to_bytes())
    tree["original_bytes"] = _original(manifest)
    if layout is not None:
        files = manifest.latest.files
        names = ("name", "dtype", "shape", "length")
        tree["tensors"] = [
            {"file": files[t.file].path} | {name: getattr(t, name) for name in names}
            for t in layout
        ]
    show.as_json(**tree)


def _print_package(manifest: Manifest) -> None:
    from p2u.cli import show
    from p2u.cli.bars import human
    from p2u.cli.table import print_table
    from p2u.cli.terminal import say

    original = _original(manifest)
    chunks = sum(update.chunks for update in manifest.updates)
    blobs = sum(len(update.blobs) for update in manifest.updates)
    files = len(manifest.latest.files)
    say(
        (manifest.name, "bold"),
        f": {files} files, {human(original)}; {chunks} chunks in {blobs} blobs",
    )
    several = len(manifest.releases) > 1
    if several:
        delivered = ", ".join(r.version for r in manifest.releases if not r.foreign)
        foreign = ", ".join(r.version for r in manifest.releases if r.foreign)
        say(f"versions: {delivered}{'; known: ' if foreign else ''}{foreign}")
    show.states(manifest, original)
    if several:
        rows = [
            (f"{u.source or 'nothing'} → {u.target}", f"{manifest.cost(u):,}", f"{u.chunks:,}")
            for u in manifest.updates
        ]
        print_table(("update", "bytes", "chunks"), rows)


def _print_tensors(manifest: Manifest, layout: tuple[Tensor, ...]) -> None:
    """The tensors, each with its file where more than one has tensors."""
    from p2u.cli.table import print_table

    files = manifest.latest.files
    several = len({t.file for t in layout}) > 1
    rows = []
    for t in layout:
        shape = " x ".join(map(str, t.shape)) or "scalar"
        row = (t.name, t.dtype, shape, f"{t.length:,}")
        rows.append((files[t.file].path, *row) if several else row)
    heads = ("tensor", "dtype", "shape", "bytes")
    print_table(("file", *heads) if several else heads, rows, left=4 if several else 3)
