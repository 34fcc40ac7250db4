"""Other projects' ways to describe a model, brought to Hugging Face's."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.checks import ranges
from mmjax.errors import MmjaxError
from mmjax.files import read_json_object, read_optional_json
from mmjax.weights.convert import Checkpoint, read_scalar
from mmjax.weights.gguf_llama import GgufLlama
from mmjax.weights.meta_llama import PARAMS, MetaLlama

_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
_RESAMPLE = {"bicubic": 3, "bilinear": 2}
# What mmjax's CLIP can be; other keys of open_clip's configs describe other models.
_MODEL_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
_VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


@dataclasses.dataclass(frozen=True)
class Description:
    """What a source says of its model, in Hugging Face's terms."""

    config: Mapping[str, Any]  # as config.json
    preprocessor: Mapping[str, Any]  # as preprocessor_config.json; empty: nothing is said
    where: str  # for error messages
    opened: GgufLlama | MetaLlama | None = None  # weights that describe themselves


def describe_model(source: Path) -> Description:
    """Reads what describes a model.

    Args:
      source: a folder, or one file of weights: GGUF files and OpenAI's own archives describe
        themselves, others are described by the config that lies beside them.

    Returns:
      The description.

    Raises:
      MmjaxError: nothing describes the model, or it is none that mmjax has.
    """
    folder = source
    if source.is_file() and source.suffix == ".gguf":
        opened = GgufLlama(source)
        return Description(opened.config(), {}, str(source), opened)
    if source.is_file():
        folder = source.parent
        with_sizes = Checkpoint(source)
        if set(_OPENAI_MARKS) <= set(with_sizes.keys()):
            return _openai(with_sizes, str(source))
    path, open_clip = folder / "config.json", folder / "open_clip_config.json"
    if open_clip.is_file() and not path.is_file():
        return _open_clip(read_json_object(open_clip), str(open_clip))
    if (folder / PARAMS).is_file() and not path.is_file():
        opened = MetaLlama(folder)
        return Description(opened.config(), {}, str(folder / PARAMS), opened)
    preprocessor = read_optional_json(folder / "preprocessor_config.json")
    return Description(read_json_object(path), preprocessor, str(path))


def _clip(
    text: Mapping[str, Any], vision: Mapping[str, Any], width: int, quick: bool
) -> dict[str, Any]:
    act = {"hidden_act": "quick_gelu" if quick else "gelu"}
    # Both projects pool at the largest id, which is the end's.
    text = {**text, **act, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**vision, **act}
    return {
        "model_type": "clip_resnet" if "layers" in vision else "clip",
        "text_config": text,
        "vision_config": vision,
        "projection_dim": width,
    }


def _resnet(width: int, layers: Sequence[int], side: int, head: int = 64) -> dict[str, Any]:
    """The image tower of a CLIP whose `layers` are the blocks of a ResNet's stages."""
    sizes: dict[str, Any] = {"width": width, "layers": list(layers), "image_size": side}
    return sizes | {"num_attention_heads": max(width * 32 // head, 1)}


def _open_clip(content: Mapping[str, Any], where: str) -> Description:
    ranges.check_ranges(content, where, ranges.OPEN_CLIP)
    try:
        model = content["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        for part, keys in ((model, _MODEL_KEYS), (vision, _VISION_KEYS), (text, _TEXT_KEYS)):
            unknown = [key for key in part if key not in keys and part[key] not in (None, False)]
            if unknown:
                raise MmjaxError(f"{where}: {', '.join(unknown)} is not supported in a CLIP")
        head = vision.get("head_width", 64)
        if isinstance(vision["layers"], int):
            sizes = {
                "hidden_size": vision["width"],
                "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4)),
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": max(vision["width"] // head, 1),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            }
        else:
            sizes = _resnet(vision["width"], vision["layers"], vision["image_size"], head)
        text_sizes = {
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
        }
        pixels = content.get("preprocess_cfg") or {}
        if pixels.get("resize_mode", "shortest") != "shortest":
            raise MmjaxError(f"{where}: resize_mode {pixels['resize_mode']!r}; only 'shortest'")
        preprocessor = _PIXELS | {
            "image_mean": pixels.get("mean", _PIXELS["image_mean"]),
            "image_std": pixels.get("std", _PIXELS["image_std"]),
            "resample": _RESAMPLE[pixels.get("interpolation", "bicubic")],
        }
        side = {"size": vision["image_size"], "crop_size": vision["image_size"]}
        config = _clip(text_sizes, sizes, model["embed_dim"], bool(model.get("quick_gelu")))
    except (KeyError, TypeError, AttributeError) as error:
        raise MmjaxError(f"{where} is no config of an open_clip model: {error!r}") from error
    return Description(config, preprocessor | side, where)


def _openai(checkpoint: Checkpoint, where: str) -> Description:
    """Sizes by the shapes, as OpenAI's own loader has them."""
    shapes = {key: checkpoint.header(key)[1] for key in checkpoint.keys()}  # noqa: SIM118

    def blocks(stage: int) -> int:
        pattern = re.compile(rf"visual\.layer{stage}\.(\d+)\.conv1\.weight")
        return sum(pattern.fullmatch(key) is not None for key in shapes)

    def layers(prefix: str) -> int:
        pattern = re.compile(rf"{prefix}transformer\.resblocks\.(\d+)\.ln_1\.weight")
        return sum(pattern.fullmatch(key) is not None for key in shapes)

    def sizes(width: int, layers: int) -> dict[str, int]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(width // 64, 1),
        }

    side = int(read_scalar(checkpoint, "input_resolution") or 0)
    try:
        vocabulary, text_width = shapes["token_embedding.weight"]
        embed_dim = shapes["text_projection"][1]
        (context, _) = shapes["positional_embedding"]
        if "visual.proj" in shapes:
            width, _, _, patch = shapes["visual.conv1.weight"]
            vision = {
                **sizes(width, layers(r"visual\.")),
                "image_size": side,
                "patch_size": patch,
            }
        else:
            width = shapes["visual.layer1.0.conv1.weight"][0]
            vision = _resnet(width, [blocks(stage) for stage in (1, 2, 3, 4)], side)
    except (KeyError, ValueError, IndexError) as error:
        raise MmjaxError(f"{where} is no CLIP of OpenAI's: {error!r}") from error
    text = {
        **sizes(text_width, layers("")),
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
    }
    config = _clip(text, vision, embed_dim, quick=True)
    return Description(config, _PIXELS | {"size": side, "crop_size": side}, where)
