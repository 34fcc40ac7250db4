"""The sizes of Gemma 3, of texts and with pictures, and how config.json says them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmjax.checks.ranges import check_id
from mmjax.encoders.llama_config import LlamaConfig, VisionLanguageConfig
from mmjax.encoders.qwen_config import local_layers
from mmjax.encoders.rope import RopeConfig
from mmjax.encoders.siglip_config import SiglipVisionConfig, vision_config
from mmjax.errors import MmjaxError

# What Hugging Face leaves out of config.json is at its default.
_TEXT: dict[str, Any] = {
    **{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256},
    **{"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4},
    **{"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "sliding_window": 4096},
    **{"max_position_embeddings": 131072, "query_pre_attn_scalar": 256},
    **{"tie_word_embeddings": True, "sliding_window_pattern": 6},
}
_THETA, _LOCAL_THETA = 1e6, 1e4
_FULL, _LOCAL = "full_attention", "sliding_attention"
_TOKENS = 256  # of a picture
_IMAGE, _BEGIN, _END = 262144, 255999, 256000  # tokens: a picture, and what stands around it
_KINDS = "gemma3_text", "siglip_vision_model"  # of the two towers
_CAPS = ("final_logit_softcapping", "attn_logit_softcapping")


@dataclasses.dataclass(frozen=True)
class GemmaConfig(VisionLanguageConfig):
    """Sizes of both towers, and the tokens that stand for a picture and around it."""

    vision: SiglipVisionConfig
    tokens_per_tile: int  # that a picture becomes, a square number
    image_token_id: int
    begin_token_id: int
    end_token_id: int

    @property
    def pinpoints(self) -> tuple[tuple[int, int], ...]:
        """Empty: a picture is one square."""
        return ()

    @property
    def grid(self) -> int:
        """Patches a side of a picture."""
        return self.vision.image_size // self.vision.patch_size

    @property
    def pooled(self) -> int:
        """Patches a side of which one token is the mean."""
        return self.grid // math.isqrt(self.tokens_per_tile)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GemmaConfig":
        """Reads Hugging Face's config.json of a Gemma3ForConditionalGeneration.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: as `gemma3_text_config`, a tower other than SigLIP's, patches that do not
            divide into the tokens of a picture, or a token that is none.
        """
        parts = [config.get(f"{part}_config") or {} for part in ("text", "vision")]
        for part, kind, said in zip(("text", "vision"), _KINDS, parts, strict=True):
            if said.get("model_type", kind) != kind:
                raise MmjaxError(
                    f"config.json: {part}_config of a {said['model_type']!r} is not supported; "
                    f"{kind!r}"
                )
        tied = config.get("tie_word_embeddings", True)
        text = gemma3_text_config({**parts[0], "tie_word_embeddings": tied})
        vision = vision_config({**parts[1], "vision_use_head": False})
        count = config.get("mm_tokens_per_image", _TOKENS)
        grid, side = vision.image_size // vision.patch_size, math.isqrt(count)
        if side * side != count or grid % side:
            raise MmjaxError(
                f"config.json: mm_tokens_per_image {count} is not the square of a number that "
                f"divides the {grid} patches of a picture's side"
            )
        tokens = []
        for key, short, default in (
            ("image_token_index", "image_token_id", _IMAGE),
            ("boi_token_index", "boi_token_id", _BEGIN),
            ("eoi_token_index", "eoi_token_id", _END),
        ):
            token = config.get(key, config.get(short))
            tokens.append(default if token is None else token)
            check_id(key, tokens[-1], text.vocab_size)
        return cls(text, vision, count, *tokens)


def gemma3_text_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads Hugging Face's config.json of a Gemma3ForCausalLM.

    Args:
      config: its content; transformers 4 says one rope base for each kind of layer, 5 a set of
        rope parameters.

    Returns:
      The config.

    Raises:
      MmjaxError: as `LlamaConfig.from_hf`, kinds of layers that do not fit, soft caps, or
        attention in both directions.
    """
    said = {**_TEXT, **{key: value for key, value in config.items() if value is not None}}
    for key in _CAPS:
        if said.get(key) is not None:
            raise MmjaxError(f"config.json: {key} {said[key]} is not supported; Gemma 3 has none")
    if said.get("use_bidirectional_attention"):
        raise MmjaxError(
            "config.json: use_bidirectional_attention is true, which is not supported; every token "
            "reads those before it"
        )
    ropes = {kind: _rope(said, kind) for kind in (_FULL, _LOCAL)}
    plain = LlamaConfig.from_hf(
        {
            **{key: value for key, value in said.items() if not key.startswith("rope_")},
            "hidden_act": said["hidden_activation"],
            "rope_parameters": ropes[_FULL],
        }
    )
    pattern, count = said["sliding_window_pattern"], said["num_hidden_layers"]
    kinds = [_LOCAL if i % pattern else _FULL for i in range(1, count + 1)]
    window = config.get("sliding_window", _TEXT["sliding_window"])
    return dataclasses.replace(
        plain,
        qk_norm=True,
        local_rope=RopeConfig.from_hf({"rope_parameters": ropes[_LOCAL]}),
        norm_offset=True,
        branch_norms=True,
        scaled_words=True,
        score_width=float(said["query_pre_attn_scalar"]),
        **local_layers({"layer_types": kinds, **said}, window),
    )


def _rope(said: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The rope parameters of one kind of layer."""
    own = dict((said.get("rope_parameters") or {}).get(kind) or {})
    if kind == _FULL:
        own |= said.get("rope_scaling") or {}
        return {"rope_theta": said.get("rope_theta", _THETA), **own}
    return {"rope_theta": said.get("rope_local_base_freq", _LOCAL_THETA), **own}
