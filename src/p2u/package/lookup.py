"""Look up a state by its label, version or id."""

from __future__ import annotations

from p2u.errors import UsageError
from p2u.package.manifest import Manifest, State


def find_state(manifest: Manifest, wanted: str, file: str | None = None) -> State:
    """The state with this id, or label in the latest release, or the last one of this version.

    Args:
        manifest: The package's.
        wanted: The name. States of foreign releases are not found: no package delivers them.
        file: The package, for the message.

    Raises:
        UsageError: There is none.
    """
    given = [release for release in manifest.releases if not release.foreign]
    found = {release.version: release.states[-1] for release in given}
    found |= {state.label: state for state in manifest.latest.states}
    found |= {state.id: state for release in given for state in release.states}
    if wanted in found:
        return found[wanted]
    names = ", ".join(manifest.title(state) for release in given for state in release.states)
    raise UsageError(f"the package has no state {wanted!r}; it has {names}", file=file)
