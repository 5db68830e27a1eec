"""Compute the disk space that a route needs."""

from __future__ import annotations

from collections.abc import Sequence

from p2u.client.routes.stretches import Stretch
from p2u.package.manifest import FileEntry, Manifest, changed_files

#: Bytes of free space that are left alone: state file, journal, folders.
SLACK = 2 << 20


def changed_by(manifest: Manifest, stretch: Stretch) -> list[FileEntry]:
    """The target's files that a stretch makes anew."""
    files = manifest.release(stretch.target).files
    numbers: set[int] = set()
    for update in stretch.updates:
        numbers.update(changed_files(manifest, update))
    return [files[number] for number in sorted(numbers)]


def most_bytes(
    manifest: Manifest,
    planned: Sequence[tuple[Stretch, int | None, bool]],
    *,
    there: bool,
    allocated: int,
) -> int:
    """Most bytes that stretches take on the disk at any moment, beyond those taken now.

    Args:
        manifest: The package.
        planned: The stretches in order; for each, the decoded bytes of its largest chunk if it is
            made in place, else None; and whether it begins at the target's own files or at nothing.
        there: Whether the target holds a state now.
        allocated: Bytes that an earlier run has taken for the first stretch.
    """
    taken = peak = 0
    for stretch, largest, own in planned:
        files = manifest.release(stretch.target).files
        size = sum(file.size for file in (changed_by(manifest, stretch) if own else files))
        if largest is not None:
            peak = max(peak, taken + min(size, largest))
            continue
        peak = max(peak, taken + size)
        # The former files go when the new ones are in their place.
        taken += size - (_replaced(manifest, stretch, size) if there else 0)
        there = True
    objects = sum(manifest.cost(u) - u.bytes for stretch, *_ in planned for u in stretch.updates)
    return max(0, peak - allocated) + objects + SLACK


def _replaced(manifest: Manifest, stretch: Stretch, size: int) -> int:
    """Bytes of the files that a stretch replaces, as far as it is known."""
    if stretch.source is None:
        return size
    release = manifest.release(stretch.target)
    number = release.number(stretch.target)
    kept = {(f.path, f.size, f.digest(number)) for f in release.files}
    before = manifest.release(stretch.source)
    number = before.number(stretch.source)
    return sum(f.size for f in before.files if (f.path, f.size, f.digest(number)) not in kept)
