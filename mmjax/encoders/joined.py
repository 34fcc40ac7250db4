"""Words with the pictures that they are about, in a model with an image tower of its own."""

from typing import NamedTuple, cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.encoders.layers import PyTree
from mmjax.encoders.llava_images import WORD
from mmjax.encoders.mllama_images import SeenPictures
from mmjax.encoders.output import Inputs


class Joined(NamedTuple):
    """What a decoder reads of texts about pictures.

    Attributes:
      embeddings: of words, and of the pictures that stand among them.
      pictures: those that stand beside the words; None where none do.
      together: where pictures' tokens stand that read one another; None where none do.
    """

    embeddings: Float[Array, "b l d"]
    pictures: SeenPictures | None = None
    together: Bool[Array, "b l"] | None = None


def among(
    words: Float[Array, "b l d"], tokens: Float[Array, "m t d"], slots: Int[Array, "b l"]
) -> Float[Array, "b l d"]:
    """Words with pictures' tokens among them.

    Args:
      words: float [b, l, d].
      tokens: float [m, t, d], of m pictures; rows i * b / m to (i + 1) * b / m are about picture i.
      slots: int [b, l]: which of its picture's tokens stands here, or `WORD`.

    Returns:
      Float [b, l, d] in the dtype of the words.
    """
    own = jnp.repeat(tokens.astype(words.dtype), len(words) // len(tokens), axis=0)
    placed = jnp.take_along_axis(own, jnp.maximum(slots, 0)[..., None], axis=1)
    return jnp.where((slots != WORD)[..., None], placed, words)


def join(
    module: nn.Module,
    params: PyTree,
    words: Float[Array, "b l d"],
    inputs: Inputs,
    slots: Int[Array, "b l"],
    adapters: PyTree = None,
) -> Joined:
    """`ReadsPictures.join`, pure."""
    arguments = (words, inputs, slots, adapters)
    return cast(Joined, module.apply({"params": params}, *arguments, method="join"))
