"""Name versions after a trainer's steps: ``step120``, and ``step120.1`` for a repeated step."""

from __future__ import annotations

import re

from p2u.package.manifest import Manifest

_NAME = re.compile(r"step(\d{1,18})(?:\.\d+)?\Z")


def version_name(step: int, manifest: Manifest | None) -> str:
    """A name for a step that no version has yet."""
    names = {release.version for release in manifest.releases} if manifest else set()
    name, again = f"step{step}", 0
    while name in names:
        again += 1
        name = f"step{step}.{again}"
    return name


def step_of(version: str) -> int | None:
    """The step that a version's name says; None if it was named otherwise."""
    match = _NAME.match(version)
    return int(match[1]) if match else None
