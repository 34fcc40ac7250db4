"""What the descriptions of a model may say: a type and a range for every key that mmjax reads.

All layouts (Hugging Face's, open_clip's, OpenAI's, Meta's, GGUF's) end in Hugging Face's keys, so
that these tables hold for every family, wherever its numbers come from.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mmjax.checks import foreign
from mmjax.errors import MmjaxError

Check = Callable[[str, Any], object]  # (where, value); raises what says which value is wrong
RangeTable = Mapping[str, Check]

# Pixels a side of what a picture encoder reads; published ones end at 1,024.
LARGEST_SIDE = 2_048
_NAME = 200  # letters of a kind, an activation, a mode


def whole(least: int, most: int) -> Check:
    """A whole number within bounds."""
    return lambda where, value: foreign.integer(where, value, least, most)


def real(least: float, most: float, above: float | None = None) -> Check:
    """A finite number within bounds."""
    return lambda where, value: foreign.real(where, value, least, most, above=above)


def text(longest: int = _NAME) -> Check:
    """A text of bounded length."""
    return lambda where, value: foreign.text(where, value, longest)


def flag(where: str, value: object) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise MmjaxError(f"{where} is {foreign.shown(value)}; expected true or false")


def optional(check: Check) -> Check:
    """What `check_ranges` allows, or null."""
    return lambda where, value: None if value is None else check(where, value)


def either(*checks: Check) -> Check:
    """What any of the checks allows; the last one's message is the one that is told."""

    def check(where: str, value: object) -> None:
        for alternative in checks[:-1]:
            try:
                alternative(where, value)
            except MmjaxError:
                continue
            return
        checks[-1](where, value)

    return check


def several(each: Check, least: int = 0, most: int = 1_000) -> Check:
    """A list of so many values, all of which `each` allows."""

    def check(where: str, value: object) -> None:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise MmjaxError(f"{where} is {foreign.shown(value)}; expected a list of {count}")
        for i, item in enumerate(value):
            each(f"{where}[{i}]", item)

    return check


