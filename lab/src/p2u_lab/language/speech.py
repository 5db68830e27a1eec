"""Whisper on spoken prompts: how many words are wrong, and how sure it is of the right ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2u_lab.base import Scores, Task, Trainable
from p2u_lab.language.items import edits
from p2u_lab.language.libraries import pretrained
from p2u_lab.language.prompts import RATE, Audio, Prompt, joined, prompts
from p2u_lab.libraries import imported

#: What Whisper is told before it writes: English, to write down, no times.
START = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
END = "<|endoftext|>"

#: Recordings that are heard together.
BATCH = 8
#: Recordings to learn from, made of prompts that are too short to be test items.
LEARN = 12
#: The worst surprise per token that is counted, in nats: broken weights give NaN.
WORST = 50.0


class Whisper:
    """A Whisper folder of transformers on the CPU, computing in float32; greedy decoding."""

    def __init__(self, folder: Path) -> None:
        self.torch = imported("torch")
        self.module = pretrained("WhisperForConditionalGeneration", folder)
        tokenizers = imported("tokenizers")
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.extractor = imported("transformers").WhisperFeatureExtractor()
        self.start = [self.tokenizer.token_to_id(word) for word in START]
        self.end: int = self.tokenizer.token_to_id(END)
        settings = json.loads((folder / "generation_config.json").read_text())
        self.never: list[int] = settings["suppress_tokens"]
        self.not_first: list[int] = settings["begin_suppress_tokens"]

    def features(self, audio: Sequence[Audio]) -> Any:
        """Log-mel spectra, float32, shape (recordings, 80, 3000)."""
        given = self.extractor(list(audio), sampling_rate=RATE, return_tensors="pt")
        return given.input_features

    def coded(self, text: str) -> list[int]:
        """The tokens of a transcript, as Whisper would write it."""
        ids: list[int] = self.tokenizer.encode(" " + text, add_special_tokens=False).ids
        return ids

    def heard(self, features: Any, most: int) -> tuple[list[str], Any]:
        """Greedy transcripts of at most so many tokens, and what the encoder made."""
        torch = self.torch
        encoded = self.module.model.encoder(features)
        now = torch.tensor([self.start] * len(features))
        past, written = None, []
        done = torch.zeros(len(features), dtype=torch.bool)
        for step in range(most):
            out = self.module(
                decoder_input_ids=now, encoder_outputs=encoded, past_key_values=past, use_cache=True
            )
            past = out.past_key_values
            logits = torch.nan_to_num(out.logits[:, -1])
            logits[:, self.never] = -math.inf
            if not step:
                logits[:, self.not_first] = -math.inf
            now = torch.where(done, self.end, logits.argmax(1))[:, None]
            done |= now[:, 0] == self.end
            written.append(now)
            if done.all():
                break
        rows = torch.cat(written, 1).tolist()
        texts = [self.tokenizer.decode([t for t in row if t < self.end]) for row in rows]
        return texts, encoded

    def surprise(self, encoded: Any, tokens: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Nats that the right transcripts cost, and how many tokens they have."""
        torch = self.torch
        longest = max(map(len, tokens))
        padded = [[*self.start, *t, *[self.end] * (longest - len(t))] for t in tokens]
        logits = self.module(decoder_input_ids=torch.tensor(padded), encoder_outputs=encoded).logits
        # What is behind the end changes nothing before it: the decoder looks back only.
        nats = -torch.log_softmax(logits[:, len(self.start) - 1 : -1].double(), -1)
        total = 0.0
        for row, wanted in zip(nats, tokens, strict=True):
            own = row[torch.arange(len(wanted)), torch.tensor(wanted)]
            total += float(torch.nan_to_num(own, nan=WORST, posinf=WORST).clamp(max=WORST).sum())
        return total, sum(map(len, tokens))


class Prompts(Task):
    """Words that are right, of what was said: 1 - WER, a prompt's WER being 100 % at most.

    Both texts go through the normaliser of Whisper's authors (case, punctuation, contractions,
    numbers). ``extra``: the perplexity of the right transcripts, and the WER that is not capped.

    Args:
        limit: Prompts; all that have four words or more by default.
    """

    name = "prompts"
    metric = "1 - WER"

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._items: list[Prompt] = []
        self._short: list[Prompt] = []

    def prepare(self) -> None:
        """Find the recordings."""
        if not self._items:
            every, self._short = prompts()
            self._items = every[: self.limit]

    def scores(self, folder: Path) -> Scores:
        """Weighted by the words of the transcripts."""
        self.prepare()
        whisper = Whisper(folder)
        normal = imported("transformers.models.whisper.english_normalizer").EnglishTextNormalizer(
            {}
        )
        order = sorted(range(len(self._items)), key=lambda n: (self._items[n].words, n))
        wrong, words = np.zeros(len(order)), np.zeros(len(order))
        nats, tokens = 0.0, 0
        with whisper.torch.inference_mode():
            for at in range(0, len(order), BATCH):
                chosen = order[at : at + BATCH]
                right = [self._items[n].text for n in chosen]
                coded = [whisper.coded(text) for text in right]
                features = whisper.features([self._items[n].audio() for n in chosen])
                # Who writes more than this has a WER of 100 % whatever it is.
                heard, encoded = whisper.heard(features, min(3 * max(map(len, coded)) + 10, 440))
                for n, have, want in zip(chosen, heard, right, strict=True):
                    wanted = normal(want).split()
                    wrong[n], words[n] = edits(normal(have).split(), wanted), len(wanted)
                more = whisper.surprise(encoded, coded)
                nats, tokens = nats + more[0], tokens + more[1]
        extra = {
            "perplexity": math.exp(nats / tokens),
            "uncapped WER": float(wrong.sum() / words.sum()),
        }
        return Scores(1 - np.minimum(wrong / words, 1), words, extra)

    def trainable(self, folder: Path) -> Trainable | None:
        """Short prompts, which are no test items, joined to recordings of almost 30 seconds."""
        self.prepare()
        whisper = Whisper(folder)
        batches = []
        for audio, text in joined(self._short, 28, LEARN):
            ids = [*whisper.start, *whisper.coded(text)]
            batches.append(
                {
                    "input_features": whisper.features([audio]),
                    "decoder_input_ids": whisper.torch.tensor([ids]),
                }
            )
        return Trainable(whisper.module, batches, "logits")
