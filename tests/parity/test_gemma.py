"""Gemma 3's decoder beside Hugging Face's torch class, whole and token by token."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import MmjaxError
from mmjax.adapters.lora import Lora
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import embed, extend, logits
from mmjax.encoders.llama import KeyValues
from mmjax.encoders.norms import RMSNorm
from mmjax.generation import cache_prefix, generate
from tests.parity.small import around_one, randomize, word_tokenizer

pytestmark = pytest.mark.parity

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "vocab_size": 60, "num_key_value_heads": 2, "head_dim": 12}
SIZES |= {"query_pre_attn_scalar": 20, "sliding_window": 5, "max_position_embeddings": 64}
SIZES |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SCALED = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
KINDS: dict[str, dict[str, Any]] = {
    "mixed": {"sliding_window_pattern": 3, "rope_parameters": {"full_attention": SCALED}},
    "local": {"sliding_window_pattern": 6, "num_key_value_heads": 1},
    "wide": {"sliding_window_pattern": 2, "sliding_window": 64, "tie_word_embeddings": False},
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

    config = transformers.Gemma3TextConfig(**json.loads(json.dumps(SIZES | KINDS[kind])))
    model = around_one(randomize(transformers.Gemma3ForCausalLM(config)))
    model.save_pretrained(folder)
    word_tokenizer(folder, 60)
    ours = load_encoder(folder)
    assert isinstance(ours, LanguageModel)
    model.folder = folder
    return model, ours


def inputs_of(front: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(front)
    lengths = np.array([[17], [9], [3], [1]])
    mask = np.arange(17)[None] >= 17 - lengths if front else np.arange(17)[None] < lengths
    ids = np.where(mask, random.integers(4, 60, mask.shape), 0)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


@functools.partial(jax.jit, static_argnums=0)
def outputs(module, params, embeddings, mask, adapters=None):
    hidden, _ = extend(module, params, adapters, embeddings, mask)
    return hidden, logits(module, params, hidden)


def looked_up(model, ids):
    return np.asarray(embed(model.module, model.params, jnp.asarray(ids)))


def test_hidden_states_and_logits_with_padding_and_windows_that_cut(pair):
    import torch

    model, ours = pair
    for front in (False, True):
        inputs = inputs_of(front)
        positions = np.maximum(np.cumsum(inputs["attention_mask"], axis=1) - 1, 0)
        with torch.no_grad():
            tensors = {k: torch.tensor(v) for k, v in inputs.items()}
            tensors["position_ids"] = torch.tensor(positions)
            theirs = model(**tensors, output_hidden_states=True)
        words = looked_up(ours, inputs["input_ids"])
        mask = inputs["attention_mask"]
        hidden, found = map(np.asarray, outputs(ours.module, ours.params, words, mask))
        real = mask == 1
        assert theirs.logits.abs().max() > 0.1
        assert np.abs(hidden - theirs.hidden_states[-1].numpy())[real].max() <= 1e-5
        assert np.abs(found - theirs.logits.numpy())[real].max() <= 1e-5


def test_gradients_with_respect_to_embeddings(pair):
    import torch

    model, ours = pair
    words, mask = looked_up(ours, inputs_of(False)["input_ids"]), np.ones((4, 17), int)
    vectors = torch.tensor(words, requires_grad=True)
    model(inputs_embeds=vectors).logits.square().mean().backward()

    @jax.jit
    @jax.grad
    def gradient(embeddings):
        return jnp.square(outputs(ours.module, ours.params, embeddings, mask)[1]).mean()

    assert vectors.grad is not None
    theirs = vectors.grad.numpy()
    assert np.abs(theirs).max() > 1e-4
    assert np.abs(gradient(words) - theirs).max() <= 1e-5


@pytest.mark.parametrize("pair", ["mixed", "local"], indirect=True)
def test_cached_decoding_equals_the_full_forward_at_every_position(pair):
    """With empty slots between the prompt and the new token, as `generate` has them."""
    model = pair[1]
    inputs = inputs_of(True)
    words, mask = looked_up(model, inputs["input_ids"]), inputs["attention_mask"]
    full = np.asarray(outputs(model.module, model.params, words, mask)[1])

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


@pytest.mark.parametrize("pair", ["mixed"], indirect=True)
def test_greedy_texts_behind_a_prefix_too(pair):
    import torch

    model, ours = pair
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13]]
    found = generate(ours, prompts, 12, stop_token_ids=())
    for prompt, text in zip(prompts, found, strict=True):
        with torch.no_grad():
            theirs = model.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )[0].tolist()  # fmt: skip
        assert text.token_ids.tolist() == theirs[len(prompt) :]
    prefix = cache_prefix(ours, prompts[0][:4])
    behind = generate(ours, [prompts[0][4:]], 12, stop_token_ids=(), prefix=prefix)
    assert behind[0].token_ids.tolist() == found[0].token_ids.tolist()


@pytest.mark.parametrize("pair", ["mixed"], indirect=True)
def test_older_files_and_wrong_ones(pair, tmp_path):
    """On the hub there is a base for each kind of layer, and every sixth layer, say, is global."""
    from safetensors.numpy import load_file, save_file

    model, ours = pair
    model.save_pretrained(tmp_path)
    word_tokenizer(tmp_path, 60)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key in ("rope_parameters", "layer_types", "tie_word_embeddings", "_sliding_window_pattern"):
        config.pop(key, None)
    old = config | {"sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    path.write_text(json.dumps(old))
    again = load_encoder(tmp_path)
    assert (again.config, again.fingerprint) == (ours.config, ours.fingerprint)
    assert ours.config.local_layers == (True, True, False, True)
    for change, message in (
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0 is not supported"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "every token reads those before it"),
        ({"sliding_window": None}, "there is no sliding_window"),
        ({"layer_types": ["full_attention"]}, "expected 4 of"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "'yarn' is not supported"),
        ({"hidden_activation": "gelu_fast"}, "unknown activation 'gelu_fast'"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
    ):
        path.write_text(json.dumps(old | change))
        with pytest.raises(MmjaxError, match=message) as error:
            load_encoder(tmp_path)
        assert "\n" not in str(error.value)
    path.write_text(json.dumps(old))
    tensors = load_file(tmp_path / "model.safetensors")
    norm = tensors.pop("model.layers.1.pre_feedforward_layernorm.weight")
    tensors["model.layers.2.post_feedforward_layernorm.weight"] = norm[:3]
    tensors["model.layers.2.mlp_norm.weight"] = norm
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(MmjaxError) as caught:
        load_encoder(tmp_path)
    for part in (
        "mlp_norm/scale for layers [1]",
        "unexpected model.layers.2.mlp_norm.weight",
        "misshapen model.layers.2.post_feedforward_layernorm.weight: [3], expected [32]",
    ):
        assert part in str(caught.value)


def test_bfloat16_rounds_where_theirs_does(pairs):
    """The words' scale is rounded first, and a norm multiplies by 1 + its scale in float32."""
    import torch

    model, _ = pairs("mixed")
    ours = load_encoder(model.folder, dtype=jnp.bfloat16)
    half = model.model.to(torch.bfloat16)
    try:
        ids = np.arange(60)[None]
        with torch.no_grad():
            theirs = half.embed_tokens(torch.tensor(ids))
            normed = half.norm(theirs).float().numpy()
        words = embed(ours.module, ours.params, jnp.asarray(ids))
        assert (np.asarray(words, np.float32) == theirs.float().numpy()).all()
        norm = RMSNorm(1e-6, jnp.bfloat16, jnp.bfloat16, offset=True)
        found = norm.apply({"params": ours.params["norm"]}, words)
        off = np.abs(np.asarray(found, np.float32) - normed)
        assert (off == 0).mean() > 0.999  # a last bit of a mean that is summed in another order
    finally:
        model.float()


