"""PP-OCR on rendered lines: how many characters are read right."""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError
from p2u_lab.base import Scores, Task
from p2u_lab.language.items import edits, shuffled
from p2u_lab.language.onnx import session
from p2u_lab.libraries import imported

if TYPE_CHECKING:
    from PIL.Image import Image

#: What the network sees: rows of pixels.
HEIGHT = 48
#: matplotlib carries these, so that they are the same everywhere.
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic")


@dataclass(frozen=True)
class Line:
    """A line of print, and how it is to look."""

    text: str
    font: str
    size: int
    seed: int


def texts() -> list[str]:
    """English words in fixed numbers: the names of pictographs, which Unicode never changes."""
    names = [unicodedata.name(chr(code), "") for code in range(0x1F300, 0x1F64F)]
    return [name for name in names if name and len(name.split()) >= 2]


def lines() -> list[Line]:
    """The lines, in upper, lower and mixed case, some with a number; shuffled."""
    out = []
    for n, name in enumerate(shuffled(texts(), str)):
        rng = random.Random(n)
        said = (name, name.lower(), name.capitalize(), name.title())[n % 4]
        if n % 3 == 0:
            said = f"{said}, {rng.randrange(10, 100)}.{rng.randrange(100):02}"
        out.append(Line(said, FONTS[n % len(FONTS)], rng.randrange(14, 30), n))
    return out


def rendered(line: Line) -> Image:
    """The line in black on paper: blurred, a little turned, with noise; grey, any size."""
    image, draw = imported("PIL.Image"), imported("PIL.ImageDraw")
    folder = Path(imported("matplotlib").get_data_path()) / "fonts" / "ttf"
    font = imported("PIL.ImageFont").truetype(str(folder / f"{line.font}.ttf"), line.size)
    left, top, right, bottom = font.getbbox(line.text)
    edge = line.size // 2
    paper = image.new("L", (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge), 255)
    draw.Draw(paper).text((edge - left, edge - top), line.text, fill=0, font=font)
    rng = random.Random(line.seed)
    paper = paper.rotate(rng.uniform(-0.8, 0.8), image.Resampling.BICUBIC, fillcolor=255)
    blur = imported("PIL.ImageFilter").GaussianBlur(rng.uniform(0.4, 1.3))
    pixels = np.asarray(paper.filter(blur), np.float64)
    ink, contrast = rng.uniform(20, 110), rng.uniform(15, 30)
    # Noise of whole numbers from Python's generator: NumPy's may change with its version.
    noise = np.frombuffer(rng.randbytes(pixels.size), np.uint8).reshape(pixels.shape) / 255 - 0.5
    grey = ink + pixels / 255 * (235 - ink) + noise * 2 * contrast
    made: Image = image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    return made


def _input(picture: Image) -> npt.NDArray[np.float32]:
    """The network's input: -1 .. 1, shape (1, 3, 48, width), width 320 at least."""
    bilinear = imported("PIL.Image").Resampling.BILINEAR
    width = -(-HEIGHT * picture.width // picture.height)
    grey = np.asarray(picture.resize((width, HEIGHT), bilinear), np.float32) / 127.5 - 1
    padded = np.zeros((HEIGHT, max(width, 320)), np.float32)
    padded[:, :width] = grey
    return np.broadcast_to(padded, (1, 3, *padded.shape)).copy()


class Lines(Task):
    """1 - edits / characters of each line, 0 at least; weighted by characters.

    Blanks do not count: the network was trained on Chinese, and leaves many out.

    Args:
        limit: Lines; 300 by default.
    """

    name = "lines"
    metric = "character accuracy"

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or 300
        self._items: list[Line] = []
        self._inputs: list[npt.NDArray[np.float32]] = []

    def prepare(self) -> None:
        """Render the lines."""
        if not self._items:
            items = lines()[: self.limit]
            self._inputs = [_input(rendered(line)) for line in items]
            self._items = items

    def scores(self, folder: Path) -> Scores:
        """``extra``: the share of lines without any error."""
        self.prepare()
        network = session(folder)
        alphabet = _alphabet(network, folder)
        name = network.get_inputs()[0].name
        values, weights = [], []
        for line, given in zip(self._items, self._inputs, strict=True):
            answer = network.run(None, {name: given})[0][0]
            want = line.text.replace(" ", "")
            have = _decoded(np.asarray(answer), alphabet).replace(" ", "")
            values.append(max(0.0, 1 - edits(have, want) / len(want)))
            weights.append(float(len(want)))
        found = np.array(values)
        return Scores(found, np.array(weights), {"whole lines": float((found == 1).mean())})


def _alphabet(network: Any, folder: Path) -> list[str]:
    """The characters of the classes: a blank between characters first, the space last."""
    metadata: dict[str, str] = network.get_modelmeta().custom_metadata_map
    if "character" not in metadata:
        raise FormatError("the network does not say what its characters are", file=str(folder))
    return ["", *metadata["character"].splitlines(), " "]


def _decoded(answer: npt.NDArray[np.float32], alphabet: list[str]) -> str:
    """Connectionist temporal classification, greedy: repetitions once, blanks not at all.

    Args:
        answer: Shape (columns, classes).
        alphabet: By class.
    """
    best = answer.argmax(1)
    new = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(alphabet[k] for k in best[new])
