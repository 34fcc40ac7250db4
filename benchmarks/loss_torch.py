"""The same loss in PyTorch: the plain form, and the two-product form of open_clip's ClipLoss."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import cross_entropy


def plain(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """One matrix of logits, and its transpose."""
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def two_products(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Each direction computes its own logits, as open_clip does on one device."""
    labels = torch.arange(len(image))
    to_text, to_image = scale * image @ text.T, scale * text @ image.T
    return (cross_entropy(to_text, labels) + cross_entropy(to_image, labels)) / 2


def sides(pair: Float[np.ndarray, "2 b d"], scale: float) -> dict[str, Callable[[], float]]:
    """Name -> loss and gradients by both towers and the scale, ready to be timed.

    Args:
      pair: unit vectors of images and texts.
      scale: inverse temperature.

    Returns:
      Calls that give the loss.
    """
    image, text = (torch.tensor(x, requires_grad=True) for x in pair)
    logit_scale = torch.tensor(math.log(scale), requires_grad=True)

    def side(loss: Callable[..., torch.Tensor]) -> Callable[[], float]:
        def once() -> float:
            for leaf in (image, text, logit_scale):
                leaf.grad = None
            value = loss(image, text, logit_scale.exp())
            value.backward()
            return value.item()

        return once

    return {"PyTorch": side(plain), "PyTorch, open_clip's form": side(two_products)}
