"""Real transfers for a report: models over lines, finished ones kept like cells."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.errors import P2UError
from p2u_lab.cells import CellStore, write_whole
from p2u_lab.run import p2u_version, why

if TYPE_CHECKING:
    from p2u_lab.base import Report
    from p2u_lab.network.offer import Offer
    from p2u_lab.network.spec import LinkSpec
    from p2u_lab.network.transfers import TransferResult

#: Goes up when what is measured changes.
VERSION = 1


def lines(bandwidth: Sequence[float], rtt: Sequence[float]) -> list[LinkSpec]:
    """A line for each rate (Mbit/s) and round trip (ms)."""
    from p2u_lab.network.spec import LinkSpec

    return [LinkSpec(rate, delay) for rate in bandwidth for delay in rtt]


def rows(
    model: str, original: int, bits: float, found: TransferResult, digest: str
) -> list[dict[str, Any]]:
    """A transfer as rows: one per state.

    Args:
        model: Its name.
        original: Bytes of its files.
        bits: Of P2U's base.
        found: The transfer.
        digest: Of the model's files.
    """
    spec = found.link
    return [
        {
            "model": model,
            "files": digest,
            "link": spec.name,
            "mbit": spec.mbit,
            "rtt_ms": spec.rtt_ms,
            "jitter_ms": spec.jitter_ms,
            "loss": spec.loss,
            "lte_seed": spec.lte_seed,
            "congestion": found.congestion,
            "method": found.method,
            "bits": bits if found.method == "p2u" else None,
            "state": state.label,
            "bytes": state.bytes,
            "percent": 100 * state.bytes / original,
            "asked": found.asked,
            "arrived": state.arrived,
            "usable": state.usable,
            "analytic": state.analytic,
            "error": state.error,
            "goodput": found.goodput,
            "peak_rss": found.peak_rss,
        }
        for state in found.states
    ]


class Transfers:
    """Transfers of models; what fails is noted.

    Args:
        store: Where finished ones are kept.
        report: Told what is being done.

    Attributes:
        rows: Of all states of all transfers.
        skipped: ``(model, reason)`` of what could not be measured.
    """

    def __init__(self, store: CellStore, report: Report) -> None:
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[tuple[str, str]] = []
        self._store = store
        self._report = report
        self._p2u = p2u_version()

    def measure(
        self, model: str, folder: Path, digest: str, specs: Sequence[LinkSpec], bits: float
    ) -> None:
        """Transfer a model by all methods over all lines.

        Args:
            model: Name.
            folder: Its files.
            digest: Of its files.
            specs: The lines.
            bits: Of P2U's base.
        """
        missing = []
        for spec in specs:
            known = self._load(digest, spec, bits)
            if known is None:
                missing.append(spec)
            else:
                self.rows += known
        if not missing:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="p2u-eval-") as work:
                self._transfer(model, folder, digest, missing, bits, Path(work))
        except (P2UError, OSError) as error:
            self.skipped.append((model, why(error)[1]))

    def _transfer(
        self, model: str, folder: Path, digest: str, specs: Sequence[LinkSpec], bits: float,
        work: Path,
    ) -> None:  # fmt: skip
        from p2u_lab.network.link import check_support
        from p2u_lab.network.offer import prepare
        from p2u_lab.network.transfers import transfer

        check_support()
        self._report(f"{model}: packing for transfers", 0, 0)
        offer: Offer
        offer, left_out = prepare(folder, work, bits=bits)
        self.skipped += [(model, f"{method}: {text}") for method, text in left_out.items()]
        for at, spec in enumerate(specs):
            self._report(f"{model} over {spec.name}", at, len(specs))
            found = [
                row
                for result in transfer(offer, spec)
                for row in rows(model, offer.original, bits, result, digest)
            ]
            write_whole(self._path(digest, spec, bits), json.dumps(found).encode())
            self.rows += found

    def _path(self, digest: str, spec: LinkSpec, bits: float) -> Path:
        key = json.dumps([digest, asdict(spec), bits, self._p2u, VERSION], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._store.root / "transfers" / f"{name}.json"

    def _load(self, digest: str, spec: LinkSpec, bits: float) -> list[dict[str, Any]] | None:
        try:
            found: list[dict[str, Any]] = json.loads(self._path(digest, spec, bits).read_bytes())
        except (OSError, ValueError):
            return None
        return found
