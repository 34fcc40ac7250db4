"""Is a fit of the projection as quick as the same in plain PyTorch? 5,000 x 768, ten epochs.

Both sides run the paper's recipe on one array: batches of 128, Adam, pairwise BCE. PyTorch comes in
two forms: with the matrix of all dot products, and gathering every pair as the released code does.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from benchmarks.harness import Grid, Options, Report, check_equal, compare
from mmjax.specs.projection import ProjectionSpec
from mmjax.tasks.projection import fit

WIDTH, CLASSES, EPOCHS, BATCH = 768, 4, 10, 128


def made_up(rows: int) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Features with classes that can be learnt, and those classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    centres = 0.3 * rng.normal(size=(CLASSES, WIDTH))
    return (centres[labels] + rng.normal(size=(rows, WIDTH))).astype(np.float32), labels


def ours(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Callable[[], float]:
    """A whole fit; returns the loss of the last epoch."""
    data = fit.Modalities([x], [np.ones(len(x), bool)])
    how = fit.FitSpec(EPOCHS, BATCH, 1e-3, 0.0, 1)

    def run() -> float:
        rng = np.random.RandomState(0)
        return fit.fit(ProjectionSpec(), how, data, labels, rng).losses[-1]

    return run


def twin(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], gathered: bool
) -> Callable[[], float]:
    """The same in PyTorch, with all dot products of a batch or every pair by itself."""
    torch: Any = importlib.import_module("torch")  # a peer to measure, not a dependency
    nn, bce = torch.nn, torch.nn.functional.binary_cross_entropy_with_logits

    def loss_of(z: Any, y: Any) -> Any:
        i, j = torch.triu_indices(len(z), len(z), 1)
        same = (y[i] == y[j]).float()
        logits = (z[i] * z[j]).sum(dim=1) if gathered else (z @ z.T)[i, j]
        return bce(logits / 0.1, same)

    def fit() -> float:
        torch.manual_seed(0)
        hidden = min(WIDTH // 2, 16)
        model = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, 128))
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        features, classes = torch.tensor(x), torch.tensor(labels)
        losses: list[float] = []
        for _ in range(EPOCHS):
            each = []
            for rows in torch.randperm(len(x)).split(BATCH):
                loss = loss_of(model(features[rows]), classes[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
                each.append(loss.detach())
            losses.append(float(torch.stack(each).mean()))
        return losses[-1]

    return fit


def run(options: Options) -> Report:
    """Times whole fits in turn, the compilation apart.

    Args:
      options: the first of `batches` replaces 5,000 rows.

    Returns:
      Seconds of the first fit, which compiles, and of every side after it.

    Raises:
      MmjaxError: the sides do not learn the same.
    """
    (rows, *_) = options.sizes((5000,), (5000,))
    x, labels = made_up(rows)
    sides: dict[str, Callable[[], float]] = {"mmjax": ours(x, labels)}
    began = time.perf_counter()
    last = {"mmjax": sides["mmjax"]()}
    first = time.perf_counter() - began
    if options.peer == "torch":
        sides["PyTorch"] = twin(x, labels, gathered=False)
        sides["PyTorch, pair by pair"] = twin(x, labels, gathered=True)
        last |= {name: side() for name, side in sides.items() if name != "mmjax"}
        # Other initial values and order: the losses agree in size, not in digits.
        check_equal({name: 1 + value for name, value in last.items()}, 0.05)
    timed = compare(sides, options.num_rounds)
    return Report(
        [
            timed.grid(f"A fit of {rows:,} x {WIDTH}, {EPOCHS} epochs (two fits a round)"),
            Grid("The first fit compiles", ("side", "seconds"), (("mmjax", f"{first:.2f}"),)),
        ],
        {**timed.samples(), "first": first, "losses": last, "rows": rows},
    )
