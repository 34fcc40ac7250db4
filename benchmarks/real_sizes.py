"""What would each of eight v5e chips hold of published models, while they learn and while they say?

Nothing is allocated, loaded or run. Parameters and their shares follow from the published
config.json and the sharding rules; bytes beside them are the plan of Google's compiler (libtpu, the
extra `plan`), which needs no TPU. Without it the first columns alone are told.

A step is the gradients of a LoRA of rank 8 in the decoder's attention, or in that of both towers of
a SigLIP, and AdamW; frozen weights are bfloat16, a decoder's layers are computed again. Decoding
is the loop over new tokens of the same rows. Every row has a picture.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from benchmarks.harness import Grid, Options, Report
from mmjax import sharding, trees
from mmjax.adapters.hooks import start
from mmjax.adapters.lora import Lora
from mmjax.encoders.base import Encoder
from mmjax.encoders.language_model import LanguageModel, embed, extend, logits, mix, see
from mmjax.encoders.mllama import Mllama
from mmjax.encoders.mllama_images import SeenPictures
from mmjax.encoders.patches import COORDINATES
from mmjax.encoders.qwen_vl import QwenVl
from mmjax.generation import decode
from mmjax.generation.prompts import Prepared
from mmjax.losses.contrastive import sigmoid
from mmjax.losses.distill import unit
from mmjax.plan import compiler
from mmjax.plan.chips import read_topology
from mmjax.plan.encoders import abstract_encoder
from mmjax.plan.programs import PlannedProgram, decode_state, share_of
from mmjax.progress import track
from mmjax.specs.spec import EncoderSpec
from mmjax.tasks.planned import shaped, whole
from mmjax.trees import PyTree

TOPOLOGY, DEVICES = "v5e-8", 8
ROWS, ANSWERS, NEW = 4, 256, 64
PAIRS, EMBEDDED = 16, 64  # of a SigLIP, in a step and in a batch that is embedded
LARGE = 8 << 20  # bytes of a leaf that is worth dividing
GB = 10**9


@dataclass(frozen=True)
class Size:
    """A published model, and what it is asked to read.

    Attributes:
      published: parameters, as the hub counts the checkpoint's.
      unread: of them those that no output depends on, or that are kept outside the tree.
      length: tokens of a row, its picture's among them.
      tiles: of the picture, where it is cut; patches of a Qwen-VL's.
      whole: patterns of large arrays that are held whole on every device, and why.
    """

    published: int
    unread: int = 0
    length: int = 2048
    tiles: int = 1
    whole: Mapping[str, str] | None = None


_FEW_HEADS = {
    r"language_model/layers/attention/(key|value)/kernel": "fewer heads of keys than devices"
}
_CLIP_LAYER = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
SIZES: Mapping[str, Size] = {
    "Qwen2-VL-2B-Instruct": Size(2_208_985_600, tiles=4096, whole=_FEW_HEADS),
    "Qwen2.5-VL-7B-Instruct": Size(8_292_166_656, tiles=4096, whole=_FEW_HEADS),
    "Llama-3.2-11B-Vision-Instruct": Size(10_670_220_835, tiles=4),
    # Both scalars of the loss stand beside the towers.
    "siglip2-so400m-patch14-384": Size(1_136_008_498, 2, 64, 1),
    # The image tower's last layer and norm stand behind the features that are read.
    "llama3-llava-next-8b-hf": Size(8_355_276_800, _CLIP_LAYER + 2048, 4096, 5),
}


def models(name: str, mesh: Mesh) -> dict[str, Encoder]:
    """The towers of a model that are separate: of a SigLIP two, of all others the whole.

    Args:
      name: of `SIZES`.
      mesh: where the weights would lie.

    Returns:
      Tower -> encoder with bfloat16 shapes for weights.
    """
    towers = ("image", "text") if name.startswith("siglip") else (None,)
    specs = {t: EncoderSpec(source=name, tower=t, dtype="bfloat16") for t in towers}
    return {tower or "all": abstract_encoder(spec, mesh) for tower, spec in specs.items()}


def held_whole(encoder: Encoder) -> list[str]:
    """Paths of leaves of 8 MiB and more of which a device holds more than an eighth."""
    return [
        path
        for path, leaf in trees.named_leaves(encoder.params)
        if math.prod(leaf.shape) * leaf.dtype.itemsize >= LARGE
        and math.prod(leaf.sharding.shard_shape(leaf.shape)) * DEVICES > math.prod(leaf.shape)
    ]


def programs(name: str, encoders: Mapping[str, Encoder], mesh: Mesh) -> Iterator[PlannedProgram]:
    """What a model compiles: a step, then decoding, or embedding of a model that says nothing."""
    if "all" not in encoders:
        yield _pairs(encoders, mesh)
        yield _embedding(encoders, mesh)
        return
    model = encoders["all"]
    assert isinstance(model, LanguageModel)
    yield _telling(model, SIZES[name], mesh)
    yield _decoding(model, SIZES[name], mesh)


def _step(
    loss: Callable[[PyTree, PyTree, PyTree], Float[Array, ""]],
    adapters: PyTree,
    frozen: PyTree,
    batch: PyTree,
    mesh: Mesh,
) -> PlannedProgram:
    """AdamW on adapters, by the gradients of `loss(adapters, frozen, batch)`."""
    tx, adapters = optax.adamw(1e-4), whole(adapters, mesh)
    state = whole(jax.eval_shape(tx.init, adapters), mesh)

    def step(adapters: PyTree, state: Any, frozen: PyTree, batch: PyTree) -> tuple[Any, ...]:
        value, grads = jax.value_and_grad(loss)(adapters, frozen, batch)
        updates, state = tx.update(grads, state, adapters)
        return optax.apply_updates(adapters, updates), state, value

    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=sharding.replicated(mesh))
    arguments = {"trained": (adapters, state), "frozen": frozen, "batch": batch}
    return PlannedProgram(
        "step", lambda: jitted.trace(adapters, state, frozen, batch), arguments, "rows", ROWS
    )


def _batch(model: LanguageModel, size: Size, mesh: Mesh) -> dict[str, Any]:
    """Rows of words and a picture each, as shapes: what `_read` takes."""
    config: Any = model.config

    def of(*shape: int, dtype: Any = jnp.int32) -> Any:
        return shaped(mesh, (ROWS, *shape), dtype)

    batch = {"ids": of(size.length), "mask": of(size.length)}
    if isinstance(model.module, Mllama):
        side = config.vision.image_size
        tiles = of(size.tiles, side, side, config.vision.num_channels, dtype=jnp.float32)
        reads = of(size.length, 1, dtype=jnp.bool_)
        return batch | {"tiles": tiles, "ratios": of(), "seats": of(1), "reads": reads}
    batch["places"] = of(size.length)
    if isinstance(model.module, QwenVl):
        width = config.vision.patch_width + COORDINATES
        batch["tiles"] = of(size.tiles, width, dtype=jnp.float32)
        return batch | {"positions": of(size.length, 3)}
    side = config.vision.image_size
    pixels = (ROWS * size.tiles, side, side, config.vision.num_channels)
    return batch | {"tiles": shaped(mesh, pixels)}


def _read(module: Any, params: PyTree, batch: Mapping[str, Array]) -> Prepared:
    """What the decoder is given of a batch."""
    if isinstance(module, Mllama):
        names = ("tiles", "ratios", "seats", "reads")
        seen = see(module, params, *(batch[name] for name in names))
        return Prepared(embed(module, params, batch["ids"]), batch["mask"], pictures=seen)
    mixed = mix(module, params, batch["ids"], batch["tiles"], batch["places"])
    return Prepared(mixed, batch["mask"], batch.get("positions"))


def _telling(model: LanguageModel, size: Size, mesh: Mesh) -> PlannedProgram:
    """A step on the answers at the ends of rows."""
    hook = Lora()
    module = model.with_hook(hook, remat=True).module

    def loss(adapters: PyTree, params: PyTree, batch: PyTree) -> Float[Array, ""]:
        read = _read(module, params, batch)
        hidden, _ = extend(
            module, params, adapters, read.embeddings, read.mask,
            positions=read.positions, padding="right", pictures=read.pictures,
        )  # fmt: skip
        said = logits(module, params, hidden[:, -ANSWERS - 1 : -1])
        wanted = batch["ids"][:, -ANSWERS:]
        return optax.softmax_cross_entropy_with_integer_labels(said, wanted).mean()

    adapters = jax.eval_shape(lambda: start(hook, jax.random.key(0), model))
    return _step(loss, adapters, model.params, _batch(model, size, mesh), mesh)


def _decoding(model: LanguageModel, size: Size, mesh: Mesh) -> PlannedProgram:
    """The loop over new tokens behind prompts that have been read."""
    module, params = model.module, model.params
    made: Prepared = jax.eval_shape(
        lambda params, batch: _read(module, params, batch), params, _batch(model, size, mesh)
    )
    prompts = whole(made, mesh)
    if made.pictures is not None:  # heads over `model`, as those of the words
        heads = PartitionSpec(None, None, "model")
        where = NamedSharding(mesh, heads)
        kept = jax.ShapeDtypeStruct(
            made.pictures.keys.shape, made.pictures.keys.dtype, sharding=where
        )
        prompts = prompts._replace(pictures=prompts.pictures._replace(keys=kept, values=kept))
    options = decode.DecodeOptions(module, mesh, NEW, (2,))
    keys = shaped(mesh, (ROWS,), jax.random.key(0).dtype)
    state = decode_state(
        lambda: decode.prefill.trace(params, None, prompts, None, keys, options=options), mesh
    )
    later: SeenPictures | None = None
    if prompts.pictures is not None:
        later = prompts.pictures._replace(reads=shaped(mesh, (ROWS, 1, 1), jnp.bool_))
    ended = np.zeros(ROWS, bool)

    def trace() -> Any:
        return decode.decode.trace(
            params, None, state, ended, NEW, None, keys, options=options, pictures=later
        )

    arguments = {"frozen": params, "state": state, "pictures": later}
    return PlannedProgram("decode", trace, arguments, "tokens", ROWS)


def _raw(encoders: Mapping[str, Encoder], mesh: Mesh, rows: int) -> dict[str, dict[str, Any]]:
    """What both towers of a SigLIP read."""
    image, text = encoders["image"].config, encoders["text"].config
    pixels = (rows, image.image_size, image.image_size, image.num_channels)
    ids = shaped(mesh, (rows, text.max_length), jnp.int32)
    words = {"input_ids": ids, "attention_mask": ids}
    return {"image": {"pixel_values": shaped(mesh, pixels)}, "text": words}


def _pairs(encoders: Mapping[str, Encoder], mesh: Mesh) -> PlannedProgram:
    """A step on pairs, by the loss that SigLIP was trained with."""
    hook = Lora()
    hooked = {role: encoder.with_hook(hook) for role, encoder in encoders.items()}
    adapters = {
        role: jax.eval_shape(lambda e=encoder: start(hook, jax.random.key(0), e))
        for role, encoder in encoders.items()
    }
    frozen = {role: encoder.params for role, encoder in encoders.items()}

    def loss(adapters: PyTree, params: PyTree, batch: PyTree) -> Float[Array, ""]:
        image, text = (
            unit(hooked[r].apply(params[r], batch[r], adapters[r]).pooled) for r in hooked
        )
        return sigmoid(image, text, 4.6, -16.0)[0]

    return _step(loss, adapters, frozen, _raw(encoders, mesh, PAIRS), mesh)


def _embedding(encoders: Mapping[str, Encoder], mesh: Mesh) -> PlannedProgram:
    """Vectors of pictures and texts."""
    batch = _raw(encoders, mesh, EMBEDDED)
    frozen = {role: encoder.params for role, encoder in encoders.items()}

    def vectors(params: PyTree, batch: PyTree) -> dict[str, Array]:
        return {r: e.apply(params[r], batch[r]).pooled for r, e in encoders.items()}

    jitted = jax.jit(vectors, out_shardings=sharding.replicated(mesh))
    arguments = {"frozen": frozen, "batch": batch}
    return PlannedProgram("embed", lambda: jitted.trace(frozen, batch), arguments, "rows", EMBEDDED)


def mesh_of() -> Mesh:
    """1 x 8 described chips, or as many devices at hand where there is no compiler for those."""
    if compiler.available():
        devices = compiler.describe_devices(read_topology(TOPOLOGY)).flat
    else:
        devices = jax.devices()[:DEVICES]
    return sharding.make_mesh(1, DEVICES, 1, list(devices))


def count(encoders: Mapping[str, Encoder]) -> int:
    """Parameters of all towers."""
    return sum(trees.count(encoder.params) for encoder in encoders.values())


def compiled(program: PlannedProgram) -> dict[str, Any]:
    """What the compiler says of a program: bytes on a device, and the seconds it took."""
    made = compiler.compile_program(program)
    if made.memory is None:
        return {"refusal": made.refusal, "seconds": made.seconds}
    return dataclasses.asdict(made.memory) | {"seconds": made.seconds}


def _cells(found: Mapping[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("-",) * 3
    if "refusal" in found:
        return f"refused: {found['refusal'][:60]}", "-", f"{found['seconds']:.0f}"
    sizes = (f"{found[key] / GB:.2f}" for key in ("arguments", "temporaries"))
    return (*sizes, f"{found['seconds']:.0f}")


def run(options: Options) -> Report:
    """Counts every model's parameters and their shares, and compiles where there is a compiler.

    Args:
      options: of no account here.

    Returns:
      GB a device, beside the published counts.
    """
    mesh, rows = mesh_of(), []
    samples: dict[str, dict[str, Any]] = {}
    for name in track(tuple(SIZES), "models"):
        encoders = models(name, mesh)
        held = sum(share_of(encoder.params) for encoder in encoders.values())
        samples[name] = {"parameters": count(encoders), "held": held}
        samples[name]["whole"] = sorted(p for e in encoders.values() for p in held_whole(e))
        found: list[Mapping[str, Any] | None] = [None, None]
        if compiler.available():
            found = [compiled(program) for program in programs(name, encoders, mesh)]
            samples[name]["programs"] = found
        cells = [cell for each in found for cell in _cells(each)]
        counts = f"{SIZES[name].published:,}", f"{count(encoders):,}"
        rows.append((name, *counts, f"{held / GB:.2f}", *cells))
    columns = ("model", "published", "held in all", "weights")
    columns += ("step: arguments", "temporaries", "compiled in s")
    columns += ("decode: arguments", "temporaries", "compiled in s")
    title = f"Parameters, and GB a device of {TOPOLOGY} (1 x {DEVICES}), bfloat16"
    return Report([Grid(title, columns, tuple(rows))], {"models": samples})
