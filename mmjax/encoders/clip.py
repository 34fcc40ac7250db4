"""CLIP: its text tower, and the variant of the vision transformer that is its image tower."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mmjax.checks.ranges import check_id
from mmjax.encoders import inserted
from mmjax.encoders.family import Family, always
from mmjax.encoders.layers import PRE_NORM_RULES, Dense, LayerNorm, PyTree, check_sizes
from mmjax.encoders.modules import AttendingModule, TextInputs, TextTower
from mmjax.encoders.vision import SHARDING as VISION_SHARDING
from mmjax.encoders.vision import VisionConfig, VisionTransformer, position_transform
from mmjax.weights.key_rules import (
    CONV,
    COPY,
    TRANSPOSE,
    KeyRule,
    Transform,
    dense_rules,
    norm_rules,
)

_LEGACY_EOS = 2

# What Hugging Face leaves out of config.json is at its default.
_SHARED_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT_DEFAULTS: dict[str, Any] = _SHARED_DEFAULTS | {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "pad_token_id": 1,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS: dict[str, Any] = _SHARED_DEFAULTS | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}


def tower_config(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """One tower's part of a config.json.

    Args:
      config: of a model with two towers, or of a tower that stands alone.
      tower: "text" or "vision".

    Returns:
      Its sizes as far as the file has them; `projection_dim` is None where nothing is projected.
    """
    if f"{tower}_config" not in config:
        projects = any("WithProjection" in name for name in config.get("architectures") or ())
        width = config.get("projection_dim", 512) if projects else None
        return {**config, "projection_dim": width}
    # Older files hold what the user asked for in a second entry, which wins.
    parts = (config[f"{tower}_config"], config.get(f"{tower}_config_dict"))
    merged = {key: value for part in parts for key, value in (part or {}).items()}
    return merged | {"projection_dim": config.get("projection_dim", 512)}


@dataclasses.dataclass(frozen=True)
class PreNormTextConfig:
    """Sizes of a text tower of pre-norm layers, as CLIP and SigLIP have them."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_length: int  # rows of the position table
    layer_norm_eps: float
    hidden_act: str
    pad_token_id: int

    @staticmethod
    def sizes(part: Mapping[str, Any]) -> dict[str, Any]:
        """These fields, out of a text tower's part of config.json.

        Args:
          part: with all defaults.

        Returns:
          Their values by name.

        Raises:
          MmjaxError: a size that attention cannot have, an unknown activation, or padding that is
            no word.
        """
        check_sizes(part["hidden_size"], part["num_attention_heads"], part["hidden_act"])
        pad = part["pad_token_id"] or 0
        check_id("pad_token_id", pad, part["vocab_size"])
        return {
            "vocab_size": part["vocab_size"],
            "hidden_size": part["hidden_size"],
            "num_layers": part["num_hidden_layers"],
            "num_heads": part["num_attention_heads"],
            "intermediate_size": part["intermediate_size"],
            "max_length": part["max_position_embeddings"],
            "layer_norm_eps": part["layer_norm_eps"],
            "hidden_act": part["hidden_act"],
            "pad_token_id": pad,
        }


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(PreNormTextConfig):
    """Sizes of CLIP's text tower, and how it finds the end of a text."""

    eos_token_id: int | None  # None: the largest id of a text is its end
    projection_dim: int | None  # width of the joint space; None where the tower has no projection

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipTextConfig":
        """Reads Hugging Face's config.json of a CLIPModel or CLIPTextModel.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: a size that attention cannot have, or an unknown activation.
        """
        part = _TEXT_DEFAULTS | tower_config(config, "text")
        sizes = cls.sizes(part)
        eos = part["eos_token_id"]
        # Published configs said 2 by mistake for years; their models pool at the largest id.
        eos = None if eos == _LEGACY_EOS else eos
        if eos is not None:  # an end that no text has would pool every text at its first token
            check_id("eos_token_id", eos, part["vocab_size"])
        return cls(**sizes, eos_token_id=eos, projection_dim=part["projection_dim"])


