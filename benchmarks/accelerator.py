"""What the GPU or TPU at hand does of what mmjax is for, beside the most that it could do.

Attention forward and backward (beside torch's on a GPU), the contrastive loss, greedy decoding and
LaVIN's training step, on one device and in bfloat16, each in a process of its own. Weights are
random: nothing is downloaded. Peaks are the makers' (`mmjax.plan.chips`). `--full` is sized for ten
minutes and 40 GB of a device; without it sizes are small and say nothing but that all of it runs.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.apart import Side, Worker, compare, cores_of
from benchmarks.harness import Grid, Options, Report, check_equal
from benchmarks.instruct_memory import CLIP_L, LANGUAGE, Setting
from benchmarks.pairs import SCALE, WIDTH, attended, towers
from mmjax import sharding, trees
from mmjax.encoders.attention import Mask, attend, choose
from mmjax.encoders.language_model import LanguageModel
from mmjax.errors import MmjaxError
from mmjax.generation import decode
from mmjax.generation.prompts import Prepared
from mmjax.losses.contrastive import info_nce
from mmjax.plan import arithmetic
from mmjax.plan.chips import CHIPS, Chip
from mmjax.plan.encoders import abstract_encoder
from mmjax.plan.programs import PlannedProgram
from mmjax.progress import track
from mmjax.specs.spec import EncoderSpec
from mmjax.trees import PyTree

# Rows, heads, tokens, width of a head.
ATTENTION, SMALL_ATTENTION = (4, 32, 4096, 128), (1, 2, 256, 64)
PAIRS, SMALL_PAIRS = 65_536, 1_024
MODELS = ("smollm2-135m-instruct", "llama-7b")
PROMPT, NEW = 64, 256
EPOCHS, QUESTIONS = 20, 12_726  # of ScienceQA, as LaVIN trains
TINY = {
    "model_type": "llama",
    "vocab_size": 512,
    "rms_norm_eps": 1e-6,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TINY_CLIP = {
    "model_type": "clip",
    "projection_dim": 32,
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    },
}
# Parts of their makers' names for devices, those that are parts of others last.
_KINDS = {
    **{"h200": "h200", "h100": "h100", "a100": "a100"},
    **{"v6": "v6e", "v5 lite": "v5e", "v5e": "v5e", "v5": "v5p", "v4": "v4"},
}
GB = 10**9
Facts = dict[str, Any]


def chip_of(kind: str) -> Chip | None:
    """The published figures of a device by JAX's name for its kind; None where there are none."""
    names = (chip for part, chip in _KINDS.items() if part in kind.lower())
    return CHIPS.get(next(names, ""))


def random(shapes: PyTree, scale: float = 0.02) -> PyTree:
    """Arrays for shapes: normal numbers, zeros of whole numbers, true."""

    def made(shape: Any, key: Any) -> Any:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return (scale * jax.random.normal(key, shape.shape)).astype(shape.dtype)
        return jnp.full(shape.shape, shape.dtype == jnp.bool_, shape.dtype)

    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    jitted = jax.jit(made, static_argnums=0)
    bare = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return structure.unflatten([jitted(x, key) for x, key in zip(bare, keys, strict=True)])


def peak() -> int:
    """Most bytes of the device that were in use so far; 0 where it does not count."""
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def attention(shape: Sequence[int]) -> Callable[[], list[float]]:
    """Causal attention and its gradients; see `benchmarks.peers.torch_attention`.

    Args:
      shape: see `attended`.

    Returns:
      The run; it returns some of the gradients.
    """
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in attended(shape)]
    kernel = choose(sharding.make_mesh(devices=jax.devices()[:1]), jnp.bfloat16)

    @jax.jit
    def gradients(query: Any, key: Any, value: Any) -> Any:
        def total(query: Any, key: Any, value: Any) -> Any:
            found = attend(query, [key], [value], Mask(causal=True), kernel)
            return jnp.square(found.astype(jnp.float32)).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    def run() -> list[float]:
        found = jax.block_until_ready(gradients(*inputs))
        return [float(x.astype(jnp.float32)[0, 0, -4:].sum()) for x in found]

    return run


