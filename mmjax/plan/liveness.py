"""About what intermediate values take on a device, where no compiler says it.

Shardings of the arguments are followed through the jaxpr, much as XLA's partitioner follows them: a
dimension stays split where an operation keeps it, a contracted one is summed over devices. What is
elementwise takes nothing, as compilers compute it where it is read, and so are random bits, each of
which follows from its number; what a loop carries lies where it lay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal
from jax.sharding import NamedSharding

Spec = tuple[tuple[str, ...], ...]  # of each dimension the mesh axes that split it
_ELEMENTWISE = frozenset(
    (
        *("convert_element_type", "mul", "add", "sub", "div", "neg", "exp", "log", "tanh", "max"),
        *("logistic", "rsqrt", "select_n", "lt", "gt", "ge", "le", "eq", "ne", "and", "or", "not"),
        *("integer_pow", "erf", "pow", "sqrt", "sign", "stop_gradient", "copy", "min", "square"),
        *("abs", "log1p", "expm1", "add_any", "clamp", "is_finite", "exp2", "name", "erfc", "rem"),
        *("sin", "cos", "floor", "ceil", "round", "erf_inv", "xor", "bitcast_convert_type"),
        *("shift_left", "shift_right_logical", "shift_right_arithmetic", "random_bits"),
    )
)
_FREE = _ELEMENTWISE | {
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "iota",
    "transpose",
    "expand_dims",
}
_LED_BACK = _ELEMENTWISE | {"pad"}
_IN_PLACE = frozenset(("while", "scan", "dynamic_update_slice", "scatter", "scatter-add"))


def peak(closed: Any, arguments: Sequence[Any], sizes: Mapping[str, int]) -> int:
    """The most bytes that intermediate values take on a device at any time.

    Args:
      closed: a closed jaxpr.
      arguments: shapes in their shardings, of its first inputs in order; others lie whole.
      sizes: of the mesh's axes.
    """
    specs = [_spec_of(x) for x in arguments]
    specs += [((),) * len(v.aval.shape) for v in closed.jaxpr.invars[len(specs) :]]
    return int(_Walk(sizes).jaxpr(closed.jaxpr, specs)[0])


def _spec_of(leaf: Any) -> Spec:
    where = getattr(leaf, "sharding", None)
    return _as_spec(where.spec if isinstance(where, NamedSharding) else (), len(leaf.shape))


def unread(closed: Any, arguments: Sequence[Any]) -> list[bool]:
    """Which of the arguments, the first inputs in order, lead to nothing that the program gives."""
    needed = _needed(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return [v not in needed for v in closed.jaxpr.invars[: len(arguments)]]


class _Walk:
    """Follows shardings and counts what is alive."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    def jaxpr(self, jaxpr: Any, given: Sequence[Spec]) -> tuple[float, list[Spec]]:
        """(most bytes alive beside the inputs, specs of the outputs)."""
        return self._walk(jaxpr, given, False, [True] * len(jaxpr.outvars), {})[:2]

    def _walk(
        self,
        jaxpr: Any,
        given: Sequence[Spec],
        inlined: bool,
        wanted: Sequence[bool],
        outer: Mapping[Any, Spec],
    ) -> tuple[float, list[Spec], list[bool]]:
        """As `jaxpr`, and which outputs take nothing, which those of an inlined function may.

        What leads to no output that is wanted is not computed.
        """
        specs: dict[Any, Spec] = dict(zip(jaxpr.invars, given, strict=True))
        last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if _is_var(v)}
        kept = {v for v in jaxpr.outvars if _is_var(v)}
        needed, hints = _needed(jaxpr, wanted), _hints(jaxpr, outer)
        alive = most = 0.0
        born: dict[Any, float] = {}
        unborn: set[Any] = set()

        def spec(v: Any) -> Spec:
            return specs.get(v, ((),) * len(v.aval.shape)) if _is_var(v) else (
                ((),) * len(getattr(v.aval, "shape", ()))
            )  # fmt: skip

        for i, eqn in enumerate(jaxpr.eqns):
            if not _is_needed(eqn, needed):
                continue
            function = _inlined(eqn)
            if function is None:
                within, out_specs = self._equation(eqn, [spec(v) for v in eqn.invars])
                frees = [eqn.primitive.name in _FREE] * len(eqn.outvars)
            else:
                wants = [v in needed for v in eqn.outvars]
                own = _led_in(eqn, function, hints)
                specs_in = [spec(v) for v in eqn.invars]
                within, out_specs, frees = self._walk(function, specs_in, True, wants, own)
            reused = [v.aval.shape for v in eqn.invars] if eqn.primitive.name in _IN_PLACE else []
            for v, its, free in zip(eqn.outvars, out_specs, frees, strict=True):
                specs[v] = its = _joined(its, hints.get(v))
                free = (free and (inlined or v not in kept)) or v not in needed
                if free:
                    unborn.add(v)
                if not free and v.aval.shape in reused:
                    reused.remove(v.aval.shape)
                    free = True
                born[v] = 0.0 if free else self._bytes(v, its)
                alive += born[v]
            most = max(most, alive + within)
            for v in (*eqn.invars, *eqn.outvars):
                if _is_var(v) and v in born and v not in kept and last.get(v, i) <= i:
                    alive -= born.pop(v)
        return (
            most,
            [spec(v) for v in jaxpr.outvars],
            [_is_var(v) and v in unborn for v in jaxpr.outvars],
        )

    def _bytes(self, v: Any, spec: Spec) -> float:
        aval = v.aval
        try:
            size = np.dtype(aval.dtype).itemsize
        except TypeError:  # a key
            size = 8
        parts = math.prod(self._sizes.get(axis, 1) for axes in spec for axis in axes)
        return math.prod(aval.shape) * size / parts

    def _equation(self, one: Any, given: list[Spec]) -> tuple[float, list[Spec]]:
        name, params = one.primitive.name, one.params
        shapes = [getattr(v.aval, "shape", ()) for v in one.invars]
        outs = [v.aval.shape for v in one.outvars]
        if name == "scan":
            return self._scan(one, given)
        if name == "while":
            first = params["cond_nconsts"]
            return self.jaxpr(params["body_jaxpr"].jaxpr, given[first:])
        if name == "cond":
            branches = [self.jaxpr(branch.jaxpr, given[1:]) for branch in params["branches"]]
            return max(branches, key=lambda both: both[0])
        if name == "shard_map":  # within it shapes are a device's
            inner = params["jaxpr"]
            most, _ = _Walk({}).jaxpr(inner, [((),) * len(s) for s in shapes])
            return most, [
                _as_spec(x, len(s)) for x, s in zip(params["out_specs"], outs, strict=True)
            ]
        if name == "sharding_constraint":
            where = params["sharding"]
            if isinstance(where, NamedSharding):
                return 0.0, [_as_spec(where.spec, len(outs[0]))]
        rule: Callable[..., Spec] | None = _RULES.get(name)
        if rule is not None:
            return 0.0, [self._once(rule(params, shapes, given, out)) for out in outs]
        return 0.0, [self._once(_alike(shapes, given, out)) for out in outs]

    def _scan(self, one: Any, given: list[Spec]) -> tuple[float, list[Spec]]:
        """What is read or written a slice at a time has a dimension more outside than inside.

        JAX 0.12 no longer says how many constants and carried values there are.
        """
        inner = one.params["jaxpr"].jaxpr

        def sliced(outside: Any, inside: Any) -> bool:
            return len(outside.aval.shape) > len(inside.aval.shape)

        both = zip(given, one.invars, inner.invars, strict=True)
        most, out_specs = self.jaxpr(inner, [x[1:] if sliced(v, w) else x for x, v, w in both])
        both = zip(out_specs, one.outvars, inner.outvars, strict=True)
        return most, [((), *x) if sliced(v, w) else x for x, v, w in both]

    @staticmethod
    def _once(spec: Spec) -> Spec:
        """No axis splits two dimensions."""
        seen: set[str] = set()
        unique = []
        for axes in spec:
            own = tuple(axis for axis in axes if axis not in seen)
            seen.update(own)
            unique.append(own)
        return tuple(unique)


