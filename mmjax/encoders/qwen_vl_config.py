"""The sizes of Qwen2-VL and Qwen2.5-VL, and how config.json says them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.checks import foreign
from mmjax.checks.ranges import check_id
from mmjax.encoders.layers import check_sizes
from mmjax.encoders.llama_config import VisionLanguageConfig
from mmjax.encoders.qwen_config import qwen2_config
from mmjax.encoders.rotary_vision import RotaryLayerConfig
from mmjax.errors import MmjaxError

# What Hugging Face leaves out of config.json is at its default.
_TEXT: dict[str, Any] = {
    **{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568},
    **{"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
    **{"rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "rope_theta": 1e6},
}
_VISION: dict[str, Any] = {"depth": 32, "num_heads": 16, "patch_size": 14}
_VISION_2: dict[str, Any] = {"embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4}
_VISION_25: dict[str, Any] = {"hidden_size": 3584, "intermediate_size": 3420}
_VISION_25 |= {"out_hidden_size": 3584, "window_size": 112}
_FULL = (7, 15, 23, 31)
_EPSILON, _THETA = 1e-6, 10000.0
_SECTIONS = (16, 24, 24)
_IMAGE = 151655
MERGE = 2  # patches a side that become one token


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig:
    """Sizes of the image tower."""

    hidden_size: int
    num_layers: int
    layer: RotaryLayerConfig
    patch_size: int
    frames: int  # of a patch; a picture is repeated
    out_size: int  # width of the decoder
    window: int = 0  # merged patches a side of a window; 0: every layer reads whole pictures
    full_layers: tuple[int, ...] = ()  # with windows: the layers that read whole pictures
    num_channels: int = 3
    rope_theta: float = _THETA

    @property
    def num_heads(self) -> int:
        """Heads of a layer."""
        return self.layer.num_heads

    @property
    def patch_width(self) -> int:
        """Numbers of a patch: channels, frames, rows, columns."""
        return self.num_channels * self.frames * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class QwenVlConfig(VisionLanguageConfig):
    """Sizes of both towers, and the token that stands for a picture."""

    vision: QwenVisionConfig
    image_token_id: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "QwenVlConfig":
        """Reads Hugging Face's config.json of a Qwen2VL- or Qwen2_5_VLForConditionalGeneration.

        Args:
          config: its content; older files have the decoder's sizes at the top.

        Returns:
          The config.

        Raises:
          MmjaxError: a size that attention cannot have, sections that do not fill a head, or a
            token that is none.
        """
        text_config = config.get("text_config") or {
            key: value for key, value in config.items() if key != "vision_config"
        }
        tied = config.get("tie_word_embeddings", text_config.get("tie_word_embeddings", False))
        text = qwen2_config({**_TEXT, **text_config, "tie_word_embeddings": bool(tied)})
        rope = {
            **(text_config.get("rope_scaling") or {}),
            **(text_config.get("rope_parameters") or {}),
        }
        sections = tuple(rope.get("mrope_section", _SECTIONS))
        if len(sections) != 3 or sum(sections) * 2 != text.head_dim:
            raise MmjaxError(
                f"config.json: mrope_section {list(sections)} does not fill the "
                f"{text.head_dim // 2} pairs of channels of a head with three sections"
            )
        text = dataclasses.replace(text, rope=dataclasses.replace(text.rope, sections=sections))
        token = config.get("image_token_id", _IMAGE)
        check_id("image_token_id", token, text.vocab_size)
        later = config["model_type"] == "qwen2_5_vl"
        vision = _vision(config.get("vision_config") or {}, later, text.hidden_size)
        return cls(text=text, vision=vision, image_token_id=token)


def _vision(settings: Mapping[str, Any], later: bool, width: int) -> QwenVisionConfig:
    part = {**_VISION, **(_VISION_25 if later else _VISION_2), **settings}
    size = part["hidden_size"] if later else part["embed_dim"]
    out = part["out_hidden_size"] if later else part["hidden_size"]
    act = part.get("hidden_act", "silu" if later else "quick_gelu")
    heads = part["num_heads"]
    check_sizes(size, heads, act)
    if size // heads % 4:
        raise MmjaxError(
            f"config.json: heads of {size // heads} channels in the image tower; a quarter of them "
            "turns with the row, and a quarter with the column"
        )
    if out != width:
        raise MmjaxError(
            f"config.json: by vision_config the image tower's tokens are {out} wide, the decoder's "
            f"{width}"
        )
    if part.get("spatial_merge_size", MERGE) != MERGE:
        raise MmjaxError(f"config.json: spatial_merge_size {part['spatial_merge_size']}; only 2")
    patch, frames = part["patch_size"], part.get("temporal_patch_size", 2)
    for name, value in (("patch_size", patch), ("temporal_patch_size", frames)):
        foreign.integer(f"config.json: {name}", value, 1, 64)
    layer = RotaryLayerConfig(
        num_heads=heads,
        intermediate_size=part["intermediate_size"] if later else int(size * part["mlp_ratio"]),
        hidden_act=act,
        epsilon=_EPSILON,
        rms_norm=later,
        gated=later,
    )
    full = tuple(part.get("fullatt_block_indexes", _FULL)) if later else ()
    window = part["window_size"] // MERGE // patch if later else 0
    if later and window < 1:
        raise MmjaxError(
            f"config.json: window_size {part['window_size']} holds no {MERGE} patches of {patch}"
        )
    return QwenVisionConfig(
        hidden_size=size,
        num_layers=part["depth"],
        layer=layer,
        patch_size=patch,
        frames=frames,
        out_size=out,
        window=window,
        full_layers=full,
        num_channels=part.get("in_channels", part.get("in_chans", 3)),
        rope_theta=float((part.get("rope_parameters") or {}).get("rope_theta", _THETA)),
    )
