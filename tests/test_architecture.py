"""The rules of the house: who imports whom, what ``import p2u`` costs, what is committed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "p2u"

#: Folder = layer, from the ground up. A file may import its own folder and the lines above its
#: own line, never a neighbour on the same line.
LAYERS = (
    ("errors", "types", "processors", "version", "_lazy"),
    ("units",),
    ("one_process",),
    ("disk", "package", "names"),
    ("codec", "formats", "stores"),
    ("cache",),
    ("client.transfer", "replication", "serve"),
    ("client.routes",),
    ("client.folder", "client.live"),
    ("packing.report", "packing.recipe"),
    ("packing.settings", "packing.pulled"),
    ("packing.chunking",),
    ("packing.engines",),
    ("packing.rounding",),
    ("packing.levels",),
    ("packing.allocation", "packing.package_folder"),
    ("packing.package_store",),
    ("packing.packer",),
    ("packing.versions",),
    ("packing.publish",),
    ("packing.api",),
    ("adapters",),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

#: The two sides, which share what is below both and never import each other.
SIDES = ("client", "packing")

#: Who may use ctypes: the binding of the core, and calls that Python lacks.
CTYPES = {"codec", "disk"}

#: Libraries that only the file of one adapter may import.
ADAPTERS = {
    *("torch", "vllm", "verl", "trl", "onnx", "onnxruntime", "flwr", "ray"),
    *("boto3", "botocore", "tensorflow", "jax"),
}
#: Libraries that ``import p2u`` must not load.
HEAVY = ADAPTERS | {
    *("numpy", "ml_dtypes", "zstandard", "urllib3", "httpx", "obstore", "typer", "click", "rich"),
    *("werkzeug", "safetensors", "transformers", "tokenizers", "asyncio", "ctypes"),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Each module's name below ``p2u`` (``stores.http``) and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield ".".join(parts), path


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[str, int, bool]]:
    """``(absolute name, line, when imported)`` of all imports of a file, lazy ones included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(ast.walk(tree))
    for node in ast.walk(tree):
        types_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if types_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            top -= set(ast.walk(node))
    package = list(path.relative_to(root / "src").parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package[: len(package) - node.level + 1]
                base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from p2u import pack` imports p2u.pack, `from p2u.types import X` p2u.types
                yield f"{base}.{alias.name}", node.lineno, node in top


def room(name: str) -> str:
    """The line of ``LAYERS`` that a name below ``p2u`` stands on (``stores.http`` -> stores)."""
    parts = name.split(".")
    two = ".".join(parts[:2])
    return two if two in FLOOR else (parts[0] or "__init__")


def violations(name: str, path: Path, root: Path = ROOT) -> Iterator[str]:
    """The import rules that a file breaks, one line each."""
    own = room(name)
    for target, line, _ in imports(path, root):
        where = f"{path.relative_to(root)}:{line}: {own} imports {target}"
        library = target.split(".")[0]
        if library == "ctypes" and own not in CTYPES:
            yield f"{where}; only codec and disk may use ctypes"
        if library in ADAPTERS and own != "adapters":
            yield f"{where}; that belongs in one file of p2u/adapters"
        if library != "p2u":
            continue
        other = room(target.partition(".")[2])
        if other == own:
            continue
        if other not in FLOOR:
            # `from p2u import __version__`: a name of the package itself
            yield f"{where}; lower layers may not import the package's public names"
        elif {own.split(".")[0], other.split(".")[0]} == set(SIDES):
            yield f"{where}, which belongs to the other side"
        elif FLOOR[other] > FLOOR[own]:
            yield f"{where}, which is of a higher layer"
        elif FLOOR[other] == FLOOR[own]:
            yield f"{where}, which is a neighbour"


def test_every_module_has_a_layer() -> None:
    rooms = {room(name) for name, _ in modules()}
    # A folder whose parts stand on lines of their own has nothing else in it.
    rooms -= {"client", "packing"}
    assert not rooms - set(FLOOR), "give each new folder a line in LAYERS"
    assert not set(FLOOR) - rooms, "LAYERS names what is not there"


def test_the_guide_names_every_folder() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in guide.splitlines() if line.startswith("  | `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {room.split(".")[0] for room in FLOOR} - {"__init__", "__main__"}


def test_imports_follow_the_layers() -> None:
    broken = [
        text
        for name, path in modules()
        if name != "__init__"  # it names everything
        for text in violations(name, path)
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("types", "from p2u.errors import P2UError", "neighbour"),
        ("client.transfer.fetch", "from p2u.client.live.replica import Replica", "higher layer"),
        ("client.folder.pull", "from p2u.client.live.replica import Replica", "neighbour"),
        ("client.folder.pull", "from p2u.packing.api import pack", "other side"),
        ("packing.levels.encode", "from p2u.client.transfer.fetch import fetch", "other side"),
        ("packing.chunking.cut", "from p2u.packing.packer import Packer", "higher layer"),
        ("package.index", "def f():\n    from p2u.packing import api", "higher layer"),
        ("package.index", "from p2u.disk.files import hash_file", "neighbour"),
        ("stores.http.store", "from p2u.formats import scan_model", "neighbour"),
        ("stores.http.store", "from ...cli import main", "higher layer"),
        ("packing.api", "from p2u import open", "public names"),
        ("packing.packer", "import ctypes", "only codec"),
        ("client.live.replica", "import torch.nn", "p2u/adapters"),
        ("cli", "import torch.nn", "p2u/adapters"),
    ],
)
def test_the_rules_bite(tmp_path: Path, name: str, source: str, expected: str) -> None:
    found = _violations_of(tmp_path, name, source)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("stores.http.store", "from ..base import Store"),
        ("stores.http.store", "from ...errors import StoreError\nimport httpx"),
        ("package.index", "from p2u.package.layout import Layout"),
        ("client.transfer.fetch", "from p2u.stores import Store"),
        ("client.folder.pull", "from p2u.client.transfer.fetch import Fetcher"),
        ("packing.versions.materialise", "from p2u.codec.chunk import apply"),
        ("cli", "from p2u.client.live.replica import Replica"),
        ("adapters.torch", "import torch"),
        ("codec.core", "import ctypes"),
    ],
)
def test_the_rules_allow(tmp_path: Path, name: str, source: str) -> None:
    assert _violations_of(tmp_path, name, source) == []


