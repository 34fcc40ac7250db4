"""Binds a task's pure functions to weights, and feeds them table rows in fixed batches."""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from mmjax.data.tables import View
from mmjax.encoders.output import EmbedFn
from mmjax.evals.base import Functions
from mmjax.sharding import own_rows, place_batch, replicated
from mmjax.tasks.base import Task
from mmjax.tasks.typed import jit
from mmjax.trees import PyTree

BATCH = 256  # rows of a call
REST = 32  # of the calls for what is left: where an encoder runs, each row of padding costs a pass


class Published:
    """A task's published functions, compiled once for all evaluations of a run."""

    def __init__(self, task: Task, mesh: Mesh) -> None:
        """Nothing is compiled yet.

        Args:
          task: publishes functions.
          mesh: batches are split over its data axis; results come back whole.
        """
        self._mesh = mesh
        self._functions: Mapping[str, EmbedFn] = {
            name: jit(function, out_shardings=replicated(mesh))
            for name, function in task.functions().items()
        }

    def bind(self, trainable: PyTree, frozen: PyTree) -> Functions:
        """Functions from rows to f32 unit vectors, by name."""
        return {
            name: functools.partial(self._embed, function, trainable, frozen)
            for name, function in self._functions.items()
        }

    def _embed(
        self, function: EmbedFn, trainable: PyTree, frozen: PyTree, view: View
    ) -> Float[np.ndarray, "n d"]:
        if view.rows.ndim == 2:
            flat = View(view.table, view.rows.reshape(-1))
            each = self._embed(function, trainable, frozen, flat)
            mean = each.reshape(*view.rows.shape, -1).mean(axis=1)
            return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        parts = self._mesh.shape["data"]
        whole, rest = (-(-size // parts) * parts for size in (BATCH, REST))
        count, left = divmod(len(view), whole)
        sizes = [whole] * count + [rest] * -(-left // rest)
        own = {size: own_rows(size, self._mesh) for size in set(sizes)}
        embedded: list[np.ndarray] = []
        for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
            rows = view.rows[start : start + size]
            padded = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))])
            inputs = view.table.gather(padded[own[size]])
            batch = place_batch({"inputs": inputs}, self._mesh, size)
            embedded.append(np.asarray(function(trainable, frozen, batch["inputs"]))[: len(rows)])
        return np.concatenate(embedded)
