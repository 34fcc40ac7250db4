"""OLoRA: LoRA that begins at an orthonormal part of every frozen map."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.adapters.pissa import PiSSA


@dataclasses.dataclass(frozen=True)
class OLoRA(PiSSA):
    """As `PiSSA`, from the first rows and columns of a QR decomposition.

    Source: Büyükakyüz 2024 (arXiv 2406.01775), section 3; PEFT's `init_lora_weights`.
    """

    def factors(
        self, kernel: Float[Array, "n i o"]
    ) -> tuple[Float[Array, "n i r"], Float[Array, "n r o"]]:
        """What A and B begin with: of W = Q R, W [out, in] as torch has it."""
        q, r = jnp.linalg.qr(kernel.mT)
        return r[:, : self.rank].mT, q[..., : self.rank].mT
