"""What an unknown kind of model is nearest to, and what would have to be written for it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# model_type -> (the nearest that mmjax has, what that one lacks).
_LACKING: Mapping[str, tuple[str, str]] = {
    "gemma": ("llama", "norms that scale by 1 + weight, and scaled word embeddings"),
    "gemma2": ("gemma3_text", "soft caps of scores and logits, and heads without norms"),
    "gemma3n": ("gemma3", "embeddings of every layer, and layers inside of layers"),
    "idefics3": ("llava", "pixel shuffle behind a SigLIP, and tiles with a text between them"),
    "smolvlm": ("llava", "pixel shuffle behind a SigLIP, and tiles with a text between them"),
    "llava_onevision": ("llava_next", "a Qwen2 behind a SigLIP, and any number of tiles"),
    "paligemma": ("gemma3", "an older Gemma behind a SigLIP, and attention to the whole prompt"),
    "qwen3_vl": ("qwen2_5_vl", "features of inner layers, and interleaved positions"),
    "qwen3_moe": ("qwen3", "experts and their router"),
    "mixtral": ("mistral", "experts and their router"),
    "phi3": ("llama", "fused projections, and rope factors for long texts"),
    "gpt2": ("llama", "a table of positions, layer norms and a plain feed-forward part"),
    "distilbert": ("bert", "its own tensor names, and a BERT without token types"),
    "electra": ("bert", "a projection of narrower word embeddings"),
    "deberta-v2": ("bert", "attention to relative positions"),
    "modernbert": ("bert", "rotary positions, local layers and gated feed-forward parts"),
    "dinov3_convnext": ("dinov3_vit", "convolutions of ConvNeXt's kind"),
    "convnext": ("clip_resnet", "convolutions of ConvNeXt's kind"),
    "beit": ("vit", "relative positions in every layer"),
    "swin": ("vit", "shifted windows, and patches that merge"),
    "blip": ("clip", "a text tower that attends to pictures"),
    "blip-2": ("llava", "a Q-Former between the towers"),
    "instructblip": ("llava", "a Q-Former between the towers"),
    "clap": ("clip", "a tower that hears"),
}
# What a config of a kind has that others have not, the most telling first.
_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("vision_config", "image_token_id"), "llava"),
    (("vision_config", "image_token_index"), "llava"),
    (("vision_config", "text_config"), "clip"),
    (("num_key_value_heads", "rms_norm_eps"), "llama"),
    (("rope_theta",), "llama"),
    (("patch_size", "layerscale_value"), "dinov2"),
    (("patch_size",), "vit"),
    (("type_vocab_size",), "bert"),
)
_ALIKE = 0.75  # of two names, by difflib's measure


def nearest(config: Mapping[str, Any], known: Iterable[str]) -> str:
    """A clause that names the nearest known family, and what is to be written.

    Args:
      config: content of config.json.
      known: names of the families that there are.

    Returns:
      The clause; it ends without a stop.
    """
    names, kind = list(known), config.get("model_type")
    base = str(kind).removesuffix("_text_model").removesuffix("_vision_model")
    family, lacks = _LACKING.get(str(kind), _LACKING.get(base, ("", "")))
    if not family:
        alike = difflib.get_close_matches(str(kind), names, 1, _ALIKE) if kind else []
        marked = (name for keys, name in _MARKS if all(key in config for key in keys))
        family = next(iter(alike), "") or next(marked, "")
    what = (
        "write a Family with its config, module and key table (mmjax.encoders.family) and give it "
        "as family='package.module:Name'"
    )
    if family not in names:
        return f"none is near; {what}"
    return f"nearest is {family!r}" + (f", which lacks {lacks}" if lacks else "") + f"; {what}"
