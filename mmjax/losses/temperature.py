"""The temperature of contrastive losses: its range, and what lies outside of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_LOGIT_SCALE = 4.605170185988092  # ln 100
# Of a learnt `logit_scale`: CLIP's own clamp, after every step of the optimizer.
LOGIT_SCALE_RANGE = (0.0, MAX_LOGIT_SCALE)


def initial_logit_scale(temperature: float) -> Float[Array, ""]:
    """The logarithm of the inverse of a temperature, f32: where a learnt one begins."""
    return -jnp.log(jnp.asarray(temperature, jnp.float32))


@jax.custom_vjp
def clamped(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """The logarithm of the inverse temperature, at most ln 100.

    A plain minimum has no gradient above the limit, so that a scale which once got there would stay
    for good, and half of it at the limit. Here it is 1 up to and at the limit; above, the gradient
    at the limit passes where it leads back, and none that leads on. Whoever keeps the parameter
    itself within `LOGIT_SCALE_RANGE`, as `mmjax.optim` does, never gets there.

    Args:
      logit_scale: a float scalar.

    Returns:
      The same in its dtype.

    Source: CLIP (Radford et al., 2021), section 2.5, clips the scale at 100; the gradient is
      projected descent's.
    """
    return jnp.minimum(logit_scale, MAX_LOGIT_SCALE)


def _clamped_fwd(logit_scale: Float[Array, ""]) -> tuple[Float[Array, ""], Array]:
    return clamped(logit_scale), logit_scale > MAX_LOGIT_SCALE


def _clamped_bwd(is_above: Array, by_clamped: Float[Array, ""]) -> tuple[Float[Array, ""]]:
    # Descent goes against the gradient: a positive one lowers the scale.
    return (jnp.where(is_above, jnp.maximum(by_clamped, 0), by_clamped),)


clamped.defvjp(_clamped_fwd, _clamped_bwd)


def temperature(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """1 / exp(logit_scale) as losses use it, at least 0.01; without a gradient, to be reported."""
    return jnp.exp(-jax.lax.stop_gradient(clamped(logit_scale)))
