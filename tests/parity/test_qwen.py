"""Qwen2, Qwen3 and Mistral beside Hugging Face's torch classes, whole and token by token."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import extend, logits
from mmjax.encoders.llama import KeyValues
from mmjax.generation import generate
from mmjax.weights import gguf_llama
from tests.parity.small import randomize, word_tokenizer

pytestmark = pytest.mark.parity

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "vocab_size": 60, "num_key_value_heads": 2}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
KINDS = {
    "qwen2": ("Qwen2", {}),
    "qwen2-windows": ("Qwen2", {**WINDOWS, "max_window_layers": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 12, "rope_theta": 1e6}),
    "qwen3-windows": ("Qwen3", {**WINDOWS, "max_window_layers": 0, "attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 4}),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Returns `pairs(kind)`: (torch model, ours) on the same random weights, made once."""
    return functools.cache(lambda kind: make(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(params=KINDS)
def pair(request, pairs) -> tuple[Any, LanguageModel]:
    return pairs(request.param)


def make(kind, folder):
    import transformers

    name, change = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**SIZES | change)
    model = randomize(getattr(transformers, f"{name}ForCausalLM")(config))
    model.save_pretrained(folder)
    word_tokenizer(folder, 60)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    return model, ours


def inputs_of(front: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(front)
    lengths = np.array([[17], [9], [3], [1]])
    mask = np.arange(17)[None] >= 17 - lengths if front else np.arange(17)[None] < lengths
    ids = np.where(mask, random.integers(4, 60, mask.shape), 0)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


@functools.partial(jax.jit, static_argnums=0)
def outputs(module, params, embeddings, mask):
    hidden, _ = extend(module, params, None, embeddings, mask)
    return logits(module, params, hidden)


def looked_up(model, ids):
    return np.asarray(model.params["embed_tokens"]["embedding"])[ids]


def test_logits_with_padding_and_windows_that_cut(pair):
    import torch

    model, ours = pair
    for front in (False, True):
        inputs = inputs_of(front)
        positions = np.maximum(np.cumsum(inputs["attention_mask"], axis=1) - 1, 0)
        with torch.no_grad():
            tensors = {k: torch.tensor(v) for k, v in inputs.items()}
            theirs = model(**tensors, position_ids=torch.tensor(positions)).logits.numpy()
        words = looked_up(ours, inputs["input_ids"])
        found = np.asarray(outputs(ours.module, ours.params, words, inputs["attention_mask"]))
        real = inputs["attention_mask"] == 1
        assert np.abs(theirs[real]).max() > 0.1
        assert np.abs(found - theirs)[real].max() <= 1e-5


@pytest.mark.parametrize("pair", ["qwen2-windows"], indirect=True)
def test_gradients_with_respect_to_embeddings(pair):
    import torch

    model, ours = pair
    words, mask = looked_up(ours, inputs_of(False)["input_ids"]), np.ones((4, 17), int)
    vectors = torch.tensor(words, requires_grad=True)
    model(inputs_embeds=vectors).logits.square().mean().backward()

    @jax.jit
    @jax.grad
    def gradient(embeddings):
        return jnp.square(outputs(ours.module, ours.params, embeddings, mask)).mean()

    assert vectors.grad is not None
    theirs = vectors.grad.numpy()
    assert np.abs(theirs).max() > 1e-3
    assert np.abs(gradient(words) - theirs).max() <= 1e-5


def test_cached_decoding_equals_the_full_forward_at_every_position(pair):
    """With empty slots between the prompt and the new token, as `generate` has them."""
    model = pair[1]
    inputs = inputs_of(True)
    words, mask = looked_up(model, inputs["input_ids"]), inputs["attention_mask"]
    full = np.asarray(outputs(model.module, model.params, words, mask))

    @jax.jit
    def step(params, past, word, seen, at):
        hidden, new = extend(model.module, params, None, word, seen, past)
        past = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, at, axis=3), past, new
        )
        return logits(model.module, params, hidden)[:, 0], past

    c = model.config
    empty = jnp.zeros((c.num_layers, 4, c.num_kv_heads, 20, c.head_dim))
    past, seen = KeyValues(empty, empty), np.pad(mask, [(0, 0), (0, 3)])
    for at in range(17):
        own = mask[:, at : at + 1]
        before = np.concatenate([seen * (np.arange(20) < at), own], axis=1)
        out, past = step(model.params, past, words[:, at : at + 1], before, at)
        real = own[:, 0] == 1
        np.testing.assert_allclose(out[real], full[:, at][real], atol=1e-5)


@pytest.mark.parametrize("pair", ["qwen2", "qwen3"], indirect=True)
def test_gguf_files(pair, tmp_path):
    """Unlike a LLaMA's, their rotary rows lie as Hugging Face has them."""
    import gguf

    model, ours = pair
    config, kind = model.config, ours.family
    names = {v: k for k, v in gguf_llama._NAMES.items()}
    parts = {v: k for k, v in gguf_llama._LAYER_NAMES.items()}
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if kind == "qwen3":
        writer.add_key_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["w", "1", "w1", *(f"w{i}" for i in range(3, 60))])
    writer.add_token_types([1] * 60)
    writer.add_token_merges(["w 1"])
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if name in names:
            short = names[name]
        else:
            _, _, layer, *part, leaf = name.split(".")
            short = f"blk.{layer}.{parts['.'.join(part)]}.{leaf}"
        writer.add_tensor(short, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = load_encoder(path)
    assert read.family == kind
    assert read.config == dataclasses.replace(ours.config, pad_token_id=read.config.pad_token_id)
    chex.assert_trees_all_equal(read.params, ours.params)


def test_the_tokenizer_of_a_gguf_file():
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = ["h e", "l l", "Ġ h", "1 2"]
    words = [*letters, *(m.replace(" ", "") for m in merges), "<|endoftext|>"]
    meta = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}
    meta |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": merges}
    meta |= {"tokenizer.ggml.token_type": [1] * (len(words) - 1) + [3]}
    ours = gguf_llama.tokenizer_of(meta)
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    theirs = Qwen2Tokenizer({word: i for i, word in enumerate(words)}, pairs)
    for text in ("hello  he'LL 12345", "Cafe\u0301 \n\n  x", "红苹果<|endoftext|> hell"):
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert ours.encode("12").ids != [words.index("12")]  # digits stand alone


@pytest.mark.parametrize("pair", ["qwen3-windows"], indirect=True)
def test_greedy_texts(pair):
    import torch

    model, ours = pair
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12]]
    found = generate(ours, prompts, 12, stop_token_ids=())
    for prompt, text in zip(prompts, found, strict=True):
        with torch.no_grad():
            theirs = model.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )[0].tolist()  # fmt: skip
        assert text.token_ids.tolist() == theirs[len(prompt) :]
