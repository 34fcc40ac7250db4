"""The encoder families, by Hugging Face's model_type."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from flax import linen as nn

from mmjax import plugins
from mmjax.checks import ranges
from mmjax.encoders import bert, bert_heads, clip, dinov2, llama, llama_config, llava, vision, vit
from mmjax.errors import MmjaxError
from mmjax.sharding import Rules
from mmjax.weights.convert import KeyRule

Modality = Literal["text", "image"]


@runtime_checkable
class PictureConfig(Protocol):
    """What the config of a family that reads pictures must say."""

    @property
    def image_size(self) -> int:
        """Side of a picture, in pixels."""
        ...

    @property
    def num_channels(self) -> int:
        """Of a pixel."""
        ...

    def for_image_size(self, image_size: int) -> "PictureConfig":
        """The same model for pictures of another size."""
        ...


@dataclasses.dataclass(frozen=True)
class Family:
    """All that loading needs to know about a kind of model.

    The config of one that reads pictures is a `PictureConfig`; of one that reads texts it has
    `max_length`, `vocab_size` and `pad_token_id`. Its module takes `pixel_values` [b, h, w, c], or
    `input_ids` and `attention_mask` [b, l].
    """

    name: str
    modality: Modality
    config: Callable[[Mapping[str, Any]], Any]  # config.json -> the family's own config
    module: Callable[..., nn.Module]  # (config, dtype, param_dtype)
    key_table: Callable[[Any], Sequence[KeyRule]]
    ignored: re.Pattern[str]  # names without a rule that are passed over
    sharding: Callable[[Any], Rules]  # who holds what on a mesh
    pools: bool = False  # whether the module says itself what one item's embedding is
    any_size: bool = False  # whether positions are interpolated without being asked


def _always(rules: Rules) -> Callable[[Any], Rules]:
    """Rules that do not depend on the config."""
    return lambda _: rules


_BERT = Family(
    "bert",
    "text",
    bert.BertConfig.from_hf,
    bert.Bert,
    bert.key_table,
    bert.IGNORED,
    _always(bert.SHARDING),
)
_DINOV2 = Family(
    "dinov2",
    "image",
    dinov2.config_from_hf,
    vision.VisionTransformer,
    dinov2.key_table,
    dinov2.IGNORED,
    _always(vision.SHARDING),
    any_size=True,
)
_VIT = dataclasses.replace(
    _DINOV2,
    name="vit",
    config=vit.config_from_hf,
    key_table=vit.key_table,
    ignored=vit.IGNORED,
    any_size=False,
)
_CLIP_TEXT = Family(
    "clip",
    "text",
    clip.ClipTextConfig.from_hf,
    clip.ClipText,
    clip.text_key_table,
    clip.TEXT_IGNORED,
    _always(clip.TEXT_SHARDING),
    pools=True,
)
_CLIP_IMAGE = Family(
    "clip",
    "image",
    clip.vision_config,
    vision.VisionTransformer,
    clip.vision_key_table,
    clip.VISION_IGNORED,
    _always(vision.SHARDING),
    pools=True,
)
BERT_WITH_HEAD = Family(
    "bert",
    "text",
    bert_heads.chinese_clip_config,
    bert_heads.BertWithHead,
    bert_heads.key_table,
    bert_heads.IGNORED,
    _always(bert.SHARDING),
    pools=True,
)
_LLAMA = Family(
    "llama",
    "text",
    llama_config.LlamaConfig.from_hf,
    llama.Llama,
    llama.key_table,
    llama.IGNORED,
    llama.sharding,
)
_LLAVA = Family(
    "llava",
    "text",
    llava.LlavaConfig.from_hf,
    llava.Llava,
    llava.key_table,
    llava.IGNORED,
    llava.sharding,
)
_ALTCLIP_TEXT = dataclasses.replace(
    BERT_WITH_HEAD, name="altclip", config=bert_heads.altclip_config
)
_ALTCLIP_IMAGE = dataclasses.replace(_CLIP_IMAGE, name="altclip", config=clip.altclip_vision_config)
_CHINESE_CLIP_TEXT = dataclasses.replace(BERT_WITH_HEAD, name="chinese_clip")
_CHINESE_CLIP_IMAGE = dataclasses.replace(_CLIP_IMAGE, name="chinese_clip")
_M_CLIP = dataclasses.replace(BERT_WITH_HEAD, name="m-clip", config=bert_heads.m_clip_config)

_OWN: Mapping[str, tuple[Family, ...]] = {
    "bert": (_BERT,),
    "roberta": (_BERT,),
    "xlm-roberta": (_BERT,),
    "dinov2": (_DINOV2,),
    "vit": (_VIT,),
    "llama": (_LLAMA,),
    "llava": (_LLAVA,),
    "llava_next": (_LLAVA,),
    "clip": (_CLIP_TEXT, _CLIP_IMAGE),
    "clip_text_model": (_CLIP_TEXT,),
    "clip_vision_model": (_CLIP_IMAGE,),
    "chinese_clip": (_CHINESE_CLIP_TEXT, _CHINESE_CLIP_IMAGE),
    "chinese_clip_text_model": (_CHINESE_CLIP_TEXT,),
    "chinese_clip_vision_model": (_CHINESE_CLIP_IMAGE,),
    "altclip": (_ALTCLIP_TEXT, _ALTCLIP_IMAGE),
    "altclip_text_model": (_ALTCLIP_TEXT,),
    "altclip_vision_model": (_ALTCLIP_IMAGE,),
    "M-CLIP": (_M_CLIP,),
}
# A tuple holds a family for each tower.
FAMILIES = plugins.Catalog[Family | tuple[Family, ...]](
    plugins.ENCODERS, "an encoder family", (Family, tuple), _OWN
)


def configure(
    config: Mapping[str, Any], where: str, tower: str | None = None, family: str | None = None
) -> tuple[Family, Any]:
    """The family of a model, and its config, every number of which is in its range.

    Args:
      config: content of config.json.
      where: the file, for error messages.
      tower: as in `find`.
      family: as in `find`.

    Returns:
      (family, the family's own config).

    Raises:
      MmjaxError: as `find`; or a value that is missing, of another type, out of its range, or does
        not go with the others.
    """
    ranges.check(config, where, ranges.MODEL)
    found = find(config, where, tower, family)
    try:
        return found, found.config(config)
    except KeyError as error:
        raise MmjaxError(f"{where} lacks {error}") from error
    except MmjaxError as error:  # families do not know the file
        raise MmjaxError(f"{where}: {str(error).removeprefix('config.json: ')}") from error


def find(
    config: Mapping[str, Any], where: str, tower: str | None = None, family: str | None = None
) -> Family:
    """The family of a model.

    Args:
      config: content of config.json.
      where: the file, for the error message.
      tower: "text" or "image"; None takes the only one.
      family: a name of `FAMILIES` or `package.module:Name`; None takes what the config says, which
        names no module: a file of weights has no say in what is imported.

    Returns:
      The family.

    Raises:
      MmjaxError: no or an unknown model_type, a model with two towers of which none was chosen, or
        one without the tower that was.
    """
    kind = config.get("model_type", "") if family is None else family
    if family is None and kind not in FAMILIES.names():
        raise MmjaxError(
            f"{where}: model_type {kind!r} is not supported; known: {', '.join(FAMILIES.names())}"
        )
    found = FAMILIES.find(kind, "encoders.family")
    families = {one.modality: one for one in (found if isinstance(found, tuple) else (found,))}
    if tower is None and len(families) > 1:
        raise MmjaxError(f"{where}: {kind!r} has two towers; say tower='text' or tower='image'")
    chosen = families.get(tower) if tower else next(iter(families.values()))
    if chosen is None:
        raise MmjaxError(f"{where}: {kind!r} has no {tower!r} tower, only {', '.join(families)}")
    return chosen
