"""Files that are damaged or hostile: one clear error within a second, and nothing else happens.

Each case makes one file, or a folder of them, out of a good one.
"""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from mmjax.encoders import load_encoder
from mmjax.encoders.convert import Checkpoint
from mmjax.encoders.readers import gguf as gguf_reader
from mmjax.encoders.readers import onnx as onnx_reader
from mmjax.encoders.readers.torch_file import TorchFile
from mmjax.errors import MmjaxError

SECONDS, KIBIBYTES = 1.0, 200 * 1024
Case = Callable[[Path], None]


def refused(read: Callable[[], Any], tmp_path: Path) -> str:
    """Reads; returns the error's message. Fails when it is slow, large, or runs the file's code."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's overflows inside the parsers
        with pytest.raises(MmjaxError) as raised:
            read()
    assert time.perf_counter() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
    assert not (tmp_path / "ran").exists()
    message = str(raised.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    return message


@pytest.fixture(scope="module")
def warm(write_folder, tmp_path_factory):
    """Imports and compiles what a first use would; returns a good folder."""
    place = tmp_path_factory.mktemp("good")
    good = write_folder(place / "bert_tiny", "bert_tiny")
    load_encoder(good)
    (place / "a.gguf").write_bytes(GGUF)
    dict(gguf_reader.read(place / "a.gguf").weights())
    (place / "a.onnx").write_bytes(onnx_bytes())
    onnx_reader.read(place / "a.onnx")
    return good


# --- safetensors -------------------------------------------------------------------------------


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def changed(key: str, value: np.ndarray) -> Case:
    def change(path: Path) -> None:
        tensors = load_file(path / "model.safetensors")
        save_file(tensors | {key: value}, path / "model.safetensors")

    return change


def written(content: bytes, name: str = "model.safetensors") -> Case:
    def change(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / name).write_bytes(content)

    return change


def cut(keep: int) -> Case:
    def change(path: Path) -> None:
        file = path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])

    return change


BIAS = "embeddings.LayerNorm.bias"
TWIN = b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
SAFETENSORS: dict[str, Case] = {
    "empty": written(b""),
    "seven bytes": written(b"1234567"),
    "header of 2^63 bytes": written(safetensors_bytes({}, length=2**63)),
    "header of 99 MB": written(safetensors_bytes({}, length=99_000_000)),
    "no JSON": written(safetensors_bytes(b"{not json")),
    "a list": written(safetensors_bytes([1, 2])),
    "no text": written(safetensors_bytes(b"\xff\xfe{}")),
    "deeply nested": written(safetensors_bytes(b"[" * 100_000)),
    "cut in the header": cut(100),
    "cut in the data": cut(-100),
    "overlap": written(safetensors_bytes({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12)),
    "a gap": written(safetensors_bytes({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20)),
    "end before start": written(safetensors_bytes({"a": entry(offsets=(8, 0))}, b"\0" * 8)),
    "negative offset": written(safetensors_bytes({"a": entry(offsets=(-8, 0))}, b"\0" * 8)),
    "past the end": written(safetensors_bytes({"a": entry(offsets=(0, 2**62))}, b"\0" * 8)),
    "absurd shape": written(safetensors_bytes({"a": entry((2**40, 2**40))}, b"\0" * 8)),
    "shape and length differ": written(safetensors_bytes({"a": entry((3,))}, b"\0" * 8)),
    "unknown dtype": written(safetensors_bytes({"a": entry(dtype="F7")}, b"\0" * 8)),
    "one name twice": written(safetensors_bytes(TWIN, b"\0" * 8)),
    "integers": changed(BIAS, np.zeros(32, np.int64)),
    "NaN": changed(BIAS, np.full(32, np.nan, np.float32)),
    "infinite": changed(BIAS, np.full(32, np.inf, np.float16)),
    "a pickle in disguise": written(pickle.dumps({"a": 1})),
}

# --- an index beside shards --------------------------------------------------------------------


def index(weight_map: Any, *shards: str) -> Case:
    def change(path: Path) -> None:
        good = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").unlink()
        for name in shards:
            (path / name).write_bytes(good)
        content = json.dumps({"weight_map": weight_map})
        (path / "model.safetensors.index.json").write_text(content)

    return change


def to_itself(path: Path) -> None:
    index({"a": "loop.safetensors"})(path)
    (path / "loop.safetensors").symlink_to(path / "loop.safetensors")


def to_a_folder(path: Path) -> None:
    index({"a": "x.safetensors"})(path)
    (path / "x.safetensors").mkdir()


INDEX: dict[str, Case] = {
    "shard lacks": index({"a": "1.safetensors", "b": "2.safetensors"}, "1.safetensors"),
    "upwards": index({"a": "../bert_tiny/1.safetensors"}, "1.safetensors"),
    "absolute": index({"a": "/etc/passwd"}),
    "its own index": index({"a": "model.safetensors.index.json"}),
    "a link to itself": to_itself,
    "a folder": to_a_folder,
    "no names": index({"a": 3}),
    "a list": index(["1.safetensors"], "1.safetensors"),
    "empty": index({}),
    "NUL in a name": index({"a": "a\0.safetensors"}),
    "one tensor in two shards": index(
        {"a": "1.safetensors", "b": "2.safetensors"}, "1.safetensors", "2.safetensors"
    ),
}

# --- torch -------------------------------------------------------------------------------------


class Op:
    """Opcodes of a pickle that torch would write, and of some that it would not."""

    start, stop = b"\x80\x02", b"."

    @staticmethod
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    @staticmethod
    def name(module: str, attribute: str) -> bytes:
        return f"c{module}\n{attribute}\n".encode()

    @staticmethod
    def number(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    @classmethod
    def tuple(cls, *parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"

    @classmethod
    def tensor(cls, shape=(2,), strides=(1,), offset=0, key="0", size=2, kind="Float") -> bytes:
        storage = cls.tuple(
            cls.text("storage"),
            cls.name("torch", f"{kind}Storage"),
            *(cls.text(key), cls.text("cpu"), cls.number(size)),
        )
        sizes = (cls.tuple(*map(cls.number, part)) for part in (shape, strides))
        hooks = cls.name("collections", "OrderedDict") + b")R"
        arguments = cls.tuple(storage + b"Q", cls.number(offset), *sizes, b"\x89", hooks)
        return cls.name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"

    @classmethod
    def state(cls, *values: bytes) -> bytes:
        items = b"".join(cls.text(f"w{i}") + value for i, value in enumerate(values))
        return cls.start + b"}(" + items + b"u" + cls.stop


def torch_zip(
    pickled: bytes,
    storages: dict[str, bytes] | None = None,
    compress: str = "",
    extra: dict[str, bytes] | None = None,
) -> bytes:
    entries = {"a/data.pkl": pickled, **(extra or {})}
    entries |= {f"a/data/{k}": v for k, v in (storages or {"0": bytes(8)}).items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            kind = zipfile.ZIP_DEFLATED if compress and compress in name else zipfile.ZIP_STORED
            archive.writestr(name, content, kind)
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("a/data.pkl", "a/data/0", "a/data/0"):
            archive.writestr(name, Op.state(Op.tensor()) if "pkl" in name else bytes(8))
    return buffer.getvalue()


def two_entries_at_one_place() -> bytes:
    tensors = (Op.tensor(), Op.tensor(key="1"))
    whole = bytearray(torch_zip(Op.state(*tensors), {"0": bytes(8), "1": bytes(8)}))
    first = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 4)
    second = whole.index(b"PK\1\2", first + 4)
    whole[second + 42 : second + 46] = whole[first + 42 : first + 46]
    return bytes(whole)


def moved_header() -> bytes:
    whole = bytearray(torch_zip(Op.state(Op.tensor())))
    at = whole.rindex(b"PK\1\2")
    whole[at + 42 : at + 46] = struct.pack("<I", 7)
    return bytes(whole)


class Bomb:
    """What pickle would run."""

    def __init__(self, target: str) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def code(protocol: int, form: str) -> Callable[[Path], bytes]:
    def make(path: Path) -> bytes:
        pickled = pickle.dumps({"w": Bomb(str(path.parent / "ran"))}, protocol)
        if form == "zip":
            return torch_zip(pickled)
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        return pickled if form == "bare" else magic + pickled

    return make


def shared(depth: int, pair: bytes) -> bytes:
    """A pickle of `depth` levels, each holding the last one twice: 2^depth paths."""
    levels = b"".join(
        b"q" + bytes([i]) + pair.replace(b"?", b"h" + bytes([i])) for i in range(depth)
    )
    return Op.start + b"}" + levels + Op.stop


LEAVES = b"}(" + Op.text("a") + b"?" + Op.text("b") + b"?u"
CYCLE = Op.start + b"}q\x00" + Op.text("a") + b"h\x00s" + Op.stop
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
LEGACY += Op.state(Op.tensor()) + pickle.dumps(["0"], 2)
EVAL = Op.start + Op.text("builtins") + Op.text("eval") + b"\x93" + Op.tuple(Op.text("1")) + b"R."
GOOD = torch_zip(Op.state(Op.tensor()), {"0": np.ones(2, np.float32).tobytes()})

TORCH: dict[str, bytes | Callable[[Path], bytes]] = {
    "empty": b"",
    "text": b"no weights at all",
    "zip cut short": GOOD[:-30],
    "zip without its middle": GOOD[:60] + GOOD[120:],
    "another zip": torch_zip(b"", extra={"b/data.pkl": b""}),
    "bomb as pickle": torch_zip(bytes(300_000_000), compress="pkl"),
    "bomb as storage": torch_zip(
        Op.state(Op.tensor((75_000_000,), size=75_000_000)), {"0": bytes(300_000_000)}, "data/0"
    ),
    "one entry twice": twice(),
    "storages overlap": two_entries_at_one_place(),
    "entry elsewhere": moved_header(),
    "storage lacks": torch_zip(Op.state(Op.tensor(key="7"))),
    "storage named upwards": torch_zip(Op.state(Op.tensor(key="../../etc/passwd"))),
    "big-endian": torch_zip(Op.state(Op.tensor()), extra={"a/byteorder": b"big"}),
    "code, protocol 0": code(0, "zip"),
    "code, protocol 2": code(2, "zip"),
    "code, protocol 5": code(5, "zip"),
    "code in a bare pickle": code(4, "bare"),
    "code in an older file": code(2, "legacy"),
    "eval by name": torch_zip(EVAL),
    "a class of torch": torch_zip(Op.start + Op.name("torch", "load") + Op.tuple() + b"R."),
    "an instance": torch_zip(b"(ios\nsystem\n."),
    "no end": torch_zip(Op.state(Op.tensor())[:-1]),
    "an integer of 2 GB": torch_zip(Op.start + b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "a string of 2^62 bytes": torch_zip(Op.start + b"\x8d" + struct.pack("<Q", 2**62)),
    "memory that lacks": torch_zip(Op.start + b"h\x09."),
    "stack that lacks": torch_zip(Op.start + b"t."),
    "no tensor": torch_zip(Op.state(Op.number(3))),
    "cycle": torch_zip(CYCLE),
    "2^60 paths": torch_zip(shared(60, LEAVES)),
    "2^30 paths": torch_zip(shared(30, LEAVES)),
    "2^60 in a key": torch_zip(
        shared(60, b"(??t").replace(b"}", b")", 1)[:-1] + b"}" + b"h\x3b" + b"Ns."
    ),
    "shape past the storage": torch_zip(Op.state(Op.tensor((3,)))),
    "offset past the storage": torch_zip(Op.state(Op.tensor(offset=1))),
    "negative offset": torch_zip(Op.state(Op.tensor(offset=-1))),
    "negative stride": torch_zip(Op.state(Op.tensor(strides=(-1,), offset=1))),
    "one number 10^12 times": torch_zip(Op.state(Op.tensor((10**12,), (0,)))),
    "rank and strides differ": torch_zip(Op.state(Op.tensor((1, 1), (1,)))),
    "half a number": torch_zip(Op.state(Op.tensor()), {"0": bytes(7)}),
    "older file cut short": LEGACY,
    "older file of 2^63 numbers": LEGACY + struct.pack("<Q", 2**63),
}

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


@pytest.mark.parametrize("case", SAFETENSORS | {f"index: {k}": v for k, v in INDEX.items()})
def test_safetensors(case, warm, tmp_path):
    folder = tmp_path / "bert_tiny"
    shutil.copytree(warm, folder)
    cases = SAFETENSORS | {f"index: {k}": v for k, v in INDEX.items()}
    cases[case](folder)
    refused(lambda: load_encoder(folder), tmp_path)


@pytest.mark.parametrize("case", TORCH)
def test_torch(case, warm, tmp_path):
    folder = tmp_path / "bert_tiny"
    shutil.copytree(warm, folder)
    (folder / "model.safetensors").unlink()
    path, content = folder / "pytorch_model.bin", TORCH[case]
    path.write_bytes(content(path) if callable(content) else content)
    message = refused(lambda: load_encoder(folder), tmp_path)
    assert "do not fit the model" not in message  # refused by the reader, not by its names


def test_the_good_torch_file_is_read_and_numbers_are_checked(tmp_path):
    (tmp_path / "good.bin").write_bytes(GOOD)
    file = TorchFile(tmp_path / "good.bin")
    np.testing.assert_array_equal(file.read("w0"), [1, 1])
    nan = torch_zip(Op.state(Op.tensor()), {"0": np.full(2, np.nan, np.float32).tobytes()})
    (tmp_path / "nan.bin").write_bytes(nan)
    refused(lambda: Checkpoint(tmp_path / "nan.bin").read("w0"), tmp_path)
    (tmp_path / "legacy.bin").write_bytes(LEGACY + struct.pack("<Qff", 2, 3, 4))
    np.testing.assert_array_equal(TorchFile(tmp_path / "legacy.bin").read("w0"), [3, 4])


@pytest.mark.parametrize("case", FILES_GGUF)
def test_gguf(case, warm, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(FILES_GGUF[case])
    refused(lambda: dict(gguf_reader.read(path).weights()), tmp_path)


@pytest.mark.parametrize("case", FILES_ONNX)
def test_onnx(case, warm, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(FILES_ONNX[case])
    refused(lambda: onnx_reader.read(path), tmp_path)
