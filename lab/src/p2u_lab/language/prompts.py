"""Spoken prompts with their transcripts: those of Asterisk, a telephone exchange."""

from __future__ import annotations

import gzip
import os
import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.language.items import shuffled
from p2u_lab.places import DATA_VARIABLE

#: Where Debian puts the recordings and the transcripts.
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")

#: What Whisper hears, Hz.
RATE = 16_000
#: Fewer words than this are no test item: too few to tell from noise.
WORDS = 4

Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prompt:
    """A recording and what is said in it."""

    path: Path
    text: str

    @property
    def words(self) -> int:
        """How many there are."""
        return len(self.text.split())

    def audio(self) -> Audio:
        """The recording at 16 kHz, in -1 .. 1, shape (samples,).

        Raises:
            FormatError: It is not mono, 16 bit, at 8 or 16 kHz.
        """
        with wave.open(str(self.path)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            raw = file.readframes(file.getnframes())
        if kind not in ((1, 2, 8_000), (1, 2, RATE)):
            raise FormatError(
                f"{kind[0]} channels of {8 * kind[1]} bits at {kind[2]} Hz, expected 1 of 16 bits "
                "at 8000 or 16000 Hz",
                file=str(self.path),
            )
        samples = np.frombuffer(raw, "<i2").astype(np.float64) / 32768
        return samples.astype(np.float32) if kind[2] == RATE else _doubled(samples)


def _doubled(samples: npt.NDArray[np.float64]) -> Audio:
    """Twice the samples for the same seconds: the same spectrum, and nothing above it."""
    spectrum = np.fft.rfft(samples)
    return (2 * np.fft.irfft(spectrum, 2 * len(samples))).astype(np.float32)


def prompts() -> tuple[list[Prompt], list[Prompt]]:
    """The prompts of at least four words, and the shorter ones; each shuffled.

    Raises:
        MissingDataError: They are not here.
    """
    sounds, transcripts = SOUNDS, TRANSCRIPTS
    named = os.environ.get(DATA_VARIABLE)
    if named and (own := Path(named).expanduser() / "asterisk").is_dir():
        sounds, transcripts = own, own / TRANSCRIPTS.name
    if not transcripts.is_file() or not any(sounds.glob("*.wav")):
        raise MissingDataError(
            f"no recordings in {sounds}, or no transcripts at {transcripts}",
            hint="apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav, or put "
            "asterisk-core-sounds-en-wav from https://downloads.asterisk.org and "
            f"{TRANSCRIPTS.name} into 'asterisk' in the folder of {DATA_VARIABLE}",
        )
    found = []
    for line in gzip.decompress(transcripts.read_bytes()).decode("utf-8").splitlines():
        name, colon, said = line.partition(": ")
        path = sounds / f"{name}.wav"
        # Brackets are descriptions, of tones and such.
        if colon and not re.search(r"[\[<(]", said) and path.is_file():
            found.append(Prompt(path, said.strip()))
    every = shuffled(found, lambda p: p.path.stem)
    return [p for p in every if p.words >= WORDS], [p for p in every if p.words < WORDS]


def joined(short: list[Prompt], seconds: float, count: int) -> list[tuple[Audio, str]]:
    """Short prompts one after the other, with a pause between, as long recordings.

    Args:
        short: Taken in this order, each once.
        seconds: What a recording has at most.
        count: How many recordings.
    """
    pause = np.zeros(RATE * 3 // 10, np.float32)
    out: list[tuple[Audio, str]] = []
    pieces: list[Audio] = []
    texts: list[str] = []
    for prompt in short:
        audio = prompt.audio()
        if pieces and sum(map(len, pieces)) + len(audio) > seconds * RATE:
            out.append((np.concatenate(pieces), " ".join(texts)))
            pieces, texts = [], []
            if len(out) == count:
                return out
        pieces += [audio, pause]
        texts.append(prompt.text)
    if pieces:
        out.append((np.concatenate(pieces), " ".join(texts)))
    return out
