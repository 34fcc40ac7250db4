"""Published sizes of the younger families on abstract meshes: counted, and who would hold what."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from mmjax import sharding, trees
from mmjax.encoders import catalog
from mmjax.encoders.patches import COORDINATES

LARGE = 64 << 20  # bytes that no device may hold alone
ROPE = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
QWEN2_VL_2B: dict[str, Any] = {
    **{"model_type": "qwen2_vl", "vocab_size": 151936, "hidden_size": 1536, **ROPE},
    **{"intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    **{"num_key_value_heads": 2, "tie_word_embeddings": True},
    "vision_config": {"embed_dim": 1280, "hidden_size": 1536},
}
QWEN25_VL_7B: dict[str, Any] = {
    **{"model_type": "qwen2_5_vl", "vocab_size": 152064, "hidden_size": 3584, **ROPE},
    **{"intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
    "num_key_value_heads": 4,
    "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
}
LLAMA_VISION: dict[str, Any] = {  # of 11B; the decoder's sizes are the class's defaults
    "model_type": "mllama",
    "vision_config": {"image_size": 560},
    "text_config": {"rope_theta": 5e5},
}
LLAMA_VISION_90B: dict[str, Any] = LLAMA_VISION | {
    "text_config": {
        **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 100},
        **{"num_attention_heads": 64, "cross_attention_layers": [*range(3, 100, 5)]},
    }
}
LLAMA3_8B: dict[str, Any] = {
    **{"model_type": "llama", "vocab_size": 128320, "hidden_size": 4096, "rope_theta": 5e5},
    **{"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "max_position_embeddings": 8192},
}
GEMMA_1B: dict[str, Any] = {
    **{"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152},
    **{"intermediate_size": 6912, "num_attention_heads": 4, "num_key_value_heads": 1},
    "sliding_window": 512,
}
GEMMA_SIGHT = {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "patch_size": 14}
GEMMA_SIGHT |= {"num_attention_heads": 16, "num_hidden_layers": 27}
GEMMA_4B = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
GEMMA_27B = {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62}
GEMMA_27B |= {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128}


def gemma(text: dict[str, Any]) -> dict[str, Any]:
    """A whole one's config."""
    return {"model_type": "gemma3", "text_config": text, "vision_config": GEMMA_SIGHT}


SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
SO400M |= {"num_attention_heads": 16, "patch_size": 16}
MODELS: dict[str, tuple[dict[str, Any], str | None, int]] = {
    "Qwen2-VL-2B": (QWEN2_VL_2B, None, 2_208_985_600),
    "Qwen2.5-VL-7B": (QWEN25_VL_7B, None, 8_292_166_656),
    "Llama-3.2-11B-Vision": (LLAMA_VISION, None, 10_670_220_835),
    "Llama-3.2-90B-Vision": (LLAMA_VISION_90B, None, 88_593_355_323),
    "LLaVA-NeXT-8B": (
        {"model_type": "llava_next", "text_config": LLAMA3_8B, "image_token_index": 128256},
        None,
        0,
    ),
    "Gemma-3-1B": (GEMMA_1B, None, 999_885_952),
    "Gemma-3-4B": (gemma(GEMMA_4B), None, 4_300_079_472),
    "Gemma-3-27B": (gemma(GEMMA_27B), None, 27_432_406_640),
    "SigLIP2-so400m": ({"model_type": "siglip2", "vision_config": SO400M}, "image", 0),
    "Qwen3-8B": (
        {
            **{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096},
            **{"intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
            **{"num_key_value_heads": 8, "rope_theta": 1e6},
        },
        None,
        8_190_735_360,
    ),
}


def shapes_of(raw: dict[str, Any], tower: str | None):
    """(family, config, bfloat16 parameters as shapes)."""
    family, config = catalog.configure(raw, "config.json", tower)
    module = family.module(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    inputs: tuple[jax.ShapeDtypeStruct, ...] = (jax.ShapeDtypeStruct((1, 1), jnp.int32),) * 2
    if family.modality == "image":
        width = config.patch_size**2 * 3 + COORDINATES
        inputs = (jax.ShapeDtypeStruct((1, 256, width), jnp.float32),)
    return family, config, jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


@pytest.mark.parametrize("name", MODELS)
def test_published_sizes_on_eight_devices(name):
    raw, tower, count = MODELS[name]
    family, config, params = shapes_of(raw, tower)
    found = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert not count or found == count
    mesh = AbstractMesh((1, 8), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    rules = sharding.fit(family.sharding(config), params, mesh, family.heads(config))
    shards = sharding.shard_shapes(params, mesh, rules)
    held = {path: 2 * int(np.prod(shape)) for path, shape in shards.items()}
    print(f"{name}: {found:,} parameters, {sum(held.values()) / 2**20:,.0f} MiB a device of 8")
    # Nothing large is held whole, but for keys and values whose heads are fewer than devices.
    spared = 0
    for path, leaf in trees.named_leaves(params):
        part = 2 * int(np.prod(leaf.shape)) / 8
        if held[path] > part and ("/attention/key/" in path or "/attention/value/" in path):
            spared += held[path] - part
        elif held[path] > LARGE:
            assert held[path] <= part, path
    assert sum(held.values()) - spared < 2 * found / 8 * 1.2
