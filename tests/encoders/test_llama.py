"""LLaMA against what Hugging Face's torch model says, whole and token by token."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.encoders.llama import KeyValues
from mmjax.errors import MmjaxError

NAMES = ["llama_tiny", "llama_tied_tiny"]


def language_model(source, **options) -> LanguageModel:
    model = load_encoder(source, **options)
    assert isinstance(model, LanguageModel)
    return model


@functools.partial(jax.jit, static_argnums=0)
def compiled(module, params, adapters, ids, mask):
    hidden, _ = extend(module, params, adapters, embed(module, params, ids), mask)
    return logits(module, params, hidden)


def run(model, ids, mask, adapters=None):
    return np.asarray(compiled(model.module, model.params, adapters, ids, mask))


def error(model, arrays) -> float:
    """Largest difference to the golden at real tokens."""
    ours = run(model, arrays["input_ids"], arrays["attention_mask"])
    return float(np.abs(ours - arrays["logits"])[arrays["attention_mask"] == 1].max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_torch_with_padding(name, folder, golden):
    assert error(language_model(folder(name)), golden(name)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_padding_in_front_changes_nothing(name, folder, golden):
    model, arrays = language_model(folder(name)), golden(name)
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    lengths = mask.sum(1)
    front = np.stack([np.roll(row, -n) for row, n in zip(ids, lengths, strict=True)])
    shifted = run(model, front, np.sort(mask, axis=1))
    for row, n in enumerate(lengths):
        assert_allclose(shifted[row, -n:], arrays["logits"][row, :n], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"rms_norm_eps": 1e-6}, 1e-4),
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, 1e-3),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, 1e-3),
        ({"hidden_act": "gelu"}, 1e-3),
    ],
)
def test_parity_notices_a_wrong_constant(change, least, folder, golden):
    changed = language_model(folder("llama_tiny", config=change))
    assert error(changed, golden("llama_tiny")) > least


def test_rope_of_transformers_4_is_read_too(folder, golden):
    scaling = json.loads(str(golden("llama_tiny")["config"]))["rope_parameters"]
    theta = scaling.pop("rope_theta")
    old = {"rope_parameters": None, "rope_theta": theta, "rope_scaling": scaling}
    assert error(language_model(folder("llama_tiny", config=old)), golden("llama_tiny")) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope scaling 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"num_attention_heads": 5}, "32 is not a multiple of num_attention_heads 5"),
    ],
)
def test_configs_that_are_not_supported(change, message, folder):
    with pytest.raises(MmjaxError, match=message):
        load_encoder(folder("llama_tiny", config=change))


def test_a_lacking_head_is_missed(folder):
    with pytest.raises(MmjaxError, match="nothing feeds lm_head/kernel"):
        load_encoder(folder("llama_tiny", drop=("lm_head.weight",)))


def scaled(adapter, place, x, y, kernel):
    """An adapter: the input of attention times one plus a learned vector."""
    return y * (1 + adapter["scale"][None, None]) if place == "attention_input" else y


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_equals_the_full_forward_at_every_position(name, adapted, folder):
    model = language_model(folder(name))
    adapters = None
    vectors = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    if adapted:
        model = model.with_hook(scaled)
        adapters = {"scale": jnp.asarray(vectors)}
    ids = np.random.default_rng(0).integers(4, 50, (3, 12)).astype(np.int32)
    mask = (np.arange(12)[None] >= np.array([0, 3, 5])[:, None]).astype(np.int32)
    full = run(model, ids, mask, adapters)
    if adapted:
        same = run(model, ids, mask, {"scale": 0 * vectors})
        plain = run(language_model(folder(name)), ids, mask)
        assert_allclose(plain, same, atol=1e-6)  # nothing changes at step 0
        assert np.abs(full - same).max() > 1e-2

    @jax.jit
    def step(params, past, token, seen, at):
        hidden, new = extend(
            model.module, params, adapters, embed(model.module, params, token), seen, past
        )
        past = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, at, axis=3), past, new
        )
        return logits(model.module, params, hidden)[:, 0], past

    c = model.config
    empty = jnp.zeros((c.num_layers, 3, c.num_kv_heads, 12, c.head_dim))
    past = KeyValues(empty, empty)
    for at in range(12):
        real = mask[:, at] == 1
        seen = np.concatenate([mask * (np.arange(12) < at), mask[:, at : at + 1]], axis=1)
        out, past = step(model.params, past, ids[:, at : at + 1], seen, at)
        assert_allclose(out[real], full[:, at][real], atol=1e-5)


def test_a_hidden_token_is_seen_by_itself_only(folder):
    """As LaVIN's modality token: later tokens must not attend to position 0."""
    model = language_model(folder("llama_tiny"))
    ids = np.array([[5, 6, 7, 8]], np.int32)
    hidden_first = run(model, ids, np.array([[0, 1, 1, 1]]))
    assert_allclose(hidden_first[:, 1:], run(model, ids[:, 1:], np.ones((1, 3), int)), atol=1e-5)
    assert_allclose(
        hidden_first[:, 0], run(model, ids[:, :1], np.ones((1, 1), int))[:, 0], atol=1e-5
    )


