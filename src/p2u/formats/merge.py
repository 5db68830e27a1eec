"""Merge the spans of a model's files: each file's own, and those that others place in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from p2u.errors import FormatError
from p2u.types import ModelFile, Scan, TensorSpan

HINT = "The files are damaged or of different models: fetch them again"


def _collect(
    sizes: Mapping[str, int], scans: Mapping[str, Scan]
) -> dict[str, list[tuple[TensorSpan, str]]]:
    """Spans and their owners, by the file that holds them; the file's own come first."""
    found: dict[str, list[tuple[TensorSpan, str]]] = {file: [] for file in sizes}
    for owner, scan in scans.items():
        for span in scan.spans:
            if span.file not in sizes:
                raise FormatError(
                    f"its data should be in {span.file}, which is not a file of the model",
                    file=owner,
                    tensor=span.name,
                    hint="Put the file there, or fetch the model again",
                )
            if span.offset + span.length > sizes[span.file]:
                raise FormatError(
                    f"it ends at byte {span.offset + span.length} of {span.file}, "
                    f"which has {sizes[span.file]}",
                    file=owner,
                    tensor=span.name,
                    hint=HINT,
                )
            found[span.file].append((span, owner))
    for file, entries in found.items():
        entries.sort(key=lambda entry: entry[1] != file)
    return found


def _disjoint(entries: Iterable[tuple[TensorSpan, str]]) -> list[TensorSpan]:
    """Spans in order of offset; of those that name the same bytes alike only the first.

    Raises:
        FormatError: Spans overlap otherwise.
    """
    kept: list[TensorSpan] = []
    covered, last, last_owner = 0, None, ""
    # Stable: of equal ranges the file's own comes first.
    for span, owner in sorted(entries, key=lambda entry: (entry[0].offset, entry[0].length)):
        if span.offset < covered and last is not None:
            same = (span.offset, span.length, span.dtype)
            if same != (last.offset, last.length, last.dtype):
                raise FormatError(
                    f"its bytes {span.offset} to {span.offset + span.length} of {span.file} "
                    f"overlap those of tensor {last.name!r} of {last_owner}",
                    file=owner,
                    tensor=span.name,
                    hint=HINT,
                )
            continue
        kept.append(span)
        if span.length:
            covered, last, last_owner = span.offset + span.length, span, owner
    return kept


def unique_names(spans: Sequence[TensorSpan]) -> tuple[TensorSpan, ...]:
    """Give spans of one file whose name was taken before the name with ``#2``, ``#3`` ... behind.

    Args:
        spans: Of one file; the first of a name keeps it.
    """
    taken = {span.name for span in spans}
    seen: set[str] = set()
    numbers: dict[str, count[int]] = {}
    out = []
    for span in spans:
        name = span.name
        if name in seen:
            counter = numbers.setdefault(name, count(2))
            name = next(n for k in counter if (n := f"{span.name}#{k}") not in taken)
            taken.add(name)
            span = TensorSpan(name, span.dtype, span.shape, span.file, span.offset, span.length)
        seen.add(name)
        out.append(span)
    return tuple(out)


def merge(sizes: Mapping[str, int], scans: Mapping[str, Scan]) -> tuple[ModelFile, ...]:
    """Assign all spans to the files that hold them.

    Args:
        sizes: All files of the model and their sizes in bytes.
        scans: What each file of a known format says.

    Returns:
        The files in the order of ``sizes``, their spans in order of offset, disjoint, with names
        that are unique in the file.

    Raises:
        FormatError: A span lies outside of its file, in none of the files, or overlaps another
            one (naming the same bytes as the same dtype twice is fine).
    """
    found = _collect(sizes, scans)
    checks = {file: scan.checks for file, scan in scans.items()}
    return tuple(
        ModelFile(file, size, unique_names(_disjoint(found[file])), checks.get(file, ()))
        for file, size in sizes.items()
    )
