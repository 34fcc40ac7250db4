"""The exact gradient of a loss that compares all rows of a batch, with memory for a part of them.

First every part is embedded, and nothing but the embeddings is kept. Then the loss of all of them
gives the embeddings' gradients. At last every part is embedded again, and its own gradients are
taken back to the parameters.
"""
# pyright: standard

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from mmjax.encoders.output import Batch
from mmjax.metrics import Metrics
from mmjax.tasks.base import Embedding
from mmjax.trees import PyTree

Gradient = Callable[
    [PyTree, PyTree, Batch, Key[Array, ""]], tuple[tuple[Float[Array, ""], Metrics], PyTree]
]


def cut(x: Shaped[Array, "b ..."], count: int, shards: int) -> Shaped[Array, "c p ..."]:
    """A batch in `count` parts, every device's rows shared among all of them; no row moves."""
    by_shard = x.reshape(shards, count, -1, *x.shape[1:])
    return by_shard.swapaxes(0, 1).reshape(count, -1, *x.shape[1:])


def joined(x: Shaped[Array, "c p ..."], shards: int) -> Shaped[Array, "b ..."]:
    """What `cut` cut."""
    count = len(x)
    by_part = x.reshape(count, shards, -1, *x.shape[2:])
    return by_part.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def cached_gradient(task: Embedding, count: int, shards: int = 1) -> Gradient:
    """The loss of a whole batch and its gradient, embedded a part at a time.

    Args:
      task: embeds rows and compares them.
      count: parts; they divide every device's rows.
      shards: devices that the batch is split over.

    Returns:
      (trainable, frozen, batch, key) -> ((loss, metrics), gradient), equal to those of `task.loss`
      but for rounding and for which random numbers drop what.

    Source: Gao et al. 2021 (GradCache, arXiv 2101.06983), section 3.
    """

    def run(
        trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], Metrics], PyTree]:
        parts: Any = jax.tree.map(lambda x: cut(x, count, shards), dict(batch))
        keys = jax.random.split(key, count)

        def embed(trainable: PyTree, part: tuple[Batch, Key[Array, ""]]) -> Any:
            return task.embedded(trainable, frozen, *part)

        def first(_: None, part: Any) -> tuple[None, Any]:
            return None, embed(trainable, part)

        _, stacked = jax.lax.scan(first, None, (parts, keys))
        embedded = jax.tree.map(lambda x: joined(x, shards), stacked)
        compared = jax.value_and_grad(task.compare, argnums=(0, 1), has_aux=True)
        value, (of_rows, direct) = compared(embedded, trainable, frozen, batch)

        def second(total: PyTree, part: Any) -> tuple[PyTree, None]:
            inputs, cotangent = part
            _, back = jax.vjp(lambda t: embed(t, inputs), trainable)
            return jax.tree.map(jnp.add, total, back(cotangent)[0]), None

        cotangents = jax.tree.map(lambda x: cut(x, count, shards), of_rows)
        gradient, _ = jax.lax.scan(second, direct, ((parts, keys), cotangents))
        return value, gradient

    return run
