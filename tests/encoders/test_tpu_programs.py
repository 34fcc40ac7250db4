"""Programs of a LLaMA 7B by Google's compiler, for a v5e 1x8 that is not here."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.adapters.lora import Lora
from mmjax.encoders import catalog
from mmjax.encoders.attention import choose, with_kernel
from mmjax.encoders.language_model import embed, extend, see
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.mllama_images import SeenPictures
from mmjax.generation import decode
from mmjax.plan import compiler
from mmjax.plan.chips import read_topology
from mmjax.plan.encoders import placed
from mmjax.plan.hlo import account

pytestmark = [
    pytest.mark.libtpu,
    pytest.mark.skipif(not compiler.available(), reason="needs libtpu (the extra `plan`)"),
]
LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
}
LLAMA_VISION: dict[str, Any] = {  # of 11B, but for two blocks of eight
    "model_type": "mllama",
    "text_config": {"num_hidden_layers": 10, "cross_attention_layers": [3, 8]},
    "vision_config": {"image_size": 560, "num_hidden_layers": 2, "num_global_layers": 1}
    | {"intermediate_layers_indices": [1], "vision_output_dim": 2560},
}
HEADS = 4  # of a device
LONG = 4096
SLOTS, NEW = 256, 64


@pytest.fixture(scope="module")
def chips():
    devices = compiler.describe_devices(read_topology("v5e-8", 1))
    return sharding.make_mesh(1, 8, 1, list(devices.flat))


def decoder(chips, layers, kind=None):
    """(module, weights as shapes where loading would put them)."""
    return described(chips, {**LLAMA, "num_hidden_layers": layers}, kind)


def described(chips, raw, kind=None):
    """The same of what a config.json says."""
    family = catalog.find_family(raw, "config.json", None)
    config = family.config(raw)
    module = family.module(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    module = with_kernel(module, choose(chips, jnp.bfloat16))
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    target = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    rules = sharding.fit(family.sharding(config), target, chips, family.heads(config))
    return module, placed(target, chips, rules, kind)


def whole(chips, shape, dtype, *axes) -> Any:
    where = NamedSharding(chips, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def device_bytes(tree):
    """Of shapes in their shardings, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def written(chips, module, params, past, pictures=None) -> tuple[Any, Any]:
    """(the compiled loop over new tokens, its state)."""
    state = decode.State(
        KeyValues(past, past),
        whole(chips, (1, SLOTS), jnp.int32),
        whole(chips, (1, NEW), jnp.int32),
        whole(chips, (1, NEW), jnp.float32),
        whole(chips, (1,), bool),
        whole(chips, (), jnp.int32),
    )
    keys = whole(chips, (1,), jax.random.key(0).dtype)
    options = decode.DecodeOptions(module, chips, NEW, (2,))
    ended, limit = whole(chips, (1,), bool), whole(chips, (), jnp.int32)
    arguments = (params, None, state, ended, limit, None, keys)
    lowered = decode.decode.lower(*arguments, options=options, pictures=pictures)
    return lowered.compile(), state


@pytest.mark.parametrize("kind", [None, "int8"])
def test_a_token_reads_the_weights_once_and_copies_none(chips, kind):
    module, params = decoder(chips, 32, kind)
    past = whole(chips, (32, 1, 32, SLOTS, 128), jnp.bfloat16, None, None, "model")
    compiled, state = written(chips, module, params, past)
    # In the chip's own order of arrays gate and up were copied whole: 0.74 GB.
    assert compiled.memory_analysis().temp_size_in_bytes < 16e6
    cost = account(compiled.as_text())
    assert max((copy.bytes for copy in cost.copies), default=0) < 16e6
    read = device_bytes({k: v for k, v in params.items() if k != "embed_tokens"})
    read += device_bytes(state.past)
    tokens = NEW - 1 if cost.hbm_bytes > 10 * read else 1  # as often as the loop is counted
    assert cost.hbm_bytes / tokens / read < 1.15


def arrays(text):
    """Dtype and shape of all that a compiled program names."""
    for dtype, dims in set(re.findall(r"\b(pred|s8|bf16|f32|s32)\[([\d,]+)\]", text)):
        yield dtype, tuple(int(n) for n in dims.split(","))


