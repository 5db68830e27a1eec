"""Measure the damage that an error in each tensor does to a model's answers.

The base's error is noise in proportion to each row's size. To second order the damage that it does
is ``sum_i v_i * F_ii``: its variance in each weight times the diagonal of the output's metric, seen
from the weights. That is the Fisher information for probabilities (the damage is twice the KL
divergence then) and ``J^T J`` for values (the mean squared change). One backward pass estimates the
diagonal: that of ``sum_b <z_b, y_b>`` with a random ``z_b`` for each answer, whose covariance is
the metric, is random too, and its squares have the diagonal as their mean (Hutchinson 1990; for
probabilities ``z_b`` is the score of a label drawn from the answer itself).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p2u.adapters.torch.evaluating import call, evaluating
from p2u.disk.durable import replace_file
from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.scratch import file_in_the_making
from p2u.errors import UsageError
from p2u.packing.allocation.damage import SENSITIVITY
from p2u.packing.chunking.treatment import Treatment, row_length, treatment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

Output = Literal["auto", "logits", "values"]
Loss = Callable[[Any, Any], "torch.Tensor"]


def sensitivity(
    model: torch.nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    output: Output = "auto",
    path: str | os.PathLike[str] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure each tensor's damage to the answers per squared relative error, for ``p2u pack``.

    Takes a forward and ``draws`` backward passes per batch; a few batches of what the model is
    used for are enough. The model is left as it was.

    Args:
        model: Its parameters have the names of the tensors in the file that will be packed.
        batches: Inputs: mappings are passed as keywords, tuples and lists as positional arguments.
        loss: Called with the output and the batch; gives one loss per example, shape ``(n,)``.
            The squares of its gradients are taken instead (the empirical Fisher information).
        output: ``"logits"``: the answers are probabilities, their last dimension the classes;
            ``"values"``: they are numbers, like embeddings. ``"auto"``: logits if the output has an
            attribute of that name, else values (``last_hidden_state``, or the first tensor).
        path: Write the result to this file, too.
        draws: Random directions per batch.
        seed: Of the directions.

    Returns:
        ``{"format": "p2u-sensitivity", "version": 1, "tensors": {name: damage}}``. Only ratios of
        the numbers matter. Parameters that share their memory have the same number.

    Raises:
        UsageError: There are no batches, or nothing depends on any parameter with levels.
        DiskError: The file cannot be written.
    """
    import torch

    if draws < 1:
        raise UsageError(f"draws is {draws}", hint="Use 1 or more")
    parameters = {
        name: p
        for name, p in model.named_parameters(remove_duplicate=False)
        if p.is_floating_point()
        and treatment("F32", tuple(p.shape), p.numel()) is Treatment.PROGRESSIVE
    }
    if not parameters:
        raise UsageError("the model has no parameters with levels", hint="Give the whole model")
    tensors = list({id(p): p for p in parameters.values()}.values())
    sums = {id(p): 0.0 for p in tensors}
    variances = {id(p): _variances(p) for p in tensors}
    generator = torch.Generator().manual_seed(seed)
    count = 0
    with _prepared(model, tensors):
        for batch in batches:
            answers = call(model, batch)
            for draw in range(draws):
                if loss is None:
                    scalar = _directed(answers, batch, output, generator)
                else:
                    losses = loss(answers, batch)
                    scalar = (_signs(losses, generator) * losses).sum()
                grads = torch.autograd.grad(
                    scalar, tensors, retain_graph=draw + 1 < draws, allow_unused=True
                )
                for p, grad in zip(tensors, grads, strict=True):
                    if grad is not None:
                        sums[id(p)] += _damage(grad, variances[id(p)])
            count += 1
    if not count:
        raise UsageError("there are no batches", hint="Give at least one")
    if not any(sums.values()):
        raise UsageError("the output does not depend on any parameter", hint="Give other inputs")
    found = {name: float(f"{sums[id(p)] / count / draws:.6g}") for name, p in parameters.items()}
    result = {"format": SENSITIVITY, "version": 1, "tensors": found}
    if path is not None:
        _write(Path(path), result)
    return result


@contextmanager
def _prepared(model: torch.nn.Module, tensors: list[torch.nn.Parameter]) -> Iterator[None]:
    """The model in evaluation mode, with gradients for these tensors only."""
    import torch

    wanted = {p: p.requires_grad for p in model.parameters()}
    try:
        for p in wanted:
            p.requires_grad_(False)
        for p in tensors:
            p.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for p, was in wanted.items():
            p.requires_grad_(was)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Squares of a tensor, float32, padded with zeros to whole rows: shape (rows, cols)."""
    import torch

    flat = tensor.detach().reshape(-1).float().square()
    cols = row_length(tuple(tensor.shape), flat.numel(), Treatment.PROGRESSIVE)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % cols)).view(-1, cols)


def _variances(p: torch.nn.Parameter) -> torch.Tensor:
    """Mean square of each row: the noise's variance at a squared relative error of 1."""
    squares = _rows(p)
    count = squares.new_full((len(squares),), squares.shape[1])
    count[-1] -= squares.numel() - p.numel()
    return squares.sum(1) / count


def _damage(grad: torch.Tensor, variances: torch.Tensor) -> float:
    return float((_rows(grad).sum(1).double() * variances).sum())


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random signs, drawn on the CPU, so that they are the same on every device."""
    import torch

    bits = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * bits - 1).to(like)


def _directed(answers: Any, batch: Any, output: Output, generator: torch.Generator) -> torch.Tensor:
    """The answers along a random direction whose covariance is their metric; a scalar."""
    import torch

    y, logits = _answer(answers, output)
    if logits:
        probabilities = y.detach().float().softmax(-1).reshape(-1, y.shape[-1])
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator).to(y.device)
        picked = y.reshape(-1, y.shape[-1]).float().log_softmax(-1).gather(1, drawn)
        return _unmasked(picked.view(y.shape[:-1]), batch).sum()
    y = y.float()
    return _unmasked(y * _signs(y, generator), batch).sum()


def _unmasked(y: torch.Tensor, batch: Any) -> torch.Tensor:
    """Without the answers at padding, if there is one per token."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None or y.dim() < 2 or mask.shape != y.shape[:2]:
        return y
    return y * mask.to(y).view(*mask.shape, *[1] * (y.dim() - 2))


def _answer(answers: Any, output: Output) -> tuple[torch.Tensor, bool]:
    """The tensor that matters, and whether it is logits."""
    import torch

    logits = getattr(answers, "logits", None)
    if isinstance(logits, torch.Tensor) and output != "values":
        return logits, True
    hidden = getattr(answers, "last_hidden_state", None)
    if isinstance(hidden, torch.Tensor):
        return hidden, output == "logits"
    if isinstance(answers, tuple | list) and answers:
        answers = answers[0]
    if not isinstance(answers, torch.Tensor):
        raise UsageError(
            f"the model gives {type(answers).__name__}, expected a tensor or a model output",
            hint="Give a loss, or wrap the model so that it gives one tensor",
        )
    return answers, output == "logits"


def _write(path: Path, result: dict[str, Any]) -> None:
    data = json.dumps(result, indent=1).encode() + b"\n"
    with disk_errors(path, "write", TRY_AGAIN), file_in_the_making(path) as part:
        replace_file(path, data, part)
