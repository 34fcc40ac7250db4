"""The layer of image towers whose positions are rotations: DINOv3's and Qwen-VL's."""

import dataclasses
from typing import NamedTuple

from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.encoders import rope
from mmjax.encoders.attention import Mask, attend
from mmjax.encoders.layers import At, Dense, LayerNorm, PyTree, activation, layer_scale
from mmjax.encoders.modules import EncoderModule, HookedModule
from mmjax.encoders.norms import RMSNorm
from mmjax.trees import Rules

_EVEN = 8  # devices over which hidden units are to divide


@dataclasses.dataclass(frozen=True)
class RotaryLayerConfig:
    """Sizes of a layer, and its variant."""

    num_heads: int
    intermediate_size: int
    hidden_act: str
    epsilon: float  # of the norms
    rms_norm: bool = False
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False
    layer_scale: bool = False


class RotaryInputs(NamedTuple):
    """What every layer reads alike: cosines and sines of all tokens' rotations, float32, and more.

    The mask says which tokens a token reads.
    """

    cos: Float[Array, "b l half"]
    sin: Float[Array, "b l half"]
    mask: Mask


class RotaryAttention(EncoderModule):
    """Multi-head self-attention with rotated queries and keys."""

    config: RotaryLayerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], shared: RotaryInputs, at: At
    ) -> Float[Array, "b l d"]:
        """Attends.

        Args:
          x: float [b, l, d].
          shared: rotations and mask.
          at: the adapter's places.

        Returns:
          Float [b, l, d].
        """
        config, (b, l, d) = self.config, x.shape
        cos, sin, mask = shared
        head = d // config.num_heads

        def dense(name: str, bias: bool, x: Array) -> Array:
            return at.map(name, Dense(d, bias, self.dtype, self.param_dtype, name=name), x)

        def heads(name: str, bias: bool) -> Float[Array, "b h l c"]:
            return dense(name, bias, x).reshape(b, l, config.num_heads, head).swapaxes(1, 2)

        query = rope.rotate(heads("query", config.query_bias), cos, sin)
        key = rope.rotate(heads("key", config.key_bias), cos, sin)
        key, value = at.behind_prefix(key, heads("value", config.value_bias))
        mixed = attend(query, [key], [value], mask.behind(key.shape[2] - l))
        return dense("out", config.out_bias, mixed.swapaxes(1, 2).reshape(b, l, d))


class RotaryLayer(HookedModule):
    """One pre-norm transformer layer whose queries and keys are rotated."""

    config: RotaryLayerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        shared: RotaryInputs,
        adapter: PyTree = None,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d"]]:
        """Attention, then the feed-forward part, each on normalised input and then added.

        Args:
          x: float [b, l, d].
          shared: rotations and mask.
          adapter: this layer's slice of the adapter's parameters.

        Returns:
          (float [b, l, d], its first token [b, d]): the pair that a scan wants.
        """
        config, dtypes, d = self.config, self.dtypes, x.shape[-1]
        at = At(self.hook, adapter)
        norm = RMSNorm if config.rms_norm else LayerNorm

        def scaled(branch: Array, name: str) -> Array:
            return layer_scale(self, name, branch) if config.layer_scale else branch

        x = at.read("layer_input", x)
        read = at.read("attention_input", norm(config.epsilon, **dtypes, name="norm1")(x))
        attended = RotaryAttention(config, **dtypes, name="attention")(read, shared, at)
        x = x + scaled(at.add("attention_output", read, attended), "layer_scale1")
        read = at.read("feed_forward_input", norm(config.epsilon, **dtypes, name="norm2")(x))

        def dense(name: str, width: int, x: Array) -> Array:
            return at.map(name, Dense(width, config.mlp_bias, **dtypes, name=name), x)

        act, wide = activation(config.hidden_act), config.intermediate_size
        if config.gated:
            hidden = act(dense("gate", wide, read)) * dense("up", wide, read)
            hidden = dense("down", d, hidden)
        else:
            hidden = dense("fc2", d, act(dense("fc1", wide, read)))
        x = x + scaled(at.add("feed_forward_output", read, hidden), "layer_scale2")
        return x, x[:, 0]


def layer_sharding(config: RotaryLayerConfig, prefix: str = "") -> Rules:
    """Heads and hidden units over `model`, as other transformers have them.

    Hidden units that eight devices cannot share stay together: their maps are split by the width of
    the model instead.

    Args:
      config: says which maps there are.
      prefix: of the paths, a pattern.

    Returns:
      (anchored pattern, PartitionSpec) pairs for `layers/...`.
    """
    wide, narrow = ("gate|up", "down") if config.gated else ("fc1", "fc2")
    maps = rf"{prefix}layers/(attention/(query|key|value)|{wide})"
    if config.intermediate_size % _EVEN:  # Qwen2.5-VL's 3,420
        maps = rf"{prefix}layers/attention/(query|key|value)"
        return (
            (rf"{maps}/kernel", P(None, None, "model")),
            (rf"{maps}/bias", P(None, "model")),
            (rf"{prefix}layers/(attention/out|{wide})/kernel", P(None, "model", None)),
            (rf"{prefix}layers/{narrow}/kernel", P(None, None, "model")),
        )
    return (
        (rf"{maps}/kernel", P(None, None, "model")),
        (rf"{maps}/bias", P(None, "model")),
        (rf"{prefix}layers/(attention/out|{narrow})/kernel", P(None, "model", None)),
    )
