"""As many parameters as the papers say, from shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from configs.adapters_emoji import KINDS
from mmjax import optim, trees
from mmjax.adapters.adaptformer import AdaptFormer
from mmjax.adapters.bitfit import BitFit
from mmjax.adapters.catalog import read_adapter
from mmjax.adapters.hooks import WeightAdapter
from mmjax.adapters.houlsby import Houlsby
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.vera import VeRA
from mmjax.adapters.vpt import VPT
from mmjax.encoders import catalog

LLAMA_7B = {
    "model_type": "llama",
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
    **{"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
BASE |= {"intermediate_size": 3072}
BERT_BASE = {
    **BASE,
    **{"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512},
    "type_vocab_size": 2,
}
VIT_B16 = {**BASE, "model_type": "vit", "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6}
LINEAR = ("query", "key", "value", "out", "gate", "up", "down")


SMALL = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
DINOV2_SMALL = {**VIT_B16, **SMALL, "model_type": "dinov2", "patch_size": 14, "mlp_ratio": 4}
MINILM = {**BERT_BASE, **SMALL, "num_hidden_layers": 6}


@pytest.fixture(scope="module")
def shapes() -> dict[str, Any]:
    found = {}
    models = (("llama", LLAMA_7B), ("bert", BERT_BASE), ("vit", VIT_B16))
    for name, config in (*models, ("dinov2", DINOV2_SMALL), ("minilm", MINILM)):
        family = catalog.find_family(config, "config.json")
        module = family.module(family.config(config))
        ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
        pixels = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        inputs = (pixels,) if "image_size" in config else (ids, ids)
        found[name] = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return found


@pytest.mark.parametrize(
    ("name", "adapter", "count"),
    [
        ("llama", Lora(8, targets=("query", "value")), 4_194_304),
        ("llama", Lora(64, targets=LINEAR), 159_907_840),  # VeRA's table 4: 159.9M
        ("llama", IA3(), 614_400),
        ("llama", VeRA(1024, targets=LINEAR), 1_589_248),  # the same table: 1.6M
        ("llama", PrefixTuning(30), 32 * 2 * 30 * 4096),
        ("llama", LayerNormTuning(), 65 * 4096),
        ("bert", VeRA(1024), 43_008),  # VeRA's table 2, base: 0.043M
        ("bert", Lora(8, targets=("query", "value")), 294_912),  # LoRA's table 2, base: 0.3M
        ("bert", BitFit(), 102_912 - 768),  # BitFit's, without the pooler's bias
        ("bert", Houlsby(64), 24 * (2 * 768 * 64 + 64 + 768)),
        ("vit", VPT(50, deep=True), 50 * 768 * 12),  # VPT, deep: 0.46M
        ("vit", VPT(10), 7_680),
        ("vit", AdaptFormer(64), 1_189_632),  # AdaptFormer's table 1: 1.26M with its head of 76,900
    ],
    ids=lambda x: x if isinstance(x, str) else f"{x:,}" if isinstance(x, int) else type(x).__name__,
)
def test_an_adapter_has_as_many_parameters_as_its_paper_says(name, adapter, count, shapes):
    params: Any = shapes[name]
    part = params if isinstance(adapter, WeightAdapter) else params["layers"]
    made = jax.eval_shape(adapter.init, jax.random.key(0), part)
    assert trees.count(made) == count


def test_the_side_by_side_recipe_has_one_budget(shapes):
    """Half a million where a kind's sizes can be chosen; the others have fewer."""
    counts = {}
    for name, values in KINDS.items():
        adapter = read_adapter(values, name)
        counts[name] = 0
        for tower in ("dinov2", "minilm"):
            params: Any = shapes[tower]
            part = params if isinstance(adapter, WeightAdapter) else params["layers"]
            made = jax.eval_shape(adapter.init, jax.random.key(0), part)
            learns = jax.tree.leaves(optim.trained(made))
            leaves = zip(jax.tree.leaves(made), learns, strict=True)
            counts[name] += sum(trees.count(x) for x, on in leaves if on)
    small = {"vera", "ia3", "ssf", "bitfit", "layer_norm"}
    assert all(480_000 < counts[name] < 500_000 for name in KINDS if name not in small), counts
    assert all(5_000 < counts[name] < 150_000 for name in small), counts
    assert counts["lora"] == 497_664
