"""Random keys by name: every consumer has its own stream, whatever else asks for one."""

import zlib
from typing import TypeAlias

import jax
from jaxtyping import Array, Key

DropoutKey: TypeAlias = Key[Array, ""] | None  # None drops nothing


def key_for(seed: int, *names: str | int) -> Key[Array, ""]:
    """The key of one named stream.

    Args:
      seed: the run's seed.
      names: what the key is for, e.g. `("init", "adapter")`. Equal names give equal keys.

    Returns:
      A typed scalar PRNG key.
    """
    key = jax.random.key(seed)
    for name in names:
        data = zlib.crc32(name.encode()) if isinstance(name, str) else name
        key = jax.random.fold_in(key, data)
    return key


def seed_for(seed: int, *names: str) -> int:
    """A 31-bit integer seed for libraries that want one (grain, NumPy)."""
    return zlib.crc32("/".join((str(seed), *names)).encode()) & 0x7FFFFFFF
