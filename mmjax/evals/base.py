"""The Evaluator protocol and the data that evaluators read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from mmjax.data.tables import Table


@dataclass(frozen=True)
class View:
    """Some rows of a table, in order.

    Attributes:
      table: the rows' table.
      rows: one row an item, or several whose embeddings are averaged.
    """

    table: Table
    rows: Int[np.ndarray, " n"] | Int[np.ndarray, "n v"]

    def __len__(self) -> int:
        return len(self.rows)


# name of a published function -> (rows to embed -> f32 unit vectors [n d])
Functions = Mapping[str, Callable[[View], Float[np.ndarray, "n d"]]]


@dataclass(frozen=True)
class EvalSet:
    """What is asked of a system.

    Attributes:
      images: one picture an item.
      texts: one query an item, in the order of the images.
      labels: class of every item, index into `label_texts`.
      label_texts: the classes' names as captions.
      base_texts: the same queries in the language of the base.
    """

    images: View
    texts: View
    labels: Int[np.ndarray, " n"]
    label_texts: View
    base_texts: View


@runtime_checkable
class Evaluator(Protocol):
    """Turns a system's published functions and data (most often an EvalSet) into named numbers."""

    def run(self, functions: Functions, data: Any) -> dict[str, float]:
        """Returns {metric: value}."""
        ...
