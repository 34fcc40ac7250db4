"""Learnt tokens among those that an encoder reads: they are put in and, at the end, taken out."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.errors import MmjaxError

PyTree = Any


class NoPlaceError(MmjaxError):
    """Learnt tokens for which a table of positions has no place."""


@runtime_checkable
class TokenHook(Protocol):
    """A hook with tokens of its own among those that the first layer reads."""

    @property
    def tokens(self) -> int:
        """How many."""
        ...

    @property
    def at(self) -> int | None:
        """How many of the encoder's own stay in front; None for what the encoder does."""
        ...

    def first(self, adapters: PyTree) -> Float[Array, "p d"]:
        """What they are before the first layer."""
        ...

    def by_layer(self, adapters: PyTree) -> PyTree:
        """The parameters that layers read, leaves [layers, ...]; None where they read none."""
        ...


def insert(
    hook: object,
    adapters: PyTree,
    x: Float[Array, "b l d"],
    mask: Int[Array, "b k"] | None,
    at: int,
    most: int | None = None,
) -> tuple[Float[Array, "b m d"], Int[Array, "b _"] | None, PyTree]:
    """Puts a hook's tokens among those that an encoder reads.

    Args:
      hook: of the encoder; one without tokens changes nothing.
      adapters: its parameters.
      x: float [b, l, d], what is read.
      mask: int [b, k], 1 at real tokens; None where all are. Behind a past it is longer than x.
      at: how many tokens stay in front, unless the hook says so.
      most: tokens that the encoder has positions for; None for any number.

    Returns:
      (float [b, p + l, d], mask [b, p + l], the parameters for the layers).

    Raises:
      NoPlaceError: there are more: looked up, their positions would be NaN.
    """
    if not isinstance(hook, TokenHook):
        return x, mask, adapters
    if most is not None and x.shape[1] + hook.tokens > most:
        raise NoPlaceError(
            f"texts of {x.shape[1]} tokens and {hook.tokens} of an adapter are longer than the "
            f"{most} that this encoder reads; set a lower max_length, or fewer tokens"
        )
    at = at if hook.at is None else hook.at
    own = hook.first(adapters).astype(x.dtype)
    own = jnp.broadcast_to(own[None], (len(x), *own.shape))
    x = jnp.concatenate([x[:, :at], own, x[:, at:]], axis=1)
    if mask is not None:
        ones = jnp.ones(own.shape[:2], mask.dtype)
        mask = jnp.concatenate([mask[:, :at], ones, mask[:, at:]], axis=1)
    return x, mask, hook.by_layer(adapters)


def remove(hook: object, x: Float[Array, "*b m d"], at: int) -> Float[Array, "*b l d"]:
    """Takes a hook's tokens out again; see `insert`."""
    if not isinstance(hook, TokenHook):
        return x
    at = at if hook.at is None else hook.at
    return jnp.concatenate([x[..., :at, :], x[..., at + hook.tokens :, :]], axis=-2)
