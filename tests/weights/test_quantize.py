"""int8 kernels: what they cost, for every family, and what they weigh."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mmjax import trees
from mmjax.encoders import catalog, load_encoder
from mmjax.encoders.layers import Dense
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


def test_a_kernel_is_off_by_half_a_step_at_most():
    kernel = np.random.default_rng(0).standard_normal((3, 40, 7)).astype(np.float32)
    kernel[1, :, 2] = 0
    steps, scale = quantize.quantize(kernel)
    assert (steps.dtype, steps.shape, scale.shape) == (np.int8, (3, 40, 7), (3, 7))
    off = np.abs(steps * scale[:, None] - kernel)
    assert (off <= scale[:, None] / 2 * (1 + 1e-5)).all()
    assert np.abs(steps).max(axis=1).min() == 0  # the channel of zeros
    assert np.abs(np.delete(steps[1], 2, axis=1)).max(axis=0).min() == 127


PLAIN = [("bert_tiny", {}), ("dinov2_tiny", {}), ("llama_tiny", {})]
HEADS = [
    ("clip_tiny", {"tower": "text"}),
    ("clip_tiny", {"tower": "image"}),
    ("altclip_tiny", {"tower": "text"}),
    ("taiyi_tiny", {"pooling": "classifier"}),
]


# Root mean square of the difference over the standard deviation; measured 0.004 to 0.022, most of
# it bfloat16's own rounding where that is the dtype.
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        *((*case, dtype) for dtype in (jnp.float32, jnp.bfloat16) for case in PLAIN),
        *((*case, jnp.float32) for case in HEADS),
    ],
)
def test_every_family_computes_nearly_the_same(name, options, dtype, folder, golden, encode):
    path, arrays = folder(name), golden(name)
    exact = load_encoder(path, dtype=dtype, **options)
    small = load_encoder(path, dtype=dtype, quantize="int8", **options)
    if exact.modality == "text":
        inputs = {n: arrays[n] for n in ("input_ids", "attention_mask")}
    else:
        pixels = "pixels" if "pixels" in arrays else "pixels_20"
        inputs = {"pixel_values": arrays[pixels].astype(np.float32)}
    assert small.fingerprint == exact.fingerprint  # of the weights as they were published
    assert small.outputs_fingerprint != exact.outputs_fingerprint
    for leaf_path, leaf in trees.named_leaves(small.params):
        kind = {"kernel": jnp.int8, "kernel_row_scale": jnp.float32}
        assert leaf.dtype == kind.get(leaf_path.rsplit("/", 1)[-1], dtype), leaf_path
    outputs = [encode(e, **inputs) for e in (exact, small)]
    for part in ("tokens", "pooled"):
        a, b = (np.asarray(getattr(output, part), np.float32) for output in outputs)
        off = np.sqrt(np.square(a - b).mean()) / a.std()
        assert 0 < off < 0.03, (part, off)


def test_a_cpu_reads_int8_where_it_lies_and_a_tpu_another_order():
    kernel = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    kinds = {kind: quantize.quantized(kind, kernel) for kind in ("int8", quantize.TURNED)}
    assert quantize.kind_for("int8", None) == quantize.TURNED
    assert [quantize.kind_for(kind, None) for kind in (None, "nf4")] == [None, "nf4"]
    assert {quantize.kernel_shape(part) for part in kinds.values()} == {(512, 1024)}
    for kind, part in kinds.items():
        told = quantize.parts(kind, kernel.shape)
        assert told is not None
        assert {n: (x.shape, x.dtype) for n, x in told.items()} == {
            n: (x.shape, x.dtype) for n, x in part.items()
        }
    whole, turned = (np.asarray(quantize.dequantized(part)) for part in kinds.values())
    np.testing.assert_array_equal(whole, turned)
    dense = Dense(1024, use_bias=False)
    apply = jax.jit(lambda part, x: dense.apply({"params": part}, x))
    for shape in ((1, 1), (3, 1), (2, 9)):
        x = np.random.default_rng(1).standard_normal((*shape, 512)).astype(np.float32)
        for part in kinds.values():
            np.testing.assert_allclose(apply(part, x), x @ whole, atol=2e-4)
    # As float32 the kernel has 2 MiB: one row never makes that.
    x = jax.ShapeDtypeStruct((1, 1, 512), jnp.float32)
    compiled: Any = apply.lower(kinds[quantize.TURNED], x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**18


def test_int8_is_split_over_a_mesh_with_its_scales(folder, mesh, golden):
    whole = load_encoder(folder("llama_tiny"), quantize="int8")
    split = load_encoder(folder("llama_tiny"), quantize="int8", mesh=mesh(4, 2))
    query = split.params["layers"]["attention"]["query"]
    # On a CPU they lie as [layers, out, in].
    assert query["kernel"].sharding.spec == P(None, "model", None)
    assert query["kernel_row_scale"].sharding.spec == P(None, "model")
    down = split.params["layers"]["down"]
    assert down["kernel"].sharding.spec == P(None, None, "model")
    assert down["kernel_row_scale"].sharding.spec == P(None, None)
    chex.assert_trees_all_equal(whole.params, split.params)


def test_seven_billion_parameters_take_less_than_8_gb():
    family = catalog.find_family(LLAMA2_7B, "config.json")
    module = family.module(family.config(LLAMA2_7B), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    target = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    assert trees.count(target) == 6_738_415_616
    small = quantize.abstract(target)
    print(
        f"LLaMA-2-7B: {trees.nbytes(target):,} bytes in bfloat16, {trees.nbytes(small):,} in int8"
    )
    assert trees.nbytes(small) < 8e9 < trees.nbytes(target)


def test_no_kernel_is_left_in_floats_and_nothing_else_is_int8(folder):
    params = load_encoder(folder("llama_tiny"), quantize="int8").params
    paths = {path for path, leaf in trees.named_leaves(params) if leaf.dtype == jnp.int8}
    assert paths == {
        *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "out")),
        *(f"layers/{name}/kernel" for name in ("gate", "up", "down")),
        "lm_head/kernel",
    }
