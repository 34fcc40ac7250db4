"""What the modules of frozen encoders share: sizes, dtypes, an adapter's hook, a kernel."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmjax.encoders.attention import PLAIN, Kernel
from mmjax.encoders.layers import Dtype, Hook, PreNormLayer, PyTree, stack


class EncoderModule(nn.Module):
    """A part of a frozen encoder.

    Attributes:
      config: its sizes; a class below says which kind.
      dtype: of what it computes.
      param_dtype: of its parameters.
    """

    config: Any
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """Both, as its own parts are made with them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def table(self, name: str, *shape: int) -> Float[Array, "..."]:
        """Learnt vectors, of positions for example, in `param_dtype`."""
        return self.param(name, nn.initializers.normal(0.02), shape, self.param_dtype)


class HookedModule(EncoderModule):
    """One with layers in which an adapter may sit.

    Attributes:
      hook: the adapter's function; its parameters stay outside the frozen ones.
    """

    hook: Hook | None = None

    @property
    def hooked(self) -> dict[str, Any]:
        """What its layers are made with: dtypes, the hook and, where it has one, the kernel."""
        return {**self.dtypes, "hook": self.hook}

    def pre_norm_layers(self, layer: type[PreNormLayer] = PreNormLayer, **variant: Any) -> Any:
        """All layers of a tower of `PreNormLayer`s, which its config has the sizes of.

        Args:
          layer: their class.
          **variant: fields of it that are not at their defaults.

        Returns:
          The stack, named "layers": (x, mask, adapters) -> (x, what it keeps of each layer).
        """
        config = self.config
        return stack(layer, config.num_layers, in_axes=(nn.broadcast, 0))(
            config.num_heads,
            config.intermediate_size,
            config.hidden_act,
            config.layer_norm_eps,
            **variant,
            **self.hooked,
            name="layers",
        )


class AttendingModule(HookedModule):
    """One whose layers can attend by several kernels.

    Attributes:
      attend_by: the kernel; see `attention.kernel_for`.
    """

    attend_by: Kernel = PLAIN

    @property
    def hooked(self) -> dict[str, Any]:
        """As `HookedModule.hooked`."""
        return {**super().hooked, "attend_by": self.attend_by}


class TextInputs(NamedTuple):
    """What a text tower reads; see `TextTower`."""

    input_ids: Int[Array, "b l"]
    attention_mask: Int[Array, "b l"]
    input_embeddings: Float[Array, "b l d"] | None


class TextTower(EncoderModule):
    """Token ids to hidden states, by `encode` of a class below."""

    def __call__(
        self,
        input_ids: Int[Array, "b l"],
        attention_mask: Int[Array, "b l"],
        input_embeddings: Float[Array, "b l d"] | None = None,
        adapters: PyTree = None,
    ) -> Float[Array, "b l e"]:
        """Encodes texts.

        Args:
          input_ids: int [b, l], padded on the right.
          attention_mask: int [b, l], 1 at real tokens, 0 at padding.
          input_embeddings: vectors that stand in for those of the ids in the table of words.
          adapters: parameters for `hook`; leaves [layers, ...].

        Returns:
          Float [b, l, e]: hidden states, as `encode` says.
        """
        return self.encode(TextInputs(input_ids, attention_mask, input_embeddings), adapters)

    def encode(self, texts: TextInputs, adapters: PyTree) -> Float[Array, "b l e"]:
        """What `__call__` returns of its arguments."""
        raise NotImplementedError


class ImageTower(EncoderModule):
    """Pictures to hidden states, by `encode` of a class below."""

    def __call__(
        self, pixel_values: Float[Array, "b ..."], adapters: PyTree = None
    ) -> Float[Array, "b l e"]:
        """Encodes pictures.

        Args:
          pixel_values: float [b, image_size, image_size, 3], normalised; or what the family's own
            preprocessing makes of pictures.
          adapters: parameters for `hook`; leaves [layers, ...].

        Returns:
          Float [b, l, e]: hidden states, as `encode` says.
        """
        return self.encode(pixel_values, adapters)

    def encode(self, pixels: Float[Array, "b ..."], adapters: PyTree) -> Float[Array, "b l e"]:
        """What `__call__` returns of its arguments."""
        raise NotImplementedError
