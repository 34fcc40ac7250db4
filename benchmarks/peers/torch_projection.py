"""A fit of the projection in torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from benchmarks.features import BATCH, EPOCHS, WIDTH, made_up


def side(rows: int, gathered: bool) -> Callable[[], float]:
    """Whole fits; a run returns the loss of the last epoch.

    Args:
      rows: of the array.
      gathered: every pair by itself, as the released code does, rather than all dot products.

    Returns:
      The run.
    """
    x, y = made_up(rows)

    def loss_of(z: Any, y: Any) -> Any:
        i, j = torch.triu_indices(len(z), len(z), 1)
        same = (y[i] == y[j]).float()
        logits = (z[i] * z[j]).sum(dim=1) if gathered else (z @ z.T)[i, j]
        return bce(logits / 0.1, same)

    def run() -> float:
        torch.manual_seed(0)
        hidden = min(WIDTH // 2, 16)
        model = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, 128))
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        features, classes = torch.tensor(x), torch.tensor(y)
        losses: list[float] = []
        for _ in range(EPOCHS):
            each = []
            for chosen in torch.randperm(len(x)).split(BATCH):
                loss = loss_of(model(features[chosen]), classes[chosen])
                adam.zero_grad()
                loss.backward()
                adam.step()
                each.append(loss.detach())
            losses.append(float(torch.stack(each).mean()))
        return losses[-1]

    return run
