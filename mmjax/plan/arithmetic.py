"""A program's cost by arithmetic on its traced shapes, where no compiler is at hand.

Matrix products and convolutions are counted in the jaxpr, scans times their lengths, and shared out
over all devices. Memory is what the arguments take, which shardings tell exactly, and about what
intermediate values take beside them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from mmjax.plan import liveness
from mmjax.plan.programs import PlannedProgram, share_of


def flops(program: PlannedProgram) -> float:
    """FLOPs of a whole program, over all devices."""
    return _flops(program.trace().jaxpr.jaxpr)


def temporaries(program: PlannedProgram, sizes: Mapping[str, int]) -> int:
    """About the most bytes that intermediate values take on a device.

    Args:
      program: of `mmjax.plan.programs`.
      sizes: of the mesh's axes.
    """
    # Arguments stand in the order of the function's own; what is not named follows, and is small.
    named = jax.tree.leaves(list(program.arguments.values()))
    return liveness.peak(program.trace().jaxpr, named, sizes)


def unread(program: PlannedProgram) -> int:
    """Bytes of a device that hold what the program never reads, as words that no text looks up."""
    named = jax.tree.leaves(list(program.arguments.values()))
    idle = liveness.unread(program.trace().jaxpr, named)
    return sum(share_of(leaf) for leaf, left in zip(named, idle, strict=True) if left)


def _inner(equation: Any) -> Iterator[tuple[Any, float]]:
    """Jaxprs within an equation, and how often each runs."""
    params = equation.params
    name = equation.primitive.name
    if name == "scan":
        yield params["jaxpr"].jaxpr, params["length"]
    elif name == "while":
        yield params["body_jaxpr"].jaxpr, 1
    elif name == "cond":
        yield max((branch.jaxpr for branch in params["branches"]), key=_flops), 1
    elif name == "shard_map":
        shards = math.prod(params["mesh"].shape.values())
        yield params["jaxpr"], shards
    elif (inner := liveness.function_of(equation)) is not None:
        yield inner, 1


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            depth = math.prod(left[i] for i in contracted)
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * depth
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            numbers = eqn.params["dimension_numbers"]
            taps = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * taps
        else:
            total += sum(times * _flops(inner) for inner, times in _inner(eqn))
    return total
