"""Reads weights out of an ONNX graph, with the names that the exporter dropped given back."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmjax.checks import foreign, foreign_arrays
from mmjax.checks.foreign import reason
from mmjax.errors import WeightsError, shown

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


@dataclass(frozen=True)
class OnnxFile:
    """The weights of a graph.

    Attributes:
      weights: name -> array; linear weights are [out, in], as torch has them.
      by_operation: (operation, input slot) -> names of its nameless initializers, e.g.
        ("Reshape", 0): position tables that are reshaped before use.
    """

    weights: dict[str, np.ndarray]
    by_operation: Mapping[tuple[str, int], list[str]]


def read_onnx(path: Path) -> OnnxFile:
    """Reads every initializer of an ONNX file.

    torch's exporter folds the transposition of a linear layer's weight into a nameless initializer.
    Its name comes back from the graph: the MatMul's output feeds one Add, whose other operand is
    the layer's named bias.

    Args:
      path: the file.

    Returns:
      The weights.

    Raises:
      WeightsError: another format, or a truncated or damaged file.
    """
    with foreign.reading(path, "an ONNX file"):
        return _read(path, _load(path))


def _read(path: Path, graph: "GraphProto") -> OnnxFile:
    weights = {tensor.name: _array(path, tensor) for tensor in graph.initializer}
    if len(weights) != len(graph.initializer):
        raise WeightsError(f"{path} is damaged: two initializers have the same name")
    consumers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    by_operation: dict[tuple[str, int], list[str]] = defaultdict(list)
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name in weights and "::" in name:
                by_operation[node.op_type, slot].append(name)
    for node in graph.node:
        owned = [name for name in node.input if name in weights]
        named = len(owned) == 1 and "::" not in owned[0]
        if node.op_type != "MatMul" or len(owned) != 1 or named or not node.output:
            continue
        bias = _bias(consumers[node.output[0]], node.output[0], weights)
        if bias is not None:
            weights[bias.removesuffix(".bias") + ".weight"] = weights.pop(owned[0]).T
    return OnnxFile(weights, dict(by_operation))


def _load(path: Path) -> "GraphProto":
    import onnx  # slow to import, seldom needed
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise WeightsError(
            f"{path} is no ONNX file, or a truncated one ({error}); fetch it again"
        ) from error
    if model.ir_version < 1 or not model.graph.node:
        raise WeightsError(f"{path} is no ONNX file: it has no graph")
    return model.graph


def _array(path: Path, tensor) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    # Data in other files is never followed: a graph could name any file of this machine.
    if tensor.data_location == TensorProto.EXTERNAL:
        raise WeightsError(
            f"{path} keeps {shown(tensor.name)} in another file; give one whole file"
        )
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged: {tensor.name[:80]} is not what its shape says ({reason(error)})"
        ) from error
    if array.dtype.kind == "f":
        foreign_arrays.finite(f"{path}: {shown(tensor.name)}", array)
    return array


def _bias(users: "list[NodeProto]", output: str, weights: Mapping[str, np.ndarray]) -> str | None:
    """The named bias that is added to a MatMul's output, if exactly one is."""
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    addends = [name for name in users[0].input if name != output]
    named = len(addends) == 1 and addends[0] in weights and addends[0].endswith(".bias")
    return addends[0] if named else None