def _hints(jaxpr: Any, outer: Mapping[Any, Spec]) -> dict[Any, Spec]:
    """How values are split because of what becomes of them: later constraints, led back.

    Args:
      jaxpr: whose values.
      outer: of its outputs, as its caller constrains them.
    """
    hints = dict(outer)
    for eqn in (one for one in reversed(jaxpr.eqns) if one.outvars):
        name, rank = eqn.primitive.name, len(getattr(eqn.outvars[0].aval, "shape", ()))
        function = _inlined(eqn)
        if function is not None:
            inner = _hints(function, _led_in(eqn, function, hints))
            pairs = zip(eqn.invars, function.invars, strict=True)
            led = {v: inner[w] for v, w in pairs if w in inner}
        elif name == "sharding_constraint" and isinstance(eqn.params["sharding"], NamedSharding):
            led = {eqn.invars[0]: _as_spec(eqn.params["sharding"].spec, rank)}
        elif name in _LED_BACK and eqn.outvars[0] in hints:
            its = hints[eqn.outvars[0]]
            led = {v: its for v in eqn.invars if len(getattr(v.aval, "shape", ())) == rank}
        else:
            continue
        hints |= {v: x for v, x in led.items() if _is_var(v) and v not in hints}
    return hints


def _led_in(eqn: Any, function: Any, hints: Mapping[Any, Spec]) -> dict[Any, Spec]:
    """Hints for the outputs of the function that an equation calls."""
    pairs = zip(eqn.outvars, function.outvars, strict=True)
    return {w: hints[v] for v, w in pairs if v in hints and _is_var(w)}