def test_embeddings_may_be_given_instead_of_ids(folder, golden):
    model, arrays = language_model(folder("llama_tiny")), golden("llama_tiny")
    embeddings = np.asarray(model.params["embed_tokens"]["embedding"])[arrays["input_ids"]]
    inputs = {"embeddings": embeddings, "attention_mask": arrays["attention_mask"]}
    ours = np.asarray(jax.jit(model.logits)(model.params, inputs))
    assert_array_equal(ours, run(model, arrays["input_ids"], arrays["attention_mask"]))


def test_a_decoder_embeds_texts_too(folder):
    model = language_model(folder("llama_tiny"))
    vectors = model.embed_texts(["w5 w6 w7", "w8"])
    assert vectors.shape == (2, 32)
    assert np.isfinite(vectors).all()


def test_gradients_reach_the_adapter_only_through_its_own_tree(folder, golden):
    model, arrays = language_model(folder("llama_tiny")), golden("llama_tiny")
    model = model.with_hook(scaled)
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}

    @jax.jit
    @jax.grad
    def gradient(adapters, params):
        return jax.nn.logsumexp(model.logits(params, inputs, adapters)).sum()

    found = gradient({"scale": jnp.zeros((2, 32))}, model.params)["scale"]
    assert (np.abs(found).max(axis=1) > 0).all()  # every layer's


def test_the_program_does_not_grow_with_depth(folder):
    model = language_model(folder("llama_tiny"))

    def size(layers: int) -> int:
        config = dataclasses.replace(model.config, num_layers=layers)
        module = dataclasses.replace(model.module, config=config, parent=None)
        tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
        params = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)
        return len(jax.jit(module.apply).lower(params, tokens, tokens).as_text().splitlines())

    assert size(2) == size(40)


@pytest.mark.parametrize("dtype", [jnp.bfloat16])
def test_bfloat16_is_close(dtype, folder, golden):
    model = language_model(folder("llama_tiny"), dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(dtype)}
    assert 1e-4 < error(model, golden("llama_tiny")) < 0.2


def chat_folder(folder, **own):
    path = folder("llama_tiny")
    (path / "tokenizer_config.json").write_text(json.dumps(own))
    (path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    return path


def test_chat_template_and_end_tokens_are_read(folder):
    template = (
        "{{ bos_token }} {% for m in messages %}\n  {% if m.role == 'user' %}\n"
        "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %} w9{% endif %}"
    )
    bos = {"content": "w4", "special": True}
    model = language_model(chat_folder(folder, chat_template=template, bos_token=bos))
    assert model.chat.eos_token_ids == (2, 7)
    messages = [{"role": "user", "content": "w5 w6"}]
    assert model.prompt_of(messages) == "w4 w5 w6 w9"
    # The template wrote the first special token; a plain text gets the tokenizer's own.
    assert model.encode_prompt(messages) == [4, 5, 6, 9]
    assert model.encode_prompt("w5 w6") == [1, 5, 6, 2]
    assert model.encode_prompt([5, 6]) == [5, 6]


def test_chats_that_cannot_be_rendered(folder):
    messages = [{"role": "user", "content": "w5"}]
    with pytest.raises(MmjaxError, match="no chat template"):
        language_model(folder("llama_tiny")).prompt_of(messages)
    template = "{{ raise_exception('roles must alternate') }}"
    model = language_model(chat_folder(folder, chat_template=template))
    with pytest.raises(MmjaxError, match="roles must alternate"):
        model.prompt_of(messages)
    outside = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    model = language_model(chat_folder(folder, chat_template=outside))
    with pytest.raises(MmjaxError, match="refuses"):
        model.prompt_of(messages)
    with pytest.raises(MmjaxError, match="no token"):
        model.encode_prompt([])
