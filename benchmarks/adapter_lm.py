"""How long does a training step of adapters take, beside torch, PEFT and full fine-tuning?

All sides hold SmolLM2-135M in float32, read the same rows of text and learn the last quarter of
each; logits are computed at those positions only. The torch sides are Hugging Face's model with the
same routed adapters written as modules of torch, and the same with PEFT's LoRA and DoRA.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from benchmarks.apart import Side, compare
from benchmarks.harness import Comparison, Grid, Options, Report, check_equal
from mmjax import trees
from mmjax.adapters.dora import DoRA
from mmjax.adapters.lora import Lora
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import WORD
from mmjax.encoders.output import Batch
from mmjax.encoders.source import resolve_source
from mmjax.encoders.vision import VisionConfig, VisionTransformer
from mmjax.metrics import Metrics
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.instruct.task import InstructTask
from mmjax.trees import PyTree

MODEL = "asset:smollm2-135m-instruct"
LENGTH = 64  # columns a row, of which a quarter is learned
RATE = 1e-3
ROUTED, LORA, DORA, ALL = "routed adapters", "LoRA", "DoRA", "all weights"
PARTS = {
    ROUTED: Multimodal(RepAdapter(dropout=0.0), None, taps=1),
    LORA: Multimodal(Lora(), None, taps=1),
    DORA: Multimodal(DoRA(), None, taps=1),
}
MAKERS = {ROUTED: ("torch", "routed"), LORA: ("PEFT", "lora"), DORA: ("PEFT", "dora")}
# Rows of text alone never reach it; the task only wants to know that there is one.
_BLIND = VisionTransformer(VisionConfig(8, 1, 1, 8, 2, 2, 2))


def batch_of(rows: int, vocab_size: int, routed: bool = True) -> dict[str, Any]:
    """Rows of random words, the last quarter of each to be learned.

    Args:
      rows: how many.
      vocab_size: ids are below it.
      routed: whether a modality token that no other token sees stands in front.

    Returns:
      A batch of the instruct task.
    """
    draw = np.random.default_rng(0)
    learned = LENGTH // 4
    ids = draw.integers(3, vocab_size, (rows, LENGTH)).astype(np.int32)
    mask = np.ones((rows, LENGTH), np.int32)
    mask[:, 0] = not routed
    columns = np.tile(np.arange(LENGTH - learned - 1, LENGTH - 1, dtype=np.int32), (rows, 1))
    return {
        "text": {
            "input_ids": ids,
            "image_slot": np.full((rows, LENGTH), WORD, np.int32),
            "attention_mask": mask,
            "columns": columns,
            "labels": ids[:, -learned:],
            "weights": np.ones((rows, learned), np.float32),
            "modality": np.zeros(rows, np.int32),
        }
    }


def initial(language: LanguageModel, kind: str, up: bool = True) -> PyTree:
    """What is trained, as after some training: adapters at their start would change nothing.

    Args:
      language: the frozen model.
      kind: of `PARTS`.
      up: whether up-projections are drawn rather than 0.

    Returns:
      Parameters.
    """
    vision = jax.eval_shape(_BLIND.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    trainable = PARTS[kind].init(jax.random.key(0), language.params, vision)

    def drawn(path: str, x: Array) -> Array:
        if not up or not path.endswith("up/kernel"):
            return x
        return 0.02 * jax.random.normal(jax.random.key(1), x.shape)

    return jax.tree_util.tree_map_with_path(lambda p, x: drawn(trees.path_of(p), x), trainable)


class Training:
    """One way to train here: a call is a step."""

    def __init__(self, language: LanguageModel, batch: PyTree, kind: str, up: bool = True) -> None:
        """Takes the first step.

        Args:
          language: the frozen model.
          batch: what is learned.
          kind: of `PARTS`, or all weights of the model.
          up: as of `initial`.
        """
        self._batch, self._losses = jax.device_put(batch), list[float]()
        tx = optax.adamw(RATE, weight_decay=0.0)
        self._frozen: PyTree = {}
        if kind == ALL:
            bare = Multimodal(None, None, taps=1)
            task: InstructTask = _Everything.of(bare, language.module, _BLIND)
            trainable = jax.tree.map(jnp.copy, language.params)
        else:
            task = InstructTask.of(PARTS[kind], language.module, _BLIND)
            trainable = initial(language, kind, up)
            self._frozen = {"language": language.params, "image": {}}
        self._state = create(trainable, tx, jax.random.key(2))
        self._step = make_train_step(task, tx)
        self()

    def __call__(self) -> list[float]:
        """One step; returns the first two losses, of which the second shows the first update."""
        self._state, metrics = self._step(self._state, self._frozen, self._batch)
        jax.block_until_ready(self._state)
        loss = float(metrics["loss"].total)
        if len(self._losses) < 2:
            self._losses.append(loss)
        return self._losses


def ours(kind: str, rows: int) -> Training:
    """The side of mmjax.

    Args:
      kind: of `PARTS`, or all weights.
      rows: of the batch.

    Returns:
      The step.
    """
    language = load()
    return Training(language, batch_of(rows, language.config.vocab_size, kind == ROUTED), kind)


def load() -> LanguageModel:
    """The model that all sides hold."""
    language = load_encoder(MODEL)
    assert isinstance(language, LanguageModel)
    return language


class _Everything(InstructTask):
    """The same loss where all weights of the language model are trained, and no adapter."""

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        return super().loss({}, {**frozen, "language": trainable}, batch, key)


def run(options: Options) -> Report:
    """Times a step of adapters here beside the same in torch, and beside training all weights.

    Args:
      options: the first of `batches` is the number of rows, else 4.

    Returns:
      Seconds of each side.

    Raises:
      MmjaxError: losses of the first two steps differ by more than 1e-4.
    """
    rows = options.sizes((4,), (4,))[0]
    report = Report(samples={"rows": rows, "length": LENGTH})
    language = load()
    with tempfile.TemporaryDirectory() as place:
        for kind, (peer, function) in MAKERS.items():
            if options.peer != "torch" and kind != ROUTED:
                continue
            sides = [Side(kind, "benchmarks.adapter_lm:ours", {"kind": kind, "rows": rows})]
            if options.peer == "torch":
                start = Path(place) / f"{function}.npz"
                write_start(start, language, rows, kind)
                arguments = {
                    "folder": str(resolve_source(MODEL)),
                    "start": str(start),
                    "rate": RATE,
                }
                make = f"benchmarks.peers.torch_adapters:{function}"
                sides.append(Side(f"{kind} in {peer}", make, arguments))
            comparison = compare(sides, options, check_equal)
            work = f"a step of {kind}, {MODEL.removeprefix('asset:')}, {rows} x {LENGTH} tokens"
            report.grids += [comparison.grid(f"{work}, f32"), _rates(comparison, rows)]
            report.lines += comparison.lines(work)
            report.samples[kind] = comparison.samples()
    # Adapters without effect leave the model's own loss, which full fine-tuning starts from.
    batch = batch_of(rows, language.config.vocab_size)
    losses = {k: Training(language, batch, k, up=False)()[:1] for k in (ROUTED, ALL)}
    check_equal(losses)
    names = [(kind, {"kind": kind, "rows": rows}) for kind in (ROUTED, ALL)]
    comparison = compare(
        [Side(n, "benchmarks.adapter_lm:ours", arguments) for n, arguments in names], options
    )
    work = f"a step of {ROUTED} beside one of {ALL}"
    report.grids += [comparison.grid(f"{work}, f32"), _rates(comparison, rows)]
    report.lines += comparison.lines(work)
    report.samples[ALL] = comparison.samples()
    return report


def write_start(path: Path, language: LanguageModel, rows: int, kind: str) -> None:
    """Writes the batch and what is trained for a side without JAX.

    Args:
      path: an .npz file.
      language: the frozen model.
      rows: of the batch.
      kind: of `PARTS`.
    """
    batch = batch_of(rows, language.config.vocab_size, kind == ROUTED)
    values = {f"batch/{name}": value for name, value in batch["text"].items()}
    for name, value in trees.named_leaves(initial(language, kind)):
        values[f"trainable/{name}"] = np.asarray(value)
    np.savez(path, allow_pickle=False, **values)


def _rates(found: Comparison, rows: int) -> Grid:
    each = [(name, f"{rows * LENGTH * 2 / min(s):,.0f}") for name, s in found.seconds.items()]
    return Grid("Tokens a second", ("side", "best"), tuple(each))