def _violations_of(tmp_path: Path, name: str, source: str) -> list[str]:
    path = (tmp_path / "src" / "p2u").joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(source)
    return list(violations(name, path, tmp_path))


def test_adapters_import_their_library_lazily() -> None:
    early = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for name, path in modules()
        for target, line, top in imports(path)
        if top and target.split(".")[0] in ADAPTERS
    ]
    assert not early, "import inside the functions: " + ", ".join(early)


def run_python(code: str) -> str:
    """What a fresh interpreter prints, with this source tree first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    # The difference, because an installed .pth hook may load things before we do.
    loaded = run_python(
        "import sys; before = set(sys.modules); import p2u\n"
        "print(p2u.__file__); print(*sorted(set(sys.modules) - before))"
    )
    file, names = loaded.splitlines()
    assert Path(file) == PACKAGE / "__init__.py"
    assert "p2u" in names.split()
    assert not HEAVY & {name.split(".")[0] for name in names.split()}


def test_import_takes_far_less_than_100_ms() -> None:
    """At most 0.7 of what the standard library's asyncio takes, which is 70 ms on an old server.

    Both are timed in one process, so that whatever else the machine does slows both down.
    """
    code = (
        "import time\n"
        "begin = time.process_time(); import p2u; middle = time.process_time()\n"
        "import asyncio; end = time.process_time()\n"
        "print((middle - begin) / (end - middle))"
    )
    assert min(float(run_python(code)) for _ in range(5)) < 0.7


def test_help_loads_only_what_shows_it() -> None:
    """What takes time is imports; how much depends on what else the machine does."""
    loaded = run_python(
        "import sys, runpy, atexit; before = set(sys.modules); sys.argv = ['p2u', '--help']\n"
        "atexit.register(lambda: print(*sorted(set(sys.modules) - before)))\n"
        "runpy.run_module('p2u', alter_sys=True)"
    )
    names = {name.split(".")[0] for name in loaded.splitlines()[-1].split()}
    assert "p2u" in names
    assert names & HEAVY <= {"typer", "click", "rich"}


def test_source_files_are_small() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for _, path in modules()
    }
    assert not {path: lines for path, lines in lengths.items() if lines >= 500}


def test_each_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                places.setdefault(node.name.lstrip("_"), []).append(where)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, "one name, one thing"


#: Absolute paths of one person's machine; not `src/root/` nor `https://host/home/`.
MACHINE_PATH = re.compile(
    rb"(?<![\w.~:/$)}>-])/(?:work|root|home/[a-z]+|Users/\w+|tmp/\w)/[\w.]" + rb"|[A-Z]:\\\\?Users"
)


def committed_files() -> list[Path]:
    """Files that git tracks; skips where this is not a clone or git is missing."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60)
    except OSError:
        pytest.skip("git is not installed")
    if done.returncode != 0:
        pytest.skip("not a git clone")
    return [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]


def test_no_machine_paths_are_committed() -> None:
    found = []
    for path in committed_files():
        if not path.is_file() or path.is_symlink():
            continue  # removed in the working tree
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue  # binary
        for number, line in enumerate(content.splitlines(), 1):
            if path != Path(__file__).resolve() and MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line[:120]!r}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        (b"see /work/tree/x.py", True),
        (b"'/root/.cargo/bin'", True),
        (b"/home/ann/model", True),
        (b"DATA=/tmp/%s/data" % b"w", True),
        (b"src/root/file", False),
        (b"https://example.org/work/paper", False),
        (b"$HOME/work/model", False),
        (b"/usr/bin/rustc", False),
    ],
)
def test_what_a_machine_path_is(line: bytes, bad: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is bad
