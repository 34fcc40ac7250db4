"""Which tensor of a SigLIP becomes which parameter."""

import re

import numpy as np

from mmjax.encoders.clip import fused_rules, hf_layers
from mmjax.encoders.siglip_config import SiglipTextConfig, SiglipVisionConfig
from mmjax.encoders.vision import resize_positions
from mmjax.weights.key_rules import (
    CONV,
    COPY,
    VECTOR,
    KeyRule,
    Transform,
    dense_rules,
    norm_rules,
)


def _positions(config: SiglipVisionConfig) -> Transform:
    """How a checkpoint's table of positions becomes the one that is wanted."""
    trained = config.trained_image_size // config.patch_size
    grid = config.image_size // config.patch_size

    def resize(x: np.ndarray) -> np.ndarray:
        framed = np.concatenate([np.zeros_like(x[:1]), x])  # where others have a class token
        return resize_positions(framed, grid)[1:]

    return Transform(lambda target: (trained * trained, target[-1]), resize)


# The linear map of SigLIP 2's patches, whose pixels lie as ours do.
def _patch_rows(target: tuple[int, ...]) -> tuple[int, ...]:
    return target[-1], target[0] * target[1] * target[2]


def text_key_table(config: SiglipTextConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `SiglipText`.

    Args:
      config: unused; the names do not depend on sizes.

    Returns:
      The rules.
    """
    del config
    hf = r"(?:text_model\.)?"
    return (
        KeyRule(hf + r"embeddings\.token_embedding\.weight", "token_embeddings/embedding", COPY),
        KeyRule(hf + r"embeddings\.position_embedding\.weight", "position_embeddings", COPY),
        *hf_layers(hf),
        *norm_rules(hf + "final_layer_norm", "norm"),
        *dense_rules(hf + "head", "projection"),
    )


def vision_key_table(config: SiglipVisionConfig) -> tuple[KeyRule, ...]:
    """How Hugging Face's tensors map onto the parameters of `SiglipVision`.

    Args:
      config: says which position table is wanted, and whether there is a head.

    Returns:
      The rules.
    """
    hf = r"(?:vision_model\.)?"
    side, channels = config.patch_size, config.num_channels
    patches = Transform(_patch_rows, lambda x: x.T.reshape(side, side, channels, -1))
    kernel = patches if config.naflex else CONV
    head = hf + r"head\."
    pool = [
        KeyRule(head + "probe", "head/probe", VECTOR),
        *fused_rules(head + r"attention\.in_proj_", "head"),
        *dense_rules(head + r"attention\.out_proj", "head/out"),
        *norm_rules(head + "layernorm", "head/norm"),
        *dense_rules(head + r"mlp\.(?P<fc>fc1|fc2)", "head/{fc}"),
    ]
    return (
        KeyRule(hf + r"embeddings\.patch_embedding\.weight", "patch_kernel", kernel),
        KeyRule(hf + r"embeddings\.patch_embedding\.bias", "patch_bias", COPY),
        KeyRule(
            hf + r"embeddings\.position_embedding\.weight",
            "position_embeddings",
            _positions(config),
        ),
        *hf_layers(hf),
        *norm_rules(hf + "post_layernorm", "norm"),
        *(pool if config.pool_head else ()),
    )


_SHARED_NAMES = r"logit_scale|logit_bias|(.*\.)?position_ids"
TEXT_IGNORED = re.compile(rf"{_SHARED_NAMES}|vision_model\..*")
VISION_IGNORED = re.compile(rf"{_SHARED_NAMES}|text_model\..*")
