"""The sizes of a Llama 3.2 Vision (Mllama), and how config.json says them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.checks.ranges import check_id
from mmjax.encoders.layers import check_sizes
from mmjax.encoders.llama_config import LlamaConfig, VisionLanguageConfig
from mmjax.errors import MmjaxError

# What Hugging Face leaves out of config.json is at its default.
_TEXT: dict[str, Any] = {
    **{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336},
    **{"num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 5e5},
    **{"pad_token_id": 128004},
}
_CROSS = (3, 8, 13, 18, 23, 28, 33, 38)
_VISION: dict[str, Any] = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
    **{"num_global_layers": 8, "attention_heads": 16, "hidden_act": "gelu", "norm_eps": 1e-5},
    **{"image_size": 448, "patch_size": 14, "max_num_tiles": 4, "vision_output_dim": 7680},
}
_FEATURES = (3, 7, 15, 23, 30)
_IMAGE = 128256
UNSAID = 8  # words behind the vocabulary that are read and never said: the picture's is one
EVEN = 8  # of which the image tower's tokens of a tile are a multiple


@dataclasses.dataclass(frozen=True)
class MllamaTowerConfig:
    """Sizes of the image tower.

    Attributes:
      hidden_size: width.
      intermediate_size: of feed-forward parts.
      num_layers: of the first stage.
      num_global_layers: of the second, whose branches have gates.
      num_heads: of both.
      hidden_act: Hugging Face's name of the activation.
      norm_eps: of the layers' norms.
      image_size: side of a tile in pixels.
      patch_size: side of a patch.
      max_tiles: tiles of a picture.
      features: numbers of the first stage's layers, from 0, whose outputs are read beside the
        second stage's, as transformers numbers them since its release 4.54. (Meta's code and
        transformers before it read those layers' inputs.)
      num_channels: of a pixel.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_global_layers: int
    num_heads: int
    hidden_act: str
    norm_eps: float
    image_size: int
    patch_size: int
    max_tiles: int
    features: tuple[int, ...]
    num_channels: int = 3

    @property
    def num_tokens(self) -> int:
        """Tokens of a tile: the class token, then its patches."""
        return 1 + (self.image_size // self.patch_size) ** 2

    @property
    def num_padded(self) -> int:
        """The same as the layers read them, padding behind."""
        return -(-self.num_tokens // EVEN) * EVEN

    @property
    def out_size(self) -> int:
        """Width of what is read: of both stages' features side by side."""
        return self.hidden_size * (1 + len(self.features))

    @property
    def arrangements(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of tiles that a picture may have; their numbers count from 1."""
        sides = range(1, self.max_tiles + 1)
        return tuple((r, c) for r in sides for c in sides if r * c <= self.max_tiles)


@dataclasses.dataclass(frozen=True)
class MllamaConfig(VisionLanguageConfig):
    """Sizes of both towers, and how the words see the pictures.

    Attributes:
      text: the decoder's; its `num_layers` are those that attend to words.
      vision: the image tower's.
      cross_layers: numbers, among all layers of the decoder, of those that attend to pictures.
      image_token_id: stands for a picture.
    """

    vision: MllamaTowerConfig
    cross_layers: tuple[int, ...]
    image_token_id: int

    @property
    def plain_layers(self) -> tuple[int, ...]:
        """Numbers of the decoder's other layers."""
        total = self.text.num_layers + len(self.cross_layers)
        return tuple(i for i in range(total) if i not in self.cross_layers)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MllamaConfig":
        """Reads Hugging Face's config.json of an MllamaForConditionalGeneration.

        Args:
          config: its content.

        Returns:
          The config.

        Raises:
          MmjaxError: a size that attention cannot have, layers that are not there, tiles in other
            arrangements than the picture processor's, or a token that is none.
        """
        said = {**_TEXT, **_said(config.get("text_config"))}
        if config.get("tie_word_embeddings") or said.get("tie_word_embeddings"):
            raise MmjaxError(
                "config.json: tie_word_embeddings is true, but an Mllama reads more words than it "
                "says; its head has weights of its own"
            )
        total = said["num_hidden_layers"]
        cross = _layers("cross_attention_layers", said.get("cross_attention_layers", _CROSS), total)
        if len(cross) == total:
            raise MmjaxError("config.json: by cross_attention_layers no layer attends to words")
        text = LlamaConfig.from_hf({**said, "num_hidden_layers": total - len(cross)})
        text = dataclasses.replace(text, unsaid_words=UNSAID)
        token = config.get("image_token_index", config.get("image_token_id"))
        token = _IMAGE if token is None else token
        check_id("image_token_index", token, text.words)
        vision = _vision({**_VISION, **_said(config.get("vision_config"))})
        return cls(text, vision, tuple(sorted(cross)), token)


def _said(part: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a part says, but for what it leaves to the default by null."""
    return {key: value for key, value in (part or {}).items() if value is not None}


def _layers(key: str, numbers: Sequence[int], total: int) -> tuple[int, ...]:
    if len(set(numbers)) < len(numbers) or not 0 <= min(numbers) <= max(numbers) < total:
        raise MmjaxError(
            f"config.json: {key} {list(numbers)} are not different ones of the {total} layers, "
            "counted from 0"
        )
    return tuple(numbers)


def _vision(said: Mapping[str, Any]) -> MllamaTowerConfig:
    size, heads, act = said["hidden_size"], said["attention_heads"], said["hidden_act"]
    check_sizes(size, heads, act)
    side, patch = (_side(key, said[key]) for key in ("image_size", "patch_size"))
    if side % patch:
        raise MmjaxError(f"config.json: image_size {side} is not a multiple of patch_size {patch}")
    total = said["num_hidden_layers"]
    indices = said.get("intermediate_layers_indices", _FEATURES)
    tower = MllamaTowerConfig(
        hidden_size=size,
        intermediate_size=said["intermediate_size"],
        num_layers=total,
        num_global_layers=said["num_global_layers"],
        num_heads=heads,
        hidden_act=act,
        norm_eps=said["norm_eps"],
        image_size=side,
        patch_size=patch,
        max_tiles=said["max_num_tiles"],
        features=_layers("intermediate_layers_indices", indices, total),
        num_channels=said.get("num_channels", 3),
    )
    if said["vision_output_dim"] != tower.out_size:
        raise MmjaxError(
            f"config.json: vision_output_dim {said['vision_output_dim']}, but "
            f"{1 + len(indices)} features of {size} are {tower.out_size} wide"
        )
    ratios = said.get("supported_aspect_ratios")
    if ratios is not None and tuple(map(tuple, ratios)) != tower.arrangements:
        raise MmjaxError(
            f"config.json: supported_aspect_ratios are not all arrangements of at most "
            f"max_num_tiles {tower.max_tiles} tiles, in order"
        )
    return tower


def _side(key: str, value: int | Sequence[int]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) > 1:
        raise MmjaxError(f"config.json: {key} {value} is no square")
    return sides.pop()
