"""`load_encoder`: a folder or file of weights becomes an Encoder."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.checks import foreign
from mmjax.checks.arguments import whole
from mmjax.encoders import bert_heads, catalog
from mmjax.encoders.attention import choose, with_kernel
from mmjax.encoders.base import Encoder
from mmjax.encoders.family import Family, ImageConfig
from mmjax.encoders.image_preprocess import ImagePreprocess, load_image_preprocess
from mmjax.encoders.language_model import LanguageModel, load_text
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.llava import LlavaConfig
from mmjax.encoders.llava_images import load_llava_images
from mmjax.encoders.pooling import Pooling, load_dense, load_pooling
from mmjax.encoders.source import resolve_source
from mmjax.encoders.text_preprocess import load_text_preprocess
from mmjax.errors import MmjaxError, shown
from mmjax.processes.timings import phase
from mmjax.trees import Rules
from mmjax.weights import convert, layouts
from mmjax.weights.quantize import KINDS

MOST_PIXELS = 2048  # a side of a picture: a transformer's memory grows with its fourth power
_STEEPEST = 20.0  # of a logit scale, in either direction
_FARTHEST = 1e3  # of a logit bias
_HEADS = ("pooler", "classifier")  # poolings that have weights


@phase("loading encoders")
def load_encoder(
    source: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    image_size: int | None = None,
    pooling: str | None = None,
    tower: str | None = None,
    quantize: str | None = None,
    family: str | None = None,
    attention: str | None = None,
) -> Encoder:
    """Loads a frozen encoder with its tokenizer or picture constants.

    A model with two towers, such as CLIP, is two encoders of one source:

        images = load_encoder("hf:openai/clip-vit-large-patch14", tower="image")
        texts = load_encoder("hf:openai/clip-vit-large-patch14", tower="text")

    Their `embed_images` and `embed_texts` return what Hugging Face's get_image_features and
    get_text_features do: projected into the joint space, not brought to length 1. Both know the
    model's `logit_scale`.

    Args:
      source: "asset:NAME" (`python -m mmjax.assets list`), a folder in the layout of Hugging Face,
        sentence-transformers or open_clip, "hf:ORG/NAME[@REVISION]", or a file of weights beside
        its config.json or open_clip_config.json. OpenAI's own .pt archives and a LLaMA's .gguf
        need no config, nor does a folder of Meta's
        (params.json beside consolidated.NN.pth).
      dtype: float dtype of parameters and computation: jnp.float32 or jnp.bfloat16.
      mesh: None puts the parameters on the default device.
      rules: (anchored pattern, PartitionSpec) pairs over parameter paths; None takes the family's,
        which split large weights over the mesh's axis "model" where it has one; what does not
        divide evenly stays whole.
      image_size: pictures only; side in pixels to resize and crop to, a multiple of the patch size.
        Positions are interpolated where the model was trained for another. None takes the size
        that the folder's preprocessor_config.json says.
      pooling: texts only; "mean", "cls" or "max" instead of what the folder says; of BERTs also
        "pooler" for the tanh pooler's output, "classifier" for the classifier's (Taiyi's
        embeddings).
      tower: "text" or "image" of a model that has both; for one with a single tower it may be said.
      quantize: "int8" keeps the kernels of dense layers as int8 with a scale an output channel, a
        quarter of float32, "nf4" in about four bits, an eighth (see `mmjax.weights.nf4`), and
        computes in `dtype` all the same; None keeps them in `dtype`.
      family: `package.module:Name` of an `mmjax.encoders.family.Family` of your own, or the name
        that an installed package gives one; None takes what config.json's model_type says.
      attention: "xla", "cudnn" or "splash" instead of what the devices are quickest by, see
        `mmjax.encoders.attention`.

    Returns:
      The encoder, a `LanguageModel` for a decoder; its parameters lie in their shardings.

    Raises:
      MmjaxError: nothing at the source, a kind of model that is not supported, or weights that are
        damaged or do not fit (all of them are listed).
    """
    if not isinstance(source, str | os.PathLike):
        raise MmjaxError(f"load_encoder takes a name or a path, got {shown(source)}")
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = shown(dtype)
    if name not in ("float32", "bfloat16"):
        raise MmjaxError(f"dtype {name} is not supported; float32 or bfloat16")
    if image_size is not None:
        whole("image_size", image_size, 1, MOST_PIXELS)
    if quantize not in (None, *KINDS):
        raise MmjaxError(f"quantize {quantize!r} is not supported; {', '.join(KINDS)} or None")
    place, text = resolve_source(source), os.fspath(source)
    # A GGUF file holds all that a folder does; other files of weights lie in one.
    folder = place if place.is_dir() or place.suffix == ".gguf" else place.parent
    with foreign.reading(place, "a model's folder or file", MmjaxError):
        description = layouts.describe_model(place)
        model, config = catalog.configure(description.config, description.where, tower, family)

    kind, pool, own, extra = Encoder, None, {}, {}
    if model.modality == "text":
        if image_size is not None:
            raise MmjaxError(f"image_size is given, but {text} is a text encoder")
        if model.pools and pooling is not None:
            raise MmjaxError(f"pooling is given, but {text} has an embedding of its own")
        decoder = getattr(config, "text", config)
        if isinstance(decoder, LlamaConfig):
            kind, pool = LanguageModel, _pooled_without_weights(folder, pooling)
            preprocess, own["chat"] = load_text(folder, decoder, description.opened)
            if isinstance(config, LlavaConfig):
                own["images"] = load_llava_images(folder, config)
            elif model.load_images is not None:
                constants = description.preprocessor
                own["images"] = model.load_images(folder, config, constants, None)
        else:
            if not model.pools:
                model, config, pool, extra = _pooled(model, config, description, folder, pooling)
            if model.load_text is not None:
                config, preprocess = model.load_text(folder, config)
            else:
                preprocess = load_text_preprocess(
                    folder, config.max_length, config.vocab_size, config.pad_token_id
                )
        inputs = {name: (1, 1) for name in ("input_ids", "attention_mask")}
        example = {name: jax.ShapeDtypeStruct(s, jnp.int32) for name, s in inputs.items()}
    else:
        if pooling is not None:
            raise MmjaxError(f"pooling is given, but {text} is a picture encoder")
        if model.load_images is not None:
            preprocess = model.load_images(folder, config, description.preprocessor, image_size)
            shape = preprocess.shape
        else:
            preprocess = load_image_preprocess(folder, image_size, description.preprocessor)
            config = _sized(model, config, preprocess, asked=image_size is not None, text=text)
            shape = (preprocess.crop, preprocess.crop, config.num_channels)
        example = {"pixel_values": jax.ShapeDtypeStruct((1, *shape), jnp.float32)}

    module = model.module(config, dtype=dtype, param_dtype=dtype)
    module = with_kernel(module, choose(mesh, dtype, attention))
    target = jax.eval_shape(lambda inputs: module.init(jax.random.key(0), **inputs), example)
    checkpoint = convert.Checkpoint(place, extra, description.opened)
    if rules is None and mesh is not None:
        rules = sharding.fit(model.sharding(config), target["params"], mesh, model.heads(config))
    params, fingerprint = convert.load_params(
        checkpoint,
        target["params"],
        model.key_table(config),
        model.ignored,
        dtype,
        mesh,
        rules,
        quantize,
    )
    return kind(
        name=text.rstrip("/").rsplit("/", 1)[-1].removeprefix("asset:"),
        family=model.name,
        modality=model.modality,
        module=module,
        params=params,
        config=config,
        preprocess=preprocess,
        fingerprint=fingerprint,
        pooling=pool,
        dtype=jnp.dtype(dtype),
        quantize=quantize,
        mesh=mesh,
        logit_scale=_logit_scale(checkpoint),
        logit_bias=_logit_bias(checkpoint),
        **own,
    )


def _logit_scale(checkpoint: convert.Checkpoint) -> float | None:
    """ln(1 / temperature), where the checkpoint has one; CLIP's end at ln 100."""
    scale = convert.read_scalar(checkpoint, "logit_scale")
    if scale is None:
        return None
    return foreign.real(f"{checkpoint.source}: logit_scale", scale, -_STEEPEST, _STEEPEST)


