"""LLaMAs in GGUF files: names, rotary rows, quantised blocks, metadata, tokenizers."""

import json

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.testing import assert_allclose, assert_array_equal

from mmjax.assets import convert
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.rope import RopeConfig
from mmjax.errors import MmjaxError, WeightsError
from mmjax.weights import gguf as reader
from mmjax.weights import gguf_llama

HF = {v: k for k, v in gguf_llama._NAMES.items()}
HF_LAYER = {v: k for k, v in gguf_llama._LAYER_NAMES.items()}
WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, 50))]


def interleaved(weight, heads):
    """llama.cpp's order of rotary rows, the inverse of `rotary_halves`."""
    rows, columns = weight.shape
    split = weight.reshape(heads, 2, rows // heads // 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture
def write(tmp_path, golden):
    """Returns `write(name, kind)`: a golden as a GGUF file, matrices of one type if they fit."""

    def make(name, kind=Type.F32, architecture="llama", permute=True, extra=()):
        arrays = golden(name)
        config = json.loads(str(arrays["config"]))
        path = tmp_path / f"{name}-{kind.name}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(10000.0)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(WORDS)
        writer.add_token_scores([0.0] * len(WORDS))
        writer.add_token_types([2, 3, 3, *[1] * 47])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template("{{ bos_token }}{{ messages[0].content }}")
        for key, value in arrays.items():
            name_ = key.removeprefix("tensor:")
            if name_ == key or (config["tie_word_embeddings"] and name_ == "lm_head.weight"):
                continue
            for part, heads in (("q_proj", "attention"), ("k_proj", "key_value")):
                if part in name_ and permute:
                    value = interleaved(value, config[f"num_{heads}_heads"])
            fits = value.ndim == 2 and value.shape[1] % 32 == 0
            used = kind if fits else Type.F32
            writer.add_tensor(_name(name_), gguf.quantize(value, used), raw_dtype=used)
        if config["rope_parameters"]["rope_type"] == "llama3":
            plain = RopeConfig().frequencies(8)
            factors = plain / RopeConfig.from_hf(config).frequencies(8)
            writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
        for key in extra:
            writer.add_tensor(key, np.zeros(3, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def _name(name):
    if name in HF:
        return HF[name]
    _, _, layer, *part, leaf = name.split(".")
    return f"blk.{layer}.{HF_LAYER['.'.join(part)]}.{leaf}"


def logits(model, arrays):
    assert isinstance(model, LanguageModel)
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    return np.asarray(jax.jit(model.logits)(model.params, inputs))[arrays["attention_mask"] == 1]


@pytest.mark.parametrize("name", ["llama_tiny", "llama_tied_tiny"])
def test_a_float_file_equals_torch(name, write, golden):
    """Rotary rows, grouped heads, llama3's factors and the tied head come through."""
    arrays = golden(name)
    model = load_encoder(write(name))
    assert_allclose(
        logits(model, arrays), arrays["logits"][arrays["attention_mask"] == 1], atol=1e-5
    )
    wrong = load_encoder(write(name, permute=False))
    off = logits(wrong, arrays) - arrays["logits"][arrays["attention_mask"] == 1]
    assert np.abs(off).max() > 1e-3


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_quantised_matrices_are_the_nearest_that_the_type_has(kind, write, folder):
    exact = load_encoder(folder("llama_tiny")).params["layers"]
    read = load_encoder(write("llama_tiny", kind)).params["layers"]
    steps = {Type.F16: 1e-3, Type.BF16: 1e-2, Type.Q8_0: 1e-2, Type.Q4_0: 0.13, Type.Q4_1: 0.13}
    for part in ("query", "key", "value", "out"):
        a, b = (np.asarray(tree["attention"][part]["kernel"]) for tree in (exact, read))
        assert 0 < np.abs(a - b).max() < steps[kind] * np.abs(a).max()


def six_bits(block):
    """One Q6_K block of 256 weights, by the format's description."""
    low, high = block[:128].astype(int), block[128:192].astype(int)
    scales, d = block[192:208].view(np.int8), block[208:].view(np.float16)[0]
    out = np.empty(256)
    for i in range(256):
        half, quarter, at = i // 128, i % 128 // 32, i % 32
        nibble = low[half * 64 + quarter % 2 * 32 + at] >> (4 * (quarter // 2)) & 15
        bits = high[half * 32 + at] >> (2 * quarter) & 3
        out[i] = float(d) * scales[i // 16] * ((nibble | bits << 4) - 32)
    return out


def four_bits(block):
    """One Q4_K block of 256 weights, by the format's description."""
    d, least = (float(x) for x in block[:4].view(np.float16))
    packed, low = block[4:16].astype(int), block[16:].astype(int)
    out = np.empty(256)
    for i in range(256):
        j = i // 32
        if j < 4:
            scale, offset = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
            offset = packed[j + 4] >> 4 | packed[j] >> 6 << 4
        nibble = low[j // 2 * 32 + i % 32] >> (4 * (j % 2)) & 15
        out[i] = d * scale * nibble - least * offset
    return out


@pytest.mark.parametrize(
    ("kind", "size", "halves", "twin"),
    [(Type.Q6_K, 210, (208,), six_bits), (Type.Q4_K, 144, (0, 2), four_bits)],
)
def test_k_quants_are_what_their_format_says(kind, size, halves, twin, tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (3, size), np.uint8)
    for at in halves:  # a random half-precision number may be huge or no number
        blocks[:, at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    array = reader.read_gguf(tmp_path / "k.gguf").weight("blk.0.attn_q.weight")
    assert_allclose(array, np.stack([twin(block) for block in blocks]), rtol=1e-5, atol=1e-6)


def test_metadata_becomes_config_tokenizer_and_chat(write):
    model = load_encoder(write("llama_tiny"))
    assert isinstance(model, LanguageModel)
    config = model.config
    assert (config.num_kv_heads, config.head_dim, config.rms_norm_eps) == (2, 8, 1e-5)
    assert (config.max_length, config.rope.kind, config.tied) == (64, "factors", False)
    assert model.chat.eos_token_ids == (2,)
    assert model.prompt_of([{"role": "user", "content": "w5"}]) == "<s>w5"


def test_what_is_no_llama_is_refused(write):
    with pytest.raises(WeightsError, match="holds a 'gpt2', not a llama"):
        load_encoder(write("llama_tiny", architecture="gpt2"))
    with pytest.raises(WeightsError, match=r"tensor 'blk\.0\.ffn_gate_exps\.weight' has no place"):
        load_encoder(write("llama_tiny", extra=("blk.0.ffn_gate_exps.weight",)))
    with pytest.raises(MmjaxError, match="is not a folder"):
        load_encoder("nothing.gguf")


def test_rotary_rows_are_put_back():
    weight = np.arange(60, dtype=np.float32).reshape(12, 5)
    assert not np.array_equal(interleaved(weight, 3), weight)
    assert_array_equal(gguf_llama.rotary_halves(interleaved(weight, 3), 3), weight)


LETTERS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|im_start|>", "a", "b", "1", "2", "Ġ", "ab", "12"],
    "tokenizer.ggml.merges": ["a b", "1 2"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1, 1, 1],
}


def test_byte_level_tokenizers_split_as_they_were_trained():
    tokenizer = gguf_llama.tokenizer_of(LETTERS, "a.gguf")
    assert tokenizer.encode("<|im_start|>ab 12").tokens == ["<|im_start|>", "ab", "Ġ", "1", "2"]
    assert tokenizer.decode([6, 5, 3]) == "ab 1"
    bos = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 0}
    llama3 = gguf_llama.tokenizer_of(
        {**LETTERS, "tokenizer.ggml.pre": "llama-bpe", **bos}, "a.gguf"
    )
    assert llama3.encode("ab 12").tokens == ["<|im_start|>", "ab", "Ġ", "12"]


def test_sentencepiece_merges_by_score_and_falls_back_to_bytes():
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["▁", "a", "b", "c", "ab", "bc", "▁a", "abc"]
    scores = [0.0] * 259 + [-9, -9, -9, -9, -2, -1, -3, -4]
    meta = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 8],
        "tokenizer.ggml.bos_token_id": 1,
    }
    tokenizer = gguf_llama.tokenizer_of(meta, "a.gguf")
    assert tokenizer.encode("abc").tokens == ["<s>", "▁a", "bc"]  # "bc" scores best, then "▁a"
    assert tokenizer.encode("é").tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("abc é").ids) == "abc é"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "vocabulary 'bert'"),
        ({"tokenizer.ggml.pre": "command-r"}, "splitting 'command-r'"),
    ],
)
def test_unknown_tokenizers_are_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        gguf_llama.tokenizer_of({**LETTERS, **change}, "a.gguf")


def test_a_file_is_opened_once(write, monkeypatch):
    opened, read = [], reader.read_gguf
    monkeypatch.setattr(reader, "read_gguf", lambda path: opened.append(path) or read(path))
    path = write("llama_tiny")
    load_encoder(path)
    assert opened == [path]


def test_an_asset_keeps_what_its_file_says(write, tmp_path, golden):
    """In half precision the real model's logits would be 2.5e-2 off."""
    arrays, (raw, out) = golden("llama_tied_tiny"), (tmp_path / "raw", tmp_path / "out")
    raw.mkdir()
    out.mkdir()
    write("llama_tied_tiny", Type.Q4_1).rename(raw / "model.gguf")
    with pytest.MonkeyPatch.context() as patched:
        unknown = {"tokenizer.ggml.unknown_token_id": 0}
        read = reader.read_gguf
        patched.setattr(reader, "read_gguf", lambda path: _with(read(path), unknown))
        convert.smollm2(raw, out)
    direct = load_encoder(raw / "model.gguf")
    assert_array_equal(logits(load_encoder(out), arrays), logits(direct, arrays))


def _with(file, more):
    file.metadata.update(more)
    return file
