"""From somebody's quantised GGUF to the exact model: what the update costs.

    npm pack @node-llama-cpp/linux-x64 && tar xf node-llama-cpp-linux-x64-*.tgz
    python lab/bench/bench_adopt.py mpnet-bf16 --ggml package/bins/linux-x64
    python lab/bench/bench_adopt.py minilm-bf16 Q8_0        # without it: types that gguf can make

The files are made here: matrices are quantised by ggml itself (or by the `gguf` package), by
llama.cpp's rules for types; tensors have llama.cpp's names. Columns, as parts of the model's file:

- *GGUF*: the file that somebody has;
- *package*: the same as a P2U package of its own, from nothing;
- *coded*: the same by P2U's entropy coder, each byte of a block among its like, without an index;
- *update*: from it to the exact model;
- *own*: P2U's base and refinements to exact, from nothing;
- *sum*: (coded + update) / own: what it costs that the base is somebody else's.

Every update is pulled from the GGUF, and what arrives is compared with the model.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import re
import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import gguf
import numpy as np
from measure import ram_folder
from models import WEIGHTS, cache_dir

from p2u import pack, pull
from p2u.codec import core
from p2u.formats import scan_model

#: What llama.cpp takes instead where rows are no whole blocks of 256.
FALLBACK = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
#: Mixes: the type of most matrices, and the one of those that count more.
MIXES = {"Q3_K_M": ("Q3_K", "Q5_K"), "Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
#: Of these llama.cpp quantises nothing.
PLAIN = ("position_embd.weight", "token_types.weight")


class Ggml:
    """ggml's quantisers, of a shared library; or those of the gguf package."""

    def __init__(self, folder: Path | None) -> None:
        self._lib = None
        if folder is not None:
            self._lib = ctypes.CDLL(str(folder / "libggml-base.so"))
            self._lib.ggml_quantize_chunk.restype = ctypes.c_size_t
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            self._lib.ggml_quantize_chunk.argtypes = [
                ctypes.c_int, pointer, pointer, count, count, count, pointer
            ]  # fmt: skip

    def quantise(self, values: np.ndarray, kind: str) -> np.ndarray:
        """Blocks of float32 rows, one row of bytes per row."""
        wanted = gguf.GGMLQuantizationType[kind]
        if self._lib is None or kind in ("F32", "F16"):
            return np.asarray(gguf.quants.quantize(values, wanted))
        elems, size = gguf.GGML_QUANT_SIZES[wanted]
        rows, cols = values.shape
        out = np.zeros((rows, cols // elems * size), np.uint8)
        held = np.ascontiguousarray(values, np.float32)
        made = self._lib.ggml_quantize_chunk(
            wanted, held.ctypes.data, out.ctypes.data, 0, rows, cols, None
        )
        assert made == out.size
        return out


def kind_of(name: str, shape: tuple[int, ...], wanted: str, layers: int) -> str:
    """The type that llama.cpp gives a tensor."""
    if len(shape) < 2 or name in PLAIN:
        return "F32"
    kind, better = MIXES.get(wanted, (wanted, wanted))
    if name == "token_embd.weight":
        kind = better  # tied to the output
    if match := re.search(r"\.([0-9]+)\..*(?:attn_v|attn\.v|ffn_down)\.weight", name):
        layer = int(match[1])
        eighth = layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            kind = better
    for found in (kind, FALLBACK.get(kind, "F32"), "F32"):
        if shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[found]][0] == 0:
            return found
    raise AssertionError


def write_gguf(model: Path, out: Path, wanted: str, ggml: Ggml) -> None:
    """Quantise a model."""
    (file,) = (f for f in scan_model(str(model)).files if f.path == WEIGHTS)
    data = (model / WEIGHTS).read_bytes()
    layers = 1 + max(
        int(match[1]) for s in file.spans if (match := re.search(r"\.layer\.([0-9]+)\.", s.name))
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_block_count(layers)
    for span in file.spans:
        raw = data[span.offset : span.offset + span.length]
        if span.dtype == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        elif span.dtype in ("F32", "F16"):
            values = np.frombuffer(raw, "<f4" if span.dtype == "F32" else "<f2").astype("<f4")
        else:
            continue  # llama.cpp drops buffers of integers
        name = names.get_name(span.name, (".weight", ".bias")) or span.name
        kind = kind_of(name, span.shape, wanted, layers)
        blocks = ggml.quantise(values.reshape(span.shape), kind)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def entropy_coded(path: Path) -> int:
    """Bytes of a GGUF's tensors, the bytes at each place of a block with a table of their own."""
    (file,) = scan_model(str(path)).files
    data = path.read_bytes()
    total = file.size - sum(span.length for span in file.spans)
    for span in file.spans:
        kind = gguf.GGMLQuantizationType[span.dtype]
        elems, size = gguf.GGML_QUANT_SIZES[kind]
        step = (4 << 20) // size * size
        for at in range(0, span.length, step):
            part = data[span.offset + at : span.offset + min(at + step, span.length)]
            segments = [core.Segment(part, len(part), len(part))]
            if elems == 1:
                segments = [core.Segment(part, len(part) // size, len(part) // size)]
                total += len(core.encode_opaque(size, segments).payloads[0])
            else:
                # What differs from zeros is all of it.
                zeros = [bytes(len(part))]
                total += len(core.encode_opaque_delta(1, segments, zeros, stride=size))
    return total


@dataclass
class Row:
    """One file; parts of the model's bytes."""

    model: str
    type: str
    gguf: float
    package: float
    coded: float
    update: float
    own: float
    sum: float


def measure(model: Path, wanted: str, ggml: Ggml, folder: Path) -> Row:
    """Make a file, adopt it, pull from it."""
    theirs = folder / f"{wanted}.gguf"
    write_gguf(model, theirs, wanted, ggml)
    # What a model directory has besides its weights is in no GGUF: left out on both sides.
    weights = model / WEIGHTS
    size = weights.stat().st_size
    package = pack(theirs, folder / "coded", levels=("base", "exact")).states[-1].bytes
    coded = entropy_coded(theirs)
    report = pack(weights, folder / "p", adopt=theirs)
    manifest = report.manifest
    (update,) = (u for u in manifest.updates if manifest.crosses(u))
    own = report.states[-1].bytes
    for note in report.notes[:-1]:
        print(f"  {note}", flush=True)
    result = pull(folder / "p", folder / "out", origin=theirs)
    assert (folder / "out" / WEIGHTS).read_bytes() == weights.read_bytes()
    assert package is not None
    assert own is not None
    cost = manifest.cost(update)
    assert result.fetched >= cost
    parts = (theirs.stat().st_size, package, coded, cost, own)
    return Row(model.name, wanted, *(part / size for part in parts), (coded + cost) / own)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="mpnet-bf16 ... of models.py")
    parser.add_argument("types", nargs="*", help="Q4_0, Q4_K_M ...; by default all that can be had")
    parser.add_argument("--ggml", type=Path, help="folder of libggml-base.so")
    parser.add_argument("--csv", type=Path, help="also add the rows to this file")
    args = parser.parse_args()
    ggml = Ggml(args.ggml)
    names = args.types or ["Q4_0", "Q5_1", "Q8_0"]
    if args.ggml and not args.types:
        names += [*MIXES, "Q2_K", "Q6_K"]
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory(dir=ram_folder()) as folder:
            row = measure(cache_dir() / args.model, name, ggml, Path(folder))
        rows.append(row)
        parts = "  ".join(f"{f.name} {getattr(row, f.name):.4f}" for f in fields(Row)[2:])
        print(f"{row.model} {row.type}: {parts}", flush=True)
    if args.csv:
        new = not args.csv.exists()
        with open(args.csv, "a", newline="") as stream:
            out = csv.writer(stream, lineterminator="\n")
            if new:
                out.writerow([f.name for f in fields(Row)])
            for row in rows:
                model, kind, *parts_ = astuple(row)
                out.writerow([model, kind, *(f"{part:.4f}" for part in parts_)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
