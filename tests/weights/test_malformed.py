"""Weights that are damaged or hostile: one clear error within a second, and nothing else happens.

Each case makes one file, or a folder of them, out of a good one.
"""

import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.encoders import load_encoder
from mmjax.weights.convert import Checkpoint
from mmjax.weights.torch_file import TorchFile
from tests.weights.refusal import refused

Case = Callable[[Path], None]


@pytest.fixture(scope="module")
def warm(write_folder, tmp_path_factory):
    """Imports and compiles what a first use would; returns a good folder."""
    place = tmp_path_factory.mktemp("good")
    good = write_folder(place / "bert_tiny", "bert_tiny")
    load_encoder(good)
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
