"""torch's own attention, with the kernel that it chooses for the device."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention


def side(rows: int, heads: int, length: int, width: int) -> Callable[[], list[float]]:
    """Causal attention and its gradients on the numbers that mmjax is given.

    Args:
      rows: of the batch.
      heads: of queries, keys and values.
      length: tokens.
      width: of a head.

    Returns:
      The run; it returns some of the gradients.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = np.random.default_rng(0)
    shape = rows, heads, length, width
    inputs = [
        torch.tensor(rng.normal(size=shape).astype(np.float32)).to(device, torch.bfloat16)
        for _ in "qkv"
    ]
    for tensor in inputs:
        tensor.requires_grad_()

    def run() -> list[float]:
        query, key, value = inputs
        found = scaled_dot_product_attention(query, key, value, is_causal=True)
        gradients = torch.autograd.grad(found.float().square().sum(), inputs)
        return [float(x.float()[0, 0, -4:].sum()) for x in gradients]

    return run
