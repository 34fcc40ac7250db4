"""What a program computes, for tests of what it does not."""

from typing import Any


def dots(jaxpr: Any) -> set[tuple[int, ...]]:
    """Shapes of the results of every matrix product, inner programs included."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.add(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(inner, "jaxpr"):
                    found |= dots(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    found |= dots(inner)
    return found
