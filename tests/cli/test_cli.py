"""The command line as a user meets it: a process, its words, its exit status."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import documents
import numpy as np
import pytest
from safetensors.numpy import load_file


def p2u(*args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "p2u", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
    )
    if check:
        assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory."""
    return documents.tiny(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="module")
def package(model: Path) -> Path:
    """The same, packed by the command."""
    out = p2u("pack", model, model.parent / "tiny.p2u").stdout
    assert re.search(r"base\s+[\d,]+\s+\d+\.\d+ %", out)
    assert re.search(r"exact\s+[\d,]+\s+\d+\.\d+ %.*exact", out)
    return model.parent / "tiny.p2u"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pull_by_steps_ends_with_the_publishers_bytes(
    model: Path, package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    p2u("pull", package, out, "--until", "base")
    base = load_file(out / "model.safetensors")
    original = load_file(model / "model.safetensors")
    assert not np.array_equal(base["embed.weight"], original["embed.weight"])
    assert np.array_equal(base["layer.0.bias"], original["layer.0.bias"])
    p2u("pull", package, out)
    for name in ("model.safetensors", "config.json"):
        assert sha256(out / name) == sha256(model / name)
    assert "already" in p2u("pull", package, out).stdout


@pytest.mark.parametrize(
    ("option", "states"),
    [
        ((), ["exact"]),  # a package on this machine
        (("--straight",), ["exact"]),
        (("--no-straight",), ["base", "8bit", "exact"]),
        (("--no-straight", "--check", "all"), ["base", "8bit", "exact"]),
        (("--deadline", "1m"), ["base", "8bit", "exact"]),
    ],
)
def test_the_states_that_a_pull_makes(
    model: Path, package: Path, tmp_path: Path, option: tuple[str, ...], states: list[str]
) -> None:
    said = p2u("pull", package, tmp_path / "out", *option).stderr
    assert re.findall(r"(\w+) is complete", said) == states
    assert sha256(tmp_path / "out/model.safetensors") == sha256(model / "model.safetensors")


def test_what_is_checked_is_exact_or_all(package: Path, tmp_path: Path) -> None:
    done = p2u("pull", package, tmp_path / "out", "--check", "none", check=False)
    assert done.returncode == 2 and "one of exact, all" in done.stderr


def test_any_levels(model: Path, tmp_path: Path) -> None:
    package = tmp_path / "p"
    said = p2u("pack", model, package, "--levels", "base, 6bit,8bit,10bit,exact").stdout
    assert re.findall(r"^(\w+)  .* %", said, re.MULTILINE) == [
        *("base", "6bit", "8bit", "10bit", "exact")
    ]
    p2u("pull", package, tmp_path / "out", "--until", "6bit", "--quiet")
    assert "10bit" in p2u("pull", package, tmp_path / "out", "--until", "10bit").stdout
    wrong = p2u("pack", model, tmp_path / "q", "--levels", "base,8bit,6bit,exact", check=False)
    assert wrong.returncode == 2 and "6bit is not finer than 8bit" in wrong.stderr


def test_dry_run_says_what_it_would_do_and_does_nothing(package: Path, tmp_path: Path) -> None:
    said = p2u("pull", package, tmp_path / "out", "--dry-run").stdout
    assert "base" in said and "exact" in said and "disk space" in said
    assert not (tmp_path / "out").exists()


def test_in_place(model: Path, package: Path, tmp_path: Path) -> None:
    p2u("pull", package, tmp_path / "out", "--in-place", "--quiet")
    assert sha256(tmp_path / "out/model.safetensors") == sha256(model / "model.safetensors")


def test_inspect(package: Path) -> None:
    said = p2u("inspect", package, "--tensors").stdout
    assert "embed.weight" in said and "500 x 64" in said
    tree = json.loads(p2u("inspect", package, "--tensors", "--json").stdout)
    (release,) = tree["releases"]
    assert [s["label"] for s in release["states"]] == ["base", "8bit", "exact"]
    assert {t["name"] for t in tree["tensors"]} >= {"ids", "embed.weight"}


def test_verify_finds_a_flipped_bit(package: Path, tmp_path: Path) -> None:
    p2u("verify", package)
    out = tmp_path / "out"
    p2u("pull", package, out, "--quiet")
    p2u("verify", out)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-5] ^= 4
    (out / "model.safetensors").write_bytes(data)
    done = p2u("verify", out, check=False)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("pack", "no-such-model", "x.p2u"), 1, "no-such-model"),
        (("pull", "no-such-package", "x"), 1, "no-such-package"),
        (("pull", "{package}", "x", "--until", "4bit"), 2, "4bit"),
        (("pull", "{package}", "x", "--limit-rate", "fast"), 2, "fast"),
        (("pack", "{model}", "x.p2u", "--blob-size", "big"), 2, "big"),
        (("pack", "{model}", "x.p2u", "--levels", "8bit"), 2, "base"),
        (("pack", "{model}", "x.p2u", "--budget", "tiny"), 2, "tiny"),
        (("pack", "{model}", "x.p2u", "--budget", "100B"), 2, "smallest"),
        (("pack", "{model}", "x.p2u", "--budget", "5MB", "--bits", "3"), 2, "--budget"),
        (("pack", "{model}", "x.p2u", "--tensor-bits", "layer.0.*"), 2, "layer.0.*"),
        (("pack", "{model}", "x.p2u", "--tensor-bits", "layer.9.*=4"), 2, "layer.9.*"),
        (("pack", "{model}", "x.p2u", "--keep", "tail.*"), 2, "tail.*"),
        (("pack", "{model}", "x.p2u", "--sensitivity", "{model}/config.json"), 1, "sensitivity"),
    ],
)
def test_mistakes_get_one_clear_message(
    args: tuple[str, ...], status: int, words: str, model: Path, package: Path, tmp_path: Path
) -> None:
    filled = [a.format(package=package, model=model) for a in args]
    filled = [str(tmp_path / a) if a in ("x", "x.p2u") else a for a in filled]
    done = p2u(*filled, check=False)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        *("", "pack", "publish", "gc", "clean", "inspect", "verify", "pull", "watch", "serve"),
        "torrent",
    ],
)
def test_help_has_words_and_an_example(command: str) -> None:
    said = p2u(*([command] if command else []), "--help").stdout
    assert "p2u" in said
    if command:
        assert "Example" in said