def _logit_bias(checkpoint: convert.Checkpoint) -> float | None:
    """What a sigmoid's logits are moved by, where the checkpoint has it; SigLIPs' end near -17."""
    bias = convert.read_scalar(checkpoint, "logit_bias")
    if bias is None:
        return None
    return foreign.real(f"{checkpoint.source}: logit_bias", bias, -_FARTHEST, _FARTHEST)


def _pooled_without_weights(folder: Path, name: str | None) -> Pooling:
    """How a decoder's tokens become one vector."""
    if load_dense(folder) is not None:
        raise MmjaxError(f"{folder}: a Dense module is supported after a BERT only")
    return load_pooling(folder, name)


def _pooled(
    family: Family,
    config: Any,
    description: layouts.Description,
    folder: Path,
    name: str | None,
) -> tuple[Family, Any, Pooling | None, dict[str, Path]]:
    """How a BERT's tokens become one vector: without weights, or by a head that has some."""
    if name in _HEADS:
        head = bert_heads.pooler_config(description.config, config, classify=name == "classifier")
        return bert_heads.BERT_WITH_HEAD, head, None, {}
    pool = load_pooling(folder, name)
    dense = load_dense(folder) if name is None else None
    if dense is None:
        return family, config, pool, {}
    head = bert_heads.dense_config(config, pool, dense)
    return bert_heads.BERT_WITH_HEAD, head, None, {"dense.": dense.folder}


def _sized(
    family: Family, config: ImageConfig, preprocess: ImagePreprocess, asked: bool, text: str
) -> ImageConfig:
    """The config for the size of the prepared pictures."""
    if preprocess.crop != config.image_size and not (asked or family.any_size):
        raise MmjaxError(
            f"{text}: pictures are cut to {preprocess.crop} pixels, but the model was trained for "
            f"{config.image_size}; say image_size= to interpolate its positions"
        )
    return config.for_image_size(preprocess.crop)