def scores(text):
    """Arrays of queries x keys: masks, and scores of all of a device's heads."""
    return [
        (dtype, shape)
        for dtype, shape in arrays(text)
        if shape[-2:] == (LONG, LONG)
        and (dtype == "pred" or math.prod(shape) >= HEADS * LONG * LONG)
    ]


def gradients(module, params, chips, length) -> Any:
    """The compiled gradients of a sum of hidden states by what the first layer reads."""

    def loss(x, params, mask):
        hidden, _ = extend(module, params, None, x, mask, padding="right, first hidden")
        return hidden.astype(jnp.float32).sum()

    x = whole(chips, (1, length, 4096), jnp.bfloat16)
    mask = whole(chips, (1, length), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(x, params, mask).compile()


def test_long_texts_are_learned_without_an_array_of_queries_by_keys(chips):
    """And frozen weights cost 4 FLOPs a token: forward, and back to the input; none for a gradient.

    The kernel's own FLOPs are not counted: the compiler says nothing of them.
    """
    module, params = decoder(chips, 2)
    text = gradients(module, params, chips, LONG).as_text()
    assert scores(text) == []
    cost = account(text)
    weights = sum(math.prod(x.shape) for x in jax.tree.leaves(params["layers"]))
    assert cost.flops * 8 == pytest.approx(4 * LONG * weights, rel=0.05)


@pytest.mark.parametrize("kind", [None, "int8"])
def test_a_token_beside_a_picture_reads_what_it_sees_once_and_copies_none(chips, kind):
    module, params = described(chips, LLAMA_VISION, kind)
    past = whole(chips, (8, 1, 8, SLOTS, 128), jnp.bfloat16, None, None, "model")
    keys = whole(chips, (2, 1, 8, 4 * 1601, 128), jnp.bfloat16, None, None, "model")
    flags = [whole(chips, shape, bool) for shape in ((1, 1, 4), (1, 1), (1, 1, 1))]
    pictures = SeenPictures(keys, keys, *flags)
    compiled, state = written(chips, module, params, past, pictures)
    assert compiled.memory_analysis().temp_size_in_bytes < 16e6
    cost = account(compiled.as_text())
    assert max((copy.bytes for copy in cost.copies), default=0) < 16e6
    text = {k: v for k, v in params["language_model"].items() if k != "embed_tokens"}
    read = device_bytes(text) + device_bytes(state.past) + device_bytes([keys, keys])
    tokens = NEW - 1 if cost.hbm_bytes > 10 * read else 1
    assert cost.hbm_bytes / tokens / read < 1.35  # prefetched slices are counted twice


def test_adapters_learn_beside_pictures(chips):
    """A step's gradients: through both towers, with both kinds of layers of the decoder."""
    block = {"num_hidden_layers": 5, "cross_attention_layers": [3]}
    module, params = described(chips, LLAMA_VISION | {"text_config": block})
    hook = Lora(rank=8)
    module = module.clone(hook=hook, remat=True)
    layers = params["language_model"]["layers"]
    adapters = jax.eval_shape(lambda: hook.init(jax.random.key(0), layers))
    adapters = jax.tree.map(lambda x: whole(chips, x.shape, x.dtype), adapters)

    def loss(adapters, params, tiles, ratios, seats, reads, ids):
        seen = see(module, params, tiles, ratios, seats, reads)
        words = embed(module, params, ids)
        hidden, _ = extend(
            module, params, adapters, words, jnp.ones_like(ids), padding="right", pictures=seen
        )
        return hidden.astype(jnp.float32).sum()

    inputs = [
        whole(chips, (1, 4, 560, 560, 3), jnp.float32),
        whole(chips, (1,), jnp.int32),
        whole(chips, (1, 1), jnp.int32),
        whole(chips, (1, 128, 1), bool),
        whole(chips, (1, 128), jnp.int32),
    ]
    compiled: Any = jax.jit(jax.grad(loss)).lower(adapters, params, *inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4e9
