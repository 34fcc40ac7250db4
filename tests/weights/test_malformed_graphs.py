"""GGUF and ONNX files that are damaged or hostile: one clear error within a second."""

import struct
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmjax.assets import onnx_graph as onnx_reader
from mmjax.weights import gguf as gguf_reader
from tests.weights.refusal import refused

# --- GGUF --------------------------------------------------------------------------------------


def gguf_string(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


def gguf_bytes(
    keys=(), tensors=(("w", (32,), 0, 0),), data: bytes = bytes(128), version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    for name, shape, kind, offset in tensors:
        head += gguf_string(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", kind, offset)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return gguf_string(name) + struct.pack("<I", kind) + value


ARRAY = gguf.GGUFValueType.ARRAY.value
GGUF = gguf_bytes([key("general.architecture", 8, gguf_string("llama"))])
FILES_GGUF = {
    "empty": b"",
    "another magic": b"GGML" + GGUF[4:],
    "another version": gguf_bytes(version=77),
    "cut short": GGUF[:-40],
    "2^60 keys": GGUF[:16] + struct.pack("<Q", 2**60) + GGUF[24:],
    "a name of 2^60 bytes": gguf_bytes([gguf_string("k", 2**60)]),
    "a string of 2^63 bytes": gguf_bytes([key("k", 8, gguf_string("v", 2**63))]),
    "an array of 2^50": gguf_bytes([key("k", ARRAY, struct.pack("<IQ", 4, 2**50))]),
    "an array of 2^50 strings": gguf_bytes([key("k", ARRAY, struct.pack("<IQ", 8, 2**50))]),
    "arrays in arrays": gguf_bytes([key("k", ARRAY, struct.pack("<IQ", ARRAY, 10**6))]),
    "an unknown type": gguf_bytes([key("k", 99, b"")]),
    "one key twice": gguf_bytes([key("k", 0, b"1"), key("k", 0, b"2")]),
    "one tensor twice": gguf_bytes(tensors=[("w", (8,), 0, 0), ("w", (8,), 0, 32)]),
    "tensors overlap": gguf_bytes(tensors=[("w", (32,), 0, 0), ("v", (8,), 0, 64)]),
    "past the end": gguf_bytes(tensors=[("w", (32,), 0, 2**40)]),
    "10^9 dimensions": gguf_bytes()[:33] + struct.pack("<I", 10**9) + gguf_bytes()[37:],
    "absurd shape": gguf_bytes(tensors=[("w", (2**40, 2**30), 0, 0)]),
    "unknown weights": gguf_bytes(tensors=[("w", (32,), 999, 0)]),
    "no whole block": gguf_bytes(tensors=[("w", (31,), 2, 0)]),
    "no alignment": gguf_bytes([key("general.alignment", 4, struct.pack("<I", 0))]),
    "NaN": gguf_bytes(data=np.full(32, np.nan, np.float32).tobytes()),
}

# --- ONNX --------------------------------------------------------------------------------------


def onnx_bytes(change: Callable[[Any], None] = lambda graph: None) -> bytes:
    value = helper.make_tensor_value_info
    weights = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [value("x", TensorProto.FLOAT, ["n", 3])], [value("y", 1, None)]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs, [weights]))
    change(model.graph)
    return model.SerializeToString()


def twin(graph: Any) -> None:
    graph.initializer.append(graph.initializer[0])


def dims(*shape: int) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        graph.initializer[0].dims[:] = shape

    return change


def external(graph: Any) -> None:
    tensor = graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    location = tensor.external_data.add()
    location.key, location.value = "location", "../../etc/passwd"


def not_a_number(graph: Any) -> None:
    graph.initializer[0].raw_data = np.full(6, np.nan, np.float32).tobytes()


def unknown_type(graph: Any) -> None:
    graph.initializer[0].data_type = 77


FILES_ONNX = {
    "empty": b"",
    "text": b"no graph at all",
    "cut short": onnx_bytes()[:-30],
    "noise": np.random.default_rng(0).bytes(4000),
    "absurd shape": onnx_bytes(dims(2**40, 2**20)),
    "negative shape": onnx_bytes(dims(-3, -2, 10**9)),
    "shape and length differ": onnx_bytes(dims(3, 3)),
    "one name twice": onnx_bytes(twin),
    "weights elsewhere": onnx_bytes(external),
    "unknown type": onnx_bytes(unknown_type),
    "NaN": onnx_bytes(not_a_number),
}


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> None:
    """Imports what a first use would, and shows that the files are good before they are changed."""
    place = tmp_path_factory.mktemp("good")
    (place / "a.gguf").write_bytes(GGUF)
    assert set(dict(gguf_reader.read_gguf(place / "a.gguf").weights())) == {"w"}
    (place / "a.onnx").write_bytes(onnx_bytes())
    assert set(onnx_reader.read_onnx(place / "a.onnx").weights) == {"w"}


@pytest.mark.parametrize("case", FILES_GGUF)
def test_gguf(case, warm, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(FILES_GGUF[case])
    refused(lambda: dict(gguf_reader.read_gguf(path).weights()), tmp_path)


@pytest.mark.parametrize("case", FILES_ONNX)
def test_onnx(case, warm, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(FILES_ONNX[case])
    refused(lambda: onnx_reader.read_onnx(path), tmp_path)
