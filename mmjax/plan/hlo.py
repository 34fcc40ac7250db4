"""The accountant: what a compiled program computes, moves and sends, loops times their trips.

XLA's own `cost_analysis` counts a loop's body once. Here every computation is counted as often as
it runs. Counted are matrix products and convolutions (2 FLOPs a multiply-add), bytes to and from
HBM (a slice counts as what is sliced; what lies in a TPU's VMEM costs nothing), collectives, and
copies that only lay data out anew. Bytes are without the padding of tiles. Figures are a device's.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmjax.plan.cost import Collective, Copy, Cost
from mmjax.plan.hlo_text import HBM, Computation, HloModule, Instruction, Shape, read

_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "add-dependency",
        "domain",
        "iota",
    ]
)
_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)
_LAYS_OUT = frozenset(["parameter", "bitcast", "copy", "transpose", "reshape", "convert"])
_SLICES = ("dynamic-slice", "slice", "gather")


def account(program: str | HloModule) -> Cost:
    """Counts a compiled program.

    Args:
      program: what `Compiled.as_text` gave, or the same as it was read.

    Returns:
      Its cost on one device.

    Raises:
      ValueError: the text is no compiled program.
    """
    module = read(program) if isinstance(program, str) else program
    return _Accountant(module).computation(module.entry.name)


class _Accountant:
    """Counts each computation once, however often it is called."""

    def __init__(self, module: HloModule) -> None:
        self._module = module
        self._known: dict[str, Cost] = {}
        self._flops: dict[str, float] = {}

    def computation(self, name: str) -> Cost:
        """Cost of a computation whose instructions run one by one."""
        if name not in self._known:
            at, cost = self._module.computations[name], Cost()
            for instruction in at:
                cost += self._instruction(instruction, at)
            self._known[name] = cost
        return self._known[name]

    def _instruction(self, one: Instruction, at: Computation) -> Cost:
        if one.opcode in _FREE:
            return Cost()
        if one.opcode == "while":
            trips, certain = self._module.trips(one, at)
            costs = self.computation(one.called("body") or "").repeated(trips)
            return costs if certain else costs + Cost(uncertain=(one.op_name or one.name,))
        if one.opcode == "conditional":
            costs = [self.computation(name) for name in one.branches]
            return max(costs, key=lambda cost: (cost.flops, cost.hbm_bytes), default=Cost())
        if one.opcode == "call":
            return self.computation(one.called("to_apply") or "")
        if one.opcode == "async-start":
            inner = one.called("calls") or ""
            costs = self.computation(inner)
            hides = self._is_hidden(one, at)
            sent = tuple(dataclasses.replace(x, overlaps=hides) for x in costs.collectives)
            return dataclasses.replace(costs, collectives=sent)
        if one.opcode.endswith(("-done", "-update")):
            return Cost()
        kind = one.opcode.removesuffix("-start")
        if kind in _KINDS:
            return self._collective(kind, one, at)
        if kind in ("send", "recv"):
            return Cost()
        if one.opcode == "custom-call" and '"AllocateBuffer"' in one.rest:
            return Cost()
        written = self._written(one, at)
        moved = self._read(one, at) + written
        if one.opcode == "fusion":
            inner = one.called("calls") or ""
            return Cost(
                self._fused_flops(inner),
                moved,
                tuple(self._fused_collectives(inner)),
                self._fused_copy(one, at),
            )
        copies = ()
        if kind in ("copy", "transpose"):
            copies = self._copy(one, at, kind)
        return Cost(self._flops_of(one, at), self._told_bytes(one, moved), (), copies)

    # ---- Bytes

    def _read(self, one: Instruction, at: Computation) -> float:
        """Bytes that an instruction reads from HBM."""
        inner = self._module.computations.get(one.called("calls") or "")
        total = 0.0
        for number, operand in enumerate(at.operands(one)):
            whole = sum(shape.bytes for shape in operand.shapes if shape.space == HBM)
            if one.opcode == "fusion" and inner is not None:
                parameter = inner.parameter(number)
                if parameter is not None and whole:
                    whole = min(whole, self._used(inner, parameter.name, whole))
            elif one.opcode in _SLICES or one.opcode == "dynamic-update-slice":
                whole = 0 if number == 0 else whole
            total += whole
        if one.opcode in _SLICES and _in_hbm(at.operands(one)[:1]):
            total += sum(shape.bytes for shape in one.shapes)
        return total

    def _used(self, at: Computation, name: str, whole: float) -> float:
        """Bytes that a fusion reads of a value that is given to it."""
        total = 0.0
        for user in at.users.get(name, ()):
            instruction = at.instructions[user]
            first = instruction.operands[:1] == (name,)
            if instruction.opcode == "bitcast" or "output_to_operand_aliasing" in instruction.rest:
                total += self._used(at, instruction.name, whole)  # the same bytes in other tiles
            elif instruction.opcode in _SLICES and first:
                total += sum(shape.bytes for shape in instruction.shapes)
            elif (
                instruction.opcode == "dynamic-update-slice"
                and first
                and name not in instruction.operands[1:]
            ):
                continue  # in place
            elif instruction.opcode == "fusion":
                inner = self._module.computations[instruction.called("calls") or ""]
                for number, operand in enumerate(instruction.operands):
                    parameter = inner.parameter(number) if operand == name else None
                    if parameter is not None:
                        total += self._used(inner, parameter.name, whole)
            elif instruction.opcode == "tuple" and instruction.name == at.root:
                continue  # handed through
            else:
                return whole
        return min(total, whole)

    def _written(self, one: Instruction, at: Computation) -> float:
        """Bytes that an instruction writes to HBM."""
        if one.opcode == "fusion":
            inner = self._module.computations[one.called("calls") or ""]
            sizes = self._sizes(inner, inner.returned)
            if len(sizes) == len(one.shapes):
                pairs = zip(sizes, one.shapes, strict=True)
                return sum(size for size, shape in pairs if shape.space == HBM)
        if one.opcode == "dynamic-update-slice":
            return float(_bytes(at.operands(one)[1:2])) if _in_hbm([one]) else 0.0
        shapes: Sequence[Shape] = one.shapes
        if one.opcode.endswith("-start"):  # (what is read, what is written, its context)
            shapes = shapes[:1] if one.opcode == "copy-start" else shapes[1:2]
        return sum(shape.bytes for shape in shapes if shape.space == HBM)

    def _sizes(self, at: Computation, one: Instruction) -> list[float]:
        """Bytes of every array that a fusion writes; of an update in place the update's."""
        if one.opcode == "tuple":
            return [size for operand in at.operands(one) for size in self._sizes(at, operand)[:1]]
        if one.opcode == "bitcast":
            return self._sizes(at, at.operands(one)[0])
        if one.opcode == "dynamic-update-slice":
            return [float(_bytes(at.operands(one)[1:2]))]
        if one.opcode == "parameter":
            return [0.0]  # handed through
        if one.opcode == "fusion":
            inner = self._module.computations[one.called("calls") or ""]
            return self._sizes(inner, inner.returned)
        return [float(shape.bytes) for shape in one.shapes]

    @staticmethod
    def _told_bytes(one: Instruction, moved: float) -> float:
        """What a kernel says of itself counts, where it says something."""
        match = re.search(r'"bytes_accessed":\s*"?(\d+)', one.rest)
        return float(match[1]) if one.opcode == "custom-call" and match else moved

    # ---- FLOPs

    def _fused_flops(self, name: str) -> float:
        if name not in self._flops:
            at = self._module.computations[name]
            self._flops[name] = sum(
                self._fused_flops(instruction.called("calls") or "")
                if instruction.opcode == "fusion"
                else self._flops_of(instruction, at)
                for instruction in at
            )
        return self._flops[name]

    def _flops_of(self, one: Instruction, at: Computation) -> float:
        if one.opcode == "dot":
            left = at.operands(one)[0].shapes[0]
            depth = math.prod(left.dims[i] for i in one.listed("lhs_contracting_dims"))
            return 2.0 * one.shapes[0].elements * depth
        if one.opcode == "convolution":
            return _convolution_flops(one, [x.shapes[0] for x in at.operands(one)])
        if one.opcode == "custom-call":
            estimate = re.search(r'"cost_estimate":\s*\{[^}]*"flops":\s*"?(\d+)', one.rest)
            if estimate:
                return float(estimate[1])
            contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
            if contracted:  # a matrix product of cuBLAS
                left = at.operands(one)[0].shapes[0]
                axes = [int(x.strip('" ')) for x in contracted[1].split(",") if x]
                return 2.0 * one.shapes[0].elements * math.prod(left.dims[i] for i in axes)
        return 0.0

    # ---- Collectives

    def _collective(self, kind: str, one: Instruction, at: Computation) -> Cost:
        hidden = one.opcode.endswith("-start") and self._is_hidden(one, at)
        collective = self._sent(kind, one, at, hidden)
        operands = at.operands(one)
        moved = sum(s.bytes for x in operands for s in x.shapes if s.space == HBM)
        moved += sum(s.bytes for s in _received(kind, one, operands) if s.space == HBM)
        return Cost(0.0, float(moved), (collective,))

    def _sent(self, kind: str, one: Instruction, at: Computation, hidden: bool) -> Collective:
        operands = at.operands(one)
        sent = sum(shape.bytes for x in operands for shape in x.shapes)
        got = sum(shape.bytes for shape in _received(kind, one, operands))
        group = _group_size(one.rest, self._module.devices)
        whole = max(sent, got) if kind in ("all-gather", "reduce-scatter") else sent
        return Collective(kind, whole, group, 1, hidden, one.op_name)

    def _fused_collectives(self, name: str) -> Iterator[Collective]:
        """Those that a TPU runs within a fusion, beside what it computes."""
        at = self._module.computations[name]
        for instruction in at:
            kind = instruction.opcode.removesuffix("-start")
            if kind in _KINDS:
                yield self._sent(kind, instruction, at, self._fused_flops(name) > 0)
            elif instruction.opcode == "fusion":
                yield from self._fused_collectives(instruction.called("calls") or "")

    def _is_hidden(self, start: Instruction, at: Computation) -> bool:
        """Whether something is computed between a start and its end."""
        under_way = {start.name}
        for instruction in list(at)[list(at.instructions).index(start.name) + 1 :]:
            if instruction.opcode.endswith("-done") and set(instruction.operands) & under_way:
                return False
            if instruction.opcode.endswith("-update") and set(instruction.operands) & under_way:
                under_way.add(instruction.name)
            if instruction.opcode in ("fusion", "while", "call", "conditional", "custom-call"):
                if self._instruction(instruction, at).flops > 0:
                    return True
            elif self._flops_of(instruction, at) > 0:
                return True
        return False

    # ---- Copies

    def _copy(self, one: Instruction, at: Computation, kind: str) -> tuple[Copy, ...]:
        if not _in_hbm(at.operands(one)) or one.shapes[0].space != HBM:
            return ()
        shape = one.shapes[0]
        return (Copy(kind, str(shape), shape.bytes, 1, one.op_name),)

    def _fused_copy(self, one: Instruction, at: Computation) -> tuple[Copy, ...]:
        """A fusion that only lays out or casts what it is given."""
        inner = self._module.computations[one.called("calls") or ""]
        opcodes = {x.opcode for x in inner}
        if not opcodes <= _LAYS_OUT or not opcodes & {"copy", "transpose", "convert"}:
            return ()
        kind = "convert" if "convert" in opcodes else "transpose"
        return self._copy(one, at, kind)


