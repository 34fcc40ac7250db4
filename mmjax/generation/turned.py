"""Weights for writing one row on a CPU: kernels in the order that XLA reads at memory's own pace.

A row of one token by a kernel [in, out] is a general matrix product to XLA's CPU compiler, which
packs the whole kernel anew first; by a kernel [out, in] it is a loop over memory, 2 to 4 times as
quick. Everything else multiplies either equally fast, so the copy is for decoding alone.
"""

import weakref
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mmjax import trees
from mmjax.encoders.language_model import LanguageModel
from mmjax.trees import PyTree
from mmjax.weights.quantize import KERNEL, ROW_SCALE

# Bytes of weights: fewer lie in the CPU's caches anyway, of more nobody has room for a copy.
LEAST, MOST = 64 << 20, 2 << 30
TOKENS = 16  # to write, for which the copy pays

_last: tuple[weakref.ref[jax.Array], PyTree] | None = None


def for_decoding(model: LanguageModel, rows: int, tokens: int) -> PyTree:
    """The parameters to decode with.

    Args:
      model: whose.
      rows: that are written at once.
      tokens: that may be written.

    Returns:
      Its own parameters, or a copy with the decoder's kernels turned. The copy is kept as long as
      the parameters are and no other model's is asked for.
    """
    global _last
    alone = rows == 1 and tokens >= TOKENS and model.mesh is None
    alone = alone and model.quantize is None and model.tuning is None
    if not alone or model.dtype != jnp.float32 or jax.default_backend() != "cpu":
        return model.params
    if not LEAST <= trees.nbytes(model.params) <= MOST:
        return model.params
    layers = model.params.get("language_model", model.params)["layers"]
    # One that is turned: the copy itself holds the leaves that are not.
    first = next(leaf for path, leaf in trees.named_leaves(layers) if path.endswith(f"/{KERNEL}"))
    if _last is None or _last[0]() is not first:
        _last = (weakref.ref(first, _forget), _turned(model.params))
    return _last[1]


def _forget(gone: weakref.ref[jax.Array]) -> None:
    global _last
    if _last is not None and _last[0] is gone:
        _last = None


def _turned(params: PyTree) -> PyTree:
    """The parameters with the decoder's maps turned."""
    if "language_model" in params:
        return {**params, "language_model": _turned(params["language_model"])}
    return {
        name: _maps(part) if name in ("layers", "crossing", "lm_head") else part
        for name, part in params.items()
    }


def _maps(tree: PyTree) -> PyTree:
    """Kernels of dense maps as [*layers, out, in], with scales of 1."""
    if not isinstance(tree, Mapping):
        return tree
    node = {name: _maps(leaf) for name, leaf in tree.items()}
    if KERNEL in node:
        kernel = node[KERNEL]
        node[KERNEL] = _swap(kernel)
        node[ROW_SCALE] = jnp.ones((*kernel.shape[:-2], kernel.shape[-1]), jnp.float32)
    return node


@jax.jit
def _swap(kernel: jax.Array) -> jax.Array:
    return kernel.swapaxes(-1, -2)