@pytest.mark.parametrize("pair", ["wide"], indirect=True)
def test_keys_of_an_adapter_are_turned_as_each_kind_of_layer_turns(pair):
    """As in PEFT its keys stand unturned in front of the first word, at position 0."""
    import torch
    from transformers import DynamicCache

    model, ours = pair
    config, hook = ours.config, PrefixTuning(tokens=3, std=1.0)
    adapters = hook.init(jax.random.key(0), ours.frozen_layers())
    ids = inputs_of(False)["input_ids"]
    cache = DynamicCache()
    for layer in range(config.num_layers):
        own = [
            torch.tensor(np.asarray(adapters[name][layer])).reshape(1, 3, 2, 12).swapaxes(1, 2)
            for name in ("keys", "values")
        ]
        keys, values = (x.expand(4, -1, -1, -1).contiguous() for x in own)
        cache.update(keys, values, layer)
    with torch.no_grad():
        theirs = model(
            torch.tensor(ids), cache=cache, attention_mask=torch.ones(4, 20, dtype=torch.long)
        ).logits.numpy()
    adapted = ours.with_hook(hook)
    words, mask = looked_up(ours, ids), np.ones((4, 17), int)
    found = outputs(adapted.module, ours.params, words, mask, adapters)[1]
    plain = outputs(ours.module, ours.params, words, mask)[1]
    assert np.abs(plain - theirs).max() > 0.01
    assert np.abs(found - theirs).max() <= 1e-5


