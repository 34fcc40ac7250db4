"""Large LLaMAs on abstract meshes: who would hold what, without holding it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mmjax import sharding, trees
from mmjax.encoders import catalog
from mmjax.encoders.llama import KeyValues
from mmjax.generation import decode
from mmjax.weights import quantize

LLAMA2_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
LLAMA3_8B = LLAMA2_7B | {
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
MODELS = {"LLaMA-2-7B": LLAMA2_7B, "LLaMA-3-8B": LLAMA3_8B}
ROWS, SLOTS, NEW = 32, 1024, 64
REPLICATED = 64 << 20


def shapes_of(raw, mesh, int8=False, dtype=jnp.bfloat16):
    """(module, parameters as shapes in their shardings)."""
    family = catalog.find_family(raw, "config.json")
    config = family.config(raw)
    module = family.module(config, dtype=dtype, param_dtype=dtype)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    target = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    placed = sharding.shardings(target, mesh, sharding.fit(family.sharding(config), target, mesh))
    if int8:
        leaves = dict(trees.named_leaves(placed))
        target = quantize.abstract(target)
        for path, leaf in trees.named_leaves(target):
            if path.endswith(quantize.SCALE):
                kernel = path.removesuffix(quantize.SCALE) + quantize.KERNEL
                leaves[path] = quantize.placement(
                    quantize.SCALE, leaf, leaves[kernel], leaf.ndim + 1
                )
        placed = jax.tree_util.tree_map_with_path(lambda p, _: leaves[trees.path_of(p)], target)
    return module, jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, placed
    )


def state_of(config, mesh, dtype=jnp.bfloat16):
    """A batch under way, as shapes in their shardings."""
    heads, whole = (NamedSharding(mesh, spec) for spec in (
        PartitionSpec(None, "data", "model"), PartitionSpec()
    ))  # fmt: skip

    def like(shape, dtype, placed):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    cache = like(
        (config.num_layers, ROWS, config.num_kv_heads, SLOTS, config.head_dim), dtype, heads
    )
    rows = NamedSharding(mesh, PartitionSpec("data"))
    state: Any = decode.State
    past: Any = KeyValues
    return state(
        past(cache, cache),
        like((ROWS, SLOTS), jnp.int32, rows),
        like((ROWS, NEW), jnp.int32, whole),
        like((ROWS, NEW), jnp.float32, whole),
        like((ROWS,), jnp.bool_, whole),
        like((), jnp.int32, whole),
    )


def per_device(tree):
    """Bytes on each device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("data", "model"), [(1, 8), (32, 8)])
@pytest.mark.parametrize("name", MODELS)
def test_every_large_tensor_is_split(name, data, model, int8):
    mesh = AbstractMesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    module, params = shapes_of(MODELS[name], mesh, int8)
    for path, leaf in trees.named_leaves(params):
        share = int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        assert size <= REPLICATED or share * model == np.prod(leaf.shape), path
    state = state_of(module.config, mesh)
    kind = "int8" if int8 else "bfloat16"
    print(
        f"{name} {kind} on {data} x {model}: parameters {per_device(params) / 2**20:,.0f} MiB, "
        f"cache of {ROWS} rows x {SLOTS} slots {per_device(state) / 2**20:,.0f} MiB a device"
    )
    assert per_device(params) < trees.nbytes(params) / model * 1.01
    keys = jax.ShapeDtypeStruct((ROWS,), jax.random.key(0).dtype)
    ended = np.zeros(ROWS, bool)
    options = decode.DecodeOptions(module, mesh, NEW, (2,))
    arguments = (params, None, state, ended, 64, None, keys)
    lowered = decode.decode.trace(*arguments, options=options)
    text = lowered.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("dot_general") < 20  # one layer's and the head's: depth adds nothing


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_a_compiled_step_copies_no_weights(int8, mesh):
    """Beside its share a device needs activations and one layer, not a gathered or float copy.

    In float32, as the CPU compiler makes float32 copies of all that is bfloat16.
    """
    made = mesh(1, 8)
    module, params = shapes_of(LLAMA2_7B, made, int8, jnp.float32)
    state = state_of(module.config, made, jnp.float32)
    keys = jax.ShapeDtypeStruct((ROWS,), jax.random.key(0).dtype)
    ended = np.zeros(ROWS, bool)
    options = decode.DecodeOptions(module, made, NEW, (2,))
    arguments = (params, None, state, ended, 64, None, keys)
    compiled = decode.decode.lower(*arguments, options=options).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    share = per_device(params) + per_device(state)
    print(f"arguments {memory.argument_size_in_bytes:,}, temporary {memory.temp_size_in_bytes:,}")
    assert abs(memory.argument_size_in_bytes - share) < 1e-3 * share
    assert memory.temp_size_in_bytes < per_device(params) / 2
