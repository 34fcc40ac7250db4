"""Attention of all transformers here: one function, a mask that is structure, a platform's kernels.

A mask is told by what it follows from (causal order, which keys are hidden, windows, packed texts),
and nobody makes an array of queries x keys of it but the plain form, a layer at a time. Kernels are
JAX's own: cuDNN's on GPUs, by `jax.nn.dot_product_attention`, and Splash attention on TPUs.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.errors import MmjaxError, shown

Kind = Literal["xla", "cudnn", "splash"]
KINDS: tuple[str, ...] = get_args(Kind)
# From so many tokens on a TPU's kernel is taken: its tiles are 128 tokens wide at least, and the
# scores of shorter rows are small. An estimate, not a measurement.
SHORT = 1024
_LANES = 128


@dataclasses.dataclass(frozen=True)
class Kernel:
    """How attention is computed.

    Attributes:
      kind: `xla` is the plain form, which XLA fuses; `cudnn` and `splash` keep no scores.
      mesh: of the arrays, where there is one; a TPU's kernel is split by hand: rows over `data`,
        heads over `model`.
      least: fewest tokens for which `splash` is taken.
      interpret: runs a TPU's kernel anywhere, slowly.
    """

    kind: Kind = "xla"
    mesh: Mesh | None = None
    least: int = SHORT
    interpret: bool = False


PLAIN = Kernel()


def choose(mesh: Mesh | AbstractMesh | None, dtype: Any, kind: str | None = None) -> Kernel:
    """The kernel for the devices of some weights.

    Args:
      mesh: where they are; None is the default device.
      dtype: of the computation: cuDNN has kernels for two bytes only.
      kind: one of `KINDS` instead of the platform's own.

    Returns:
      The kernel.

    Raises:
      MmjaxError: no such kind.
    """
    if isinstance(mesh, AbstractMesh):  # of no devices in particular
        return PLAIN
    if kind is not None:
        if kind not in KINDS:
            raise MmjaxError(f"attention is {shown(kind)}; expected one of {list(KINDS)}")
        return Kernel(kind, mesh)  # type: ignore[arg-type]
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if platform == "tpu":
        return Kernel("splash", mesh)
    # JAX asks the GPU itself what cuDNN can do: of one that is only described it cannot.
    here = platform == jax.default_backend() == "gpu"
    return Kernel("cudnn" if here and jnp.dtype(dtype).itemsize == 2 else "xla", mesh)


def with_kernel(module: nn.Module, kernel: Kernel) -> nn.Module:
    """An encoder's module that computes attention so; one that knows no kernels stays as it is."""
    return module.clone(attend_by=kernel) if hasattr(module, "attend_by") else module


class Mask(struct.PyTreeNode):
    """Which of m keys each of l queries reads; the queries are the last l of m tokens.

    Query i reads key j where all of these hold, or where j is the token itself and `own`:
    the key is `readable`; with `causal` it does not stand behind the query, or both are of one of
    `blocks`; both are of one of `segments`; with a `window`, and unless `local` is false, fewer
    than so many readable tokens lie between, counted back from the query.

    Attributes:
      readable: 1 at keys that others may read; None is all of them. What a hidden token reads
        beside itself depends on the kernel: nobody reads it. A first token reads itself alone.
      segments: of which text a token is, where several are packed into a row.
      blocks: of which picture a token is, whose tokens read those behind them too; 0 is of none.
      local: whether the window counts, for a layer of a scan; None is always.
      causal: no token reads what follows it.
      own: every token reads itself, even where it is hidden.
      window: how far back a token reads, itself included; 0 is without a limit.
      right: hidden keys are at the end of a row alone, or the very first one too: then a row's
        length says all.
      first_hidden: whether the first key is hidden in all rows, as LaVIN's modality token.
      front: so many more keys stand in front of the m, for every query of every text to read.
    """

    readable: Bool[Array, "b m"] | None = None
    segments: Int[Array, "b m"] | None = None
    blocks: Int[Array, "b m"] | None = None
    local: Bool[Array, ""] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)
    own: bool = struct.field(pytree_node=False, default=False)
    window: int = struct.field(pytree_node=False, default=0)
    right: bool = struct.field(pytree_node=False, default=False)
    first_hidden: bool = struct.field(pytree_node=False, default=False)
    front: int = struct.field(pytree_node=False, default=0)

    def behind(self, count: int) -> "Mask":
        """The same where so many more keys, which every query reads, stand in front."""
        return self.replace(front=self.front + count) if count else self

    @property
    def alone(self) -> bool:
        """Whether a first token reads itself alone, and no other token reads it."""
        return self.first_hidden and self.causal and self.own

    @property
    def lengths_say_all(self) -> bool:
        """Whether rows' lengths say which keys are hidden."""
        lengths = self.readable is None or (self.right and self.first_hidden == self.alone)
        return lengths and self.segments is None and self.blocks is None

    def allows(self, queries: int, keys: int) -> Bool[Array, "b l m"] | None:
        """The mask as an array, [b or 1, l, front + m]; None where every query reads every key."""
        keys -= self.front
        row = jnp.arange(keys - queries, keys)[None, :, None]
        column = jnp.arange(keys)[None, None]
        mask: Array | None = None
        if self.readable is not None:
            mask = self.readable[:, None]
        if self.causal:
            before = column <= row
            if self.blocks is not None:
                own = self.blocks[:, -queries:, None]
                before = before | ((own == self.blocks[:, None]) & (own > 0))
            mask = before if mask is None else mask & before
        if self.segments is not None:
            same = self.segments[:, -queries:, None] == self.segments[:, None]
            mask = same if mask is None else mask & same
        if self.window:
            mask = self._near(queries, keys) if mask is None else mask & self._near(queries, keys)
        if mask is not None and self.own:
            mask = mask | (column == row)
        if mask is None or not self.front:
            return mask
        return jnp.pad(mask, [(0, 0), (0, 0), (self.front, 0)], constant_values=True)

    def _near(self, queries: int, keys: int) -> Bool[Array, "b l m"]:
        """Counted in tokens, not slots: a cache has empty slots between two tokens."""
        order = jnp.arange(keys)[None]
        if self.readable is not None:
            order = jnp.cumsum(self.readable.astype(jnp.int32), axis=1)
        near = order[:, -queries:, None] - order[:, None] < self.window
        return near if self.local is None else near | ~self.local


