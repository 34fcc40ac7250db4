"""A compiled program as text, read into instructions: what the accountant counts.

XLA prints a scheduled module one computation after the other, one instruction a line. JAX gives the
text of any backend (`Compiled.as_text`), but no tree of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

HBM = 0  # the memory space of a layout that names none; 1 is a TPU's VMEM, 5 the host's memory
_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_BEGIN = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SAME = ("copy", "bitcast", "convert", "copy-start", "copy-done")  # of a scalar


@dataclass(frozen=True)
class Shape:
    """An array in a memory space.

    Attributes:
      dtype: XLA's name of it, `bf16`.
      dims: sizes.
      space: 0 is HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def elements(self) -> int:
        """How many numbers."""
        count = 1
        for size in self.dims:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """What they take, without the padding of tiles."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits[0]) if digits else 8
        return (self.elements * bits + 7) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: unique in its computation.
      opcode: what it does.
      shapes: what it returns; several of a tuple, flat.
      operands: names in the same computation.
      inside: what stands between its parentheses: a constant's value, a parameter's number.
      rest: the attributes behind.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str
    rest: str

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from."""
        match = _OP_NAME.search(self.rest)
        return match[1] if match else ""

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return match[1] if match else None

    def listed(self, attribute: str) -> tuple[int, ...]:
        """Numbers that an attribute lists in braces."""
        match = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.rest)
        return tuple(int(x) for x in match[1].split(",") if x) if match else ()

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations of a conditional."""
        match = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        if match:
            return tuple(x.strip().lstrip("%") for x in match[1].split(","))
        pair = (self.called("true_computation"), self.called("false_computation"))
        return tuple(x for x in pair if x)


@dataclass
class Computation:
    """Instructions in the order in which they run.

    Attributes:
      name: unique in the module.
      instructions: name -> instruction, in order.
      root: name of the one that is returned.
      users: name -> names of those that read it.
    """

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""
    users: dict[str, list[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @property
    def returned(self) -> Instruction:
        """The root."""
        return self.instructions[self.root]

    def parameter(self, number: int) -> Instruction | None:
        """A parameter by its number."""
        for instruction in self:
            if instruction.opcode == "parameter" and instruction.inside.strip() == str(number):
                return instruction
        return None

    def operands(self, of: Instruction) -> list[Instruction]:
        """What an instruction reads."""
        return [self.instructions[x] for x in of.operands if x in self.instructions]


@dataclass(frozen=True)
class HloModule:
    """A program.

    Attributes:
      computations: by name.
      entry: where it begins.
      devices: how many run it together.
    """

    computations: Mapping[str, Computation]
    entry: Computation
    devices: int

    def trips(self, loop: Instruction, within: Computation) -> tuple[int, bool]:
        """How often a loop's body runs.

        Args:
          loop: a `while`.
          within: the computation it stands in.

        Returns:
          (times, whether that is certain). A loop that may end early counts to its bound; one of
          which nothing is known counts once, and is not certain.
        """
        match = _TRIPS.search(loop.rest)
        if match:
            return int(match[1]), True
        condition, body = loop.called("condition"), loop.called("body")
        start = within.operands(loop)
        if condition is None or body is None or not start:
            return 1, False
        test, turn = self.computations[condition], self.computations[body]
        counts = [
            self._counted(way, left, right, turn, start[0], within)
            for way, left, right in self._compares(test, test.returned, None)
        ]
        bounds = [trips for trips in counts if trips is not None]
        return (min(bounds), len(bounds) == len(counts)) if bounds else (1, False)

    def _compares(
        self, at: Computation, one: Instruction, given: "_Given"
    ) -> Iterator[tuple[str, "_Value | None", "_Value | None"]]:
        """The comparisons that must all hold, looking through fusions; "" of any other test."""
        if one.opcode == "compare":
            direction = re.search(r"direction=(\w+)", one.rest)
            left, right = (self._value(at, name, given) for name in one.operands)
            yield direction[1] if direction else "", left, right
        elif one.opcode in ("and", *_SAME):
            for part in at.operands(one):
                yield from self._compares(at, part, given)
        elif one.opcode == "fusion":
            inner = self.computations[one.called("calls") or ""]
            values = tuple(self._value(at, name, given) for name in one.operands)
            yield from self._compares(inner, inner.returned, values)
        else:
            yield "", None, None

    def _counted(
        self,
        way: str,
        left: "_Value | None",
        right: "_Value | None",
        turn: Computation,
        start: Instruction,
        within: Computation,
    ) -> int | None:
        """Trips until a comparison fails, where one side counts and the other one stays."""
        if left is None or right is None:
            return None
        pace = [self._pace(side, turn) for side in (left, right)]
        if pace[1]:  # the limit stands on the left
            left, right, pace = right, left, pace[::-1]
            way = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(way, way)
        by, limit_pace = pace
        first = self._at_first(left, start, within)
        limit = self._at_first(right, start, within)
        if not by or limit_pace != 0 or first is None or limit is None:
            return None
        span = limit - first + {"LE": 1, "GE": -1}.get(way, 0)
        if way == "NE" or way in (("LT", "LE") if by > 0 else ("GT", "GE")):
            return max(-(-span // by), 0)
        return None

    def _pace(self, value: "_Value", turn: Computation) -> int | None:
        """What a turn of the loop adds to a value."""
        if value.slot is None:
            return 0
        name = _element(turn, turn.returned, value.slot)
        after = self._value(turn, name, None) if name else None
        return after.plus if after is not None and after.slot == value.slot else None

    def _at_first(self, value: "_Value", start: Instruction, within: Computation) -> int | None:
        """A value before the first turn."""
        if value.slot is None:
            return value.plus
        name = _element(within, start, value.slot)
        begins = self._value(within, name, None) if name else None
        return None if begins is None or begins.slot is not None else begins.plus + value.plus

    def _value(self, at: Computation, name: str, given: "_Given") -> "_Value | None":
        """A scalar as an element of the loop's state plus a constant.

        Args:
          at: the computation that it stands in.
          name: of the scalar.
          given: values of a fusion's parameters; None where the parameter is the loop's state.
        """
        instruction = at.instructions[name]
        if instruction.opcode == "parameter":
            return given[int(instruction.inside)] if given is not None else None
        if instruction.opcode == "constant":
            text = instruction.inside.strip()
            return _Value(None, int(text)) if re.fullmatch(r"-?\d+", text) else None
        if instruction.opcode in _SAME:
            return self._value(at, instruction.operands[0], given)
        if instruction.opcode == "get-tuple-element":
            index = re.search(r"index=(\d+)", instruction.rest)
            source = at.instructions[instruction.operands[0]]
            if index and source.opcode == "parameter" and given is None:
                return _Value(int(index[1]), 0)
            name = (_element(at, source, int(index[1])) if index else None) or ""
            return self._value(at, name, given) if name else None
        if instruction.opcode in ("add", "subtract"):
            left, right = (self._value(at, x, given) for x in instruction.operands)
            return left.with_(right, instruction.opcode == "subtract") if left and right else None
        if instruction.opcode == "fusion":
            inner = self.computations[instruction.called("calls") or ""]
            values = tuple(self._value(at, x, given) for x in instruction.operands)
            return self._value(inner, inner.root, values)
        return None


@dataclass(frozen=True)
class _Value:
    """An element of a loop's state plus a constant; the constant alone where `slot` is None."""

    slot: int | None
    plus: int

    def with_(self, other: "_Value", minus: bool) -> "_Value | None":
        """Their sum, or difference."""
        if other.slot is not None and (self.slot is not None or minus):
            return None
        plus = self.plus + (-other.plus if minus else other.plus)
        return _Value(self.slot if self.slot is not None else other.slot, plus)


