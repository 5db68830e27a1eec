"""Labelled items in files, for clients that answer requests; see `users.Torch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

#: What answers to `wordnet_items` are chosen among is what the publisher's own model makes of it.
Options = dict[str, Any]


def wordnet_items(model: Path, file: Path, count: int = 500) -> Options:
    """Glosses of WordNet: whose lemma is nearest? Of all lemmas' embeddings by the exact model.

    So a service works whose index is made once, by the exact model, while a client's model refines.
    (The task `language.wordnet` embeds the lemmas with the model that is judged.)

    Args:
        model: A folder with a sentence encoder of transformers.
        file: To write.
        count: Items.

    Returns:
        Options for `users.Torch`.

    Raises:
        MissingDataError: WordNet or a library is not here.
    """
    from p2u.eval.language.embedding import coder, embeddings
    from p2u.eval.language.wordnet import entries, wordnet_dir

    chosen = entries(wordnet_dir())[:count]
    inputs = coder(model)([entry.gloss for entry in chosen])
    arrays = {f"x_{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays["index"] = embeddings(model, [entry.lemma for entry in chosen])
    arrays["label"] = np.arange(len(chosen))
    np.savez(file, **arrays)
    config = json.loads((model / "config.json").read_text())
    return {
        "build": "p2u.eval.network.users:transformer",
        "build_options": {"config": config},
        "items": str(file),
        "output": "embedding",
    }
