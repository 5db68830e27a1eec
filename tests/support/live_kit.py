"""Opens live models whose staging has limits and functions of the test's own."""

from __future__ import annotations

from pathlib import Path

from p2u.client.live.plan import LivePlan
from p2u.client.live.replica import Replica
from p2u.client.live.staging.tools import StagingTools
from p2u.client.transfer.options import TransferOptions
from p2u.codec.chunk import apply_chunks


def open_with(
    source: str | Path, *, staging: str = "chunks", mode: str = "atomic", follow=None,
    check="exact", jobs=None, limit_rate=None, retry=None, straight=None, **tools,
) -> Replica:  # fmt: skip
    """``p2u.open``; the other arguments are fields of `StagingTools`."""
    plan = LivePlan(
        mode=mode, staging=staging, check=check, follow=follow, tools=StagingTools(**tools),
        transfer=TransferOptions(
            jobs=jobs, limit_rate=limit_rate, retry=retry, straight=straight
        ),
    )  # fmt: skip
    return Replica(source, plan)


def flips_a_bit(prefix: str = ""):
    """A decoder that is faulty for the blobs whose key begins with a prefix."""

    def faulty(chunks, layout, spans, buffers):
        for c in chunks:
            apply_chunks([c], layout, spans, buffers)
            if c.key.startswith(prefix):
                buffers[0][0] ^= 1

    return faulty