def attend(
    query: Float[Array, "b h l c"],
    keys: Sequence[Float[Array, "_ n _ c"]],
    values: Sequence[Float[Array, "_ n _ c"]],
    mask: Mask,
    kernel: Kernel = PLAIN,
    scale: float | None = None,
) -> Float[Array, "b h l c"]:
    """Scaled dot-product attention; query heads g * i .. g * i + g - 1 read key head i.

    Args:
      query: float [b, h, l, c], not yet scaled.
      keys: [b or 1, n, k, c] each, one behind the other; n divides h. A cache is read where it
        lies, and a prefix of all rows is not copied to each.
      values: the same.
      mask: over the keys of all parts.
      kernel: how; what it cannot do is computed in the plain form.
      scale: what scores are multiplied by; None is c ** -0.5.

    Returns:
      Float [b, h, l, c] in the dtype of the query.

    Source:
      Vaswani et al. 2017, equation 1; Ainslie et al. 2023 (shared key heads). Softmax in float32.
    """
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    plain = mask.window or mask.blocks is not None
    if len(keys) == 1 and keys[0].shape[2] == query.shape[2] and not plain:
        if kernel.kind == "splash" and query.shape[2] >= kernel.least:
            return _splash(query, keys[0], values[0], mask, kernel)
        if kernel.kind == "cudnn" and mask.lengths_say_all:
            return by_lengths(query, keys[0], values[0], mask, "cudnn")
    return _plain(query, keys, values, mask)


