"""The encoder families, by Hugging Face's model_type; each is imported when it is asked for."""

from collections.abc import Mapping
from typing import Any

from mmjax import plugins
from mmjax.checks import ranges
from mmjax.encoders.family import Family
from mmjax.encoders.nearest import nearest
from mmjax.errors import MmjaxError, shown

_BERT, _HEADS = "mmjax.encoders.bert:BERT", "mmjax.encoders.bert_heads:"
_CLIP, _JOINED = "mmjax.encoders.clip:", "mmjax.encoders.clip_variants:"
_SIGLIP = "mmjax.encoders.siglip:"
_OWN: Mapping[str, Family | tuple[Family, ...] | str] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "dinov2": "mmjax.encoders.dinov2:DINOV2",
    "dinov2_with_registers": "mmjax.encoders.dinov2:DINOV2_REGISTERS",
    "dinov3_vit": "mmjax.encoders.dinov3:DINOV3",
    "vit": "mmjax.encoders.vit:VIT",
    "llama": "mmjax.encoders.llama:LLAMA",
    "mistral": "mmjax.encoders.qwen:MISTRAL",
    "qwen2": "mmjax.encoders.qwen:QWEN2",
    "qwen3": "mmjax.encoders.qwen:QWEN3",
    "qwen2_vl": "mmjax.encoders.qwen_vl:QWEN2_VL",
    "qwen2_5_vl": "mmjax.encoders.qwen_vl:QWEN2_5_VL",
    "gemma3_text": "mmjax.encoders.gemma:GEMMA3_TEXT",
    "gemma3": "mmjax.encoders.gemma:GEMMA3",
    "llava": "mmjax.encoders.llava:LLAVA",
    "llava_next": "mmjax.encoders.llava:LLAVA",
    "mllama": "mmjax.encoders.mllama:MLLAMA",
    "clip": _CLIP + "CLIP",
    "clip_text_model": _CLIP + "CLIP_TEXT",
    "clip_vision_model": _CLIP + "CLIP_IMAGE",
    "clip_resnet": "mmjax.encoders.clip_resnet:CLIP_RESNET",
    "chinese_clip": _JOINED + "CHINESE_CLIP",
    "chinese_clip_text_model": _JOINED + "CHINESE_CLIP_TEXT",
    "chinese_clip_vision_model": _JOINED + "CHINESE_CLIP_IMAGE",
    "altclip": _JOINED + "ALTCLIP",
    "altclip_text_model": _JOINED + "ALTCLIP_TEXT",
    "altclip_vision_model": _JOINED + "ALTCLIP_IMAGE",
    "siglip": _SIGLIP + "SIGLIP",
    "siglip_text_model": _SIGLIP + "SIGLIP_TEXT",
    "siglip_vision_model": _SIGLIP + "SIGLIP_IMAGE",
    "siglip2": _SIGLIP + "SIGLIP2",
    "siglip2_text_model": _SIGLIP + "SIGLIP_TEXT",
    "siglip2_vision_model": _SIGLIP + "SIGLIP2_IMAGE",
    "M-CLIP": _HEADS + "M_CLIP",
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
      tower: as in `find_family`.
      family: as in `find_family`.

    Returns:
      (family, the family's own config).

    Raises:
      MmjaxError: as `find_family`; or a value that is missing, of another type, out of its range,
        or does not go with the others.
    """
    ranges.check_ranges(config, where, ranges.MODEL)
    model_family = find_family(config, where, tower, family)
    try:
        return model_family, model_family.config(config)
    except KeyError as error:
        raise MmjaxError(f"{where} lacks {error}") from error
    except MmjaxError as error:  # families do not know the file
        raise MmjaxError(f"{where}: {str(error).removeprefix('config.json: ')}") from error


def find_family(
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
    if (
        family is None
        and kind not in FAMILIES.own
        and kind not in plugins.installed(FAMILIES.group)
    ):
        names = FAMILIES.names()
        raise MmjaxError(
            f"{where}: model_type {shown(kind)} is not supported; known: {', '.join(names)}; "
            f"{nearest(config, names)}"
        )
    entry = FAMILIES.find(kind, "encoders.family")
    families = {
        member.modality: member for member in (entry if isinstance(entry, tuple) else (entry,))
    }
    if tower is None and len(families) > 1:
        raise MmjaxError(f"{where}: {kind!r} has two towers; say tower='text' or tower='image'")
    chosen = families.get(tower) if tower else next(iter(families.values()))
    if chosen is None:
        raise MmjaxError(f"{where}: {kind!r} has no {tower!r} tower, only {', '.join(families)}")
    return chosen
