"""Claims: one process fetches, the others wait; nobody waits for the dead."""

from __future__ import annotations

import os
import time
from pathlib import Path

from p2u.cache.claims import STALE, Claims


def test_one_of_two_processes_has_the_claim(tmp_path: Path) -> None:
    one, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert one.take("a") and one.take("a"), "its own claim is no other's"
    assert not other.take("a") and other.take("b")
    one.release("a")
    assert other.take("a") and not one.take("a")
    other.release_all()
    assert one.take("a") and one.take("b")


def test_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    dead, alive = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert dead.take("a")
    then = time.time() - STALE - 1
    os.utime(tmp_path / "claims" / "a", (then, then))
    assert alive.take("a")


def test_a_claim_whose_bytes_arrive_stays_fresh(tmp_path: Path) -> None:
    slow, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert slow.take("a")
    os.utime(tmp_path / "claims" / "a", (1, 1))
    slow._held["a"] -= 10
    slow.renew(["a", "not ours"])
    assert not other.take("a")


def test_without_a_folder_everybody_fetches(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    one, other = Claims(tmp_path / "file" / "x"), Claims(tmp_path / "file" / "x")
    assert one.take("a") and other.take("a")
    one.release("a")