def _bytes(instructions: Sequence[Instruction]) -> int:
    return sum(shape.bytes for instruction in instructions for shape in instruction.shapes)


def _in_hbm(instructions: Sequence[Instruction]) -> bool:
    return any(shape.space == HBM for instruction in instructions for shape in instruction.shapes)


def _received(kind: str, one: Instruction, operands: Sequence[Instruction]) -> Sequence[Shape]:
    """What a collective writes; a start names what it was given first."""
    if not one.opcode.endswith("-start") or kind == "all-reduce":
        return one.shapes
    count = sum(len(x.shapes) for x in operands)
    return one.shapes[count : 2 * count]


def _group_size(attributes: str, devices: int) -> int:
    """Devices of one group, in any of the forms in which XLA writes groups."""
    by_mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if by_mesh:
        sizes = {k: int(n) for k, n in re.findall(r"'([^']*)'=(\d+)", by_mesh[1])}
        return math.prod(sizes[x] for x in re.findall(r"'([^']*)'", by_mesh[2]) if x in sizes)
    by_iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
    if by_iota:
        return int(by_iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    return len(listed[1].split(",")) if listed else devices


def _convolution_flops(one: Instruction, operands: Sequence[Shape]) -> float:
    """2 FLOPs a multiply-add that touches the input; TPUs write matrix products this way too."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    if labels is None or len(operands) < 2:
        return 0.0
    image, kernel, out = (
        dict(zip(names, s.dims, strict=True))
        for names, s in zip(labels.groups(), (*operands[:2], one.shapes[0]), strict=True)
    )
    groups = re.search(r"batch_group_count=(\d+)", one.rest)
    flops = 2.0 * image["b"] / (int(groups[1]) if groups else 1) * out["f"] * kernel["i"]
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    settings = dict(x.split("=") for x in window[1].split()) if window else {}
    spatial = sorted(name for name in image if name.isdigit())
    # The window's numbers stand in the order of the labels' digits.
    for i, name in enumerate(spatial):
        flops *= _taps(image[name], kernel[name], out[name], _of_axis(settings, i, len(spatial)))
    return flops


def _of_axis(window: dict[str, str], axis: int, count: int) -> Callable[[str, str], str]:
    def value(name: str, default: str) -> str:
        return window.get(name, "x".join([default] * count)).split("x")[axis]

    return value


def _taps(image: int, kernel: int, out: int, of: Callable[[str, str], str]) -> int:
    """Pairs of an output's and a kernel's place that meet a place of the image."""
    low = int(of("pad", "0_0").split("_")[0])
    stride, spread = int(of("stride", "1")), int(of("lhs_dilate", "1"))
    apart = int(of("rhs_dilate", "1"))
    places = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * apart - low
    inside = (places >= 0) & (places <= (image - 1) * spread) & (places % spread == 0)
    return int(inside.sum())
