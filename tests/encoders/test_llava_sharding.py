"""LLaVA-1.5-7B on abstract meshes of 8 and 256 devices: who would hold what."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mmjax import trees
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
@pytest.mark.parametrize(("data", "model"), [(1, 8), (32, 8)])
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
    options = decode.DecodeOptions(module, mesh, NEW, (2,))
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
