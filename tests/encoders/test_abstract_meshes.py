"""LLaVA-1.5-7B and CLIP L/14 on abstract meshes of 8 and 256 devices, beside the LLaMAs' tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mmjax import sharding, trees
from mmjax.encoders import base, catalog
from mmjax.encoders.language_model import mix
from mmjax.generation import decode
from mmjax.generation.prompts import Prepared
from tests.encoders.test_llama_sharding import (
    NEW,
    REPLICATED,
    ROWS,
    SLOTS,
    per_device,
    shapes_of,
    state_of,
)

# As published: what is not said is at the default.
LLAVA_7B = {
    "model_type": "llava",
    "text_config": {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32064,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "vision_feature_layer": -2,
}
CLIP_L14 = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}
MESHES = pytest.mark.parametrize(("data", "model"), [(1, 8), (32, 8)])


def abstract(data, model) -> AbstractMesh:
    return AbstractMesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def check_split(params, model):
    """No tensor above 64 MB is whole on every device."""
    for path, leaf in trees.named_leaves(params):
        share = int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        assert size <= REPLICATED or share * model == np.prod(leaf.shape), path


def like(mesh, shape, dtype):
    """An argument whose rows are split."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)


def lowered(function, *arguments, **static) -> str:
    trace = jax.jit(function, static_argnames=tuple(static)).trace(*arguments, **static)
    return trace.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("int8", [False, True])
@MESHES
def test_llava_7b(data, model, int8):
    mesh = abstract(data, model)
    module: Any
    module, params = shapes_of(LLAVA_7B, mesh, int8)
    check_split(params, model)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert int8 or 7.04e9 < count < 7.07e9
    state = state_of(module.config.text, mesh)
    kind = "int8" if int8 else "bfloat16"
    print(
        f"LLaVA-1.5-7B {kind} on {data} x {model}: parameters {per_device(params) / 2**20:,.0f} "
        f"MiB, cache of {ROWS} rows x {SLOTS} slots {per_device(state) / 2**20:,.0f} MiB a device"
    )
    assert per_device(params) < trees.nbytes(params) / model * 1.02
    pictures = like(mesh, (ROWS, 336, 336, 3), jnp.float32)
    tokens = like(mesh, (ROWS, SLOTS), jnp.int32)

    def mixed(params, tokens, pictures, module):
        return mix(module, params, tokens, pictures, tokens)

    # One layer of the image tower and the projector: depth adds nothing.
    assert lowered(mixed, params, tokens, pictures, module=module).count("dot_general") < 15
    options = decode.Options(module, mesh, NEW, (2,))
    keys = jax.ShapeDtypeStruct((ROWS,), jax.random.key(0).dtype)
    prompts: Any = Prepared
    prepared = prompts(like(mesh, (ROWS, SLOTS, 4096), jnp.bfloat16), tokens)
    ended = np.zeros(ROWS, bool)
    for program, arguments in (
        (decode.prefill, (params, None, prepared, None, keys)),
        (decode.decode, (params, None, state, ended, 64, None, keys)),
    ):
        trace = program.trace(*arguments, options=options)
        text = trace.lower(lowering_platforms=("tpu",)).as_text()
        assert text.count("dot_general") < 20


@pytest.mark.parametrize("tower", ["image", "text"])
@MESHES
def test_clip_l14(data, model, tower):
    mesh = abstract(data, model)
    family = catalog.find(CLIP_L14, "config.json", tower)
    config = family.config(CLIP_L14)
    module = family.module(config, dtype=jnp.float32, param_dtype=jnp.float32)
    rows = 256
    if tower == "image":
        inputs = {"pixel_values": like(mesh, (rows, 224, 224, 3), jnp.float32)}
    else:
        names = ("input_ids", "attention_mask")
        inputs = {name: like(mesh, (rows, 77), jnp.int32) for name in names}
    target = jax.eval_shape(lambda i: module.init(jax.random.key(0), **i), inputs)["params"]
    rules = sharding.fit(family.sharding(config), target, mesh)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        target,
        sharding.shardings(target, mesh, rules),
    )
    check_split(params, model)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert count == {"image": 303_966_208, "text": 123_650_304}[tower]  # as published: 427.6 M
    print(
        f"CLIP L/14 {tower} on {data} x {model}: {per_device(params) / 2**20:,.1f} of "
        f"{trees.nbytes(params) / 2**20:,.1f} MiB a device"
    )
    assert per_device(params) < trees.nbytes(params) / model * 1.06

    def pooled(params, inputs, module):
        return base.apply(module, None, params, inputs).pooled

    assert lowered(pooled, params, inputs, module=module).count("dot_general") < 12
