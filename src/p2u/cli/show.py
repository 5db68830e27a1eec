"""Print the results of commands as tables and sentences."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from p2u.cli.bars import human, phases, transfer

if TYPE_CHECKING:
    from p2u.client.folder.pull import PullResult
    from p2u.client.folder.verify import VerifyReport
    from p2u.package.manifest import Manifest
    from p2u.packing.report import GcReport, PackReport

__all__ = ["collected", "inspect", "packed", "phases", "pulled", "transfer", "verified"]

_console = Console(highlight=False)


def _quality(snr_db: float | None) -> str:
    return "exact" if snr_db is None else f"{snr_db:.1f} dB"


def _states(manifest: Manifest, original: int, version: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("state", style="bold")
    for name in ("bytes", "of the original", "bits/weight", "SNR"):
        table.add_column(name, justify="right")
    for s in manifest.states:
        if version not in (None, s.version):
            continue
        share = f"{100 * s.bytes / original:.2f} %" if original and s.bytes is not None else ""
        size = "" if s.bytes is None else f"{s.bytes:,}"
        # Of somebody else's file nothing is known but its digest.
        known = not manifest.release(s).foreign
        about = (f"{s.bits:.2f}", _quality(s.snr_db)) if known else ("", "")
        table.add_row(manifest.title(s), size, share, *about)
    return table


def _updates(manifest: Manifest) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("update", style="bold")
    for name in ("bytes", "chunks"):
        table.add_column(name, justify="right")
    for u in manifest.updates:
        cost = f"{manifest.cost(u):,}"
        table.add_row(f"{u.source or 'nothing'} → {u.target}", cost, f"{u.chunks:,}")
    return table


def _warn(warnings: Iterable[str]) -> None:
    for text in warnings:
        print(f"p2u: {text}", file=sys.stderr)


def packed(report: PackReport, dst: Path) -> None:
    """Print the result of `pack` or `publish`."""
    m = report.manifest
    version = f" {report.version}" if len(m.releases) > 1 else ""
    _console.print(f"[bold]{m.name}{version}[/]: {human(report.source_bytes)} → {dst}")
    _console.print(_states(m, report.source_bytes, report.version))
    for update in m.updates:
        if m.crosses(update) and m.release(update.target).version == report.version:
            size = m.cost(update)
            share = 100 * size / max(1, report.source_bytes)
            _console.print(f"from {update.source}: {size:,} bytes, {share:.2f} %")
    for note in report.notes:
        _console.print(f"[yellow]note[/]: {note}", soft_wrap=True)


def collected(report: GcReport, package: Path, *, dry_run: bool) -> None:
    """Print the versions that `gc` removed, or with ``dry_run`` would remove."""
    done = "would remove" if dry_run else "removed"
    dropped = ", ".join(report.dropped) or "no version"
    _console.print(
        f"{package}: {done} {dropped}; {report.updates} updates, {report.files} files, "
        f"{human(report.bytes)}"
    )
    _console.print(f"kept: {', '.join(report.kept)}")


def inspect(source: str, *, tensors: bool, as_json: bool) -> None:
    """Print the manifest, and on request the layout, of a package."""
    from p2u.client.transfer.package_reader import PackageReader

    package = PackageReader(source)
    with package.store:
        m = package.manifest
        layout = package.layout(m.latest).tensors if tensors else ()
    original = sum(f.size for f in m.latest.files)
    if as_json:
        tree: dict[str, Any] = json.loads(m.to_bytes())
        tree["original_bytes"] = original
        if tensors:
            names = ("name", "dtype", "shape", "length")
            tree["tensors"] = [{n: getattr(t, n) for n in names} for t in layout]
        print(json.dumps(tree, indent=1))
        return
    chunks = sum(u.chunks for u in m.updates)
    blobs = sum(len(u.blobs) for u in m.updates)
    _console.print(
        f"[bold]{m.name}[/]: {len(m.latest.files)} files, {human(original)}; "
        f"{chunks} chunks in {blobs} blobs"
    )
    foreign = [release.version for release in m.releases if release.foreign]
    if len(m.releases) > 1:
        versions = ", ".join(r.version for r in m.releases if not r.foreign)
        known = f"; known: {', '.join(foreign)}" if foreign else ""
        _console.print(f"versions: {versions}{known}")
    _console.print(_states(m, original))
    if len(m.releases) > 1:
        _console.print(_updates(m))
    if tensors:
        table = Table(box=None, pad_edge=False)
        for name, justify in (
            ("tensor", "left"),
            ("dtype", "left"),
            ("shape", "left"),
            ("bytes", "right"),
        ):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for t in layout:
            table.add_row(
                t.name, t.dtype, " x ".join(map(str, t.shape)) or "scalar", f"{t.length:,}"
            )
        _console.print(table)


def pulled(result: PullResult, dst: Path, *, dry_run: bool) -> None:
    """Print the result of `pull`, or with ``dry_run`` its plan."""
    _warn(result.warnings)
    if not dry_run:
        # The manifest alone takes one request.
        if result.requests > 1:
            speed = human(result.fetched / max(result.seconds, 1e-3))
            _console.print(
                f"{dst} is [bold]{result.state}[/]: "
                f"{human(result.fetched)} in {result.seconds:.1f} s ({speed}/s)"
            )
        else:
            _console.print(f"{dst} is [bold]{result.state}[/] already")
        return
    plan = result.plan
    if plan is not None and plan.begin is not None and not plan.steps:
        _console.print(f"{plan.begin} will be copied to {dst}; nothing to fetch")
        return
    if plan is None or not plan.steps:
        _console.print(f"{dst} is [bold]{result.state}[/] already: nothing to do")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("state", style="bold")
    for name in ("bytes", "to fetch", "requests"):
        table.add_column(name, justify="right")
    for step in plan.steps:
        table.add_row(step.state, f"{step.bytes:,}", f"{step.missing:,}", str(step.requests))
    begin = "" if plan.begin is None else f", the route begins at {plan.begin}"
    _console.print(f"{dst} holds {plan.here or 'nothing'}{begin}; to fetch: {human(plan.missing)}")
    _console.print(table)
    _console.print(f"disk space needed {human(plan.disk)}, free {human(plan.free)}")


def verified(report: VerifyReport, target: str) -> None:
    """Print the result of `verify`."""
    what = f"{report.chunks} chunks, " if report.chunks else ""
    decoded = ", every state decoded" if report.decoded else ""
    _console.print(
        f"[green]✓[/] {target}: {report.kind} [bold]{report.name}[/] ({', '.join(report.states)}): "
        f"{what}{report.files} files, {human(report.bytes)}{decoded}"
    )