def loss(pairs: int) -> tuple[Callable[[], Facts], Facts]:
    """The contrastive loss and its gradients on vectors of two bytes."""
    image, text = (jnp.asarray(x, jnp.bfloat16) for x in towers(pairs))
    scale = jnp.log(jnp.float32(SCALE))
    step = jax.jit(jax.value_and_grad(lambda *x: info_nce(*x)[0], argnums=(0, 1, 2)))
    planned: Any = step.lower(image, text, scale).compile().memory_analysis()

    def run() -> Facts:
        value, _ = jax.block_until_ready(step(image, text, scale))
        return {"loss": float(value), "peak": peak()}

    # A product of logits, each tile of it once more on the way back, and two of gradients.
    flops = 2 * pairs**2 * WIDTH * 4
    return run, {"flops": flops, "temporary": planned.temp_size_in_bytes}


def writing(name: str, rows: int, new: int) -> tuple[Callable[[], Facts], Facts]:
    """Greedy tokens of a model with random weights.

    Args:
      name: of a model whose sizes are known.
      rows: prompts of `PROMPT` tokens.
      new: tokens of each.

    Returns:
      (the run, which returns the seconds of the loop alone; bytes that a token has to read).
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    model = abstract_encoder(EncoderSpec(source=name, dtype="bfloat16"), mesh)
    assert isinstance(model, LanguageModel)
    params = random(model.params)
    prompts = Prepared(
        random(jax.ShapeDtypeStruct((rows, PROMPT, model.hidden_size), jnp.bfloat16)),
        jnp.ones((rows, PROMPT), jnp.int32),
    )
    keys, ended = jax.random.split(jax.random.key(0), rows), np.zeros(rows, bool)
    options = decode.DecodeOptions(model.module, mesh, new, ())

    def run() -> Facts:
        state = decode.prefill(params, None, prompts, None, keys, options)
        jax.block_until_ready(state)
        began = time.perf_counter()
        state = decode.decode(params, None, state, ended, new, None, keys, options)
        jax.block_until_ready(state)
        return {"seconds": time.perf_counter() - began, "peak": peak()}

    return run, {"bytes": bytes_read(params)}


def bytes_read(params: PyTree) -> int:
    """Of a language model's parameters, those that each token reads whole.

    A table of words is one of them where it is the head too; else a token reads a row of it.
    """
    looked_up = {"embed_tokens"} if "lm_head" in params else set[str]()
    return sum(trees.nbytes(tree) for name, tree in params.items() if name not in looked_up)


def lavin(size: str, rows: int, remat: bool) -> tuple[Callable[[], Facts], Facts]:
    """LaVIN's training step with random weights, on rows with a picture each.

    Args:
      size: "7B", or "tiny".
      rows: of a step.
      remat: whether layers are computed again on the way back.

    Returns:
      (the run; the step's arithmetic, and the compiler's plan).
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    configs = (TINY, TINY_CLIP) if size == "tiny" else (LANGUAGE[size], CLIP_L)
    setting = Setting.of(*configs, mesh, remat=remat, rows=rows)
    flops = arithmetic.flops(
        PlannedProgram(
            "step",
            lambda: setting.step.trace(setting.state, setting.frozen, setting.batch),
            {},
            "rows",
            rows,
        )
    )
    planned = setting.lower().compile().memory_analysis()
    frozen, batch = random(setting.frozen), random(setting.batch)
    batch["text"]["weights"] = jnp.ones_like(batch["text"]["weights"])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), setting.state)  # no moments yet
    held = [nothing._replace(trainable=random(setting.state.trainable))]

    def run() -> Facts:
        held[0], metrics = setting.step(held[0], frozen, batch)
        jax.block_until_ready(held[0])
        return {"loss": float(metrics["loss"].total), "peak": peak()}

    return run, {
        "flops": flops,
        "temporary": planned.temp_size_in_bytes,
        "arguments": planned.argument_size_in_bytes,
    }


@dataclasses.dataclass(frozen=True)
class Alone:
    """A side that ran by itself.

    Attributes:
      seconds: of its quickest run.
      value: what that said.
      facts: of the side.
    """

    seconds: float
    value: Facts
    facts: Facts


def alone(side: Side, options: Options) -> Alone | str:
    """Runs a side in a process of its own; why it ended, where it did."""
    cores = cores_of(options.threads)
    try:
        with Worker(side, cores, len(cores)) as worker:
            runs = [worker.run() for _ in range(options.num_rounds)]
            timed = [(run["value"].get("seconds", run["seconds"]), run["value"]) for run in runs]
            seconds, value = min(timed, key=lambda one: one[0])
            return Alone(seconds, value, dict(worker.facts))
    except MmjaxError as error:
        return str(error)


