"""What joins a frozen vision transformer to a frozen language model: pictures as words."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.adapters.hooks import LayerAdapter, for_training, widths
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders.layers import PyTree
from mmjax.errors import MmjaxError
from mmjax.rng import DropoutKey

_LANGUAGE, _VISION = RepAdapter(), RepAdapter(routing="per_image")


@dataclasses.dataclass(frozen=True)
class Multimodal:
    """Adapters in both towers, a projection of class tokens, and a modality embedding.

    Attributes:
      language: in every layer of the language model; None leaves it as it is.
      vision: in every layer of the vision transformer; None leaves it as it is, and its outputs
        need be computed once only.
      taps: class tokens that are read; each becomes one token of the text. 0 projects none:
        pictures reach the text on a way that the model has of its own, as in a LLaVA.
      hidden: width between the two maps of the projection.
      tap_layers: the layers after which they are read: `spread` evenly up to the last, as LaVIN
        does, or the `last` ones. DINOv2's class token hardly differs between pictures before its
        last layers.
      norm_taps: layer norm of every class token before the projection. It has no parameters: those
        of a tower's last norm are a linear map, as is what follows.

    Source: Luo et al. 2023 (LaVIN, arXiv 2305.15023), whose choice is `spread` without a norm. The
    last layers, normed, are what DINOv2's own code gives as intermediate layers.
    """

    language: LayerAdapter | None = _LANGUAGE
    vision: LayerAdapter | None = _VISION
    taps: int = 6
    hidden: int = 128
    tap_layers: Literal["spread", "last"] = "spread"
    norm_taps: bool = False

    @property
    def routed(self) -> bool:
        """Whether a modality token stands in front of the text."""
        return isinstance(self.language, RepAdapter) and self.language.experts > 1

    def tapped(self, num_layers: int) -> tuple[int, ...]:
        """The layers, counted from 0, after which the class token is read."""
        if not 0 < self.taps <= num_layers:
            raise MmjaxError(f"{self.taps} taps of a vision transformer of {num_layers} layers")
        if self.tap_layers == "last":
            return tuple(range(num_layers - self.taps, num_layers))
        return tuple(num_layers * (i + 1) // self.taps - 1 for i in range(self.taps))

    def init(self, key: Key[Array, ""], language: PyTree, vision: PyTree) -> PyTree:
        """What is trained, before the first step: the adapters change nothing yet.

        Args:
          key: draws the values.
          language: the language model's parameters (or their shapes).
          vision: the vision transformer's.

        Returns:
          {["language"], ["vision"], ["projection": {"down", "up"}], ["modality": {"embedding"}]},
          float32. The projection does not start at zero: pictures are read from the first step on.
        """
        keys = jax.random.split(key, 5)
        _, width_in, _ = widths(vision["layers"])["query"]
        _, width, _ = widths(language["layers"])["query"]
        trainable: dict[str, Any] = {}
        if self.taps:
            self.tapped(len(jax.tree.leaves(vision["layers"])[0]))
            trainable["projection"] = {
                "down": _dense(keys[0], width_in, self.hidden),
                "up": _dense(keys[1], self.hidden, width),
            }
        if self.language is not None:
            trainable["language"] = self.language.init(keys[2], language["layers"])
        if self.vision is not None:
            trainable["vision"] = self.vision.init(keys[3], vision["layers"])
        if self.routed:
            trainable["modality"] = {"embedding": jax.random.normal(keys[4], (2, width))}
        return trainable

    def image_tokens(
        self, trainable: PyTree, class_tokens: Float[Array, "t b c"]
    ) -> Float[Array, "b t d"]:
        """Class tokens of the tapped layers as embeddings of the language model.

        Args:
          trainable: as `init` made it.
          class_tokens: float [taps, b, c], without the last norm.

        Returns:
          Float32 [b, taps, d].
        """
        down, up = (trainable["projection"][name] for name in ("down", "up"))
        x = class_tokens.swapaxes(0, 1).astype(jnp.float32)
        if self.norm_taps:
            x = jax.nn.standardize(x, axis=-1, epsilon=1e-6)
        h = jax.nn.silu(x @ down["kernel"] + down["bias"][None, None])
        return h @ up["kernel"] + up["bias"][None, None]

    def training(
        self, trainable: PyTree, key: DropoutKey, num_layers: tuple[int, int]
    ) -> tuple[PyTree, PyTree]:
        """The adapters of (language, vision), ready for a forward pass.

        Args:
          trainable: as `init` made it.
          key: for dropout; None drops nothing.
          num_layers: of the language model and the vision transformer.

        Returns:
          Trees for the towers' hooks; None where there is no adapter.
        """
        trees = []
        for i, (name, n) in enumerate(zip(("language", "vision"), num_layers, strict=True)):
            own = trainable.get(name)
            if own is not None and key is not None:
                own = for_training(own, jax.random.fold_in(key, i), n)
            trees.append(own)
        return trees[0], trees[1]


def _dense(key: Key[Array, ""], width_in: int, width_out: int) -> PyTree:
    limit = (6 / (width_in + width_out)) ** 0.5
    kernel = jax.random.uniform(key, (width_in, width_out), jnp.float32, -limit, limit)
    return {"kernel": kernel, "bias": jnp.zeros(width_out)}
