"""Feeds many items through an encoder: fixed shapes, little padding, results in order."""

import dataclasses
import functools
import logging
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from mmjax.checks import arguments
from mmjax.encoders.padding import bucket, pad_ids
from mmjax.encoders.patches import PatchPreprocess
from mmjax.encoders.pooling import Pooling
from mmjax.errors import MmjaxError
from mmjax.progress import track

if TYPE_CHECKING:
    from mmjax.encoders.base import Encoder

WANTS = ("pooled", "tokens", "tokens_deep", "cls", "cls_mean", "cls_mean_deep", "class_tokens")

_TEXTS, _PICTURES = 128, 16  # default batch sizes, measured on two CPU cores
_WINDOW = 32  # batches of texts that are sorted together
_SHORT = 32  # tokens; a longer text takes the room of several

_log = logging.getLogger(__name__)


@runtime_checkable
class Items(Protocol):
    """A list, or anything else with a length and an index: pictures may be decoded on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Chosen(Sequence[Any]):
    """Some of the items, still read when their turn comes: decoded pictures fill a memory.

    Attributes:
      items: all of them.
      chosen: which, in order.
    """

    items: Items
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: Any, /) -> Any:
        return self.items[self.chosen[i]]


@functools.partial(jax.jit, static_argnames=("module", "pooling", "want", "replicated"))
def _compute(
    params: Any,
    inputs: Mapping[str, Array],
    module: nn.Module,
    pooling: Pooling | None,
    want: str,
    replicated: NamedSharding | None,
    adapters: Any = None,
) -> Float[Array, "b *rest"]:
    """One batch. Parameters are an argument: as constants they would be copied into the program."""
    from mmjax.encoders.output import apply

    output = apply(module, pooling, params, inputs, adapters).select(want)
    # Every process must be able to read the whole output.
    return output if replicated is None else jax.lax.with_sharding_constraint(output, replicated)


def outputs(
    encoder: "Encoder",
    items: Items,
    want: str,
    batch_size: int | None,
    progress: str | None,
    prompt: str | None,
    adapters: Any = None,
) -> Iterator[np.ndarray]:
    """As `Encoder.outputs`.

    Args:
      encoder: the encoder.
      items: texts or pictures.
      want: which output.
      batch_size: items computed together.
      progress: description of a progress bar.
      prompt: name of a prompt, texts only.
      adapters: parameters for the encoder's hook.

    Returns:
      An iterator over one array an item.

    Raises:
      MmjaxError: an unknown `want`, a batch size below 1, or adapters that do not go with the hook.
    """
    if not isinstance(want, str) or want not in WANTS:
        names = ", ".join(WANTS)
        raise MmjaxError(f"unknown encoder output {want!r}; known: {names}")
    lacking = {"text": ("cls_mean", "cls_mean_deep", "class_tokens"), "image": ("tokens_deep",)}
    if want in lacking[encoder.modality]:
        reads = f"reads {encoder.modality}s"
        raise MmjaxError(f"encoder {encoder.name!r} {reads}: it has no {want!r} output")
    is_image = encoder.modality == "image"
    if is_image and not encoder.has_class_token and want in ("cls", *lacking["text"]):
        raise MmjaxError(
            f"encoder {encoder.name!r} ({encoder.family}) has no class token, so no {want!r} "
            "output; take 'pooled' or 'tokens'"
        )
    arguments.several(items, "items")
    if batch_size is not None:
        arguments.whole("batch_size", batch_size, 1)
    run = functools.partial(_run, encoder, want, encoder.checked_adapters(adapters))
    if encoder.modality == "text":
        results = _texts(encoder, items, want, batch_size or _TEXTS, prompt, run)
    else:
        results = _pictures(encoder, items, want, batch_size or _PICTURES, run)
    return results if progress is None else iter(track(results, progress, total=len(items)))


def _run(
    encoder: "Encoder", want: str, adapters: Any, inputs: Mapping[str, np.ndarray]
) -> jax.Array:
    """Starts a batch; the result may still be under way."""
    mesh, replicated = encoder.mesh, None
    placed: Mapping[str, Any] = inputs
    if mesh is not None:
        split = NamedSharding(mesh, PartitionSpec("data" if "data" in mesh.axis_names else None))
        replicated = NamedSharding(mesh, PartitionSpec())

        def put(x: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(x.shape, split, lambda index: x[index])

        placed = {name: put(x) for name, x in inputs.items()}
    module, pooling = encoder.module, encoder.pooling
    return _compute(encoder.params, placed, module, pooling, want, replicated, adapters)


def _rows(encoder: "Encoder", n: int, batch_size: int) -> int:
    """Rows of the compiled batch: the full batch, or a power of two that holds fewer items."""
    rows = min(batch_size, 1 << (n - 1).bit_length())
    parts = 1 if encoder.mesh is None else encoder.mesh.shape.get("data", 1)
    return -(-rows // parts) * parts


_Run = Callable[[Mapping[str, np.ndarray]], jax.Array]  # starts a prepared batch


def _texts(
    encoder: "Encoder", items: Items, want: str, batch_size: int, prompt: str | None, run: _Run
) -> Iterator[np.ndarray]:
    preprocess = encoder.preprocess
    window = batch_size * _WINDOW
    for start in range(0, len(items), window):
        texts = [items[i] for i in range(start, min(start + window, len(items)))]
        tokens = preprocess.tokenize(texts, prompt=prompt)
        ids = tokens.ids
        if tokens.num_truncated:
            _log.warning(
                "encoder %s: %d of %d texts are longer than %d tokens and were cut",
                encoder.name,
                tokens.num_truncated,
                len(texts),
                preprocess.max_length,
            )
        results: list[np.ndarray | None] = [None] * len(ids)
        under_way: list[tuple[list[int], jax.Array]] = []

        def collect(
            under_way: list[tuple[list[int], jax.Array]],
            ids: list[list[int]],
            results: list[np.ndarray | None],
            keep: int,
        ) -> None:
            while len(under_way) > keep:
                chosen, output = under_way.pop(0)
                host = np.asarray(output)
                for row, i in enumerate(chosen):
                    # A copy, or one short text would keep its whole padded batch in memory.
                    results[i] = (
                        host[row, : len(ids[i])] if want.startswith("tokens") else host[row]
                    ).copy()

        for chosen, length, rows in _batches(encoder, [len(t) for t in ids], batch_size):
            padded = [ids[i] for i in chosen] + [ids[chosen[0]][:1]] * (rows - len(chosen))
            input_ids, mask = pad_ids(padded, length, preprocess.pad_token_id)
            inputs = {"input_ids": input_ids, "attention_mask": mask}
            under_way.append((chosen, run(inputs)))
            collect(under_way, ids, results, keep=1)
        collect(under_way, ids, results, keep=0)
        yield from typing.cast(list[np.ndarray], results)


def _batches(
    encoder: "Encoder", lengths: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], int, int]]:
    """Cuts a window into (indices, padded length, rows), the longest texts first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    limit = encoder.preprocess.max_length
    at = 0
    while at < len(order):
        length = min(bucket(lengths[order[at]]), limit)
        # Long texts go in smaller batches: the same room, and attention grows with the square.
        size = batch_size if length <= _SHORT else max(1, batch_size * _SHORT // length)
        chosen = order[at : at + size]
        yield chosen, length, _rows(encoder, len(chosen) if len(order) < size else size, size)
        at += len(chosen)


def _pictures(
    encoder: "Encoder", items: Items, want: str, batch_size: int, run: _Run
) -> Iterator[np.ndarray]:
    preprocess, n = encoder.preprocess, len(items)
    rows = _rows(encoder, min(n, batch_size), batch_size) if n else 0

    def prepare(start: int) -> tuple[int, np.ndarray]:
        chosen = Chosen(items, range(start, min(start + rows, n)))
        pixels = preprocess(chosen, start)
        padding = np.zeros((rows - len(chosen), *pixels.shape[1:]), pixels.dtype)
        return len(chosen), np.concatenate([pixels, padding]) if len(padding) else pixels

    # One thread decodes the next batch while the device computes this one.
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(prepare, 0) if n else None
        for start in range(0, n, rows or 1):
            assert following is not None
            count, pixels = following.result()
            output = run({"pixel_values": pixels})
            if start + rows < n:
                following = pool.submit(prepare, start + rows)
            host = np.asarray(output)
            cut = want == "tokens" and isinstance(preprocess, PatchPreprocess)
            lengths = preprocess.lengths(pixels) if cut else [None] * count
            for row in range(count):
                yield host[row, : lengths[row]].copy()
