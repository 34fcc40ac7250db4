"""Reads the pickle inside a torch file without pickle: a stack machine that can only make tensors.

Nothing is imported and nothing is called. Names of classes are compared with a short list, and any
other one is refused (or, where a caller asks for it, becomes an empty `Inert`), so a file has no
way to run code.
"""

import pickletools
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import IO, Any, cast

import jax.numpy as jnp
import numpy as np

from mmjax.checks.foreign import LONGEST_NAME, reason
from mmjax.errors import WeightsError, shown

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED_DICT = "collections OrderedDict"
_KNOWN = {_TENSOR, _PARAMETER, _ORDERED_DICT, *(f"torch {name}" for name in _STORAGES)}
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_LITERALS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
}
_MOST_NAMES, _DEEPEST = 50_000, 40
_MOST_OPERATIONS = 2_000_000  # a tensor takes about forty


@dataclass(frozen=True)
class Storage:
    """Where a tensor's numbers lie."""

    key: str
    dtype: np.dtype
    size: int  # numbers, as the pickle says


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Module:
    """An object of a TorchScript archive: its attributes, and nothing that could be run."""

    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inert:
    """Stands where the pickle has an object of a class that is not known; all of it is dropped."""


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names."""

    text: str
    known: bool = True


_MARK = object()


def load_tensor_pickle(
    file: BufferedIOBase, others_inert: bool = False
) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle.

    Args:
      file: positioned at its start; afterwards behind its end.
      others_inert: objects of unknown classes become `Inert` instead of an error: training
        checkpoints hold schedulers beside their tensors.

    Returns:
      Its content (dicts, lists, tuples, numbers, strings, `Tensor`s and `Module`s), and by key
      every storage that it mentions.

    Raises:
      WeightsError: damaged, or it holds anything else; names what.
    """
    try:
        machine = _Machine(others_inert)
        return machine.run(file), machine.storages
    except WeightsError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise WeightsError(f"its pickle is cut short or damaged ({reason(error)})") from error


class _Machine:
    """The opcodes that torch's own writers use."""

    def __init__(self, others_inert: bool) -> None:
        self.others_inert = others_inert
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, file: BufferedIOBase) -> Any:
        operations = pickletools.genops(cast(IO[bytes], file))
        for count, (opcode, argument, _) in enumerate(operations):
            if count > _MOST_OPERATIONS:
                raise WeightsError(f"its pickle has more than {_MOST_OPERATIONS} operations")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise WeightsError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            if not isinstance(stack[-1], Inert):
                _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            flat = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked()
            for key, value in zip(flat[::2], flat[1::2], strict=True):
                if isinstance(stack[-1], Inert):
                    break
                # The hash of nested tuples can take for ever.
                _expect(stack[-1], dict)[_expect(key, (str, int))] = value
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = " ".join(_expect(part, str) for part in (stack.pop(-2), stack.pop()))
            stack.append(_named(argument, self.others_inert))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            if self.storages.setdefault(storage.key, storage) != storage:
                raise WeightsError(f"its pickle gives storage {shown(storage.key)} two types")
            stack.append(storage)
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            _expect(arguments, tuple)
            known = _expect(function, _Name).known
            stack.append(_made(function.text, arguments) if known else Inert())
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Module):
                stack[-1].attributes.update(_expect(state, dict))
            elif not isinstance(
                stack[-1], Inert
            ):  # the version numbers that torch hangs on to an OrderedDict
                _expect(stack[-1], dict)
        else:
            raise WeightsError(f"its pickle has the opcode {name}, which no file of tensors needs")

    def _marked(self) -> list[Any]:
        """What lies above the last mark."""
        if _MARK not in self.stack:
            raise WeightsError("its pickle is damaged: a mark is missing")
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise WeightsError(f"its pickle is damaged: an unexpected {type(value).__name__}")
    return value


def _named(text: str, others_inert: bool) -> _Name:
    if others_inert and text not in _KNOWN:
        return _Name(text, known=False)
    if text not in _KNOWN and not text.startswith("__torch__"):
        raise WeightsError(
            f"its pickle names {shown(text.replace(' ', '.'))}, and only tensors are read; where "
            "you trust the file, open it with torch and save its state_dict as safetensors"
        )
    return _Name(text)


def _storage(identity: Any) -> Storage:
    _expect(identity, tuple)
    kind, name, key, _, size = identity[:5]
    dtype = _STORAGES.get(_expect(name, _Name).text.removeprefix("torch "))
    if kind != "storage" or dtype is None:
        raise WeightsError("its pickle refers to something that is no storage of tensors")
    return Storage(_expect(key, str), np.dtype(dtype), _expect(size, int))


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _TENSOR:
        storage, offset, shape, strides = arguments[:4]
        return Tensor(
            _expect(storage, Storage),
            _expect(offset, int),
            tuple(_expect(n, int) for n in shape),
            tuple(_expect(n, int) for n in strides),
        )
    if name == _PARAMETER:
        return _expect(arguments[0], Tensor)
    if name == _ORDERED_DICT and not arguments:
        return {}
    if name.startswith("__torch__") and not arguments:
        return Module()
    raise WeightsError(
        f"its pickle calls {shown(name.replace(' ', '.'))} in a way that is not known"
    )


def tensors_of(root: Any) -> dict[str, Tensor]:
    """Finds the tensors of a state dict, of a training checkpoint around one, or of a module.

    Args:
      root: what `load_tensor_pickle` returned.

    Returns:
      name -> tensor; names of nested parts are joined by dots, DDP's "module." is taken off.

    Raises:
      WeightsError: no tensor at all, or too many or too deeply nested parts.
    """
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(root, dict) and isinstance(root.get(wrapper), dict):
            root = root[wrapper]
            break
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", root, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        parts = value.attributes if isinstance(value, Module) else value
        if isinstance(parts, dict):
            # Parts may be shared or hold themselves: a small pickle can have endless paths.
            seen += len(parts)
            if seen > _MOST_NAMES or depth > _DEEPEST:
                raise WeightsError("its pickle has too many or too deeply nested entries")
            if len(name) > LONGEST_NAME:
                raise WeightsError(f"a part of its pickle has a name of {len(name)} letters")
            prefix = f"{name}." if name else ""
            waiting += [(f"{prefix}{key}", part, depth + 1) for key, part in parts.items()]
    if not tensors:
        raise WeightsError("its pickle holds no tensor")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors
