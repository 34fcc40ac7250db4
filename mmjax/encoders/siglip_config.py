"""The sizes of SigLIP's towers, how config.json says them, and how their texts are read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.encoders.clip import PreNormTextConfig
from mmjax.encoders.text_preprocess import TextPreprocess, load_text_preprocess
from mmjax.encoders.vision import VisionConfig
from mmjax.errors import MmjaxError
from mmjax.files import read_optional_json

# What Hugging Face leaves out of config.json is at its default.
_SHARED: dict[str, Any] = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_TEXT: dict[str, Any] = _SHARED | {"vocab_size": 32000, "pad_token_id": 1}
_TEXT |= {"max_position_embeddings": 64}
_VISION: dict[str, Any] = _SHARED | {"image_size": 224, "patch_size": 16}
_GEMMA = 256000  # words of the tokenizer whose texts SigLIP 2 reads in lower case


@dataclasses.dataclass(frozen=True)
class SiglipTextConfig(PreNormTextConfig):
    """Sizes of SigLIP's text tower; every text is padded to `max_length`, and that is read."""

    projection_dim: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SiglipTextConfig":
        """Reads Hugging Face's config.json of a SiglipModel, a Siglip2Model or a text tower alone.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: a size that attention cannot have, or an unknown activation.
        """
        part = _TEXT | dict(config.get("text_config") or config)
        width = part.get("projection_size") or part["hidden_size"]
        return cls(**cls.sizes(part), projection_dim=width)


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(VisionConfig):
    """Sizes of SigLIP's image tower."""

    pool_head: bool = True  # whether an attention pools the tokens
    naflex: bool = False  # reads patches of pictures of any proportions, as `patches.py` cuts them
    class_token: bool = False


def vision_config(config: Mapping[str, Any]) -> SiglipVisionConfig:
    """Reads Hugging Face's config.json of a SiglipModel or of its image tower alone.

    Args:
      config: its content.

    Returns:
      The config, for pictures of the trained size.

    Raises:
      MmjaxError: oblong patches, or a size that attention cannot have.
    """
    part = _VISION | dict(config.get("vision_config") or config)
    head = bool(part.get("vision_use_head", True))
    vision = SiglipVisionConfig.from_hf(part, pool_head=head)
    assert isinstance(vision, SiglipVisionConfig)
    return vision


def naflex_config(config: Mapping[str, Any]) -> SiglipVisionConfig:
    """The same of a Siglip2Model, whose table of positions is a square of `num_patches`.

    Args:
      config: its content.

    Returns:
      The config; its `image_size` is that of the table.

    Raises:
      MmjaxError: as `vision_config`, or a table that is no square.
    """
    part = _VISION | dict(config.get("vision_config") or config)
    patches = part.get("num_patches", 256)
    side = round(patches**0.5)
    if side * side != patches:
        raise MmjaxError(f"config.json: num_patches {patches} is no square number")
    plain = vision_config(part | {"image_size": side * part["patch_size"]})
    return dataclasses.replace(plain, naflex=True)


def load_siglip_text(folder: Path, config: SiglipTextConfig) -> tuple[Any, TextPreprocess]:
    """Reads the tokenizer, which knows better than config.json what it pads with.

    Args:
      folder: Hugging Face's.
      config: the text tower's.

    Returns:
      (the config with that padding, the preprocessing; for Gemma's words in lower case).

    Raises:
      MmjaxError: as `load_text_preprocess`.
    """
    preprocess = load_text_preprocess(
        folder, config.max_length, config.vocab_size, config.pad_token_id
    )
    token = read_optional_json(folder / "tokenizer_config.json").get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    pad = preprocess.tokenizer.token_to_id(token) if isinstance(token, str) else None
    pad = config.pad_token_id if pad is None else pad
    lower = preprocess.lower_case or config.vocab_size == _GEMMA
    preprocess = dataclasses.replace(
        preprocess, pad_token_id=pad, lower_case=lower, max_length=config.max_length
    )
    return dataclasses.replace(config, pad_token_id=pad), preprocess
