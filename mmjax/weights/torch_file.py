"""Reads torch's files (.bin, .pt, TorchScript archives): tensors only, and no pickle executed."""

import io
import itertools
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmjax.checks import foreign, foreign_arrays
from mmjax.errors import WeightsError, shown
from mmjax.weights import tensor_pickle
from mmjax.weights.tensor_pickle import Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C  # of files that torch before 1.6 wrote
_DTYPE_NAMES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
_MOST_SHARED = 16  # times that a number may be seen through tensors, on average
_LARGEST_PICKLE = 1 << 25  # bytes; those of published models have less than one million
_LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name


class TorchFile:
    """The tensors of a torch file by name; each is read when it is asked for."""

    def __init__(self, path: Path, others_inert: bool = False) -> None:
        """Reads the names, shapes and places of all tensors.

        Args:
          path: the file.
          others_inert: pass over objects that are no tensors (see `load_tensor_pickle`).

        Raises:
          WeightsError: damaged, compressed, or not tensors alone.
        """
        self._path = path
        with foreign.reading(path, "a torch file"):
            try:
                self._open(path, others_inert)
            except WeightsError as error:
                raise WeightsError(f"{path}: {error}") from error
            except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
                raise WeightsError(
                    f"{path} is damaged or cut short ({foreign.reason(error)})"
                ) from error

    def _open(self, path: Path, others_inert: bool) -> None:
        self._bytes = np.memmap(path, np.uint8, mode="r")
        read = _read_zip if zipfile.is_zipfile(path) else _read_legacy
        places, self._tensors = read(path, others_inert)
        self._numbers = {key: self._storage(*place) for key, place in places.items()}
        for name, tensor in self._tensors.items():
            self._check(name, tensor)
        # Some share a storage, such as a tied head; thousands of views of one are no model.
        seen = sum(math.prod(tensor.shape) for tensor in self._tensors.values())
        if seen > _MOST_SHARED * sum(numbers.size for numbers in self._numbers.values()):
            raise WeightsError("its tensors are views of one storage over and over")

    def keys(self) -> Iterable[str]:
        """All tensor names."""
        return self._tensors.keys()

    def header(self, key: str) -> tuple[str, tuple[int, ...]]:
        """(safetensors' dtype name, shape) of a tensor."""
        tensor = self._tensors[key]
        return _DTYPE_NAMES[tensor.storage.dtype.name], tensor.shape

    def read(self, key: str) -> np.ndarray:
        """The tensor, as a read-only view of the file.

        Raises:
          WeightsError: it holds NaN or infinite numbers.
        """
        tensor = self._tensors[key]
        numbers = self._numbers[tensor.storage.key][tensor.offset :]
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
        return foreign_arrays.finite(f"{self._path}: tensor {key!r}", view)

    def _storage(self, storage: Storage, start: int, nbytes: int) -> np.ndarray:
        """The numbers of a storage, of `nbytes` from `start` on."""
        if start + nbytes > self._bytes.size or nbytes % storage.dtype.itemsize:
            raise WeightsError(f"storage {shown(storage.key)} of {nbytes} bytes is cut short")
        return np.asarray(self._bytes)[start : start + nbytes].view(storage.dtype)

    def _check(self, name: str, tensor: Tensor) -> None:
        """A view outside its storage would read other memory; a repeated one may fill it."""
        numbers = self._numbers[tensor.storage.key]
        shape, strides = tensor.shape, tensor.strides
        wrong = len(shape) != len(strides) or min((tensor.offset, *shape, *strides)) < 0
        if not wrong and 0 not in shape:
            last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            total = 1
            for n in shape:
                total *= n
            wrong = tensor.offset + last >= numbers.size or total > numbers.size
        if wrong:
            raise WeightsError(
                f"tensor {shown(name)} of shape {shown(list(shape))} does not fit into its storage"
            )


_Places = dict[str, tuple[Storage, int, int]]  # key -> what, first byte, number of bytes


def _read_zip(path: Path, others_inert: bool) -> tuple[_Places, dict[str, Tensor]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise WeightsError("two of its entries have the same name")
        roots = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise WeightsError("it is a zip archive without data.pkl: no torch file")
        prefix = roots[0].removesuffix("data.pkl")
        _stored(entries[roots[0]])
        if entries[roots[0]].file_size > _LARGEST_PICKLE:
            raise WeightsError(f"its pickle has {entries[roots[0]].file_size} bytes")
        if (order := entries.get(f"{prefix}byteorder")) is not None:
            _stored(order)
            if order.file_size > 8 or archive.read(order) != b"little":
                raise WeightsError("its byte order is not little-endian")
        # As a whole, since single bytes of a zip entry are slow to read.
        root, _ = tensor_pickle.load_tensor_pickle(io.BytesIO(archive.read(roots[0])), others_inert)
        tensors = tensor_pickle.tensors_of(root)
        places: _Places = {}
        for key, storage in {t.storage.key: t.storage for t in tensors.values()}.items():
            info = entries.get(f"{prefix}data/{key}")
            if info is None:
                raise WeightsError(f"storage {shown(key)} is not in the archive")
            _stored(info)
            places[key] = (storage, _start(path, info), info.file_size)
    ends = sorted((start, start + size) for _, start, size in places.values())
    if any(end > start for (_, end), (start, _) in itertools.pairwise(ends)):
        raise WeightsError("two of its storages overlap")
    return places, tensors


def _stored(info: zipfile.ZipInfo) -> None:
    # torch stores all of this; a compressed entry may be a bomb.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise WeightsError(f"entry {shown(info.filename)} is compressed, which torch never does")


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """First byte of an entry's content: its own header has a length of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\3\4":
        raise WeightsError(f"entry {shown(info.filename)} is not where the archive says")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return info.header_offset + _LOCAL_HEADER + lengths


def _read_legacy(path: Path, others_inert: bool) -> tuple[_Places, dict[str, Tensor]]:
    """Files of torch before 1.6: five pickles, then each storage behind its length."""
    with path.open("rb") as whole:
        if whole.read(1) != b"\x80":
            raise WeightsError("it is neither a zip archive nor an older torch file")
        whole.seek(0)
        # The pickles stand in front of all numbers.
        file = io.BytesIO(whole.read(_LARGEST_PICKLE))
        if tensor_pickle.load_tensor_pickle(file)[0] != _MAGIC:
            raise WeightsError("it is a pickle, but not one that torch wrote")
        tensor_pickle.load_tensor_pickle(file)  # version
        tensor_pickle.load_tensor_pickle(file)  # sizes of the writer's integers
        root, storages = tensor_pickle.load_tensor_pickle(file, others_inert)
        keys, _ = tensor_pickle.load_tensor_pickle(file)
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise WeightsError("its list of storages is damaged")
        places: _Places = {}
        at, end = file.tell(), path.stat().st_size
        for key in keys:
            whole.seek(at)
            size = int.from_bytes(whole.read(8), "little") * storages[key].dtype.itemsize
            places[key] = (storages[key], at + 8, size)
            at += 8 + size
            if at > end:
                raise WeightsError(f"storage {shown(key)} of {size} bytes is cut short")
    return places, tensor_pickle.tensors_of(root)