def test_serve_and_pull_over_http(model: Path, package: Path, tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "p2u", "serve", str(package), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        p2u("pull", found.group(), tmp_path / "out", "--limit-rate", "5MB/s")
    finally:
        server.terminate()
        server.wait()
    assert sha256(tmp_path / "out/model.safetensors") == sha256(model / "model.safetensors")


def test_versions(tmp_path: Path, versions) -> None:
    said = p2u("inspect", versions.package).stdout
    assert "versions: v1, v2, v3" in said
    assert "v1@exact → v2@exact" in said
    dst = tmp_path / "dst"
    p2u("pull", versions.package, dst, "--until", "v1")
    said = p2u("pull", versions.package, dst, "--dry-run").stdout
    assert "holds v1@exact, the route begins at v1@exact" in said
    other = tmp_path / "other"
    p2u("pull", versions.package, other, "--origin", dst)
    assert versions.state(other) == "v3@exact"
    said = p2u("pull", versions.package, dst, "--origin", other, "--dry-run").stdout
    assert "will be copied" in said
    broken = Path(shutil.copytree(versions.package, tmp_path / "broken"))
    (broken / versions.update("v1@exact", "v2@exact").blobs[0].key).unlink()
    done = p2u("pull", broken, dst, "--until", "v2")
    assert done.stderr.count("cannot be used") == 1
    assert versions.state(dst) == "v2@exact"
