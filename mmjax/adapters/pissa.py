"""PiSSA: LoRA that begins at the largest singular vectors of every frozen map."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import FIXED
from mmjax.adapters.lora import Lora
from mmjax.encoders.layers import PyTree
from mmjax.weights.quantize import dequantized


@dataclasses.dataclass(frozen=True)
class PiSSA(Lora):
    """W x + alpha / rank * (B A - B0 A0) x at every target, with the settings of `Lora`.

    A0 and B0 are the values that A and B begin with: alpha / rank * B0 A0 is the part of W with the
    largest singular values. The original takes that part out of the frozen map; here it is
    subtracted from what is added, so that the frozen model stays as it is for all adapters. A0 and
    B0 stand under `fixed` among the parameters, and are not trained (`mmjax.optim`).

    Source: Meng et al. 2024 (arXiv 2404.02948), equations 3 to 5; PEFT's `init_lora_weights`.
    """

    def initial(self, key: Key[Array, ""], frozen: PyTree) -> PyTree:
        """One target's parameters, from its frozen map; nothing is drawn."""
        down, up = self.factors(dequantized(frozen))
        fixed = {"down": down, "up": up}
        return {**{name: {"kernel": x} for name, x in fixed.items()}, FIXED: fixed}

    def factors(
        self, kernel: Float[Array, "n i o"]
    ) -> tuple[Float[Array, "n i r"], Float[Array, "n r o"]]:
        """What A and B begin with."""
        left, values, right = jnp.linalg.svd(kernel, full_matrices=False)
        root = jnp.sqrt(values[:, : self.rank] / self.scale)
        return left[:, :, : self.rank] * root[:, None], root[:, :, None] * right[:, : self.rank]

    def added(self, own: PyTree, x: Array) -> Array:
        """What one target's parameters add for x."""
        down, up = (jax.lax.stop_gradient(own[FIXED][n]).astype(x.dtype) for n in ("down", "up"))
        return super().added(own, x) - self.scale * (x @ down @ up)

    def folded(self, own: PyTree, kernel: Float[Array, "n i o"]) -> Float[Array, "n i o"]:
        """As `Lora.folded`, without the part that was there already."""
        start = own[FIXED]
        return super().folded(own, kernel) - self.scale * (start["down"] @ start["up"])
