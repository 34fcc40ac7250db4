"""ViT as Hugging Face has it: a plain vision transformer."""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.encoders.family import Family, always
from mmjax.encoders.vision import SHARDING, VisionConfig, VisionTransformer, position_transform
from mmjax.weights.key_rules import CONV, COPY, VECTOR, KeyRule, dense_rules, norm_rules

# What Hugging Face leaves out of config.json is at its default.
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-12,
}


def config_from_hf(config: Mapping[str, Any]) -> VisionConfig:
    """Reads Hugging Face's config.json of a ViT.

    Args:
      config: its content.

    Returns:
      The config, for pictures of the trained size.

    Raises:
      MmjaxError: oblong patches, or a size that attention cannot have.
    """
    return VisionConfig.from_hf(_DEFAULTS | dict(config))


_PREFIX = r"(?:vit\.)?"
_LAYER = _PREFIX + r"(?:encoder\.layer|layers)\.(?P<layer>\d+)\."


def key_table(config: VisionConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `VisionTransformer`.

    Args:
      config: says which position table is wanted.

    Returns:
      The rules: the names on disk, and those that transformers 5.x has in memory.
    """
    embeddings = _PREFIX + r"embeddings\."
    projection = embeddings + r"patch_embeddings\.projection\."
    positions = position_transform(config, (1,))
    attention = _LAYER + r"attention\."
    return (
        KeyRule(embeddings + "cls_token", "cls_token", VECTOR),
        KeyRule(embeddings + "position_embeddings", "position_embeddings", positions),
        KeyRule(projection + "weight", "patch_kernel", CONV),
        KeyRule(projection + "bias", "patch_bias", COPY),
        *dense_rules(attention + r"(?:attention\.query|q_proj)", "layers/attention/query"),
        *dense_rules(attention + r"(?:attention\.key|k_proj)", "layers/attention/key"),
        *dense_rules(attention + r"(?:attention\.value|v_proj)", "layers/attention/value"),
        *dense_rules(attention + r"(?:output\.dense|o_proj)", "layers/attention/out"),
        *norm_rules(_LAYER + "layernorm_before", "layers/norm1"),
        *norm_rules(_LAYER + "layernorm_after", "layers/norm2"),
        *dense_rules(_LAYER + r"(?:intermediate\.dense|mlp\.fc1)", "layers/fc1"),
        *dense_rules(_LAYER + r"(?:output\.dense|mlp\.fc2)", "layers/fc2"),
        *norm_rules(_PREFIX + "layernorm", "norm"),
    )


# The class token is the embedding: the tanh pooler is untrained in many published files.
IGNORED = re.compile(r"(.*\.)?embeddings\.mask_token|(.*\.)?pooler\..*|classifier\..*")


VIT = Family(
    "vit", "image", config_from_hf, VisionTransformer, key_table, IGNORED, always(SHARDING)
)
