"""Distillation of one embedding space into another, per example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mse(student: Float[Array, "b d"], teacher: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Squared Euclidean distance between un-normalised embeddings.

    Args:
      student: what is trained.
      teacher: what it must reach.

    Returns:
      ||student_i - teacher_i||^2 for every example.

    Source: Multilingual-CLIP (Carlsson et al., LREC 2022), the 'mse' objective, summed over
      dimensions rather than averaged.
    """
    return jnp.sum(jnp.square(student - teacher), axis=-1)


def cosine(student: Float[Array, "b d"], teacher: Float[Array, "b d"]) -> Float[Array, " b"]:
    """1 - cosine similarity, for every example; same arguments as `mse`."""
    return 1.0 - jnp.sum(unit(student) * unit(teacher), axis=-1)


def unit(x: Float[Array, "*b d"], epsilon: float = 1e-12) -> Float[Array, "*b d"]:
    """Divides vectors by their Euclidean lengths; zero vectors stay zero, with finite gradients."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon))
