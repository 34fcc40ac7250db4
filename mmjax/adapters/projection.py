"""Small heads that project frozen embeddings into a joint space."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


class Standardize(nn.Module):
    """A learnt shift and scale of every feature, both starting at the data's own statistics.

    Give it many examples when it is initialised: towers of any scale then meet the same initial
    values, dropout and noise. A feature that is constant in them keeps its scale, as with
    scikit-learn's StandardScaler, and one that hardly varies is magnified a thousand times at most:
    what they may be later is not blown up.

    Source: data-dependent initialisation as of ActNorm (Glow, arXiv 1807.03039, section 3.1).
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b d"], mask: Bool[Array, "*b"] | None = None
    ) -> Float[Array, "*b d"]:
        """Shifts and scales; statistics are those of the vectors that the mask keeps."""
        keep = jnp.ones(x.shape[:-1], bool) if mask is None else mask
        shift = self.param("shift", lambda _: -_moments(x, keep)[0])
        scale = self.param("scale", lambda _: _inverse_deviation(x, keep))
        leading = (1,) * (x.ndim - 1)
        return (x + shift.reshape(*leading, -1)) * scale.reshape(*leading, -1)


def _moments(
    x: Float[Array, "*b d"], keep: Bool[Array, "*b"]
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Mean and standard deviation of every feature over the vectors that are kept."""
    rows, weights = x.reshape(-1, x.shape[-1]), keep.reshape(-1, 1).astype(x.dtype)
    total = jnp.maximum(weights.sum(), 1)
    mean = (rows * weights).sum(axis=0) / total
    return mean, jnp.sqrt((jnp.square(rows - mean[None]) * weights).sum(axis=0) / total)


# Values that differ by so many units in the last place are what rounding makes of a constant.
_ROUNDING = 10
# What hardly varies is not magnified without bound.
_LEAST_DEVIATION = 1e-3


def _inverse_deviation(x: Float[Array, "*b d"], keep: Bool[Array, "*b"]) -> Float[Array, " d"]:
    """About 1 / the standard deviation of a feature; 1 for one that is constant but for rounding.

    Source: scikit-learn's StandardScaler, which asks whether the variance is within the rounding
      errors of its sums; of f32 inputs summed in f64 that finds constants alone. The least
      deviation is ours.
    """
    rows, kept = x.reshape(-1, x.shape[-1]), keep.reshape(-1, 1)
    lowest = jnp.min(rows, axis=0, where=kept, initial=jnp.inf)
    highest = jnp.max(rows, axis=0, where=kept, initial=-jnp.inf)
    rounding = _ROUNDING * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(lowest), jnp.abs(highest))
    deviation = _moments(x, keep)[1]
    varies = (highest - lowest > rounding) & (deviation > 0)
    return jnp.where(varies, 1 / (deviation + _LEAST_DEVIATION), 1)


class ProjectionHead(nn.Module):
    """Standardised input, hidden layers with GELU, a linear output; `members` times over.

    Attributes:
      hidden: widths of the hidden layers; empty for a linear map.
      out_dim: width of one member's output.
      dropout: rate on the input features.
      hidden_dropout: rate after every hidden layer.
      members: independent copies on the same input, their outputs side by side.
    """

    hidden: tuple[int, ...]
    out_dim: int
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    members: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, deterministic: bool = True
    ) -> Float[Array, "b me"]:
        """Projects features; dropout only when not `deterministic` (rng `dropout`)."""
        x = Standardize(name="standardize")(x)
        outputs = []
        for member in range(self.members):
            y = nn.Dropout(self.dropout)(x, deterministic=deterministic)
            for i, width in enumerate(self.hidden):
                y = nn.Dense(width, name=f"member_{member}_hidden_{i}")(y)
                y = nn.gelu(y, approximate=False)
                y = nn.Dropout(self.hidden_dropout)(y, deterministic=deterministic)
            outputs.append(nn.Dense(self.out_dim, name=f"member_{member}_out")(y))
        return jnp.concatenate(outputs, axis=-1)


class Projector(nn.Module):
    """Linear, ReLU, linear: the small projector of frozen embeddings.

    Attributes:
      hidden: width of the hidden layer; 0 takes the paper's min(d / 2, 16).
      out_dim: width of the output.
      dropout: rate on the input features.
      standardize: learn a shift and scale of the input first (not in the paper).

    Source: arXiv 2502.02048 (Margaritis, Petridis, Bertsimas, 2025) and its released code with
      PyTorch's initial values; 14,480 parameters on 768-d input.
    """

    hidden: int = 0
    out_dim: int = 128
    dropout: float = 0.0
    standardize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, deterministic: bool = True
    ) -> Float[Array, "b e"]:
        """Projects features; dropout only when not `deterministic` (rng `dropout`)."""
        if self.standardize:
            x = Standardize(name="standardize")(x)
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        width = self.hidden or max(1, min(x.shape[-1] // 2, 16))
        x = nn.relu(_linear("hidden", x.shape[-1], width)(x))
        return _linear("out", width, self.out_dim)(x)


def _linear(name: str, fan_in: int, width: int) -> nn.Dense:
    """A dense layer that starts as PyTorch's: all values uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(width, name=name, kernel_init=uniform, bias_init=uniform)