def _inlined(eqn: Any) -> Any | None:
    """The function that an equation calls with its own inputs; None where there is none."""
    function = function_of(eqn)
    return function if function is not None and len(function.invars) == len(eqn.invars) else None


def _joined(spec: Spec, hint: Spec | None) -> Spec:
    """What a value is split by, and where by nothing what becomes of it says."""
    if hint is None or len(hint) != len(spec):
        return spec
    used = {axis for axes in spec for axis in axes}
    return tuple(x or tuple(a for a in y if a not in used) for x, y in zip(spec, hint, strict=True))


def _needed(jaxpr: Any, wanted: Sequence[bool]) -> set[Any]:
    """Variables that lead to an output that is wanted."""
    pairs = zip(jaxpr.outvars, wanted, strict=True)
    needed = {v for v, want in pairs if want and _is_var(v)}
    for eqn in reversed(jaxpr.eqns):
        if _is_needed(eqn, needed):
            needed.update(v for v in eqn.invars if _is_var(v))
    return needed


def _is_needed(eqn: Any, needed: set[Any]) -> bool:
    return bool(eqn.effects) or any(v in needed for v in eqn.outvars)


def function_of(one: Any) -> Any | None:
    """The jaxpr of a function that an equation calls once; None where it calls none.

    Compilers see its operations as the caller's.
    """
    if one.primitive.name in ("scan", "while", "cond", "shard_map"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in one.params:
            return getattr(one.params[key], "jaxpr", one.params[key])
    return None


def _is_var(v: Any) -> bool:
    return not isinstance(v, Literal)


def _as_spec(spec: Any, rank: int) -> Spec:
    axes = [() if x is None else (x,) if isinstance(x, str) else tuple(x) for x in spec]
    return tuple(axes + [()] * (rank - len(axes)))[:rank]


def _alike(shapes: Sequence[Any], given: Sequence[Spec], out: Sequence[int]) -> Spec:
    """Of each dimension what an operand of the same rank and size says."""
    out_spec: list[tuple[str, ...]] = [()] * len(out)
    for shape, spec in zip(shapes, given, strict=True):
        if len(shape) != len(out):
            continue
        for i, size in enumerate(out):
            if not out_spec[i] and shape[i] == size:
                out_spec[i] = spec[i]
    return tuple(out_spec)


def _dot(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    a, b = given
    batch = [a[i] or b[j] for i, j in zip(left_batch, right_batch, strict=True)]
    free = [a[i] for i in range(len(a)) if i not in (*left, *left_batch)]
    return (*batch, *free, *(b[i] for i in range(len(b)) if i not in (*right, *right_batch)))


def _broadcast(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    out_spec: list[tuple[str, ...]] = [()] * len(out)
    for i, at in enumerate(params["broadcast_dimensions"]):
        if shapes[0][i] == out[at]:
            out_spec[at] = given[0][i]
    return tuple(out_spec)


def _reshape(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    """Dimensions that are cut or joined hand on what splits them to, or from, their first part."""
    out_spec: list[tuple[str, ...]] = [()] * len(out)
    i = j = 0
    while i < len(shapes[0]) and j < len(out):
        first, second, a, b = i, j, shapes[0][i], out[j]
        while a != b:
            if a < b:
                i += 1
                a *= shapes[0][i]
            else:
                j += 1
                b *= out[j]
        splits = [axes for axes in given[0][first : i + 1] if axes]
        parts = [k for k in range(second, j + 1) if out[k] > 1]
        if splits and parts:
            out_spec[parts[0]] = splits[0]
        i, j = i + 1, j + 1
    return tuple(out_spec)


def _reduce(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    axes = params["axes"]
    return tuple(x for i, x in enumerate(given[0]) if i not in axes)


def _squeeze(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    return tuple(x for i, x in enumerate(given[0]) if i not in params["dimensions"])


def _transpose(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    return tuple(given[0][i] for i in params["permutation"])


def _gather(params: Any, shapes: Any, given: Sequence[Spec], out: Any) -> Spec:
    """Rows of a table: as the numbers of the rows lie, and the table's own last dimension."""
    rows, table = given[1][:-1], given[0][-1:]
    out_spec = [*rows, *table] if len(rows) + 1 == len(out) else [()] * len(out)
    return tuple(out_spec)


_RULES: dict[str, Callable[..., Spec]] = {
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "gather": _gather,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin"), _reduce),
    **dict.fromkeys(("reduce_and", "reduce_or", "reduce_prod"), _reduce),
}
