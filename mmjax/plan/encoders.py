"""Encoders without weights: their modules and the shapes of what they hold, where it would lie."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from mmjax import sharding, trees
from mmjax.data.library import Library
from mmjax.encoders import catalog
from mmjax.encoders.attention import choose, with_kernel
from mmjax.encoders.base import Encoder
from mmjax.encoders.image_preprocess import load_image_preprocess
from mmjax.encoders.language_model import LanguageModel
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.patches import COORDINATES
from mmjax.encoders.pooling import Pooling, load_pooling
from mmjax.errors import MmjaxError
from mmjax.specs.spec import EncoderSpec
from mmjax.trees import PyTree
from mmjax.weights import layouts, quantize
from mmjax.weights.placing import in_order

_KNOWN = Path(__file__).parent / "known.json"


@functools.cache
def known() -> Mapping[str, Mapping[str, Any]]:
    """Sizes of published models by the last part of their names, as their config.json has them."""
    return json.loads(_KNOWN.read_text("utf-8"))


class ShapesLibrary(Library):
    """A library whose encoders have shapes for weights; nothing is loaded or downloaded."""

    def encoder(self, spec: EncoderSpec) -> Encoder:
        """The encoder of a spec, its parameters as shapes in their shardings."""
        key = dataclasses.replace(spec, output="pooled")
        return self.remember(("shapes", key), lambda: abstract_encoder(spec, self.mesh))


def description_of(source: str) -> tuple[Mapping[str, Any], str, int | None]:
    """What is known of a model without its weights.

    Args:
      source: as of `mmjax.load_encoder`.

    Returns:
      (content of its config.json, where that stands, side of its prepared pictures if said).

    Raises:
      MmjaxError: neither a folder on this machine nor a model whose sizes are known.
    """
    place = Path(source).expanduser()
    if place.exists():
        description = layouts.describe_model(place)
        crop = load_image_preprocess(place, None, description.preprocessor).crop if (
            description.preprocessor and place.is_dir()
        ) else None  # fmt: skip
        return description.config, description.where, crop
    name = source.partition("@")[0].rstrip("/").rpartition("/")[2].rpartition(":")[2].lower()
    if name not in known():
        raise MmjaxError(
            f"the sizes of {source!r} are not known: it is no folder here, and none of "
            f"{', '.join(sorted(known()))}; give a folder that holds its config.json (no weights)"
        )
    config = dict(known()[name])
    crop = config.pop("crop", None)
    return config, f"the published sizes of {name}", crop


def abstract_encoder(spec: EncoderSpec, mesh: Mesh) -> Encoder:
    """What `load_encoder` returns, with shapes for weights and no tokenizer.

    Args:
      spec: of a recipe.
      mesh: where the weights would lie.

    Returns:
      The encoder, a `LanguageModel` for a decoder.

    Raises:
      MmjaxError: its sizes are not known, or a kind of model that is not supported.
    """
    raw, where, crop = description_of(spec.source)
    family, config = catalog.configure(raw, where, spec.tower, spec.family)
    dtype = jnp.dtype(spec.dtype)
    kind, pooling = Encoder, None
    if family.modality == "text":
        decoder = isinstance(getattr(config, "text", config), LlamaConfig)
        kind = LanguageModel if decoder else Encoder
        if not family.pools:
            folder = Path(spec.source)
            plain = spec.pooling if spec.pooling in ("mean", "cls", "max") else None
            pooling = load_pooling(folder, plain) if folder.is_dir() else Pooling(plain or "mean")
        example = {x: jax.ShapeDtypeStruct((1, 1), jnp.int32) for x in _TEXT}
    else:
        config = config.for_image_size(spec.image_size or crop or config.image_size)
        shape = (config.image_size, config.image_size, config.num_channels)
        if getattr(config, "naflex", False):  # as many patches as its table has positions
            shape = config.num_patches, config.patch_size**2 * config.num_channels + COORDINATES
        example = {"pixel_values": jax.ShapeDtypeStruct((1, *shape), jnp.float32)}
    module = family.module(config, dtype=dtype, param_dtype=dtype)
    module = with_kernel(module, choose(mesh, dtype))
    made = jax.eval_shape(lambda inputs: module.init(jax.random.key(0), **inputs), example)
    target: PyTree = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
        ),
        made["params"],
    )
    rules = sharding.fit(family.sharding(config), target, mesh, family.heads(config))
    return kind(
        name=spec.source.rstrip("/").rsplit("/", 1)[-1].removeprefix("asset:"),
        family=family.name,
        modality=family.modality,
        module=module,
        params=placed(target, mesh, rules, spec.quantize),
        config=config,
        preprocess=None,
        fingerprint="",
        pooling=pooling,
        dtype=dtype,
        quantize=spec.quantize,
        # Of two towers in one checkpoint; no shape depends on which scale it holds.
        logit_scale=math.log(100) if "vision_config" in raw else None,
        mesh=mesh,
    )


_TEXT = ("input_ids", "attention_mask")


def placed(
    target: PyTree, mesh: Mesh | AbstractMesh, rules: sharding.Rules, kind: str | None = None
) -> PyTree:
    """Shapes in their shardings.

    Args:
      target: nested dict of ShapeDtypeStruct.
      mesh: where.
      rules: who holds what.
      kind: how kernels are quantised, as in `mmjax.weights.quantize`; None for not at all.
    """
    where = dict(trees.named_leaves(sharding.shardings(target, mesh, rules)))
    if kind is not None:
        whole = dict(trees.named_leaves(target))
        target = quantize.abstract(target, kind)
        for path, leaf in trees.named_leaves(target):
            before, _, name = path.rpartition("/")
            kernel = f"{before}/{quantize.KERNEL}" if before else quantize.KERNEL
            if name in quantize.PARTS and kernel in whole:
                where[path] = quantize.placement(name, leaf, where[kernel], whole[kernel].ndim)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=in_order(where[trees.path_of(path)], x.shape)
        ),
        target,
    )
