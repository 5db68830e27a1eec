"""Reads and writes the manifest of a package on disk."""

from __future__ import annotations

from pathlib import Path

from p2u.package.manifest import Manifest, with_costs
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY


def manifest_of(package: Path) -> Manifest:
    """The manifest of a package."""
    return parse_manifest((package / MANIFEST_KEY).read_bytes())


def write_manifest(package: Path, manifest: Manifest) -> None:
    """Put a valid manifest into place in one step, with the costs of its states."""
    manifest = with_costs(manifest)
    data = manifest.to_bytes()
    assert parse_manifest(data) == manifest
    part = package / f"{MANIFEST_KEY}.part"
    part.write_bytes(data)
    part.replace(package / MANIFEST_KEY)
