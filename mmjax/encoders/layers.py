"""Layers that several encoders share: attention, activations, the scanned stack."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from mmjax.encoders.attention import PLAIN, Kernel, Mask, attend
from mmjax.errors import MmjaxError
from mmjax.weights.quantize import KERNEL, PARTS, ROW_SCALE, SCALE, STEP, dequantized

Dtype = Any
PyTree = Any
# (one layer's slice of an adapter's parameters, a place in the layer, what goes in, what comes out,
# the frozen kernel [in, out] of the place's map) -> what comes out instead.
# Every transformer has the places "attention_input" and "feed_forward_input" (what a branch reads:
# in and out are the same, and the kernel is None; what the branch is added to stays as it is),
# "query", "key", "value", "out", and its own feed-forward maps: "intermediate" and "output" (BERT),
# "fc1" and "fc2" (CLIP, ViT, DINOv2), "gate", "up" and "down" (LLaMA). Beside them there are
# "layer_input" (the stream itself, for branches and for what they are added to) and
# "attention_output" and "feed_forward_output" (what a branch adds; x is what it has read); there
# the kernel is None too.
# The kernel is float32, whatever the model keeps; making it so costs a compiled program nothing
# where the adapter does not read it.
Hook = Callable[[PyTree, str, jax.Array, jax.Array, jax.Array | None], jax.Array]


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)  # JAX's default is the tanh approximation


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


# Hugging Face's names of activations.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks up an activation by its Hugging Face name.

    Args:
      name: for example "gelu" (exact, by erf) or "gelu_new" (tanh approximation).

    Returns:
      An elementwise function.

    Raises:
      MmjaxError: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise MmjaxError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_sizes(hidden_size: int, num_heads: int, hidden_act: str) -> None:
    """Refuses sizes that no attention can have, and unknown activations.

    Args:
      hidden_size: width of the model.
      num_heads: attention heads; must divide the width.
      hidden_act: Hugging Face's name of the activation.

    Raises:
      MmjaxError: says which number is wrong.
    """
    activation(hidden_act)
    if num_heads < 1 or hidden_size % num_heads:
        raise MmjaxError(
            f"config.json: hidden_size {hidden_size} is not a multiple of "
            f"num_attention_heads {num_heads}"
        )


_SINGLE_ROWS = 8  # by measurement: see `Dense`


class Dense(nn.Module):
    """`nn.Dense` whose kernel may also be int8 or nf4 (`quantize.py`)."""

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """Multiplies by the kernel and adds the bias.

        Args:
          x: float [*batch, in].

        Returns:
          Float [*batch, features] in `dtype`.
        """
        shape = (x.shape[-1], self.features)
        row, small = (1,) * (x.ndim - 1) + (-1,), self.has_variable("params", STEP)
        if self.has_variable("params", ROW_SCALE):
            y = self._by_rows(x.astype(self.dtype))
            y = (y * self.get_variable("params", ROW_SCALE).reshape(row)).astype(self.dtype)
        else:
            if small:  # nf4: no array of the kernel's own shape is kept
                kernel = self.frozen_kernel()
            else:
                kernel = self.param(KERNEL, nn.initializers.lecun_normal(), shape, self.param_dtype)
            y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if not small and self.has_variable("params", SCALE):
            # A column's scale can wait until after the product, where there is less to multiply.
            y = (y * self.get_variable("params", SCALE).reshape(row)).astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            y = y + bias.reshape(row).astype(self.dtype)
        return y

    def _by_rows(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """Multiplies by an int8 kernel [out, in], not yet scaled.

        One row by the kernel is a product that reads int8 where it lies. A few rows are as many
        such products; more of them are worth a float kernel.
        """
        kernel = self.get_variable("params", KERNEL).astype(self.dtype).T
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > _SINGLE_ROWS:
            return x @ kernel
        products = jnp.concatenate([rows[i : i + 1] @ kernel for i in range(len(rows))])
        return products.reshape(*x.shape[:-1], -1)

    def frozen_kernel(self) -> Float[Array, "i o"]:
        """The kernel that a call multiplies by, for who adapts it.

        Returns:
          Float32 [in, features], a quantised one with its scales. In a compiled program an array
          that nothing reads is never made.
        """
        kept = {n: self.get_variable("params", n) for n in PARTS if self.has_variable("params", n)}
        return dequantized(kept)


@runtime_checkable
class PrefixHook(Protocol):
    """A hook with keys and values of its own, which every token of a layer may read."""

    def key_values(self, adapter: PyTree) -> tuple[Float[Array, "p d"], Float[Array, "p d"]]:
        """One layer's own keys and values, all heads side by side."""
        ...


