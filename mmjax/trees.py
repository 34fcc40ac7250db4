"""Trees of parameters: paths, selection by anchored patterns, sizes and fingerprints."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import PartitionSpec

from mmjax.errors import MmjaxError

T = TypeVar("T")
PyTree = Any
Rules = Sequence[tuple[str, PartitionSpec]]  # who holds what on a mesh, by path


def path_of(key_path: tuple[Any, ...]) -> str:
    """Spells a JAX key path as `a/b/c`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) in the tree's own order."""
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_of(key_path), leaf


def match_rules(tree: PyTree, rules: Sequence[tuple[str, T]]) -> PyTree:
    """Gives every leaf the value of the first rule whose pattern matches its whole path.

    Args:
      tree: any pytree; only its structure and paths are used.
      rules: (pattern, value) pairs. A pattern is a regular expression that must match the *whole*
        path `a/b/c`: a bare word never selects by substring.

    Returns:
      A pytree of the same structure that holds the values.

    Raises:
      MmjaxError: a leaf that no rule covers, or a rule that is first for no leaf (most often a
        misspelt pattern).
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    used = [False] * len(rules)

    def value_of(key_path: tuple[Any, ...], _: Any) -> T:
        path = path_of(key_path)
        for i, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                used[i] = True
                return value
        raise MmjaxError(
            f"no rule covers the parameter {path!r}; rules: {[pattern for pattern, _ in rules]}"
        )

    values = jax.tree_util.tree_map_with_path(value_of, tree)
    unused = [pattern for (pattern, _), was in zip(rules, used, strict=True) if not was]
    if unused:
        raise MmjaxError(f"these patterns select no parameter: {unused}")
    return values


def count(tree: PyTree) -> int:
    """Number of scalars in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Bytes of all leaves."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def overview(tree: PyTree, notes: PyTree | None = None) -> str:
    """One line a leaf: path, shape, dtype, number of scalars; then the total.

    Args:
      tree: any pytree of arrays.
      notes: a tree of the same structure with a text for each leaf, which ends its line.

    Returns:
      The lines.
    """
    endings = [""] * len(jax.tree.leaves(tree)) if notes is None else jax.tree.leaves(notes)
    rows = [(path, leaf.shape, leaf.dtype, count(leaf)) for path, leaf in named_leaves(tree)]
    width = max((len(row[0]) for row in rows), default=0)
    lines = [
        f"{p:<{width}}  {s!s:<20} {d!s:<10} {n:>12,}  {note}".rstrip()
        for (p, s, d, n), note in zip(rows, endings, strict=True)
    ]
    return "\n".join([*lines, f"{'total':<{width}}  {'':<20} {'':<10} {count(tree):>12,}"])


def fingerprint(tree: PyTree) -> str:
    """Sha256 over the sorted (path, dtype, shape, bytes) of all leaves, as hexadecimal text."""
    digest = hashlib.sha256()
    for path, leaf in sorted(named_leaves(tree)):
        array = np.asarray(leaf)
        digest.update(f"{path}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