@pytest.mark.parametrize(("data", "along"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("pair", ["mixed"], indirect=True)
def test_on_meshes_in_few_bits_and_adapted(pair, data, along, mesh):
    model, ours = pair
    split = load_encoder(model.folder, mesh=mesh(data, along))
    assert isinstance(split, LanguageModel)
    attention = split.params["layers"]["attention"]
    key, query = (attention[name]["kernel"] for name in ("key", "query"))
    assert key.sharding.shard_shape(key.shape)[-1] == (12 if along == 2 else 24)  # whole heads
    assert query.sharding.shard_shape(query.shape)[-1] == 48 // along
    inputs = inputs_of(True)
    expected = np.asarray(jax.jit(ours.logits)(ours.params, inputs))
    real = inputs["attention_mask"] == 1
    found = np.asarray(jax.jit(split.logits)(split.params, inputs))
    assert np.abs(found - expected)[real].max() <= 1e-5
    small = load_encoder(model.folder, quantize="int8" if along == 2 else "nf4")
    assert isinstance(small, LanguageModel)
    off = np.abs(np.asarray(jax.jit(small.logits)(small.params, inputs)) - expected)[real]
    assert 1e-4 < off.mean() < 0.3
    hook = Lora(rank=2, targets=("query", "value", "gate", "down"))
    adapters = hook.init(jax.random.key(0), ours.frozen_layers())
    adapted = split.with_hook(hook)

    @jax.jit
    @jax.grad
    def gradient(adapters):
        return jnp.square(adapted.logits(split.params, inputs, adapters)).mean()

    same = np.asarray(jax.jit(adapted.logits)(split.params, inputs, adapters))
    assert np.abs(same - expected)[real].max() <= 1e-5
    found = jax.tree.leaves(gradient(adapters))
    by_layer = [np.abs(x).max(axis=tuple(range(1, x.ndim))) for x in found]
    assert np.max(by_layer, axis=0).min() > 1e-9  # every layer learns


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # norms
@pytest.mark.parametrize("kind", ["norms", "lora"])
def test_files_of_peft(kind, pairs, tmp_path):
    """Four norms a layer have their own names there."""
    import torch
    from peft import LNTuningConfig, LoraConfig, get_peft_model
    from transformers import Gemma3ForCausalLM

    from mmjax.interop.peft_folder import import_adapter

    model, ours = pairs("mixed")
    norms = ["post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
    config: Any = LNTuningConfig(target_modules=[*norms, "input_layernorm"])
    if kind == "lora":
        config = LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    adapted: Any = get_peft_model(Gemma3ForCausalLM.from_pretrained(model.folder).eval(), config)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path)
    found = import_adapter(tmp_path, ours)
    inputs = inputs_of(False)
    with torch.no_grad():
        theirs = adapted(**{k: torch.tensor(v) for k, v in inputs.items()}).logits.numpy()
    run = jax.jit(ours.with_hook(found.adapter).logits)
    adapters = jax.tree.map(jnp.asarray, found.adapters)
    real = inputs["attention_mask"] == 1
    plain = np.asarray(jax.jit(ours.logits)(ours.params, inputs))
    assert np.abs(plain - theirs)[real].max() > 1e-2
    assert np.abs(run(ours.params, inputs, adapters) - theirs)[real].max() <= 1e-5
