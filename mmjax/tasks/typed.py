"""Functions of JAX and Flax whose own annotations have gaps, with whole ones."""
# pyright: standard

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Key

from mmjax.rng import DropoutKey
from mmjax.trees import PyTree

P = ParamSpec("P")
R = TypeVar("R")


def jit(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    """`jax.jit`."""
    return jax.jit(function, **options)


def shapes(function: Callable[..., Any], *arguments: PyTree) -> PyTree:
    """`jax.eval_shape`."""
    return jax.eval_shape(function, *arguments)


def value_and_grad(function: Callable[P, R]) -> Callable[P, tuple[R, PyTree]]:
    """`jax.value_and_grad`."""
    return jax.value_and_grad(function)


def map_tree(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map`."""
    return jax.tree.map(function, tree, *rest)


def cond(condition: Bool[Array, ""], yes: Callable[[], R], no: Callable[[], R]) -> R:
    """`jax.lax.cond`."""
    return jax.lax.cond(condition, yes, no)


def device_put(tree: PyTree, where: PyTree = None) -> PyTree:
    """`jax.device_put`."""
    return jax.device_put(tree, where)


def clone(module: nn.Module, **changes: Any) -> nn.Module:
    """The same module with other attributes, of no other module's making."""
    return module.clone(parent=None, **changes)


def init(module: nn.Module, key: Key[Array, ""], *inputs: Any) -> PyTree:
    """A module's parameters before the first step."""
    return module.init(key, *inputs)["params"]


def apply(module: nn.Module, params: PyTree, *inputs: Any, key: DropoutKey = None) -> Any:
    """What a module makes of its inputs; a key means dropout."""
    rngs = None if key is None else {"dropout": key}
    return module.apply({"params": params}, *inputs, deterministic=key is None, rngs=rngs)