_Given = tuple["_Value | None", ...] | None


def _element(at: Computation, of: Instruction, index: int) -> str | None:
    """The name of a tuple's element."""
    while of.opcode in ("copy", "opt-barrier") and of.operands:
        of = at.instructions[of.operands[0]]
    return of.operands[index] if of.opcode == "tuple" else None


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """All arrays that a shape's text names, flat."""
    shapes = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(x.lstrip("<=")) for x in dims.split(",") if x)
        shapes.append(Shape(dtype, sizes, int(space[1]) if space else HBM))
    return tuple(shapes)


def _instruction(name: str, text: str) -> Instruction | None:
    text = _COMMENT.sub("", text)
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        return None
    close = _closing(text, opcode.end() - 1)
    inside = text[opcode.end() : close]
    operands = () if opcode[1] in ("constant", "parameter") else tuple(_NAME.findall(inside))
    return Instruction(name, opcode[1], shapes_of(text[:end]), operands, inside, text[close + 1 :])


def read(text: str) -> HloModule:
    """Reads a module.

    Args:
      text: what `Compiled.as_text` gave.

    Returns:
      The program.

    Raises:
      ValueError: no entry computation in it.
    """
    computations: dict[str, Computation] = {}
    entry: Computation | None = None
    at: Computation | None = None
    for line in text.splitlines():
        if at is None:
            begin = _BEGIN.match(line)
            if begin:
                at = computations[begin[2]] = Computation(begin[2])
                entry = at if begin[1] else entry
            continue
        if line.rstrip() == "}":  # a kernel's settings may begin lines with braces too
            at = None
            continue
        match = _LINE.match(line)
        instruction = _instruction(match[2], match[3]) if match else None
        if match is None or instruction is None:
            continue
        at.instructions[instruction.name] = instruction
        if match[1]:
            at.root = instruction.name
        for operand in instruction.operands:
            at.users.setdefault(operand, []).append(instruction.name)
    if entry is None:
        raise ValueError("the text holds no ENTRY computation, so it is no compiled program")
    parts = re.search(r"num_partitions=(\d+)", text[:5000])
    return HloModule(computations, entry, int(parts[1]) if parts else 1)
