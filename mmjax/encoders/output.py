"""What an encoder gives, and a tower: an encoder as a task sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from mmjax.encoders.pooling import Pooling
from mmjax.errors import MmjaxError
from mmjax.trees import PyTree

# What one tower reads. Cached: {"features": [b d]} or {"features": [b l d], "mask": [b l]}.
# Raw: {"pixel_values": [b h w 3]} or {"input_ids": [b l], "attention_mask": [b l]}.
# In training also {"row": int32 [b]}: equal rows are the same picture or the same text.
Inputs = Mapping[str, Array]


Batch = Mapping[str, Inputs]  # role -> inputs
ADAPTERS = "adapters"  # in a trainable tree, and where towers find them: role -> parameters


EmbedFn = Callable[[PyTree, PyTree, Inputs], Float[Array, "b d"]]


@dataclass(frozen=True)
class Tower:
    """A frozen encoder's output as a task reads it: from the cache, or computed in the step.

    Attributes:
      role: key of the encoder's weights in the frozen tree (`image`, `text`, `foreign`).
      width: size of the last axis of its features.
      encode: (params, raw inputs) -> {"features", ["mask"]}; None where only cached features come.
      logit_scale: ln(1 / temperature) of a checkpoint with two towers; None where it has one.
      begin: (key, params) -> parameters of the adapter in it; None where it has none.
      adapted: (params, raw inputs, parameters of the adapter) -> as `encode`.
      layers: keys that its adapter needs while training; 0 where it drops nothing.
    """

    role: str
    width: int
    encode: Callable[[PyTree, Inputs], Inputs] | None = None
    logit_scale: float | None = None
    begin: Callable[[Key[Array, ""], PyTree], PyTree] | None = None
    adapted: Callable[[PyTree, Inputs, PyTree], Inputs] | None = None
    layers: int = 0

    def __call__(self, frozen: PyTree, inputs: Inputs) -> Inputs:
        """Returns {"features": [b d]} or {"features": [b l d], "mask": [b l]}."""
        if "features" in inputs:
            return inputs
        if self.encode is None:
            raise ValueError(
                f"the {self.role} tower has no encoder and got inputs {sorted(inputs)}"
            )
        raw = {k: v for k, v in inputs.items() if k != "row"}
        own = frozen.get(ADAPTERS, {}).get(self.role)
        if own is None:
            return self.encode(frozen[self.role], raw)
        assert self.adapted is not None
        return self.adapted(frozen[self.role], raw, own)


DEEP = 5  # layers before the last whose class tokens "cls_mean_deep" adds


DEEP_SIXTHS = (5, 3)  # of the layers after which "tokens_deep" reads tokens beside the last ones


class EncoderOutput(NamedTuple):
    """What an encoder says about a batch."""

    tokens: Float[Array, "b l d"]  # hidden states after the last layer (and norm)
    mask: Int[Array, "b l"]  # 1 at real tokens
    pooled: Float[Array, "b e"]  # float32, as the original library pools
    class_tokens: Float[Array, "n b d"] | None = None  # pictures: after each layer, before the norm
    hidden_states: Float[Array, "n b l d"] | None = None  # BERT family: after each layer

    def select(self, want: str) -> Float[Array, "b *rest"]:
        """One of `WANTS`: f32 [b, width], or tokens [b, l, width] in their own dtype."""
        if want == "tokens":
            return self.tokens
        if want == "tokens_deep":
            if self.hidden_states is None:
                raise MmjaxError(
                    "this encoder has no output 'tokens_deep' (plain BERTs and XLM-Rs have it); "
                    "set its output to 'tokens'"
                )
            layers = len(self.hidden_states)
            inner = [self.hidden_states[k * layers // 6 - 1] for k in DEEP_SIXTHS]
            return jnp.concatenate([self.tokens, *inner], axis=-1)
        if want == "pooled":
            return self.pooled
        if want == "class_tokens":
            assert self.class_tokens is not None, "only picture encoders have this output"
            return self.class_tokens.swapaxes(0, 1).astype(jnp.float32)
        first = self.tokens[:, 0].astype(jnp.float32)
        if want == "cls":
            return first
        parts = [first, self.tokens[:, 1:].astype(jnp.float32).mean(axis=1)]
        if want == "cls_mean_deep":
            assert self.class_tokens is not None, "only picture encoders have this output"
            inner = self.class_tokens[-1 - DEEP : -1].astype(jnp.float32)
            parts += list(inner)
        return jnp.concatenate(parts, axis=-1)


def apply(
    module: nn.Module,
    pooling: Pooling | None,
    params: PyTree,
    inputs: Mapping[str, ArrayLike],
    adapters: PyTree = None,
) -> EncoderOutput:
    """Runs a module and pools its tokens.

    Args:
      module: a family's linen module.
      pooling: None takes what the module sows as its embedding, or else the class token.
      params: its parameters.
      inputs: the module's arguments by name.
      adapters: parameters for the module's hook; leaves [layers, ...].

    Returns:
      Tokens [b, l, d], mask [b, l], pooled [b, d].
    """
    arrays: dict[str, Any] = {name: jnp.asarray(x) for name, x in inputs.items()}
    if adapters is not None:
        arrays["adapters"] = adapters
    applied = module.apply({"params": params}, **arrays, mutable="intermediates")
    tokens, inner = cast(tuple[jax.Array, Mapping[str, Any]], applied)
    # What parts of the module sow is in dicts.
    intermediates = inner.get("intermediates", {}).items()
    sown = {name: value[0] for name, value in intermediates if isinstance(value, tuple)}
    mask = arrays.get("attention_mask", sown.get("mask"))
    if mask is None:
        mask = jnp.ones(tokens.shape[:2], jnp.int32)
    pooled = sown.get("pooled", tokens[:, 0]) if pooling is None else pooling(tokens, mask)
    layers = sown.get("class_tokens"), sown.get("hidden_states")
    return EncoderOutput(tokens, mask, pooled.astype(jnp.float32), *layers)
