"""The same loss in torch: the plain form, and open_clip's own."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.pairs import SCALE, towers

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _plain(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """One matrix of logits, and its transpose."""
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def plain(batch: int) -> Callable[[], float]:
    """Loss and gradients as one writes them first.

    Args:
      batch: pairs.

    Returns:
      The run; it returns the loss.
    """
    return _step(_plain, batch)


def open_clip(batch: int) -> Callable[[], float]:
    """The same by open_clip's ClipLoss, in which each direction computes its own logits."""
    loss: Any = importlib.import_module("open_clip.loss")  # a peer to measure, not a dependency
    return _step(loss.ClipLoss(), batch)


def _step(loss: Loss, batch: int) -> Callable[[], float]:
    image, text = (torch.tensor(x, requires_grad=True) for x in towers(batch))
    logit_scale = torch.tensor(math.log(SCALE), requires_grad=True)

    def run() -> float:
        for leaf in (image, text, logit_scale):
            leaf.grad = None
        value = loss(image, text, logit_scale.exp())
        value.backward()
        return value.item()

    return run
