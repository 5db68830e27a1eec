"""Staging's decoder, and its limits of memory and disk: values, so that a test sets others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2u.codec import chunk as codec
from p2u.package.geometry import Span
from p2u.package.layout import Layout

#: The signature of `p2u.codec.chunk.apply_chunks`.
Decode = Callable[
    [Sequence[codec.ChunkPayload], Layout, Sequence[Span], Sequence[memoryview]], None
]


def available_memory() -> int | None:
    """Bytes that may still be used, of the machine and of this process's group; None: unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
            found.append(int(most) - used)
    except (OSError, ValueError, KeyError):
        pass
    return min(found, default=None)


@dataclass(frozen=True, slots=True)
class StagingTools:
    """Limits and functions of staging.

    Attributes:
        decode: Decodes chunks of the same rows.
        free_memory: Bytes of memory that may still be used; None where that is unknown.
        spool_memory: Bytes of payloads that a spool keeps in memory. Later payloads are written to
            a temporary file.
        spool_folder: The folder of that file; by default the system's.
    """

    decode: Decode = codec.apply_chunks
    free_memory: Callable[[], int | None] = available_memory
    spool_memory: int = 16 << 20
    spool_folder: Path | None = None

    def folder(self) -> Path:
        """The folder of temporary files."""
        return self.spool_folder or Path(tempfile.gettempdir())
