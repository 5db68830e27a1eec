"""Whisper on prompts: what is read, what is counted, and a tiny Whisper made here."""

from __future__ import annotations

import gzip
import json
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.language import prompts as recordings
from p2u_lab.language import speech, whisper_names

TEXT = """\
; Sounds

long-one: Please enter your number.
deep/long-two: You have three new messages.
short: Thank you.
other: Goodbye.
tone: [this is a beep tone]
absent: There is no such recording.
"""


def sound(path: Path, seconds: float = 0.5, rate: int = 8000, width: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes((tone * 16000).astype("<i2").tobytes())


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "asterisk"
    for name in ("long-one", "deep/long-two", "short", "other", "tone"):
        sound(folder / f"{name}.wav")
    (folder / "core-sounds-en.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    monkeypatch.setenv("P2U_EVAL_DATA", str(folder.parent))
    return folder


def test_prompts_are_read(data: Path) -> None:
    long, short = recordings.prompts()
    assert {p.path.stem: p.text for p in long} == {
        "long-one": "Please enter your number.",
        "long-two": "You have three new messages.",
    }
    assert {p.path.stem for p in short} == {"short", "other"}


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "SOUNDS", tmp_path)
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="apt-get install asterisk-core-sounds-en "):
        speech.Prompts().prepare()


def test_a_recording_is_made_16_khz(data: Path) -> None:
    audio = next(p for p in recordings.prompts()[0] if p.path.stem == "long-one").audio()
    assert audio.dtype == np.float32
    assert len(audio) == 8000
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000) * 16000 / 32768
    assert np.abs(audio - expected).max() < 1e-3


def test_another_kind_of_recording_is_refused(tmp_path: Path) -> None:
    sound(tmp_path / "x.wav", rate=44100)
    with pytest.raises(FormatError, match="44100 Hz, expected"):
        recordings.Prompt(tmp_path / "x.wav", "Hello").audio()


def test_short_prompts_are_joined(data: Path) -> None:
    _, short = recordings.prompts()
    both = recordings.joined(short, 28, 5)
    assert [text for _, text in both] == [" ".join(p.text for p in short)]
    assert len(both[0][0]) == 2 * (8000 + 4800)
    assert [text for _, text in recordings.joined(short, 0.9, 5)] == [p.text for p in short]
    assert len(recordings.joined(short, 0.9, 1)) == 1


def test_names_of_transformers() -> None:
    stacked = np.arange(12.0).reshape(6, 2)
    given = {
        "encoder/layer_3/self_attention/linear_0/weight": stacked,
        "encoder/layer_3/self_attention/linear_0/bias": np.array([1.0, 2, 0, 0, 5, 6]),
        "decoder/layer_0/attention/linear_1/weight": stacked[:4],
        "decoder/layer_0/ffn/layer_norm/gamma": np.ones(2),
        "decoder/layer_norm/beta": np.ones(2),
        "encoder/position_encodings/encodings": stacked,
        "encoder/num_heads": np.array(8),
    }
    found = whisper_names.renamed(given)
    prefix = "model.encoder.layers.3.self_attn."
    assert set(found) == {
        *(prefix + n for n in ("q_proj.weight", "k_proj.weight", "v_proj.weight")),
        *(prefix + n for n in ("q_proj.bias", "v_proj.bias")),
        "model.decoder.layers.0.encoder_attn.k_proj.weight",
        "model.decoder.layers.0.encoder_attn.v_proj.weight",
        "model.decoder.layers.0.final_layer_norm.weight",
        "model.decoder.layer_norm.bias",
        "model.encoder.embed_positions.weight",
    }
    assert found[prefix + "v_proj.weight"].tolist() == [[8, 9], [10, 11]]
    assert found[prefix + "v_proj.bias"].tolist() == [5, 6]
    with pytest.raises(FormatError, match="not zero"):
        whisper_names.renamed({"encoder/layer_3/self_attention/linear_0/bias": np.ones(6)})
    with pytest.raises(FormatError, match="not a variable of Whisper"):
        whisper_names.renamed({"encoder/what/weight": stacked})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A Whisper of two layers that knows a few words, with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["?", "please", "enter", "your", "number.", "you", "have", "three", "new", "messages."]
    words += ["thank", "you.", "goodbye.", speech.END, *speech.START]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="?")
    )
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_model"), 16)
    ends = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), words.index(speech.END))
    config = transformers.WhisperConfig(
        vocab_size=len(words), decoder_start_token_id=words.index(speech.START[0]), **sizes, **ends
    )
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    spoken = {"suppress_tokens": [0], "begin_suppress_tokens": [words.index(speech.END)]}
    (folder / "generation_config.json").write_text(json.dumps(spoken))
    return folder


@pytest.mark.slow
def test_a_tiny_whisper(data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    task = speech.Prompts()
    first, again = task.scores(tiny), task.scores(tiny)
    assert first.values.tolist() == again.values.tolist()
    assert first.extra == again.extra
    assert first.weights is not None
    assert sorted(first.weights) == [4, 5]
    assert (first.values >= 0).all()
    assert (first.values <= 1).all()
    # It knows nothing, so every one of its 18 words is about as likely.
    assert 10 < first.extra["perplexity"] < 30

    given = task.trainable(tiny)
    assert given is not None
    assert len(given.batches) == 1
    out = given.module(**given.batches[0]).logits
    assert out.shape == (1, 4 + 3, 18)

    # All right, one word of five missing, and far too much.
    for answers, expected in (
        (["please enter YOUR number", "You have 3 new messages"], 1.0),
        (["please enter your number", "you have three messages"], 8 / 9),
        (["please enter your number", "no " * 40], 4 / 9),
    ):

        def heard(
            self: Any, features: Any, most: int, answers: list[str] = answers
        ) -> tuple[list[str], Any]:
            return answers, self.module.model.encoder(features)

        monkeypatch.setattr(speech.Whisper, "heard", heard)
        found = task.scores(tiny)
        assert found.mean == pytest.approx(expected)
    assert found.extra["uncapped WER"] == pytest.approx(40 / 9)

    # Broken weights give a number, too.
    whisper = speech.Whisper(tiny)
    with torch.no_grad():
        whisper.module.proj_out.weight.fill_(math.nan)
        encoded = whisper.module.model.encoder(whisper.features([np.zeros(100, np.float32)]))
        assert whisper.surprise(encoded, [[1, 2]]) == (2 * speech.WORST, 2)
