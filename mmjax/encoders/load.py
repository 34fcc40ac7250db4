"""`load_encoder`: a folder of weights becomes an Encoder."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.encoders import catalog, convert
from mmjax.encoders.base import Encoder
from mmjax.encoders.dinov2 import Dinov2Config
from mmjax.encoders.files import read_json, resolve
from mmjax.encoders.image_preprocess import load_image_preprocess
from mmjax.encoders.language_model import LanguageModel, load_text
from mmjax.encoders.llama import LlamaConfig
from mmjax.encoders.pooling import load_pooling
from mmjax.encoders.readers.gguf_llama import GgufLlama
from mmjax.encoders.text_preprocess import load_text_preprocess
from mmjax.errors import MmjaxError
from mmjax.sharding import Rules


def load_encoder(
    source: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    image_size: int | None = None,
    pooling: str | None = None,
    quantize: str | None = None,
) -> Encoder:
    """Loads a frozen encoder with its tokenizer or picture constants.

    Args:
      source: "asset:NAME" (`python -m mmjax.assets list`), a folder in the layout of Hugging Face
        or sentence-transformers, a LLaMA's GGUF file, or "hf:ORG/NAME[@REVISION]".
      dtype: float dtype of parameters and computation: jnp.float32 or jnp.bfloat16.
      mesh: None puts the parameters on the default device.
      rules: (anchored pattern, PartitionSpec) pairs over parameter paths; None takes
        the family's own, which split a language model over `model` and replicate the others.
      image_size: pictures only; side in pixels to resize and crop to, a multiple of the patch size.
        None takes the size that the folder's preprocessor_config.json says.
      pooling: texts only; "mean", "cls" or "max" instead of what the folder says.
      quantize: "int8" keeps the kernels of dense layers as int8 with a scale an output channel, a
        quarter of float32, and computes in `dtype` all the same; None keeps them in `dtype`.

    Returns:
      The encoder, a `LanguageModel` for a decoder; its parameters lie in their shardings.

    Raises:
      MmjaxError: nothing at the source, a kind of model that is not supported, or weights that are
        damaged or do not fit (all of them are listed).
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise MmjaxError(f"dtype {jnp.dtype(dtype).name} is not supported; float32 or bfloat16")
    if quantize not in (None, "int8"):
        raise MmjaxError(f"quantize {quantize!r} is not supported; 'int8' or None")
    folder = resolve(source)
    text = os.fspath(source)
    path = folder
    if folder.suffix == ".gguf":
        raw = GgufLlama(folder).config()
    else:
        path = folder / "config.json"
        raw = read_json(path)
    family = catalog.find(raw, str(path))
    try:
        config = family.config(raw)
    except KeyError as error:
        raise MmjaxError(f"{path} lacks {error}") from error

    pool, kind, extra = None, Encoder, {}
    if family.modality == "text":
        if image_size is not None:
            raise MmjaxError(f"image_size is given, but {text} is a text encoder")
        pool = load_pooling(folder, pooling)
        if isinstance(config, LlamaConfig):
            kind = LanguageModel
            preprocess, extra["chat"] = load_text(folder, config)
        else:
            preprocess = load_text_preprocess(
                folder, config.max_length, config.vocab_size, config.pad_token_id
            )
        inputs = {name: (1, 1) for name in ("input_ids", "attention_mask")}
        example = {name: jax.ShapeDtypeStruct(s, jnp.int32) for name, s in inputs.items()}
    else:
        if pooling is not None:
            raise MmjaxError(f"pooling is given, but {text} is a picture encoder")
        preprocess = load_image_preprocess(folder, image_size)
        assert isinstance(config, Dinov2Config)
        config = config.for_image_size(preprocess.crop)
        shape = (1, preprocess.crop, preprocess.crop, config.num_channels)
        example = {"pixel_values": jax.ShapeDtypeStruct(shape, jnp.float32)}

    module = family.module(config, dtype=dtype, param_dtype=dtype)
    target = jax.eval_shape(lambda inputs: module.init(jax.random.key(0), **inputs), example)
    if rules is None and mesh is not None and family.rules is not None:
        rules = sharding.fit(family.rules(config), target["params"], mesh)
    params, fingerprint = convert.load_params(
        folder,
        target["params"],
        family.key_table(config),
        family.ignored,
        dtype,
        mesh,
        rules,
        quantize,
    )
    return kind(
        name=text.rstrip("/").rsplit("/", 1)[-1].removeprefix("asset:"),
        family=family.name,
        modality=family.modality,
        module=module,
        params=params,
        config=config,
        preprocess=preprocess,
        fingerprint=fingerprint,
        pooling=pool,
        dtype=jnp.dtype(dtype),
        quantize=quantize,
        mesh=mesh,
        **extra,
    )