def device_kind() -> Callable[[], str]:
    """A side that says what the device is; this process itself takes none of its memory."""
    return lambda: jax.devices()[0].device_kind


def run(options: Options) -> Report:
    """Times all of it.

    Args:
      options: `full` takes the sizes of an accelerator; `peer` puts torch's attention beside ours.

    Returns:
      Seconds beside the roofline, memory beside the compiler's plan, tokens a second, MFU.
    """
    cores = cores_of(options.threads)
    with Worker(Side("device", "benchmarks.accelerator:device_kind"), cores, len(cores)) as worker:
        kind = str(worker.value)
    chip, full = chip_of(kind), options.full
    shape = ATTENTION if full else SMALL_ATTENTION
    sides = [Side("mmjax", "benchmarks.accelerator:attention", {"shape": shape})]
    if options.peer == "torch":
        sides.append(
            Side("torch's sdpa", "benchmarks.peers.torch_attention:side", {"shape": shape})
        )
    comparison = compare(sides, options, lambda values: check_equal(values, 0.1))
    names = MODELS if full else MODELS[:1]
    kinds = ([("7B", 8, True), ("7B", 8, False)]) if full else [("tiny", 2, True)]
    new = NEW if full else 16
    work: dict[str, Side] = {
        "loss": Side(
            "loss", "benchmarks.accelerator:loss", {"pairs": PAIRS if full else SMALL_PAIRS}
        )
    }
    for name in names:
        for rows in (1, 8):
            asked = {"name": name, "rows": rows, "new": new}
            work[f"{name}, {rows}"] = Side(name, "benchmarks.accelerator:writing", asked)
    for size, rows, remat in kinds:
        title = f"LaVIN {size}, {rows} rows{', layers computed again' if remat else ''}"
        asked = {"size": size, "rows": rows, "remat": remat}
        work[title] = Side(title, "benchmarks.accelerator:lavin", asked)
    found = {name: alone(side, options) for name, side in track(tuple(work.items()), "the rest")}
    lines = tuple(_row(name, work[name], one, chip, new) for name, one in found.items())
    batch, heads, length, width = shape
    flops = 3.5 * 2 * batch * heads * length**2 * width  # half of the square is read
    seconds = min(comparison.seconds["mmjax"]) / 2
    share = f", {flops / seconds / chip.flops:.0%} of its peak" if chip else ""
    title = f"Causal attention and its gradients, {shape}, bfloat16, {kind}{share}"
    columns = ("what", "seconds", "rate", "of the most", "device peak, GB", "planned, GB")
    return Report(
        [comparison.grid(title), Grid(f"On one {kind}, bfloat16", columns, lines)],
        {
            "device": kind,
            "attention": comparison.samples(),
            "rest": {
                name: dataclasses.asdict(one) if isinstance(one, Alone) else one
                for name, one in found.items()
            },
        },
        comparison.lines(f"attention at {length:,}, forward and backward, bfloat16"),
    )


def _row(name: str, side: Side, one: Alone | str, chip: Chip | None, new: int) -> tuple[str, ...]:
    """What, seconds, rate, share of the most, memory, and what was planned of it."""
    if isinstance(one, str):
        return (name, one[:60], "", "", "", "")
    facts, asked = one.facts, side.arguments
    held, planned = one.value["peak"] / GB, _planned(facts)
    rate = most = ""
    if "pairs" in asked:
        name, rate = f"loss of {asked['pairs']:,} pairs", f"{asked['pairs'] / one.seconds:,.0f} / s"
    if "bytes" in facts:
        tokens = asked["rows"] * (new - 1) / one.seconds
        name, rate = f"{side.name}, {asked['rows']} rows", f"{tokens:,.0f} tokens / s"
        if chip:
            most = f"{facts['bytes'] / chip.hbm_rate * (new - 1) / one.seconds:.0%} of HBM's rate"
    elif chip:
        most = f"{facts['flops'] / one.seconds / chip.flops:.0%} MFU"
    if "size" in asked:
        hours = EPOCHS * QUESTIONS / asked["rows"] * one.seconds / 3600
        rate = f"{EPOCHS} epochs in {hours:.1f} h"
    return (name, f"{one.seconds:.4f}", rate, most, f"{held:.2f}", planned)


def _planned(facts: Mapping[str, Any]) -> str:
    parts = [facts[part] for part in ("arguments", "temporary") if part in facts]
    return f"{sum(parts) / GB:.2f}" if parts else ""
