"""The residual adapter: a bottleneck beside an embedding that is already good."""

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.adapters.projection import Standardize


class ResidualAdapter(nn.Module):
    """x + ratio / (1 - ratio) * MLP(x); before training exactly x.

    After normalization this is CLIP-Adapter's mixture ratio * MLP(x) + (1 - ratio) * x, which has
    the same direction. The last layer starts at zero, where CLIP-Adapter's second ReLU would never
    get a gradient: there is none.

    Attributes:
      bottleneck: width of the hidden layer.
      ratio: share of the MLP in the mixture, below 1.
      dropout: rate on the MLP's input and on its hidden layer.

    Source: CLIP-Adapter (Gao et al., 2021), equations 4-6, with standardised input.
    """

    bottleneck: int
    ratio: float = 0.2
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], *, deterministic: bool = True
    ) -> Float[Array, "b d"]:
        """Adapts un-normalised embeddings; dropout only if not `deterministic` (rng `dropout`)."""
        y = Standardize(name="standardize")(x)
        y = nn.Dropout(self.dropout)(y, deterministic=deterministic)
        y = nn.relu(nn.Dense(self.bottleneck, name="down")(y))
        y = nn.Dropout(self.dropout)(y, deterministic=deterministic)
        y = nn.Dense(x.shape[-1], name="up", kernel_init=nn.initializers.zeros)(y)
        return x + self.ratio / (1 - self.ratio) * y
