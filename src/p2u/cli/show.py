"""Print the results of commands: as tables and sentences, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.cli.bars import human, phases, transfer
from p2u.cli.table import print_table
from p2u.cli.terminal import say, warn

if TYPE_CHECKING:
    from p2u.client.folder.pull import PullResult
    from p2u.client.folder.verify import VerifyReport
    from p2u.package.manifest import Manifest
    from p2u.packing.report import GcReport, PackReport

__all__ = ["as_json", "collected", "packed", "phases", "pulled", "states", "transfer", "verified"]


def as_json(**tree: Any) -> None:
    """Print the one JSON object that a command with ``--json`` prints."""
    print(json.dumps(tree, indent=1), flush=True)


def _quality(snr_db: float | None) -> str:
    return "exact" if snr_db is None else f"{snr_db:.1f} dB"


def states(manifest: Manifest, original: int, version: str | None = None) -> None:
    """Print the table of the states of a package, or of one of its versions."""
    rows = []
    for s in manifest.states:
        if version not in (None, s.version):
            continue
        share = f"{100 * s.bytes / original:.2f} %" if original and s.bytes is not None else ""
        size = "" if s.bytes is None else f"{s.bytes:,}"
        # Of somebody else's file nothing is known but its digest.
        known = not manifest.release(s).foreign
        about = (f"{s.bits:.2f}", _quality(s.snr_db)) if known else ("", "")
        rows.append((manifest.title(s), size, share, *about))
    print_table(("state", "bytes", "of the original", "bits/weight", "SNR"), rows)


def packed(report: PackReport, dst: str | Path, *, json: bool = False) -> None:
    """Print the result of `pack` or `publish`."""
    m = report.manifest
    if json:
        new = [u for u in m.updates if m.release(u.target).version == report.version]
        as_json(
            package=str(dst),
            name=m.name,
            version=report.version,
            unchanged=report.unchanged,
            source_bytes=report.source_bytes,
            states=[asdict(row) for row in report.states],
            updates=[{"from": u.source, "to": u.target, "bytes": m.cost(u)} for u in new],
            left_out=list(report.left_out),
            notes=list(report.notes),
        )
        return
    if report.unchanged:
        say(f"{dst}: nothing to publish, ", (report.version, "bold"), " holds the same files")
    else:
        version = f" {report.version}" if len(m.releases) > 1 else ""
        say((f"{m.name}{version}", "bold"), f": {human(report.source_bytes)} → {dst}")
        states(m, report.source_bytes, report.version)
        for update in m.updates:
            if m.crosses(update) and m.release(update.target).version == report.version:
                size = m.cost(update)
                share = 100 * size / max(1, report.source_bytes)
                say(f"from {update.source}: {size:,} bytes, {share:.2f} %")
    for note in report.notes:
        say(("note", "yellow"), f": {note}")
    if report.left_out:
        say(("left out", "yellow"), f": {', '.join(report.left_out)}")


def collected(report: GcReport, package: str, *, dry_run: bool, json: bool) -> None:
    """Print the versions that `gc` removed, or with ``dry_run`` would remove."""
    if json:
        as_json(package=str(package), dry_run=dry_run, **asdict(report))
        return
    done = "would remove" if dry_run else "removed"
    dropped = ", ".join(report.dropped) or "no version"
    say(
        f"{package}: {done} {dropped}; {report.updates} updates, {report.files} files, "
        f"{human(report.bytes)}"
    )
    say(f"kept: {', '.join(report.kept)}")


def pulled(result: PullResult, dst: Path, *, dry_run: bool, json: bool) -> None:
    """Print the result of `pull`, or with ``dry_run`` its plan."""
    if json:
        as_json(directory=str(dst), dry_run=dry_run, **asdict(result))
        return
    for text in result.warnings:
        warn(text)
    if result.plain_files is not None:
        done = f"{human(result.fetched)} in {result.seconds:.1f} s"
        say(f"{dst}: {result.plain_files} plain files, {'to fetch' if dry_run else done}")
    elif dry_run:
        _planned(result, dst)
    elif result.requests > 1:  # the manifest alone takes one
        speed = human(result.fetched / max(result.seconds, 1e-3))
        say(
            f"{dst} is ",
            (str(result.state), "bold"),
            f": {human(result.fetched)} in {result.seconds:.1f} s ({speed}/s)",
        )
    else:
        say(f"{dst} is ", (str(result.state), "bold"), " already")


def _planned(result: PullResult, dst: Path) -> None:
    plan = result.plan
    if plan is not None and plan.begin is not None and not plan.steps:
        say(f"{plan.begin} will be copied to {dst}; nothing to fetch")
        return
    if plan is None or not plan.steps:
        say(f"{dst} is ", (str(result.state), "bold"), " already: nothing to do")
        return
    begin = "" if plan.begin is None else f", the route begins at {plan.begin}"
    say(f"{dst} holds {plan.here or 'nothing'}{begin}; to fetch: {human(plan.missing)}")
    print_table(
        ("state", "bytes", "to fetch", "requests"),
        [(s.state, f"{s.bytes:,}", f"{s.missing:,}", str(s.requests)) for s in plan.steps],
    )
    say(f"disk space needed {human(plan.disk)}, free {human(plan.free)}")


def verified(report: VerifyReport, target: str, *, json: bool) -> None:
    """Print the result of `verify`."""
    if json:
        as_json(target=target, **asdict(report))
        return
    what = f"{report.chunks} chunks, " if report.chunks else ""
    decoded = ", every state decoded" if report.decoded else ""
    say(
        ("✓", "green"),
        f" {target}: {report.kind} ",
        (report.name, "bold"),
        f" ({', '.join(report.states)}): {what}{report.files} files, "
        f"{human(report.bytes)}{decoded}",
    )