@runtime_checkable
class WeightHook(Protocol):
    """An adapter of a tower's weights, whichever they are, and no hook of its layers."""

    def tuned(self, params: PyTree, adapters: PyTree) -> PyTree:
        """The tower's parameters as adapted; pure."""
        ...


@dataclasses.dataclass(frozen=True)
class At:
    """What a layer does at each of its places.

    Attributes:
      hook: an adapter's function; None leaves the layer as it is, in the same program.
      adapter: the layer's slice of the adapter's parameters.
    """

    hook: Hook | None = None
    adapter: PyTree = None

    def read(self, place: str, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """What a branch of the layer reads in place of x, float [b, l, d]."""
        return x if self.hook is None else self.hook(self.adapter, place, x, x, None)

    def add(
        self, place: str, x: Float[Array, "b l d"], y: Float[Array, "b l d"]
    ) -> Float[Array, "b l d"]:
        """What a branch of the layer adds in place of y, float [b, l, d]; x is what it has read."""
        return y if self.hook is None else self.hook(self.adapter, place, x, y, None)

    def behind_prefix(
        self, key: Float[Array, "b h l c"], value: Float[Array, "b h l c"]
    ) -> tuple[Float[Array, "b h m c"], Float[Array, "b h m c"]]:
        """Keys and values behind those of an adapter that has some of its own."""
        if not isinstance(self.hook, PrefixHook):
            return key, value
        b, h, _, c = key.shape
        rows = [
            jnp.broadcast_to(
                part.astype(key.dtype).reshape(1, len(part), h, c).swapaxes(1, 2),
                (b, h, len(part), c),
            )
            for part in self.hook.key_values(self.adapter)
        ]
        return jnp.concatenate([rows[0], key], 2), jnp.concatenate([rows[1], value], 2)

    def map(self, place: str, dense: Dense, x: Float[Array, "b l i"]) -> Float[Array, "b l o"]:
        """What comes out of a dense map.

        Args:
          place: its name.
          dense: the map, a submodule of the layer.
          x: float [b, l, in].

        Returns:
          Float [b, l, out].
        """
        y = dense(x)
        if self.hook is None:
            return y
        return self.hook(self.adapter, place, x, y, dense.frozen_kernel())


NOWHERE = At()


# Statistics are float32 whatever the activations are. flax's quicker variance, E[x^2] - E[x]^2,
# loses half of the digits when the mean is large, which is visible beside an epsilon of 1e-12.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class Attention(nn.Module):
    """Multi-head self-attention without dropout; heads share 2-D kernels [d, d]."""

    num_heads: int
    use_bias: bool = True
    causal: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    attend_by: Kernel = PLAIN

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: Bool[Array, "b l"] | None = None,
        at: At = NOWHERE,
    ) -> Float[Array, "b l d"]:
        """Attends.

        Args:
          x: float [b, l, d].
          mask: bool [b, l], true at the keys that may be read; None reads all.
          at: the adapter's places.

        Returns:
          Float [b, l, d].
        """
        b, l, d = x.shape
        head = d // self.num_heads

        def dense(name: str, use_bias: bool = True) -> Dense:
            return Dense(
                d, use_bias=use_bias, dtype=self.dtype, param_dtype=self.param_dtype, name=name
            )

        def heads(name: str) -> Float[Array, "b h l c"]:
            y = at.map(name, dense(name, self.use_bias), x)
            return y.reshape(b, l, self.num_heads, head).swapaxes(1, 2)

        query, (key, value) = heads("query"), at.behind_prefix(heads("key"), heads("value"))
        # An adapter's keys every token reads.
        seen = Mask(readable=mask, causal=self.causal).behind(key.shape[2] - l)
        mixed = attend(query, [key], [value], seen, self.attend_by)
        mixed = mixed.swapaxes(1, 2).reshape(b, l, d)
        return at.map("out", dense("out"), mixed)


