"""VeRA: low-rank additions through random maps that all layers share; vectors alone are learned."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import FIXED, sizes
from mmjax.adapters.lora import Lora
from mmjax.encoders.layers import PyTree
from mmjax.specs.bounds import Scale, Seed, Width


@dataclasses.dataclass(frozen=True)
class VeRA(Lora):
    """W x + b * (B (d * (A dropout(x)))) at every target; b is zero at first.

    A and B are random and frozen. They are drawn again wherever they are used, from `seed`, so that
    all layers and all maps share them and nothing is stored; those of a file of PEFT stand under
    `fixed` among the parameters.

    Attributes:
      rank: of the random maps.
      alpha: not read: VeRA has no scale.
      targets: as of `Lora`; the paper's are `query` and `value`.
      start: what d begins with.
      seed: of the random maps.

    Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2; PEFT's numerics.
    """

    rank: Width = 256
    alpha: Scale = 1.0
    targets: tuple[str, ...] = ("query", "value")
    start: Scale = 0.1
    seed: Seed = 0

    def check_rank(self, target: str, size: tuple[int, int, int]) -> None:
        """Any rank will do: vectors are learned, and the paper has some larger than its maps."""

    def initial(self, key: Key[Array, ""], frozen: PyTree) -> PyTree:
        """One target's {"rank_scale" [n, r], "scale" [n, out]}; nothing is drawn."""
        n, _, width_out = sizes(frozen)
        return {
            "rank_scale": jnp.full((n, self.rank), self.start, jnp.float32),
            "scale": jnp.zeros((n, width_out)),
        }

    def projections(
        self, own: PyTree, width_in: int, width_out: int
    ) -> tuple[Float[Array, "*n i r"], Float[Array, "*n r o"]]:
        """The frozen random maps A^T and B^T of one target."""
        if FIXED in own:
            down, up = (jnp.asarray(own[FIXED][name]) for name in ("down", "up"))
            return jax.lax.stop_gradient((down, up))

        def draw(side: int, width: int, read: int) -> Float[Array, "w r"]:
            # Channel by channel: a narrower map has the first channels of a wider one, as in PEFT.
            key, limit = jax.random.fold_in(jax.random.key(self.seed), side), (6 / read) ** 0.5
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(width))
            drawn = jax.vmap(lambda k: jax.random.uniform(k, (self.rank,), minval=-1.0))(keys)
            return limit * drawn

        return draw(0, width_in, width_in), draw(1, width_out, self.rank).T

    def added(self, own: PyTree, x: Array) -> Array:
        """What one target's parameters add for x."""
        down, up = self.projections(own, x.shape[-1], own["scale"].shape[-1])
        inner = (x @ down.astype(x.dtype)) * own["rank_scale"][None, None].astype(x.dtype)
        return (inner @ up.astype(x.dtype)) * own["scale"][None, None].astype(x.dtype)

    def folded(self, own: PyTree, kernel: Float[Array, "n i o"]) -> Float[Array, "n i o"]:
        """A frozen kernel of all layers, float32, with one target's parameters in it."""
        down, up = self.projections(own, *kernel.shape[1:])
        inner = jnp.broadcast_to(down, (len(kernel), *down.shape[-2:])) * own["rank_scale"][:, None]
        return kernel + (inner @ up) * own["scale"][:, None]
