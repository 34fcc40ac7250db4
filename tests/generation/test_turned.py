"""One row is written with turned kernels on a CPU, and nothing is copied without need."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.adapters.dora import DoRA
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.generation import decode, generate, turned
from mmjax.weights.quantize import ROW_SCALE, dequantized


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


@pytest.fixture
def small(monkeypatch):
    """Models of any size are worth it."""
    monkeypatch.setattr(turned, "LEAST", 0)


def test_the_same_is_written_with_an_adapter_that_reads_kernels(model, small, monkeypatch):
    dora = DoRA(rank=2)
    adapters = dora.init(jax.random.key(0), model.params["layers"])
    adapters = jax.tree.map(
        lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape), adapters
    )
    adapted = model.with_hook(dora)
    seen, step = [], decode.decode
    monkeypatch.setattr(
        decode,
        "decode",
        lambda params, *more, **named: (seen.append(params), step(params, *more, **named))[1],
    )
    (found,) = generate(adapted, [[5, 6, 7]], turned.TOKENS, stop_token_ids=(), adapters=adapters)
    assert ROW_SCALE in seen[-1]["layers"]["attention"]["query"]
    monkeypatch.setattr(turned, "TOKENS", 10**6)
    (wanted,) = generate(adapted, [[5, 6, 7]], 16, stop_token_ids=(), adapters=adapters)
    assert ROW_SCALE not in seen[-1]["layers"]["attention"]["query"]
    np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, atol=1e-5)


def test_kernels_are_turned_once_and_go_with_their_model(model, small):
    copy = turned.for_decoding(model, 1, turned.TOKENS)
    for name in ("gate", "down"):
        part = copy["layers"][name]
        np.testing.assert_array_equal(dequantized(part), model.params["layers"][name]["kernel"])
    assert copy["embed_tokens"] is model.params["embed_tokens"]
    assert turned.for_decoding(model.with_hook(DoRA()), 1, turned.TOKENS) is copy
    assert turned.for_decoding(model, 2, turned.TOKENS) is model.params
    assert turned.for_decoding(model, 1, turned.TOKENS - 1) is model.params
    del copy, part


def test_nothing_is_copied_that_need_not_be(model, folder, mesh, small):
    other = [
        load_encoder(folder("llama_tiny"), quantize="int8"),
        load_encoder(folder("llama_tiny"), mesh=mesh(1, 1)),
        load_encoder(folder("llama_tiny"), dtype=jnp.bfloat16),
    ]
    for one in other:
        assert isinstance(one, LanguageModel)
        assert turned.for_decoding(one, 1, turned.TOKENS) is one.params


def test_small_models_stay_as_they_are(model):
    assert turned.for_decoding(model, 1, turned.TOKENS) is model.params


def test_a_copy_is_gone_with_its_model(folder, small):
    model = load_encoder(folder("llama_tiny"))
    assert isinstance(model, LanguageModel)
    assert turned.for_decoding(model, 1, turned.TOKENS) is not model.params
    del model
    gc.collect()
    assert turned._last is None