def vision_config(config: Mapping[str, Any]) -> VisionConfig:
    """Reads Hugging Face's config.json of a CLIPModel, ChineseCLIPModel or CLIPVisionModel.

    Args:
      config: its content.

    Returns:
      The config of the image tower, for pictures of the trained size.

    Raises:
      MmjaxError: oblong patches, or a size that attention cannot have.
    """
    part = _VISION_DEFAULTS | tower_config(config, "vision")
    projection = part["projection_dim"]
    return VisionConfig.from_hf(part, patch_bias=False, pre_norm=True, projection_dim=projection)


def altclip_vision_config(config: Mapping[str, Any]) -> VisionConfig:
    """The same of an AltCLIPModel, whose joint space is 768 wide by default."""
    return vision_config({"projection_dim": 768, **config})


class ClipText(TextTower, AttendingModule):
    """Token ids to hidden states, with causal attention; sows the embedding at the text's end."""

    config: ClipTextConfig

    @nn.compact
    def encode(self, texts: TextInputs, adapters: PyTree) -> Float[Array, "b l d"]:
        """Hidden states after the last norm, float [b, l, d]; the ids say where a text ends.

        Source:
          Radford et al. 2021 (CLIP).
        """
        config, dtypes = self.config, self.dtypes
        d = config.hidden_size
        input_ids, attention_mask, input_embeddings = texts
        if input_embeddings is None:
            x = nn.Embed(config.vocab_size, d, **dtypes, name="token_embeddings")(input_ids)
        else:
            x = input_embeddings.astype(self.dtype)
        positions = self.table("position_embeddings", config.max_length, d)
        # Behind the first token, which begins every text; the end stays the last that is read.
        x, mask, adapters = inserted.insert(
            self.hook, adapters, x, attention_mask, 1, config.max_length
        )
        assert mask is not None  # as it was given
        x = x + positions[None, : x.shape[1]].astype(self.dtype)
        x, _ = self.pre_norm_layers(causal=True)(x, mask.astype(bool), adapters)
        x = inserted.remove(self.hook, x, 1)
        x = LayerNorm(config.layer_norm_eps, **dtypes, name="norm")(x)
        # The padding may be the end's own token, so the first one counts.
        ends = input_ids if config.eos_token_id is None else input_ids == config.eos_token_id
        pooled = x[jnp.arange(len(x)), jnp.argmax(ends, axis=-1)]
        if config.projection_dim is not None:
            project = Dense(config.projection_dim, use_bias=False, **dtypes, name="projection")
            pooled = project(pooled)
        self.sow("intermediates", "pooled", pooled)
        return x


TEXT_SHARDING = (
    (r"token_embeddings/embedding", P(None, "model")),
    *PRE_NORM_RULES,
    (r".*", P()),
)


def _third(part: int) -> Transform:
    """Query, key or value, number 0, 1 or 2, out of torch's fused projection."""

    def kernel(x: np.ndarray) -> np.ndarray:
        return np.split(x, 3)[part].T

    return Transform(lambda target: (3 * target[-1], *target[:-1]), kernel)


def fused_rules(source: str, target: str) -> list[KeyRule]:
    """Rules for that projection: `source` is a pattern that "weight" or "bias" follows."""
    return [
        KeyRule(source + theirs, f"{target}/{part}/{ours}", _third(i))
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
        for i, part in enumerate(("query", "key", "value"))
    ]


def _openai_layers(prefix: str) -> list[KeyRule]:
    layer = prefix + r"transformer\.resblocks\.(?P<layer>\d+)\."
    return [
        *fused_rules(layer + r"attn\.in_proj_", "layers/attention"),
        *dense_rules(layer + r"attn\.out_proj", "layers/attention/out"),
        *norm_rules(layer + "ln_1", "layers/norm1"),
        *norm_rules(layer + "ln_2", "layers/norm2"),
        *dense_rules(layer + r"mlp\.c_fc", "layers/fc1"),
        *dense_rules(layer + r"mlp\.c_proj", "layers/fc2"),
    ]


