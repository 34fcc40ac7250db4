"""The contract of every frozen encoder."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Float

from mmjax import trees
from mmjax.checks import arguments
from mmjax.encoders import batching
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.layers import Hook, WeightHook
from mmjax.encoders.output import DEEP, DEEP_SIXTHS, EncoderOutput, apply
from mmjax.encoders.pooling import Pooling
from mmjax.errors import MmjaxError, shown

PyTree = Any


@dataclasses.dataclass(frozen=True, repr=False)
class Encoder:
    """A frozen model with everything that its use needs. It knows nothing of tasks.

    The parameters are a plain tree; pass them (or any tree of the same shape) to `apply` as an
    argument, so that they never become constants of a compiled program.
    """

    name: str
    family: str
    modality: Literal["text", "image"]
    module: nn.Module
    params: PyTree
    config: Any
    preprocess: Any  # TextPreprocess or ImagePreprocess
    fingerprint: str  # sha256 over the weights as they were published
    pooling: Pooling | None = None  # None: the module's own embedding, or the class token
    dtype: Any = jnp.float32
    quantize: str | None = None  # "int8" or "nf4": the kernels of dense layers
    mesh: Mesh | None = None
    logit_scale: float | None = None  # ln(1 / temperature) of a model with two towers
    logit_bias: float | None = None  # what SigLIP adds to a pair's scaled similarity
    tuning: WeightHook | None = None  # an adapter of the weights, where `with_hook` took one

    def __repr__(self) -> str:
        """What it is and how large, without its weights."""
        where = "" if self.mesh is None else f", on {dict(self.mesh.shape)}"
        small = f", {self.quantize}" if self.quantize else ""
        return (
            f"{type(self).__name__}({self.name!r}: {self.family}, reads {self.modality}, "
            f"{trees.count(self.params):,} parameters, {jnp.dtype(self.dtype).name}{small}, "
            f"{self.embed_dim} dimensions{where})"
        )

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.config.hidden_size

    @property
    def embed_dim(self) -> int:
        """Width of pooled vectors: of the joint space where the encoder projects into one."""
        return getattr(self.config, "projection_dim", None) or self.hidden_size

    @property
    def has_class_token(self) -> bool:
        """Whether a picture's first token stands for all of it, and for no patch."""
        return self.modality == "image" and getattr(self.config, "class_token", True)

    def width(self, want: str) -> int:
        """Size of the last axis of an output."""
        if want == "pooled":
            return self.embed_dim
        parts = {"cls_mean": 2, "cls_mean_deep": 2 + DEEP, "tokens_deep": 1 + len(DEEP_SIXTHS)}
        return self.hidden_size * parts.get(want, 1)

    @functools.cached_property
    def outputs_fingerprint(self) -> str:
        """Sha256 over all that its outputs depend on: weights, config, preprocessing, dtype."""
        parts = [
            self.fingerprint,
            self.preprocess.fingerprint,
            repr(self.config),
            repr(self.pooling),
            jnp.dtype(self.dtype).name,
            *([self.quantize] if self.quantize else []),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def towers(self) -> tuple[str, ...]:
        """Its transformers by what they read, the one that `apply` runs first."""
        return (self.modality,)

    def with_hook(self, hook: Hook | WeightHook | None, *, tower: str | None = None) -> "Encoder":
        """The same frozen encoder with an adapter in its layers.

        Args:
          hook: an adapter's function, such as `mmjax.adapters.lora.Lora`; see
            `mmjax.encoders.layers.Hook`. Or one of the weights, such as
            `mmjax.adapters.bitfit.BitFit`. None takes the adapter out.
          tower: "text" or "image" of a model that has both in one, as LLaVA does; of one with a
            single tower it may be said.

        Returns:
          An encoder with the same parameters; what it computes takes the adapter's as `adapters=`.

        Raises:
          MmjaxError: something else than an adapter, or a tower that is not there.
        """
        if isinstance(hook, WeightHook):
            self.check_tower(tower)
            return dataclasses.replace(self.with_hook(None), tuning=hook)
        arguments.check_hook(hook)
        self.check_tower(tower)
        if hook is None and not hasattr(self.module, "hook"):
            return dataclasses.replace(self, tuning=None)
        if not hasattr(self.module, "hook"):
            raise MmjaxError(f"{self.name!r} ({self.family}) has no places for an adapter")
        module = self.module.clone(hook=hook, parent=None)
        return dataclasses.replace(self, module=module, tuning=None)

    def frozen_layers(self, tower: str | None = None) -> PyTree:
        """The layers that a hook sits in, as adapters' `init` and `merge` take them.

        Args:
          tower: as in `with_hook`.

        Returns:
          A part of `params`, leaves [layers, ...].
        """
        self.check_tower(tower)
        return self.params.get("bert", self.params)["layers"]  # a BERT may have a head beside it

    def check_tower(self, tower: str | None) -> str:
        """The tower that is meant; None means the first.

        Raises:
          MmjaxError: it is not there.
        """
        if tower is not None and tower not in self.towers:
            raise MmjaxError(
                f"{self.name!r} ({self.family}) has no {shown(tower)} tower, only "
                f"{', '.join(self.towers)}"
            )
        return tower or self.towers[0]

    def checked_adapters(self, adapters: PyTree, tower: str | None = None) -> PyTree:
        """One tower's part of what is given as `adapters=`.

        Args:
          adapters: parameters for the encoder's hook; None for none.
          tower: None takes the tower that `apply` runs.

        Returns:
          Leaves [layers, ...], or None where the tower has no hook.

        Raises:
          MmjaxError: a hook without parameters, or parameters without a hook.
        """
        self.check_tower(tower)
        if self.tuning is not None:
            raise MmjaxError(
                f"{self.name!r} has an adapter of its weights ({type(self.tuning).__name__}), "
                "which this does not take; fold it in first: mmjax.adapters.merging.merge"
            )
        # An encoder of another package may have no places.
        arguments.check_adapters(self.name, getattr(self.module, "hook", None), adapters)
        return adapters

    def adapted(self, params: PyTree, adapters: PyTree) -> tuple[PyTree, PyTree]:
        """What the module is run with: an adapter of the weights is in them.

        Args:
          params: tree like `self.params`.
          adapters: as `apply` takes them.

        Returns:
          (parameters, those of the hook; None where there is none).

        Raises:
          MmjaxError: an adapter without parameters, or parameters without an adapter.
        """
        if self.tuning is None:
            return params, self.checked_adapters(adapters)
        arguments.check_adapters(self.name, self.tuning, adapters)
        return self.tuning.tuned(params, adapters), None

    def apply(
        self, params: PyTree, inputs: Mapping[str, ArrayLike], adapters: PyTree = None
    ) -> EncoderOutput:
        """Encodes a prepared batch; pure, so it may be traced and differentiated.

        Args:
          params: tree like `self.params`.
          inputs: {"input_ids", "attention_mask"}: int [b, l], or {"pixel_values"}: float
            [b, h, w, 3].
          adapters: parameters for the hook that sits in the encoder; leaves [layers, ...].

        Returns:
          Tokens [b, l, d], mask [b, l], pooled [b, embed_dim].

        Raises:
          MmjaxError: a hook without parameters, or parameters without a hook.
        """
        params, own = self.adapted(params, adapters)
        return apply(self.module, self.pooling, params, inputs, own)

    def outputs(
        self,
        items: batching.Items,
        want: str = "pooled",
        batch_size: int | None = None,
        progress: str | None = None,
        prompt: str | None = None,
        adapters: PyTree = None,
    ) -> Iterator[np.ndarray]:
        """Encodes many texts or pictures, in few compilations.

        Texts are sorted by length inside windows, so that little padding is computed; the results
        come in the order of the items all the same. Host memory holds one window.

        Args:
          items: texts (str), or pictures as `ImagePreprocess` takes them. Anything with a length
            and an index will do; items are fetched when their turn comes.
          want: "pooled" [d] as the original library pools, "tokens" [l_i, d] without padding,
            "cls" [d]; for texts "tokens_deep" [l_i, 3 d]: beside each the same token after five
            sixths and after half of the layers; for pictures "cls_mean" [2 d]: the class token and
            the patches' mean, "cls_mean_deep" [7 d] adds the class tokens after the five layers
            before the last, "class_tokens" [layers, d]: the class token after every layer, before
            the norm.
          batch_size: items computed together; None takes 128 short texts or 16 pictures.
          progress: description of a progress bar; None shows none.
          prompt: texts only; as in `TextPreprocess`.
          adapters: parameters for the hook that sits in the encoder; leaves [layers, ...].

        Yields:
          One array an item: float32, or the encoder's dtype for "tokens".

        Raises:
          MmjaxError: an unknown `want`, an item that cannot be read, or adapters that do not go
            with the hook.
        """
        encoder = self
        if self.tuning is not None:
            params, adapters = self.adapted(self.params, adapters)
            encoder = dataclasses.replace(self, params=params, tuning=None)
        yield from batching.outputs(encoder, items, want, batch_size, progress, prompt, adapters)

    def embed_texts(
        self,
        texts: Sequence[Any],
        batch_size: int | None = None,
        progress: bool = False,
        prompt: str | None = None,
        adapters: PyTree = None,
    ) -> Float[np.ndarray, "n d"]:
        """Embeds texts as the original library does: its prompt, pooling and normalisation.

        CLIP's are those of get_text_features: projected, not brought to length 1.

        Args:
          texts: n texts (str).
          batch_size: texts computed together; None takes 128.
          progress: whether to show a progress bar.
          prompt: name of a prompt; None takes the encoder's default, "" none.
          adapters: parameters for the hook that sits in the encoder; leaves [layers, ...].

        Returns:
          Float32 [n, d].

        Raises:
          MmjaxError: the encoder reads pictures, an item is not a str, or adapters that do not go
            with the hook.
        """
        self._require("text", "embed_texts")
        shown_as = "embedding texts" if progress else None
        return self._embed(arguments.texts(texts), batch_size, shown_as, prompt, adapters)

    def embed_images(
        self,
        images: Sequence[ImageLike],
        batch_size: int | None = None,
        progress: bool = False,
        adapters: PyTree = None,
    ) -> Float[np.ndarray, "n d"]:
        """Embeds pictures as the original library does.

        DINOv2, ViT: the class token after the last norm. CLIP: as get_image_features, projected and
        not brought to length 1.

        Args:
          images: n paths, encoded bytes, PIL images or uint8 arrays [h, w, 3].
          batch_size: pictures computed together; None takes 16.
          progress: whether to show a progress bar.
          adapters: parameters for the hook that sits in the encoder; leaves [layers, ...].

        Returns:
          Float32 [n, d].

        Raises:
          MmjaxError: the encoder reads texts, names the picture that cannot be read, or adapters
            that do not go with the hook.
        """
        self._require("image", "embed_images")
        shown_as = "embedding pictures" if progress else None
        return self._embed(arguments.pictures(images), batch_size, shown_as, None, adapters)

    def _embed(
        self,
        items: Any,
        batch_size: int | None,
        progress: str | None,
        prompt: str | None,
        adapters: PyTree,
    ) -> Float[np.ndarray, "n d"]:
        rows = list(self.outputs(items, "pooled", batch_size, progress, prompt, adapters))
        return np.stack(rows) if rows else np.zeros((0, self.embed_dim), np.float32)

    def _require(self, modality: str, function: str) -> None:
        if self.modality != modality:
            raise MmjaxError(
                f"{function}: encoder {self.name!r} ({self.family}) reads {self.modality}s; "
                f"use embed_{'texts' if self.modality == 'text' else 'images'}"
            )
