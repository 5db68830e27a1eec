"""The kinds of staging by name, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence

from p2u.client.live.staging.copied import CopiedUpdate
from p2u.client.live.staging.spooled import SpooledUpdate
from p2u.client.live.staging.staged_update import DirectUpdate, StagedUpdate
from p2u.client.transfer.bundles import Bundle
from p2u.package.geometry import all_spans
from p2u.package.layout import Layout

#: Kinds of staging by name.
STAGING: dict[str, type[StagedUpdate]] = {
    kind.name: kind for kind in (DirectUpdate, SpooledUpdate, CopiedUpdate)
}


def choose(bundles: Sequence[Bundle], layout: Layout, free: int | None) -> str:
    """``"copy"`` where half of the free memory holds all that changes, else ``"chunks"``.

    Args:
        bundles: Of the stretch.
        layout: Of the release.
        free: Bytes of memory that may still be used; None where that is unknown.
    """
    chunks = (bundle.chunks[0] for bundle in bundles)
    changed = sum(span.size for span in all_spans(chunks, layout))
    return "copy" if free is None or 2 * changed <= free else "chunks"
