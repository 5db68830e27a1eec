"""Look up a state by its label, version or id."""

from __future__ import annotations

from p2u.errors import UsageError
from p2u.package.manifest import Manifest, Release, State


def find_state(manifest: Manifest, wanted: str, file: str | None = None) -> State:
    """The state with this id, or label in the latest release, or the last one of this version.

    Args:
        manifest: The package's.
        wanted: The name. States of foreign releases are not found: no package delivers them.
        file: The package, for the message.

    Raises:
        UsageError: There is none.
    """
    given = _delivered(manifest)
    found = {release.version: release.states[-1] for release in given}
    found |= {state.label: state for state in manifest.latest.states}
    found |= {state.id: state for release in given for state in release.states}
    if wanted in found:
        return found[wanted]
    names = ", ".join(manifest.title(state) for release in given for state in release.states)
    raise UsageError(f"the package has no state {wanted!r}; it has {names}", file=file)


def find_wanted(manifest: Manifest, wanted: str) -> State:
    """The state for a client that asks for one: as `find_state`, but never an older version's.

    Most versions have no base of their own. If the latest one lacks a label that an earlier version
    has, the state is the next better one of the latest version.

    Raises:
        UsageError: No version has such a state.
    """
    try:
        return find_state(manifest, wanted)
    except UsageError:
        own = {state.label: state for state in manifest.latest.states}
        for release in reversed(_delivered(manifest)):
            labels = [state.label for state in release.states]
            if wanted in labels:
                better = labels[labels.index(wanted) + 1 :]
                found = (own[label] for label in better if label in own)
                return next(found, manifest.latest.states[-1])
        raise


def _delivered(manifest: Manifest) -> list[Release]:
    return [release for release in manifest.releases if not release.foreign]
