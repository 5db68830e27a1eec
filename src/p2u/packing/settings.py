"""The settings of one run of packing, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2u.errors import UsageError
from p2u.package.manifest import MAX_NAME
from p2u.package.strict_json import is_text
from p2u.packing.recipe import LEVELS, Recipe
from p2u.packing.report import PackProgress
from p2u.processors import processors

#: Bytes; static hosts tend to allow 25 MiB per file.
BLOB_SIZE = 24 << 20
#: Most elements per chunk; tables cost little compared with this many, and it fits a thread's
#: memory.
CHUNK_ELEMENTS = 1 << 20
#: Steps; far below, no weight leaves its bin any more.
MOST_THRIFT = 16
#: The engine of threads in this process, whose workers are `PackSettings.jobs`.
LOCAL = "local"
#: The names that versions can have.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine does the work.

    Attributes:
        name: Of the table `p2u.packing.engines.choice.ENGINES`.
        workers: How many workers it has; None for as many as there are processors.
        address: Of the cluster where they are; None to start them on this machine.
    """

    name: str = LOCAL
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class PackSettings:
    """See `p2u.pack`.

    Attributes:
        replace: Whether a package that is in the way gives way.
        force: Whether doubts about the model are ignored: that it is not exact, not related to the
            parent, or the same.
        chunk_elements: Most elements of a chunk.
    """

    recipe: Recipe
    levels: tuple[str, ...]
    jobs: int
    blob_size: int
    name: str | None
    progress: Callable[[PackProgress], None] | None
    calibration: str | None
    thrift: float
    version: str | None
    replace: bool
    force: bool
    chunk_elements: int
    engine: EngineChoice = field(default_factory=EngineChoice)


def make_settings(
    recipe: Recipe | None = None,
    *,
    levels: Sequence[str] = LEVELS,
    jobs: int | None = None,
    blob_size: int = BLOB_SIZE,
    name: str | None = None,
    progress: Callable[[PackProgress], None] | None = None,
    calibration: str | Path | None = None,
    thrift: float = 0.2,
    version: str | None = None,
    replace: bool = False,
    force: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
    engine: str = LOCAL,
    workers: int | None = None,
    ray_address: str | None = None,
) -> PackSettings:
    """Settings for one run; see `p2u.pack` and `PackSettings`.

    Raises:
        UsageError: A value is not valid.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}", hint="Use 1 or more")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}", hint="Use 1 or more")
    if engine == LOCAL and (workers, ray_address) != (None, None):
        raise UsageError(
            "workers and a Ray address belong to the engine ray",
            hint="Choose it with --engine ray; the threads of the engine local are --jobs",
        )
    if blob_size < 1:
        raise UsageError(f"the blob size is {blob_size} bytes", hint="Use 1 or more")
    if not 0 <= thrift <= MOST_THRIFT:
        raise UsageError(f"thrift is {thrift:g}", hint=f"Choose from 0 to {MOST_THRIFT}")
    if name is not None and not (is_text(name) and len(name) <= MAX_NAME):
        raise UsageError(f"a name must be text of at most {MAX_NAME} characters")
    if version is not None and not LABEL.match(version):
        raise UsageError(
            f"{version[:80]!r} cannot be a version's name",
            hint="Use at most 64 letters, digits and ._+-, a letter or digit first",
        )
    return PackSettings(
        recipe or Recipe(),
        tuple(levels),
        jobs or processors(),
        blob_size,
        name,
        progress,
        None if calibration is None else os.fspath(calibration),
        float(thrift),
        version,
        replace,
        force,
        chunk_elements,
        EngineChoice(engine, workers, ray_address),
    )
