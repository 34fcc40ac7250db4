"""Kernels in four bits: near the originals, a little over four bits each, on any mesh."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mmjax import trees
from mmjax.adapters.lora import Lora
from mmjax.encoders import LanguageModel, catalog, load_encoder
from mmjax.errors import MmjaxError
from mmjax.weights import nf4, quantize
from tests.weights.test_quantize import LLAMA2_7B


def twin(kernel: np.ndarray, block: int) -> np.ndarray:
    """One block after the other, with exact scales, and the nearest of the sixteen values."""
    out = np.zeros_like(kernel)
    for start in range(0, len(kernel), block):
        for column in range(kernel.shape[1]):
            part = kernel[start : start + block, column]
            largest = np.abs(part).max()
            nearest = np.abs(part[:, None] / largest - nf4.VALUES).argmin(axis=1)
            out[start : start + block, column] = nf4.VALUES[nearest] * largest
    return out


@pytest.mark.parametrize(("width_in", "block"), [(128, 64), (96, 32), (10, 2)])
def test_blocks_are_rounded_to_the_sixteen_values(width_in, block):
    kernel = np.random.default_rng(0).standard_normal((2, width_in, 300)).astype(np.float32)
    assert nf4.block_of(width_in) == block
    codes, scale, step, mean = nf4.quantize(kernel)
    assert (codes.dtype, codes.shape) == (np.uint8, (2, width_in // 2, 300))
    assert (scale.dtype, scale.shape) == (np.int8, (2, width_in // block, 300))
    assert step.shape == mean.shape == (2, width_in // block)
    found = np.asarray(nf4.dequantize(*map(jnp.asarray, (codes, scale, step, mean))))
    exact = np.stack([twin(layer, block) for layer in kernel])
    # Scales are off by half a step of their own, which few weights take to another value.
    largest = np.abs(kernel).reshape(2, -1, block, 300).max(axis=2)
    assert (np.abs(found - exact) > step.max() / 2 + 1e-6).mean() < 0.02
    assert np.square(found - kernel).mean() < 1.03 * np.square(exact - kernel).mean()
    # Each weight is within half of the widest gap between two values.
    assert np.abs(found - kernel).max() < 0.16 * largest.max()


def test_zeros_stay_zeros():
    parts = nf4.quantize(np.zeros((64, 3), np.float32))
    assert not np.asarray(nf4.dequantize(*map(jnp.asarray, parts))).any()


def test_an_odd_input_stays_as_it_is():
    assert nf4.block_of(27) is None
    assert quantize.parts("nf4", (2, 27, 5)) is None
    tree = {"kernel": jax.ShapeDtypeStruct((27, 5), jnp.float32)}
    assert quantize.abstract(tree, "nf4") == tree


def relative(exact: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(exact - other).mean()) / exact.std())


# Root mean square of the difference over the standard deviation, beside int8's.
@pytest.mark.parametrize(
    ("name", "options"),
    [("bert_tiny", {}), ("dinov2_tiny", {}), ("llama_tiny", {}), ("clip_tiny", {"tower": "text"})],
)
def test_every_family_computes_nearly_the_same(name, options, folder, golden, encode):
    path, arrays = folder(name), golden(name)
    exact, rounded, small = (
        load_encoder(path, quantize=kind, **options) for kind in (None, "int8", "nf4")
    )
    if exact.modality == "text":
        inputs = {n: arrays[n] for n in ("input_ids", "attention_mask")}
    else:
        pixels = "pixels" if "pixels" in arrays else "pixels_20"
        inputs = {"pixel_values": arrays[pixels].astype(np.float32)}
    assert small.fingerprint == exact.fingerprint
    assert len({e.outputs_fingerprint for e in (exact, rounded, small)}) == 3
    assert quantize.abstract(shapes(exact.params), "nf4") == shapes(small.params)
    said = [np.asarray(encode(e, **inputs).tokens) for e in (exact, rounded, small)]
    assert relative(said[0], said[1]) < relative(said[0], said[2]) < 0.35


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_an_adapter_on_four_bits_lies_and_learns_on_a_mesh(folder, mesh):
    whole = load_encoder(folder("llama_tiny"), quantize="nf4")
    split = load_encoder(folder("llama_tiny"), quantize="nf4", mesh=mesh(2, 2))
    query, down = split.params["layers"]["attention"]["query"], split.params["layers"]["down"]
    assert query["kernel"].sharding.spec == P(None, None, "model")
    assert query["kernel_scale"].sharding.spec == P(None, None, "model")
    assert down["kernel"].sharding.spec == P(None, "model", None)
    chex.assert_trees_all_equal(whole.params, split.params)
    lora = Lora(rank=2, targets=("query", "down"))
    adapters = lora.init(jax.random.key(0), whole.params["layers"])
    ids = np.random.default_rng(0).integers(4, 48, (4, 6))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def gradients(model: LanguageModel) -> Any:
        def loss(adapters, params):
            said = model.with_hook(lora).logits(params, inputs, adapters)
            return jnp.square(said).mean(), said

        return jax.jit(jax.grad(loss, has_aux=True))(adapters, model.params)

    assert isinstance(whole, LanguageModel)
    assert isinstance(split, LanguageModel)
    (one, said), (other, same) = gradients(whole), gradients(split)
    np.testing.assert_allclose(said, same, atol=1e-5)
    chex.assert_trees_all_close(one, other, atol=1e-5, rtol=1e-7)
    assert all(np.abs(one[p]["up"]["kernel"]).max() > 1e-4 for p in ("query", "down"))


LLAMA2_13B = {
    **LLAMA2_7B,
    **{"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40},
    **{"num_attention_heads": 40, "num_key_value_heads": 40},
}


@pytest.mark.parametrize(("config", "most"), [(LLAMA2_7B, 4.5e9), (LLAMA2_13B, 8e9)])
def test_a_language_model_takes_half_a_byte_a_weight(config, most):
    family = catalog.find_family(config, "config.json")
    module = family.module(family.config(config), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    target = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    small = quantize.abstract(target, "nf4")
    print(f"{trees.count(target):,} parameters: {trees.nbytes(small):,} bytes in nf4")
    assert trees.nbytes(small) < most
    kernels = trees.count(target["layers"]["attention"]["query"])
    bits = 8 * trees.nbytes(small["layers"]["attention"]["query"]) / kernels
    assert 4.12 < bits < 4.14  # the paper: 4.127


def test_what_is_no_quantisation_is_refused(folder):
    with pytest.raises(MmjaxError, match="'int4' is not supported; int8, nf4 or None"):
        load_encoder(folder("bert_tiny"), quantize="int4")