def hf_layers(prefix: str) -> list[KeyRule]:
    """Rules for the layers of a tower of Hugging Face's CLIP; `prefix` is a pattern."""
    layer = prefix + r"encoder\.layers?\.(?P<layer>\d+)\."
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    attention = [
        rule
        for theirs, ours in parts.items()
        for rule in dense_rules(layer + rf"self_attn\.{theirs}", f"layers/attention/{ours}")
    ]
    return [
        *attention,
        *norm_rules(layer + "layer_norm1", "layers/norm1"),
        *norm_rules(layer + "layer_norm2", "layers/norm2"),
        *dense_rules(layer + r"mlp\.(?P<fc>fc1|fc2)", "layers/{fc}"),
    ]


def text_key_table(config: ClipTextConfig) -> tuple[KeyRule, ...]:
    """How tensors map onto the parameters of `ClipText`.

    Args:
      config: unused; the names do not depend on sizes.

    Returns:
      The rules: Hugging Face's names (transformers 5 writes a tower that stands alone without a
      prefix), then OpenAI's, which open_clip shares.
    """
    del config
    hf, openai = r"(?:text_model\.)?", r"(?:text\.)?"
    token, position = "token_embeddings/embedding", "position_embeddings"
    return (
        KeyRule(hf + r"embeddings\.token_embedding\.weight", token, COPY),
        KeyRule(hf + r"embeddings\.position_embedding\.weight", position, COPY),
        *hf_layers(hf),
        *norm_rules(hf + "final_layer_norm", "norm"),
        KeyRule(r"text_projection\.weight", "projection/kernel", TRANSPOSE),
        KeyRule(openai + r"token_embedding\.weight", token, COPY),
        KeyRule(openai + "positional_embedding", position, COPY),
        *_openai_layers(openai),
        *norm_rules(openai + "ln_final", "norm"),
        # Used as x @ W there: not transposed.
        KeyRule(openai + "text_projection", "projection/kernel", COPY),
    )


def vision_key_table(config: VisionConfig) -> tuple[KeyRule, ...]:
    """How tensors of CLIP's image tower map onto the parameters of `VisionTransformer`.

    Args:
      config: says which position table is wanted.

    Returns:
      The rules: Hugging Face's names, then those that OpenAI, open_clip and cn_clip share.
    """
    hf, openai = r"(?:vision_model\.)?", r"visual\."
    positions = position_transform(config)
    return (
        KeyRule(hf + r"embeddings\.class_embedding", "cls_token", COPY),
        KeyRule(hf + r"embeddings\.patch_embedding\.weight", "patch_kernel", CONV),
        KeyRule(hf + r"embeddings\.position_embedding\.weight", "position_embeddings", positions),
        *norm_rules(hf + "pre_layrnorm", "pre_norm"),  # the misspelling is in every file
        *hf_layers(hf),
        *norm_rules(hf + "post_layernorm", "norm"),
        KeyRule(r"visual_projection\.weight", "projection/kernel", TRANSPOSE),
        KeyRule(openai + "class_embedding", "cls_token", COPY),
        KeyRule(openai + r"conv1\.weight", "patch_kernel", CONV),
        KeyRule(openai + "positional_embedding", "position_embeddings", positions),
        *norm_rules(openai + "ln_pre", "pre_norm"),
        *_openai_layers(openai),
        *norm_rules(openai + "ln_post", "norm"),
        KeyRule(openai + "proj", "projection/kernel", COPY),
    )


# Buffers and what both towers share; then the other tower.
_SHARED = r"logit_scale|(.*\.)?(position_ids|attn_mask)|input_resolution|context_length|vocab_size"
TEXT_IGNORED = re.compile(rf"{_SHARED}|vision_model\..*|visual_projection\..*|visual\..*")
VISION_IGNORED = re.compile(
    rf"{_SHARED}|(text_model|text|transformer|token_embedding|ln_final|bert)\..*"
    r"|positional_embedding|text_projection(\.weight)?"
)


CLIP_TEXT = Family(
    "clip",
    "text",
    ClipTextConfig.from_hf,
    ClipText,
    text_key_table,
    TEXT_IGNORED,
    always(TEXT_SHARDING),
    pools=True,
)
CLIP_IMAGE = Family(
    "clip",
    "image",
    vision_config,
    VisionTransformer,
    vision_key_table,
    VISION_IGNORED,
    always(VISION_SHARDING),
    pools=True,
)
CLIP = CLIP_TEXT, CLIP_IMAGE
