"""Labelled items in files, for clients that answer requests; see `users.Torch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
    from p2u_lab.language.embedding import coder, embeddings
    from p2u_lab.language.wordnet import entries, wordnet_dir

    chosen = entries(wordnet_dir())[:count]
    inputs = coder(model)([entry.gloss for entry in chosen])
    arrays = {f"x_{name}": tensor.numpy() for name, tensor in inputs.items()}
    arrays["index"] = embeddings(model, [entry.lemma for entry in chosen])
    arrays["label"] = np.arange(len(chosen))
    np.savez(file, **arrays)
    config = json.loads((model / "config.json").read_text())
    return {
        "build": "p2u_lab.network.users:transformer",
        "build_options": {"config": config},
        "items": str(file),
        "output": "embedding",
    }


def image_items(model: Path, data: str, file: Path, count: int = 500) -> Options:
    """Test images, as the task of the same data set takes them: the class.

    Args:
        model: A folder with one of the evaluation's image classifiers.
        data: A name of `vision.sets.SETS`, of images with one class each.
        file: To write.
        count: Items.

    Returns:
        Options for `users.Torch`.

    Raises:
        MissingDataError: The images are not here.
        FormatError: It is not such a model.
    """
    from p2u_lab.vision import sets, store
    from p2u_lab.vision.classify import chosen

    config = store.Config.read(model)
    images = chosen(sets.find(data).load("test"), count)
    pixels = images.pixels(range(len(images)), config.size)
    np.savez(file, x=store.inputs(pixels, config).numpy(), label=images.labels)
    names = ("model_type", "classes", "size")
    return {
        "build": "p2u_lab.network.users:image_net",
        "build_options": {name: getattr(config, name) for name in names},
        "items": str(file),
        "output": "logits",
    }
