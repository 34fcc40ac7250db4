"""Reads weights into a tree of parameters, one tensor at a time, straight into its sharding."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mmjax import sharding as shardings_lib
from mmjax import trees
from mmjax.checks import foreign
from mmjax.errors import MmjaxError, WeightsError
from mmjax.files import combined
from mmjax.weights import quantize as quantize_lib
from mmjax.weights.key_rules import KeyRule, Shape, Transform
from mmjax.weights.placing import Leaf
from mmjax.weights.safetensors import SafetensorsFile
from mmjax.weights.torch_file import TorchFile

PyTree = Any
_DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclasses.dataclass(frozen=True)
class _Piece:
    key: str
    layer: int | None
    transform: Transform


@runtime_checkable
class WeightsFile(Protocol):
    """What every reader of a file of weights offers."""

    def keys(self) -> Iterable[str]:
        """All tensor names."""
        ...

    def header(self, key: str) -> tuple[str, Shape]:
        """(safetensors' dtype name, shape) of a tensor, without reading it."""
        ...

    def read(self, key: str) -> np.ndarray:
        """The tensor, as it is in the file."""
        ...


class Checkpoint:
    """Tensors by name, over one file of weights or the shards of an index."""

    def __init__(
        self,
        source: Path,
        extra: Mapping[str, Path] | None = None,
        opened: WeightsFile | None = None,
    ) -> None:
        """Opens every file and reads its header; no tensor is read yet.

        Args:
          source: a file of weights, or a folder that holds one or an index with its shards.
          extra: further such folders; prefix of their tensors' names -> folder.
          opened: the source's weights where something has opened them before.

        Raises:
          MmjaxError: nothing to open, a shard that lacks, a damaged file, or a tensor twice.
        """
        self.source = source
        self._file_of: dict[str, tuple[WeightsFile, str]] = {}
        for prefix, place in {"": source, **(extra or {})}.items():
            weights = opened if place == source else None
            files = [_open(path) for path in _weight_files(place)] if weights is None else [weights]
            for file in files:
                for key in file.keys():  # noqa: SIM118  (a file is not a mapping)
                    if len(key) > foreign.LONGEST_NAME:
                        raise WeightsError(f"{place}: a tensor has a name of {len(key)} letters")
                    if prefix + key in self._file_of:
                        raise WeightsError(f"{place}: two files have the tensor {key}")
                    self._file_of[prefix + key] = file, key

    def keys(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._file_of)

    def header(self, key: str) -> tuple[str, Shape]:
        """(safetensors' dtype name, shape) of a tensor, without reading it."""
        file, name = self._file_of[key]
        return file.header(name)

    def read(self, key: str) -> np.ndarray:
        """The tensor, as it is in the file.

        Raises:
          WeightsError: it cannot be read, or has numbers that are not finite.
        """
        file, name = self._file_of[key]
        with foreign.reading(self.source, f"weights: tensor {key!r}"):
            return file.read(name)


# What a folder may hold, the best first: a name alone, or an index beside its shards.
_NAMES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_NAMES = (*_NAMES, "open_clip_pytorch_model.bin")
_MOST_SHARDS = 5_000  # those of the largest published models have some hundreds
_LONGEST_FILE_NAME = 255  # of the usual file systems
_LONGEST_TOLD, _MOST_LAYERS_TOLD = 320, 8  # letters of problems, and layers, in one message


def _open(path: Path) -> WeightsFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    return TorchFile(path)


def _weight_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    for name in _NAMES:
        if (index := source / f"{name}.index.json").exists():
            return _shards(index)
        if (single := source / name).is_file():
            return [single]
    raise MmjaxError(f"{source} has neither {' nor '.join(_NAMES)}, nor an index of shards")


def _shards(index: Path) -> list[Path]:
    folder, (suffix, _, _) = index.parent, index.suffixes[-3:]
    with foreign.reading(index, "an index of files of weights"):
        content = foreign.read_bounded_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightsError(f"{index} is not an index of files of weights: it maps no tensor")
        names = sorted({foreign.text(f"{index}: a file's name", n) for n in weight_map.values()})
        if len(names) > _MOST_SHARDS:
            raise WeightsError(f"{index} names {len(names)} files; at most {_MOST_SHARDS} are read")
        # Plain names of the same kind: an index must not lead out of its folder, or to itself.
        lacking = [
            name
            for name in names
            if Path(name).name != name
            or not name.endswith(suffix)
            or len(name) > _LONGEST_FILE_NAME
            or not (folder / name).is_file()
        ]
    if lacking:
        some = ", ".join(name[:80] for name in lacking[:4])
        more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
        raise WeightsError(f"{index} names files that are not in the folder: {some}{more}")
    return [folder / name for name in names]


def _plan(
    keys: Sequence[str], rules: Sequence[KeyRule], ignored: re.Pattern[str]
) -> tuple[dict[str, list[_Piece]], list[str]]:
    """Groups the checkpoint's tensors by the parameter they feed; also the unknown names."""
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    pieces: dict[str, list[_Piece]] = {}
    unexpected = []
    for key in keys:
        matches = [(m, rule) for pattern, rule in compiled if (m := pattern.fullmatch(key))]
        found = False
        for match, rule in matches:  # several where a tensor is a fused one
            groups = match.groupdict()
            layer = groups.pop("layer", None)
            index = None if layer is None else rule.index(int(layer))
            if index is None and layer is not None:
                continue
            found = True
            piece = _Piece(key, index, rule.transform)
            pieces.setdefault(rule.target.format(**groups), []).append(piece)
        if not found and not ignored.fullmatch(key):
            unexpected.append(key)
    return pieces, unexpected


def _problems(
    checkpoint: Checkpoint, pieces: Mapping[str, list[_Piece]], targets: Mapping[str, Shape]
) -> list[str]:
    """Everything that stops the pieces from filling the targets exactly once."""
    problems = []
    for path, shape in targets.items():
        stacked = any(piece.layer is not None for piece in pieces.get(path, ()))
        slots: dict[int | None, str] = {}
        for piece in pieces.get(path, ()):
            if piece.layer is not None and piece.layer >= shape[0]:
                problems.append(f"unexpected {piece.key}: the config has {shape[0]} layers")
                continue
            if piece.layer in slots:
                problems.append(f"twice: {slots[piece.layer]} and {piece.key} both feed {path}")
            slots[piece.layer] = piece.key
            dtype, actual = checkpoint.header(piece.key)
            expected = piece.transform.source_shape(shape[1:] if stacked else shape)
            if actual != expected:
                problems.append(f"misshapen {piece.key}: {list(actual)}, expected {list(expected)}")
            if dtype not in _DTYPES:
                problems.append(f"{piece.key} has dtype {dtype}; only {', '.join(sorted(_DTYPES))}")
        all_slots = range(shape[0]) if stacked else [None]
        lacking = [slot for slot in all_slots if slot not in slots]
        if lacking:
            more = ", ..." if len(lacking) > _MOST_LAYERS_TOLD else ""
            some = f"[{', '.join(map(str, lacking[:_MOST_LAYERS_TOLD]))}{more}]"
            where = "" if lacking == [None] else f" for layers {some}"
            problems.append(f"missing: nothing feeds {path}{where}")
    problems += [f"unexpected {p.key}" for path in set(pieces) - set(targets) for p in pieces[path]]
    return problems


def load_params(
    checkpoint: Checkpoint,
    target: PyTree,
    rules: Sequence[KeyRule],
    ignored: re.Pattern[str],
    dtype: Any,
    mesh: Mesh | None = None,
    sharding_rules: shardings_lib.Rules | None = None,
    quantize: str | None = None,
) -> tuple[PyTree, str]:
    """Loads a checkpoint into a tree of parameters.

    At most one of the checkpoint's tensors is held on the host at a time, and beside it one
    parameter of less than `placing.STREAMED` bytes: larger stacks are filled on their devices.

    Args:
      checkpoint: the opened files.
      target: nested dict of ShapeDtypeStruct, as `jax.eval_shape` gives it.
      rules: which tensor feeds which parameter.
      ignored: names that are passed over.
      dtype: float dtype of the parameters.
      mesh: None puts them on the default device.
      sharding_rules: (pattern, PartitionSpec) pairs over parameter paths; None replicates.
      quantize: "int8" or "nf4" keeps the kernels of dense layers as `quantize.py` says.

    Returns:
      (params, fingerprint): the tree, and sha256 over the checkpoint's tensors in the parameters'
      naming. It depends on the weights alone, not on `dtype`, mesh, file layout or image size.

    Raises:
      MmjaxError: a damaged file; or missing, unexpected and misshapen tensors, all at once.
    """
    if mesh is None and sharding_rules is not None:
        raise MmjaxError("load_encoder got sharding rules but no mesh; pass mesh= too")
    kind = quantize_lib.kind_for(quantize, mesh)
    placements: Mapping[str, NamedSharding | None] = {
        p: None for p, _ in trees.named_leaves(target)
    }
    if mesh is not None:
        sharding_rules = sharding_rules or shardings_lib.REPLICATED
        shardings_lib.shard_shapes(target, mesh, sharding_rules)  # says what does not divide
        tree = shardings_lib.shardings(target, mesh, sharding_rules)
        placements = dict(trees.named_leaves(tree))
    targets = {path: tuple(leaf.shape) for path, leaf in trees.named_leaves(target)}

    pieces, unexpected = _plan(checkpoint.keys(), rules, ignored)
    problems = [f"unexpected {key}" for key in unexpected]
    problems += _problems(checkpoint, pieces, targets)
    if problems:
        raise MmjaxError(
            f"the weights in {checkpoint.source} do not fit the model that config.json describes "
            f"({len(problems)} problems): {_told(problems)}"
        )
    digests: dict[str, str] = {}
    leaves: dict[str, jax.Array] = {}
    for path, shape in targets.items():
        small = kind is not None and quantize_lib.is_kernel(path)
        stacked = pieces[path][0].layer is not None
        parts = quantize_lib.parts(kind, shape) if small and kind else None
        if parts is None:
            filled = {"": Leaf(shape, dtype, placements[path], stacked)}
        else:
            filled = {
                name: Leaf(
                    part.shape,
                    part.dtype,
                    quantize_lib.placement(name, part, placements[path], len(shape), kind or ""),
                    stacked,
                )
                for name, part in parts.items()
            }
        _fill(filled, kind, checkpoint, path, pieces[path], digests)
        for name, leaf in filled.items():
            before = path.removesuffix(quantize_lib.KERNEL) if name else path
            leaves[before + name] = leaf.finish()
    if kind:
        target = quantize_lib.abstract(target, kind)
    params = jax.tree_util.tree_map_with_path(lambda p, _: leaves[trees.path_of(p)], target)
    return params, combined(digests)


def _told(problems: Sequence[str]) -> str:
    """As many of the problems as one message holds: a whole model may be of another kind."""
    texts, room = [], _LONGEST_TOLD
    for problem in problems:
        texts.append(problem if len(problem) <= 120 else f"{problem[:120]}...")
        room -= len(texts[-1])
        if room < 0:
            break
    more = len(problems) - len(texts)
    return "; ".join([*texts, *([f"and {more} more"] if more else [])])


def read_scalar(checkpoint: Checkpoint, name: str) -> float | None:
    """One number of a checkpoint, in full precision; None where it has none of that name."""
    if name not in checkpoint.keys():  # noqa: SIM118  (a checkpoint is not a mapping)
        return None
    value = checkpoint.read(name)
    if value.size != 1:
        raise MmjaxError(f"misshapen {name}: {list(value.shape)}, expected one number")
    return float(value.reshape(()))


def _fill(
    filled: Mapping[str, Leaf],
    quantize: str | None,
    checkpoint: Checkpoint,
    path: str,
    pieces: Sequence[_Piece],
    digests: dict[str, str],
) -> None:
    """Reads, hashes, transforms and, where it has several parts, quantises one parameter."""
    for piece in pieces:
        tensor = checkpoint.read(piece.key)
        digests[path if piece.layer is None else f"{path}[{piece.layer}]"] = _digest(tensor)
        value = piece.transform.apply(tensor)
        values = {"": value}
        if "" not in filled:
            assert quantize is not None
            values = quantize_lib.quantized(quantize, value)
        for name, leaf in filled.items():
            leaf.put(piece.layer, values[name])


def _digest(tensor: np.ndarray) -> str:
    digest = hashlib.sha256(f"{tensor.dtype}:{tensor.shape}:".encode())
    digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