def keyed(table: RangeTable) -> Check:
    """An object whose known keys have the types and ranges of a table."""

    def check(where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise MmjaxError(f"{where} is {foreign.shown(value)}; expected an object")
        _check_keys(value, f"{where}.", table)

    return check


def check_ranges(content: Mapping[str, Any], where: str, table: RangeTable) -> None:
    """Holds every key that the table knows against its type and range.

    Args:
      content: what a description says.
      where: names it in messages.
      table: key -> check.

    Raises:
      MmjaxError: the first value that is of another type or out of its range.
    """
    _check_keys(content, f"{where}: ", table)


def _check_keys(content: Mapping[str, Any], before: str, table: RangeTable) -> None:
    """Checks what the table knows; messages name a key with what stands before it."""
    for key, inner in table.items():
        if key in content:
            inner(f"{before}{key}", content[key])


def check_id(key: str, value: object, vocab_size: int) -> None:
    """Refuses a token id for which the table of words has no row."""
    if not isinstance(value, int) or not 0 <= value < vocab_size:
        quoted = foreign.shown(value)
        raise MmjaxError(f"{key} {quoted} is not among the {vocab_size} tokens of vocab_size")


_WIDTH, _COUNT = whole(1, foreign.WIDEST), whole(1, foreign.MOST_TOKENS)
_SIDE = whole(1, LARGEST_SIDE)
_ID = whole(-1, foreign.MOST_TOKENS)  # LLaMAs say -1 where there is none
_IDS = either(several(_ID, most=100), optional(_ID))
_SCALE = real(0, 1e6, above=0)
# Below the least, float32 adds nothing; a tenth would flatten every difference.
_EPSILON = real(1e-20, 0.1)

MOST_TILES = 64
_LAYERS = several(whole(0, foreign.MOST_LAYERS), 1, foreign.MOST_LAYERS)

_ROPE: RangeTable = {
    "rope_type": text(),
    "type": text(),
    "rope_theta": real(1, 1e12),
    "factor": _SCALE,
    "factors": several(_SCALE, 1, foreign.WIDEST),
    "low_freq_factor": _SCALE,
    "high_freq_factor": _SCALE,
    "original_max_position_embeddings": _COUNT,
    "mrope_section": several(whole(0, foreign.WIDEST), 3, 3),
    "partial_rotary_factor": optional(real(0, 1, above=0)),
}
# A Gemma has two sets, by kind of layer.
_ROPES = _ROPE | dict.fromkeys(("full_attention", "sliding_attention"), optional(keyed(_ROPE)))
_TOWER: RangeTable = {
    "model_type": text(),
    "architectures": optional(several(text())),
    "position_embedding_type": text(),
    "is_decoder": flag,
    "vocab_size": _COUNT,
    "hidden_size": _WIDTH,
    "num_hidden_layers": whole(1, foreign.MOST_LAYERS),
    "num_attention_heads": _WIDTH,
    "num_key_value_heads": optional(_WIDTH),
    "head_dim": optional(_WIDTH),
    "intermediate_size": _WIDTH,
    "max_position_embeddings": _COUNT,
    "type_vocab_size": _WIDTH,
    "layer_norm_eps": _EPSILON,
    "rms_norm_eps": _EPSILON,
    "hidden_act": text(),
    "pad_token_id": optional(_ID),
    "eos_token_id": _IDS,
    "num_labels": optional(_COUNT),
    "id2label": optional(keyed({})),
    "modelBase": text(),
    "numDims": _WIDTH,
    "projection_dim": optional(_WIDTH),
    "project_dim": _WIDTH,
    "image_size": either(several(_SIDE, 2, 2), _SIDE),
    "patch_size": either(several(_SIDE, 2, 2), _SIDE),
    "num_channels": whole(3, 3),
    "mlp_ratio": real(0, 64, above=0),
    "qkv_bias": flag,
    "vision_use_head": flag,
    **dict.fromkeys(("embed_dim", "out_hidden_size", "num_heads"), _WIDTH),  # of Qwen-VL's tower
    "depth": whole(1, foreign.MOST_LAYERS),
    "window_size": _SIDE,
    "fullatt_block_indexes": several(whole(0, foreign.MOST_LAYERS), 0, foreign.MOST_LAYERS),
    **dict.fromkeys(("temporal_patch_size", "spatial_merge_size"), whole(1, 64)),
    **dict.fromkeys(("in_channels", "in_chans"), whole(3, 3)),
    # Of Mllama's towers.
    **dict.fromkeys(("attention_heads", "vision_output_dim"), _WIDTH),
    "num_global_layers": whole(1, foreign.MOST_LAYERS),
    "norm_eps": _EPSILON,
    "max_num_tiles": whole(1, MOST_TILES),
    "intermediate_layers_indices": optional(_LAYERS),
    "supported_aspect_ratios": optional(several(several(whole(1, MOST_TILES), 2, 2), 1)),
    "cross_attention_layers": optional(_LAYERS),
    "num_register_tokens": whole(0, 64),
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias", "use_gated_mlp"), flag),
    "width": _WIDTH,  # of a CLIP's ResNet, and the blocks of its stages
    "layers": several(whole(1, foreign.MOST_LAYERS), 4, 4),
    "num_patches": whole(1, 10_000),
    "projection_size": optional(_WIDTH),
    "use_swiglu_ffn": flag,
    "attention_bias": flag,
    "mlp_bias": flag,
    "use_sliding_window": optional(flag),
    "sliding_window": optional(_COUNT),
    "max_window_layers": whole(0, foreign.MOST_LAYERS),
    "layer_types": optional(several(text(), 1, foreign.MOST_LAYERS)),
    # Of Gemma's decoder.
    "hidden_activation": optional(text()),
    "query_pre_attn_scalar": _SCALE,
    "sliding_window_pattern": whole(1, foreign.MOST_LAYERS),
    "rope_local_base_freq": _ROPE["rope_theta"],
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), optional(_SCALE)),
    "use_bidirectional_attention": optional(flag),
    "tie_word_embeddings": flag,
    "rope_theta": _ROPE["rope_theta"],
    "rope_scaling": optional(keyed(_ROPE)),
    "rope_parameters": optional(keyed(_ROPES)),
    "partial_rotary_factor": _ROPE["partial_rotary_factor"],
}
_LAYER = whole(-foreign.MOST_LAYERS, foreign.MOST_LAYERS)
# config.json of every family.
MODEL: RangeTable = _TOWER | {
    **{f"{tower}_config": optional(keyed(_TOWER)) for tower in ("text", "vision")},
    **{f"{tower}_config_dict": optional(keyed(_TOWER)) for tower in ("text", "vision")},
    "vision_feature_layer": either(several(_LAYER, 1, foreign.MOST_LAYERS), _LAYER),
    "vision_feature_select_strategy": text(),
    "image_token_index": optional(whole(0, foreign.MOST_TOKENS)),
    "image_token_id": optional(whole(0, foreign.MOST_TOKENS)),
    **dict.fromkeys(("boi_token_index", "eoi_token_index"), whole(0, foreign.MOST_TOKENS)),
    "mm_tokens_per_image": whole(1, 1 << 16),
    "projector_hidden_act": text(),
    "multimodal_projector_bias": flag,
    "image_grid_pinpoints": optional(several(several(whole(1, 2 * LARGEST_SIDE), 2, 2))),
}

# open_clip_config.json; the layers of a ResNet are a list, and it has no patches.
_OPEN_CLIP_TOWER: RangeTable = {
    "layers": either(several(_COUNT, 1, 10), whole(1, foreign.MOST_LAYERS)),
    "width": _WIDTH,
    "heads": _WIDTH,
    "head_width": _WIDTH,
    "mlp_ratio": _TOWER["mlp_ratio"],
    "image_size": _SIDE,
    "patch_size": optional(_SIDE),
    "context_length": _COUNT,
    "vocab_size": _COUNT,
}
_PIXELS = several(real(-1_000, 1_000), 3, 3)
_SPREADS = several(real(1e-6, 1_000), 3, 3)
OPEN_CLIP: RangeTable = {
    "model_cfg": keyed(
        {
            "embed_dim": _WIDTH,
            "quick_gelu": optional(flag),
            "vision_cfg": keyed(_OPEN_CLIP_TOWER),
            "text_cfg": keyed(_OPEN_CLIP_TOWER),
        }
    ),
    "preprocess_cfg": optional(
        keyed({"mean": _PIXELS, "std": _SPREADS, "interpolation": text(), "resize_mode": text()})
    ),
}

_SIZE = either(
    optional(keyed(dict.fromkeys(("shortest_edge", "height", "width"), optional(_SIDE)))), _SIDE
)
# preprocessor_config.json.
PICTURES: RangeTable = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_pad"), optional(flag)),
    "do_center_crop": flag,
    "image_processor_type": optional(text()),
    "feature_extractor_type": optional(text()),
    "size": _SIZE,
    "crop_size": _SIZE,
    "image_mean": _PIXELS,
    "image_std": _SPREADS,
    "resample": whole(0, 5),  # PIL's filters
    "rescale_factor": real(0, 1e6, above=0),
}
