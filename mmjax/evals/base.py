"""The Evaluator protocol and the data that evaluators read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from mmjax.data.tables import View

# name of a published function -> (rows to embed -> f32 unit vectors [n d])
Functions = Mapping[str, Callable[[View], Float[np.ndarray, "n d"]]]


@dataclass(frozen=True)
class EvalSet:
    """What is asked of a system.

    Attributes:
      images: the gallery; empty where texts alone are asked.
      texts: the queries; where `answers` is None one a picture, in the order of the pictures.
      labels: class of every picture, index into `label_texts`.
      label_texts: the classes' names as captions.
      base_texts: the same queries in the language of the base; empty where there are none.
      queries: what the texts say.
      answers: (query, picture) of every right answer, where a query may have several pictures and
        a picture several queries.
    """

    images: View
    texts: View
    labels: Int[np.ndarray, " n"]
    label_texts: View
    base_texts: View
    queries: tuple[str, ...] = ()
    answers: Int[np.ndarray, "a 2"] | None = None

    def right(self, query: int) -> Int[np.ndarray, " k"]:
        """The pictures that a query asks for."""
        if self.answers is None:
            return np.asarray([query])
        return self.answers[self.answers[:, 0] == query, 1]


@dataclass(frozen=True)
class ClassSet:
    """Pictures to classify by texts about their classes.

    Attributes:
      images: the pictures.
      labels: class of every picture, index into `label_texts`.
      label_texts: one row a class, or several (a prompt each) whose embeddings are averaged.
    """

    images: View
    labels: Int[np.ndarray, " n"]
    label_texts: View


@runtime_checkable
class Evaluator(Protocol):
    """Turns a system's published functions and data (most often an EvalSet) into named numbers."""

    def run(self, functions: Functions, data: Any) -> dict[str, float]:
        """Returns {metric: value}."""
        ...
