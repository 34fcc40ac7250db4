"""The sizes of LLaVA-1.5 and LLaVA-NeXT, and how config.json says them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.checks.ranges import check_id
from mmjax.encoders import clip
from mmjax.encoders.layers import activation
from mmjax.encoders.llama_config import LlamaConfig, VisionLanguageConfig
from mmjax.encoders.vision import VisionConfig
from mmjax.errors import MmjaxError

# What Hugging Face leaves out of config.json is at its default.
_TEXT_DEFAULTS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclasses.dataclass(frozen=True)
class LlavaConfig(VisionLanguageConfig):
    """Sizes of both models, and what of a picture reaches the words."""

    vision: VisionConfig  # up to the last layer that is read
    vision_layers: int  # that the checkpoint has
    class_token: bool  # whether the image tower's class token is read too
    projector_act: str
    projector_bias: bool
    image_token_id: int
    pinpoints: tuple[tuple[int, int], ...]  # LLaVA-NeXT: sizes (height, width) for the tiles

    @property
    def tokens_per_tile(self) -> int:
        """Embeddings that one tile becomes."""
        return self.vision.num_patches + self.class_token

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlavaConfig":
        """Reads Hugging Face's config.json of a Llava- or LlavaNextForConditionalGeneration.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: towers other than CLIP's and LLaMA's, or a choice of features or of tiles
            that the towers do not have.
        """
        text = _TEXT_DEFAULTS | (config.get("text_config") or {})
        text["tie_word_embeddings"] = bool(
            config.get("tie_word_embeddings") or text.get("tie_word_embeddings")
        )
        vision = config.get("vision_config") or _VISION_DEFAULTS
        for part, kind, supported in (
            ("text_config", text["model_type"], "llama"),
            ("vision_config", vision.get("model_type", "clip_vision_model"), "clip_vision_model"),
        ):
            if kind != supported:
                raise MmjaxError(
                    f"config.json: {part} of a {kind!r} is not supported; {supported!r}"
                )
        tower = clip.vision_config(vision)
        layers = _feature_layers(config.get("vision_feature_layer", -2), tower.num_layers)
        strategy = config.get("vision_feature_select_strategy", "default")
        tiled = config["model_type"] == "llava_next"
        if strategy not in ("default", "full") or (tiled and strategy == "full"):
            raise MmjaxError(
                f"config.json: vision_feature_select_strategy {strategy!r} is not supported; "
                "'default', or for LLaVA-1.5 'full'"
            )
        token = config.get("image_token_index", config.get("image_token_id"))
        act = config.get("projector_hidden_act", "gelu")
        activation(act)
        pinpoints = config.get("image_grid_pinpoints") or _PINPOINTS
        token = 32000 if token is None else token
        check_id("image_token_index", token, text["vocab_size"])
        return cls(
            text=LlamaConfig.from_hf(text),
            vision=dataclasses.replace(
                tower, num_layers=max(layers), feature_layers=layers, projection_dim=None
            ),
            vision_layers=tower.num_layers,
            class_token=strategy == "full",
            projector_act=act,
            projector_bias=bool(config.get("multimodal_projector_bias", True)),
            image_token_id=token,
            pinpoints=_checked(pinpoints, tower.image_size) if tiled else (),
        )


def _feature_layers(setting: int | Sequence[int], total: int) -> tuple[int, ...]:
    """Numbers of layers, counted from 1; 0 would be the embeddings."""
    indices = [setting] if isinstance(setting, int) else list(setting)
    layers = tuple(i if i >= 0 else total + 1 + i for i in indices)
    if not layers or min(layers) < 1 or max(layers) > total:
        raise MmjaxError(
            f"config.json: vision_feature_layer {setting} is none of the {total} layers of the "
            "tower"
        )
    return layers


def _checked(pinpoints: Sequence[Sequence[int]], side: int) -> tuple[tuple[int, int], ...]:
    sizes = tuple((h, w) for h, w in pinpoints)
    wrong = [size for size in sizes if min(size) < side or size[0] % side or size[1] % side]
    if wrong:
        raise MmjaxError(f"config.json: image_grid_pinpoints {wrong} are no multiples of {side}")
    return sizes