def dense(
    query: Float[Array, "b h l c"],
    key: Float[Array, "b n m c"],
    value: Float[Array, "b n m c"],
    mask: Mask,
) -> Float[Array, "b h l c"]:
    """The slow twin of `attend`: key heads repeated, the whole mask, the whole scores."""
    group = query.shape[1] // key.shape[1]
    key, value = (jnp.repeat(x, group, axis=1) for x in (key, value))
    scores = jnp.einsum("bhlc,bhmc->bhlm", query, key) / np.sqrt(query.shape[-1])
    allowed = mask.allows(query.shape[2], key.shape[2])
    if allowed is not None:
        scores = jnp.where(allowed[:, None], scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("bhlm,bhmc->bhlc", jax.nn.softmax(scores, axis=-1), value)


def attend_where(
    query: Float[Array, "b h l c"],
    keys: Sequence[Float[Array, "_ n _ c"]],
    values: Sequence[Float[Array, "_ n _ c"]],
    allowed: Bool[Array, "_ _ m"] | None,
) -> Float[Array, "b h l c"]:
    """The plain form of `attend`, by a mask that follows from nothing simpler than itself.

    Args:
      query: as `attend` takes it.
      keys: the same.
      values: the same.
      allowed: bool [b or 1, l or 1, m]: which of the keys of all parts a query reads; None is all.

    Returns:
      Float [b, h, l, c] in the dtype of the query.
    """
    return _weigh(query * query.shape[-1] ** -0.5, keys, values, allowed)


def _plain(
    query: Float[Array, "b h l c"],
    keys: Sequence[Float[Array, "_ n _ c"]],
    values: Sequence[Float[Array, "_ n _ c"]],
    mask: Mask,
) -> Float[Array, "b h l c"]:
    count = sum(key.shape[2] for key in keys)
    return _weigh(query, keys, values, mask.allows(query.shape[2], count))


def _weigh(
    query: Float[Array, "b h l c"],
    keys: Sequence[Float[Array, "_ n _ c"]],
    values: Sequence[Float[Array, "_ n _ c"]],
    allowed: Bool[Array, "_ _ m"] | None,
) -> Float[Array, "b h l c"]:
    b, h, l, c = query.shape
    query = query.reshape(b, keys[0].shape[1], -1, l, c)
    # The past is read where it lies: joining it to the new keys would copy it at every token.
    scores = [
        jnp.einsum("bhglc,bhkc->bhglk", query, key, preferred_element_type=jnp.float32)
        for key in keys
    ]
    joined = jnp.concatenate(scores, axis=-1) if len(scores) > 1 else scores[0]
    if allowed is not None:
        # The least finite number, not -inf: a row with no readable key must not become NaN.
        joined = jnp.where(allowed[:, None, None], joined, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(joined, axis=-1).astype(query.dtype)
    ends = np.cumsum([key.shape[2] for key in keys])[:-1].tolist()
    split = jnp.split(weights, ends, axis=-1) if ends else [weights]
    # The product's own order: asking for another one turns the values around instead.
    mixed = [jnp.einsum("bhglk,bhkc->bhglc", w, v) for w, v in zip(split, values, strict=True)]
    return sum(mixed[1:], mixed[0]).reshape(b, h, l, c)


def by_lengths(
    query: Float[Array, "b h l c"],
    key: Float[Array, "b n l c"],
    value: Float[Array, "b n l c"],
    mask: Mask,
    implementation: Literal["cudnn", "xla"],
) -> Float[Array, "b h l c"]:
    """`jax.nn.dot_product_attention` where rows' lengths say what is hidden.

    A first token that is hidden from all others, and reads itself alone, is left out: its result is
    its own value.

    Args:
      query: float [b, h, l, c], scaled.
      key: float [b, n, l, c].
      value: float [b, n, l, c].
      mask: one for which `lengths_say_all`.
      implementation: JAX's name of it.

    Returns:
      Float [b, h, l, c]; behind a row's length something finite.
    """
    h, n = query.shape[1], key.shape[1]
    first = jnp.repeat(value[:, :, :1], h // n, axis=1)
    if mask.alone:
        query, key, value = (x[:, :, 1:] for x in (query, key, value))
    lengths = None
    if mask.readable is not None:
        # A row without a token would have no key to read.
        lengths = jnp.maximum(mask.readable.sum(axis=1, dtype=jnp.int32), 1)
    mixed = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (query, key, value)),
        scale=1.0,
        is_causal=mask.causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    ).swapaxes(1, 2)
    if lengths is not None:
        within = jnp.arange(mixed.shape[2])[None] < lengths[:, None]
        mixed = jnp.where(within[:, None, :, None], mixed, 0)
    return jnp.concatenate([first, mixed], axis=2) if mask.alone else mixed


def _splash(
    query: Float[Array, "b h l c"],
    key: Float[Array, "b n l c"],
    value: Float[Array, "b n l c"],
    mask: Mask,
    kernel: Kernel,
) -> Float[Array, "b h l c"]:
    """The TPU's kernel, on each device's own rows and heads."""
    length = query.shape[2]
    ids = _numbers(mask, query.shape[0], length)
    more = -length % _LANES
    if more:  # behind the last token, of no text
        query, key, value = (
            jnp.pad(x, [(0, 0), (0, 0), (0, more), (0, 0)]) for x in (query, key, value)
        )
        ids = jnp.pad(ids, [(0, 0), (0, more)], constant_values=-1)
    run = functools.partial(_splash_here, causal=mask.causal, interpret=kernel.interpret)
    if kernel.mesh is not None:
        shape = kernel.mesh.shape
        row = "data" if query.shape[0] % shape.get("data", 1) == 0 else None
        head = "model" if key.shape[1] % shape.get("model", 1) == 0 else None
        split = PartitionSpec(row if "data" in shape else None, head if "model" in shape else None)
        rows = PartitionSpec(split[0])
        run = jax.shard_map(
            run,
            mesh=kernel.mesh,
            in_specs=(split, split, split, rows),
            out_specs=split,
            check_vma=False,
        )
    return run(query, key, value, ids)[:, :, :length]


def _numbers(mask: Mask, rows: int, length: int) -> Int[Array, "b l"]:
    """Numbers such that a token reads those of its own number: texts', or a hidden token's own."""
    ids = jnp.zeros((rows, length), jnp.int32)
    if mask.segments is not None:
        ids = jnp.maximum(mask.segments, 0)
    if mask.readable is not None:
        hidden = -2 - jnp.arange(length)[None] if mask.own else -2
        ids = jnp.where(mask.readable, ids, hidden)
    return ids


def _splash_here(
    query: Float[Array, "b h l c"],
    key: Float[Array, "b n l c"],
    value: Float[Array, "b n l c"],
    ids: Int[Array, "b l"],
    causal: bool,
    interpret: bool,
) -> Float[Array, "b h l c"]:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, h, length, _ = query.shape
    block = next(size for size in (512, 256, _LANES) if length % size == 0)
    own = (splash.CausalMask if causal else splash.FullMask)((length, length))
    sizes = splash.BlockSizes(**dict.fromkeys(_BLOCKS, block))
    run: Any = splash.make_splash_mha(
        splash.MultiHeadMask([own] * h),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    return jax.vmap(run)(query, key, value, splash.SegmentIds(ids, ids))


_BLOCKS = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
_BLOCKS += ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
