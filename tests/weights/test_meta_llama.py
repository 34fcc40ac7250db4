"""LLaMAs as Meta publishes them: shards, rotary rows, params.json, tokenizer.model."""

import base64
import itertools
import json
import struct

import chex
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import MmjaxError
from mmjax.weights.meta_llama import MetaLlama
from tests.weights.test_malformed import Op, torch_zip

DIM, HEADS, KV, WIDTH, VOCAB, LAYERS = 32, 4, 2, 48, 52, 2
PARAMS = {
    **{"dim": DIM, "n_heads": HEADS, "n_kv_heads": KV, "n_layers": LAYERS, "norm_eps": 1e-5},
    **{"vocab_size": -1, "multiple_of": 16, "ffn_dim_multiplier": 0.5},  # 85 -> 42 -> 48
}
# Meta's name -> (shape, the axis that is split).
_ONE = {
    "attention.wq": ((DIM, DIM), 0),
    "attention.wk": ((DIM // HEADS * KV, DIM), 0),
    "attention.wv": ((DIM // HEADS * KV, DIM), 0),
    "attention.wo": ((DIM, DIM), 1),
    "feed_forward.w1": ((WIDTH, DIM), 0),
    "feed_forward.w2": ((DIM, WIDTH), 1),
    "feed_forward.w3": ((WIDTH, DIM), 0),
    "attention_norm": ((DIM,), None),
    "ffn_norm": ((DIM,), None),
}
SHAPES = {
    "tok_embeddings.weight": ((VOCAB, DIM), 1),
    "norm.weight": ((DIM,), None),
    "output.weight": ((VOCAB, DIM), 0),
    **{f"layers.{i}.{k}.weight": v for i in range(LAYERS) for k, v in _ONE.items()},
}
HF = {
    "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head",
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def weights():
    """Meta's tensors of a tiny model."""
    random = np.random.default_rng(0)
    drawn = {k: random.standard_normal(shape).astype("f4") for k, (shape, _) in SHAPES.items()}
    return {k: 1 + 0.3 * x if "norm" in k else x * 0.2 for k, x in drawn.items()}


def shard_bytes(tensors) -> bytes:
    """A torch archive of a state dict."""
    items = b""
    for i, (name, x) in enumerate(tensors.items()):
        strides = [s // x.itemsize for s in np.ascontiguousarray(x).strides]
        size = {"shape": x.shape, "strides": strides, "key": str(i), "size": x.size}
        items += Op.text(name) + Op.tensor(**size)
    storages = {str(i): x.tobytes() for i, x in enumerate(tensors.values())}
    return torch_zip(Op.start + b"}(" + items + b"u" + Op.stop, storages)


def write_meta(folder, count, rows=False, params=None, drop=()):
    """`count` shards; `rows` splits the table of words as LLaMA 3 does."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({**PARAMS, **(params or {})}))
    for i in range(count):
        part = {"rope.freqs": np.ones(4, np.float32)}
        for name, x in weights().items():
            axis = 0 if rows and name.startswith("tok") else SHAPES[name][1]
            part[name] = x if axis is None else np.split(x, count, axis)[i]
        part = {k: v for k, v in part.items() if k not in drop}
        (folder / f"consolidated.{i:02d}.pth").write_bytes(shard_bytes(part))
    return folder


def write_hf(folder, write_tokenizer):
    """The same model in Hugging Face's layout: rotary rows reordered one by one."""
    folder.mkdir()
    tensors = {}
    for name, x in weights().items():
        stem = name.removesuffix(".weight")
        layer, _, part = stem.removeprefix("layers.").partition(".")
        theirs = HF[stem] if stem in HF else f"model.layers.{layer}.{HF[part]}"
        if "wq" in name or "wk" in name:
            c, reordered = DIM // HEADS, np.empty_like(x)
            for row in range(len(x)):
                head, channel = divmod(row, c)  # Meta pairs 2 i and 2 i + 1, HF i and i + c / 2
                reordered[head * c + channel // 2 + (channel % 2) * c // 2] = x[row]
            x = reordered
        tensors[f"{theirs}.weight"] = np.ascontiguousarray(x)
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": DIM, "num_attention_heads": HEADS}
    config |= {"num_key_value_heads": KV, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
    config |= {"intermediate_size": WIDTH, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def language_model(source) -> LanguageModel:
    model = load_encoder(source)
    assert isinstance(model, LanguageModel)
    return model


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_shards_are_the_model_in_hugging_faces_layout(count, rows, tmp_path, write_tokenizer):
    meta = write_meta(tmp_path / "meta", count, rows)
    write_tokenizer(meta / "tokenizer.json")
    ours = language_model(meta)
    theirs = language_model(write_hf(tmp_path / "hf", write_tokenizer))
    assert ours.config == theirs.config
    assert ours.fingerprint == theirs.fingerprint
    chex.assert_trees_all_equal(ours.params, theirs.params)


def meta_forward(ids):
    """Meta's model.py in NumPy and float64: pairs of channels are complex numbers that turn."""
    w = {k: x.astype(np.float64) for k, x in weights().items()}
    c, length = DIM // HEADS, len(ids)
    turns = np.outer(np.arange(length), 10000.0 ** -(np.arange(0, c, 2) / c))
    turns = np.exp(1j * turns)[:, None]

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    def rotate(x):
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * turns
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)

    h = w["tok_embeddings.weight"][ids]
    for i in range(LAYERS):
        p = {k: w[f"layers.{i}.{k}.weight"] for k in _ONE}
        x = norm(h, p["attention_norm"])
        q, k, v = ((x @ p[f"attention.w{n}"].T).reshape(length, -1, c) for n in "qkv")
        k, v = (np.repeat(part, HEADS // KV, axis=1) for part in (rotate(k), v))
        scores = np.einsum("qhc,khc->hqk", rotate(q), k) / np.sqrt(c)
        scores = np.exp(np.where(np.tri(length, dtype=bool), scores, -np.inf))
        mixed = np.einsum("hqk,khc->qhc", scores / scores.sum(-1, keepdims=True), v)
        h = h + mixed.reshape(length, -1) @ p["attention.wo"].T
        x = norm(h, p["ffn_norm"])
        gate = x @ p["feed_forward.w1"].T
        gate = gate / (1 + np.exp(-gate)) * (x @ p["feed_forward.w3"].T)
        h = h + gate @ p["feed_forward.w2"].T
    return norm(h, w["norm.weight"]) @ w["output.weight"].T


def test_logits_are_those_of_metas_own_arithmetic(tmp_path, write_tokenizer):
    meta = write_meta(tmp_path / "meta", 2)
    write_tokenizer(meta / "tokenizer.json")
    model, ids = language_model(meta), np.arange(4, 15)
    inputs = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int32)}
    ours = jax.jit(model.logits)(model.params, inputs)
    assert_allclose(ours[0], meta_forward(ids), atol=2e-5)


@pytest.mark.parametrize("gone", [(1,), (0, 3), (1, 2, 3)])
def test_missing_shards_are_listed(gone, tmp_path):
    folder = write_meta(tmp_path / "meta", 4)
    for number in gone:
        (folder / f"consolidated.{number:02d}.pth").unlink()
    names = ", ".join(f"consolidated.{number:02d}.pth" for number in gone)
    with pytest.raises(MmjaxError, match=f"split into 4 shards, of which {names} lacks"):
        load_encoder(folder)


def replaced(number, **tensors):
    """Changes one shard of a folder of two."""

    def change(folder):
        whole = {"rope.freqs": np.ones(4, np.float32)}
        for name, x in weights().items():
            axis = SHAPES[name][1]
            whole[name] = x if axis is None else np.split(x, 2, axis)[number]
        whole |= tensors
        path = folder / f"consolidated.{number:02d}.pth"
        path.write_bytes(shard_bytes({k: v for k, v in whole.items() if v is not None}))

    return change


def spoilt(**params):
    return lambda folder: (folder / "params.json").write_text(json.dumps(PARAMS | params))


NORM, WO = {"norm.weight": np.zeros(DIM, "f4")}, {"layers.1.attention.wo.weight": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(1, **NORM), "the shards do not agree on norm.weight"),
        (replaced(1, **WO), r"consolidated\.01\.pth and consolidated\.00\.pth differ in .*wo"),
        (lambda f: (f / "consolidated.01.pth").write_bytes(b"no"), r"consolidated\.01\.pth"),
        (lambda f: (f / "consolidated.02.pth").write_bytes(shard_bytes(weights())), "none of them"),
        (lambda f: [p.unlink() for p in f.glob("*.pth")], "but no consolidated.00.pth"),
        (spoilt(multiple_of=64), "misshapen .*gate_proj"),
        (spoilt(n_layers=3), r"nothing feeds layers/.* for layers \[2\]"),
        (spoilt(use_scaled_rope=True), "says use_scaled_rope but not rope_scaling_factor"),
        (lambda f: (f / "params.json").write_text("{}"), "lacks 'dim'"),
        (spoilt(dim="large"), "dim is 'large'; expected a whole number"),
        (lambda f: (f / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
    ],
)
def test_what_does_not_belong_together(change, message, tmp_path, write_tokenizer):
    folder = write_meta(tmp_path / "meta", 2)
    write_tokenizer(folder / "tokenizer.json")
    change(folder)
    with pytest.raises(MmjaxError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"norm_eps": 1e-6}, {"max_position_embeddings": 2048}),
        ({}, {"max_position_embeddings": 4096, "rope_theta": 10000.0}),
        ({"rope_theta": 500000.0}, {"max_position_embeddings": 8192, "rope_theta": 500000.0}),
        (
            {"rope_theta": 500000.0, "use_scaled_rope": True, "rope_scaling_factor": 32},
            {"max_position_embeddings": 131072},
        ),
    ],
)
def test_generations_of_params(params, expected, tmp_path):
    config = MetaLlama(write_meta(tmp_path / "meta", 1, params=params)).config()
    assert expected.items() <= config.items()
    assert config["vocab_size"] == VOCAB  # params.json says -1
    assert config.get("rope_scaling", {}).get("factor") == (
        32 if "use_scaled_rope" in params else None
    )


def test_a_tied_head(tmp_path, write_tokenizer):
    folder = write_meta(tmp_path / "meta", 2, drop=("output.weight",))
    write_tokenizer(folder / "tokenizer.json")
    assert language_model(folder).config.tied


def field(number, value):
    """One field of a protobuf message: int, float, or bytes."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    size = value if isinstance(value, int) else len(value)
    tag, varint = number << 3 | (0 if isinstance(value, int) else 2), b""
    for x in (tag, size):
        while x > 127:
            varint, x = varint + bytes([x & 127 | 128]), x >> 7
        varint += bytes([x])
    return varint + (b"" if isinstance(value, int) else value)


def sentencepiece_bytes(kind=2):
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{i:02X}>", 0.0, 6) for i in range(40)]
    pieces += [
        (p, -float(i), 1) for i, p in enumerate(["ab", "▁ab", "▁", "a", "b", "c", "苹", "d", "e"])
    ]
    message = b"".join(
        field(1, field(1, p.encode()) + field(2, score) + field(3, t)) for p, score, t in pieces
    )
    return message + field(2, field(3, kind) + field(40, 0) + field(41, 1) + field(42, 2))


def test_tokenizer_model_of_llama_2(tmp_path):
    folder = write_meta(tmp_path / "meta", 1)
    (folder / "tokenizer.model").write_bytes(sentencepiece_bytes())
    model = language_model(folder)
    assert model.encode_prompt("ab c苹") == [1, 44, 45, 48, 49]  # <s> ▁ab ▁ c 苹
    assert model.preprocess.tokenizer.decode([1, 44, 45, 48, 49]) == "ab c苹"
    assert model.chat.eos_token_ids == (2,)
    for content in (sentencepiece_bytes(kind=1), sentencepiece_bytes()[:-3], b""):
        (folder / "tokenizer.model").write_bytes(content)
        with pytest.raises(MmjaxError, match=r"tokenizer\.model"):
            load_encoder(folder)


RANKS = [bytes([c]) for c in b"abcde "] + [
    b"ab",
    b"bc",
    b"abc",
    b"cd",
    b" a",
    b"abcd",
    b" ab",
    b"de",
]
RANKS += [
    "苹".encode()[:1],
    "苹".encode()[1:2],
    "苹".encode()[2:],
    "苹".encode()[:2],
    "苹".encode(),
]


def byte_pairs(word):
    """tiktoken's rule: join the two neighbours that make the token of the lowest rank."""
    parts = [bytes([c]) for c in word]
    while True:
        pairs = [a + b for a, b in itertools.pairwise(parts)]
        known = [pair for pair in pairs if pair in RANKS]
        if not known:
            return [RANKS.index(part) for part in parts]
        at = pairs.index(min(known, key=RANKS.index))
        parts[at : at + 2] = [pairs[at]]


def test_tokenizer_model_of_llama_3(tmp_path):
    folder = write_meta(tmp_path / "meta", 2, rows=True, params={"rope_theta": 500000.0})
    lines = [base64.b64encode(token) + b" %d" % i for i, token in enumerate(RANKS)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    model = language_model(folder)
    first = len(RANKS)
    for word in ("abcd", "abcde", "bcde", "ecdabbc", "苹a", "aabcabcd", "e"):
        ids = model.encode_prompt(word)
        assert ids == [first, *byte_pairs(word.encode())], word
        assert model.preprocess.tokenizer.decode(ids) == word
    assert model.encode_prompt("<|eot_id|>") == [first, first + 9]
    assert model.chat.eos_token_ids == (first + 1, first + 9)
    for spoilt_lines in (lines[1:], [b"a*b 0"], [*lines, b"YQ== 3 4"], lines * 3):
        (folder / "tokenizer.model").write_bytes(b"\n".join(spoilt_lines))
        with pytest.raises(MmjaxError, match=r"tokenizer\.model"):
            load_encoder(folder)
