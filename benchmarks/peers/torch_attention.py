"""torch's own attention, with the kernel that it chooses for the device."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.pairs import attended


def side(shape: Sequence[int]) -> Callable[[], list[float]]:
    """Causal attention and its gradients on the numbers that mmjax is given.

    Args:
      shape: see `attended`.

    Returns:
      The run; it returns some of the gradients.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = [torch.tensor(x).to(device, torch.bfloat16) for x in attended(shape)]
    for tensor in inputs:
        tensor.requires_grad_()

    def run() -> list[float]:
        query, key, value = inputs
        found = scaled_dot_product_attention(query, key, value, is_causal=True)
        gradients = torch.autograd.grad(found.float().square().sum(), inputs)
        return [float(x.float()[0, 0, -4:].sum()) for x in gradients]

    return run
