"""Model folders of image classifiers: ``model.safetensors`` and a ``config.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError
from p2u_lab.vision.nets import NETS

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
#: ImageNet's, which the authors of the CIFAR ResNets used as well.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Config:
    """What a model folder says about its model.

    Attributes:
        model_type: A name of `NETS`.
        classes: How many.
        size: Height and width of the inputs.
        mean, std: The input is ``(pixels / 255 - mean) / std``, per channel.
    """

    model_type: str
    classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def write(self, folder: Path) -> None:
        """Write ``config.json``."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Read ``config.json``.

        Raises:
            FormatError: It is not there or not one of ours.
        """
        path = folder / "config.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if "classes" not in found and found.get("model_type") in GIVEN:
                return GIVEN[found["model_type"]]
            mean, std = (tuple(float(x) for x in found[name]) for name in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3:
                raise ValueError(f"{len(mean)} means and {len(std)} deviations, expected 3")
            config = cls(found["model_type"], int(found["classes"]), int(found["size"]), mean, std)
            if config.model_type not in NETS:
                raise ValueError(f"model_type {config.model_type!r}, expected one of {list(NETS)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"not the configuration of an image model: {error}", file=str(path)
            ) from error
        return config


#: Of models that come without: their publishers say it elsewhere. EfficientNet-lite0 takes
#: ``(pixels - 127) / 128``; 128 pixels instead of 224 because they are enlarged from 32 anyway.
GIVEN = {
    "resnet20": Config("resnet20", 10, 32, *IMAGENET),
    "resnet56": Config("resnet56", 10, 32, *IMAGENET),
    "effnet-lite0": Config("effnet-lite0", 1000, 128, (127 / 255,) * 3, (128 / 255,) * 3),
}


def load(folder: Path) -> tuple[nn.Module, Config]:
    """The model of a folder, in evaluation mode and float32.

    Raises:
        FormatError: Its tensors are not those of its architecture.
    """
    import torch
    from safetensors.torch import load_file

    config = Config.read(folder)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        module = NETS[config.model_type].build(config.classes, config.size)
    file = folder / WEIGHTS
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(str(file)).items()
    }
    lacking, unknown = module.load_state_dict(state, strict=False)
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    if lacking or unknown:
        raise FormatError(
            f"not the tensors of a {config.model_type}: lacks {lacking}, has {unknown}",
            file=str(file),
        )
    return module.eval().requires_grad_(True), config


def save(module: nn.Module, config: Config, folder: Path) -> None:
    """Write a model into a folder."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})
    config.write(folder)


def inputs(pixels: npt.NDArray[np.uint8], config: Config) -> Tensor:
    """What a model takes, float32 (items, 3, size, size), of pixels (items, size, size, 3)."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
    return x.sub_(mean).div_(std).contiguous()
