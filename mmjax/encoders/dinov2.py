"""DINOv2: a vision transformer with layer scale."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mmjax.checks import foreign
from mmjax.encoders.family import Family, always
from mmjax.encoders.vision import SHARDING, VisionConfig, VisionTransformer, position_transform
from mmjax.errors import MmjaxError
from mmjax.weights.key_rules import CONV, COPY, ROWS, VECTOR, KeyRule, dense_rules, norm_rules


def registers_config(config: Mapping[str, Any]) -> VisionConfig:
    """Reads config.json of a Dinov2WithRegistersModel; as `config_from_hf`."""
    count = foreign.integer(
        "config.json: num_register_tokens", config.get("num_register_tokens", 4), 0, 64
    )
    return config_from_hf(config, registers=count, antialias=True)


def config_from_hf(config: Mapping[str, Any], **variant: Any) -> VisionConfig:
    """Reads Hugging Face's config.json of a DINOv2.

    Args:
      config: its content.
      **variant: fields that DINOv2 itself leaves alone.

    Returns:
      The config, for pictures of the trained size.

    Raises:
      MmjaxError: SwiGLU layers, oblong patches, or a size that attention cannot have.
    """
    if config.get("use_swiglu_ffn"):
        raise MmjaxError(
            "config.json: use_swiglu_ffn is set (DINOv2-giant), which is not supported; "
            "use dinov2-small, -base or -large"
        )
    width = int(config["hidden_size"] * config.get("mlp_ratio", 4))
    return VisionConfig.from_hf(
        {"layer_norm_eps": 1e-6, **config},
        intermediate_size=foreign.integer(
            "config.json: mlp_ratio * hidden_size", width, 1, 1 << 24
        ),
        layer_scale=True,
        **variant,
    )


_PREFIX = r"(?:dinov2(?:_with_registers)?\.)?"
_LAYER = _PREFIX + r"encoder\.layer\.(?P<layer>\d+)\."
_LAYER_5X = _PREFIX + r"(?:encoder\.layers?|layers?)\.(?P<layer>\d+)\."


def key_table(config: VisionConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `VisionTransformer`.

    Args:
      config: says which position table is wanted.

    Returns:
      The rules: the names of transformers 4.x, and those of 5.x where they differ.
    """
    embeddings = _PREFIX + r"embeddings\."
    projection = embeddings + r"patch_embeddings\.projection\."
    attention = _LAYER_5X + r"attention\."
    registers = [KeyRule(embeddings + "register_tokens", "register_tokens", ROWS)]
    return (
        KeyRule(embeddings + "cls_token", "cls_token", VECTOR),
        *(registers if config.registers else ()),
        KeyRule(
            embeddings + "position_embeddings",
            "position_embeddings",
            position_transform(config, (1,)),
        ),
        KeyRule(projection + "weight", "patch_kernel", CONV),
        KeyRule(projection + "bias", "patch_bias", COPY),
        *dense_rules(
            _LAYER + r"attention\.attention\.(?P<part>query|key|value)", "layers/attention/{part}"
        ),
        *dense_rules(_LAYER + r"attention\.output\.dense", "layers/attention/out"),
        *dense_rules(attention + "q_proj", "layers/attention/query"),
        *dense_rules(attention + "k_proj", "layers/attention/key"),
        *dense_rules(attention + "v_proj", "layers/attention/value"),
        *dense_rules(attention + "o_proj", "layers/attention/out"),
        *norm_rules(_LAYER_5X + "(?P<norm>norm1|norm2)", "layers/{norm}"),
        KeyRule(
            _LAYER_5X + r"(?P<scale>layer_scale1|layer_scale2)\.lambda1", "layers/{scale}", COPY
        ),
        *dense_rules(_LAYER_5X + r"mlp\.(?P<fc>fc1|fc2)", "layers/{fc}"),
        *norm_rules(_PREFIX + "(?:layernorm|norm)", "norm"),
    )


# The mask token serves pre-training only; a classifier is no part of the encoder.
IGNORED = re.compile(r"(.*\.)?embeddings\.(mask_token|register_tokens)|classifier\..*")


DINOV2 = Family(
    "dinov2",
    "image",
    config_from_hf,
    VisionTransformer,
    key_table,
    IGNORED,
    always(SHARDING),
    any_size=True,
)
DINOV2_REGISTERS = dataclasses.replace(DINOV2, config=registers_config)