def layer_scale(layer: Any, name: str, branch: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """What a branch of a layer adds, each channel times a learnt number of its own."""
    vector = layer.param(name, nn.initializers.ones, branch.shape[-1:], layer.param_dtype)
    return branch * vector.astype(layer.dtype)[None, None]


class PreNormLayer(nn.Module):
    """One pre-norm transformer layer: CLIP's, ViT's and, with layer scale, DINOv2's."""

    num_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    qkv_bias: bool = True
    layer_scale: bool = False
    causal: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    hook: Hook | None = None
    attend_by: Kernel = PLAIN

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: Bool[Array, "b l"] | None = None,
        adapter: PyTree = None,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b d"]]:
        """Attention, then the feed-forward part, each on normalised input and then added.

        Args:
          x: float [b, l, d].
          mask: bool [b, l], true at the tokens that may be read; None reads all.
          adapter: this layer's slice of the adapter's parameters.

        Returns:
          (float [b, l, d], its first token [b, d]): the pair that a scan wants.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        d = x.shape[-1]
        at = At(self.hook, adapter)

        def scaled(branch: Array, name: str) -> Array:
            return layer_scale(self, name, branch) if self.layer_scale else branch

        x = at.read("layer_input", x)
        hidden = LayerNorm(self.layer_norm_eps, **dtypes, name="norm1")(x)
        hidden = at.read("attention_input", hidden)
        attention = Attention(
            self.num_heads,
            self.qkv_bias,
            self.causal,
            **dtypes,
            attend_by=self.attend_by,
            name="attention",
        )
        attended = scaled(attention(hidden, mask, at), "layer_scale1")
        x = x + at.add("attention_output", hidden, attended)
        hidden = LayerNorm(self.layer_norm_eps, **dtypes, name="norm2")(x)
        hidden = at.read("feed_forward_input", hidden)
        wide = at.map("fc1", Dense(self.intermediate_size, **dtypes, name="fc1"), hidden)
        wide = activation(self.hidden_act)(wide)
        added = scaled(at.map("fc2", Dense(d, **dtypes, name="fc2"), wide), "layer_scale2")
        x = x + at.add("feed_forward_output", hidden, added)
        return x, x[:, 0]


# Megatron's split: heads and hidden units over `model`, one sum after each of the two parts.
PRE_NORM_RULES = (
    (r"layers/(attention/(query|key|value)|fc1)/kernel", P(None, None, "model")),
    (r"layers/(attention/(query|key|value)|fc1)/bias", P(None, "model")),
    (r"layers/(attention/out|fc2)/kernel", P(None, "model", None)),
)


def stack(
    layer: type[nn.Module], num_layers: int, in_axes: Any = (nn.broadcast,)
) -> Callable[..., Any]:
    """Repeats a layer with `nn.scan`: one compiled body, parameters stacked on a leading axis.

    Args:
      layer: module class whose call takes (x, *others) and returns (x, something to stack or None).
      num_layers: how many layers.
      in_axes: for each of the others, `nn.broadcast` (the same for every layer, as a mask is) or
        the axis that holds the layers.

    Returns:
      The scanned module class; its call returns (x, all layers' second value).
    """
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=num_layers,
    )
