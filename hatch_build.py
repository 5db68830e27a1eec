"""Build hook: compiles the Rust core with cargo and puts the library into the package.

A wheel gets it straight from cargo's target directory. An editable install gets a copy in the
source tree (``src/p2u/_core/``, git-ignored), because there the source tree is what is imported.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE_DIR = "p2u/_core"


def find_cargo() -> str:
    """Return cargo's path: ``$CARGO``, the ``PATH``, or where rustup puts it.

    Raises:
        SystemExit: There is no cargo.
    """
    at_home = Path.home() / ".cargo" / "bin" / ("cargo.exe" if os.name == "nt" else "cargo")
    cargo = os.environ.get("CARGO") or shutil.which("cargo")
    if cargo:
        return cargo
    if at_home.is_file():
        return str(at_home)
    raise SystemExit(
        "p2u-models: building needs Rust's `cargo`, which is not on the PATH. "
        "Install it from https://rustup.rs or your system's packages (Debian: "
        "`apt-get install cargo`), version 1.63 or newer, and run the same command again."
    )


def build_core(root: Path) -> Path:
    """Compile ``core/`` in release mode.

    Args:
        root: The project's root.

    Returns:
        The shared library, wherever cargo was told to put it (``CARGO_TARGET_DIR``,
        ``CARGO_BUILD_TARGET``, a cargo configuration file).

    Raises:
        SystemExit: cargo is missing or failed, or made no shared library.
    """
    command = [
        find_cargo(),
        "build",
        "--release",
        "--lib",
        "--offline",  # there are no dependencies to fetch
        "--manifest-path",
        str(root / "core" / "Cargo.toml"),
        "--message-format=json-render-diagnostics",
    ]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"p2u-models: cargo could not build the core (exit {done.returncode}); its messages "
            "are above. Rust 1.63 or newer is needed."
        )
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact":
            continue
        if message["target"]["name"] != "p2u_core":
            continue
        for name in message["filenames"]:
            if Path(name).suffix in {".so", ".dylib", ".dll"}:
                return Path(name)
    raise SystemExit("p2u-models: cargo built no shared library; core/Cargo.toml needs a cdylib.")


def platform_tag() -> str:
    """Return the wheel's platform tag for a library that cargo built on this machine.

    ``MACOSX_DEPLOYMENT_TARGET`` is honoured as rustc honours it; the defaults are rustc's own.
    """
    if sys.platform == "darwin":
        machine = platform.machine()
        oldest = os.environ.get("MACOSX_DEPLOYMENT_TARGET")
        oldest = oldest or ("11.0" if machine == "arm64" else "10.12")
        major, minor = [*oldest.split("."), "0"][:2]
        return f"macosx_{major}_{minor}_{machine}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def copy_atomically(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` by rename: a process may have the old library mapped."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        shutil.copy(source, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class CoreBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook for the wheel target."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the core before the wheel's files are collected.

        Args:
            version: ``"standard"`` or ``"editable"``.
            build_data: What hatchling asks for; the tag and the extra file are set here.
        """
        root = Path(self.root)
        library = build_core(root)
        build_data["pure_python"] = False
        # The core has a C ABI and is loaded with ctypes, so one wheel fits every Python 3.
        build_data["tag"] = f"py3-none-{platform_tag()}"
        if version == "editable":
            copy_atomically(library, root / "src" / PACKAGE_DIR / library.name)
        else:
            build_data["force_include"][str(library)] = f"{PACKAGE_DIR}/{library.name}"
