"""How much of a batch is real, and what do buckets of length save beside padding to 512?

Lengths are drawn, not read: log-normal, median 230 columns, sigma 0.45, within 48 and 512, half of
each row an answer, for as many rows as ScienceQA trains on. That makes half of 512 columns real; no
published distribution was at hand, and another one gives another saving. The timed model is a small
LLaMA with random weights and routed adapters.
"""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.apart import Side, compare
from benchmarks.harness import Grid, Options, Report, check_equal
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.data.conversations import Conversations, collate
from mmjax.data.layout import Encoded
from mmjax.data.tables import RawTable
from mmjax.encoders.language_model import WORD
from mmjax.encoders.llama import Llama
from mmjax.encoders.llama_config import LlamaConfig
from mmjax.encoders.text_preprocess import bucket
from mmjax.encoders.vision import VisionConfig, VisionTransformer
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.instruct.task import InstructTask

ROWS = 12726  # ScienceQA's training questions
LIMIT = 512  # the original recipe's columns
MEDIAN, SIGMA, LEAST = 230, 0.45, 48
LLAMA = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": LIMIT,
}
BATCH, TIMED = 32, 8  # rows a batch of the count; batches that are timed


def conversations(count: int, vocab_size: int) -> Conversations:
    """Text alone, of drawn lengths.

    Args:
      count: rows.
      vocab_size: random words are below it.

    Returns:
      Rows whose second half is an answer.
    """
    draw = np.random.default_rng(0)
    drawn = np.exp(draw.normal(np.log(MEDIAN), SIGMA, count))
    rows = []
    for length in np.clip(drawn.round(), LEAST, LIMIT).astype(int):
        ids = draw.integers(1, vocab_size, length).astype(np.int32)
        answers = np.arange(length // 2, length, dtype=np.int32)
        rows.append(Encoded(ids, np.full(length, WORD, np.int32), answers, 0))
    none = np.full(count, WORD)
    return Conversations(rows, none, RawTable((), lambda _: {}), per_picture=1, first=True)


def count(found: Conversations, batch_size: int) -> dict[str, Any]:
    """Real and padded columns of an epoch.

    Args:
      found: the rows.
      batch_size: rows a batch.

    Returns:
      Numbers of `batches`, of their `shapes`, of `rows` in them, and of columns: `real`, in
      `buckets`, and `padded` to 512.
    """
    plan = found.plan(batch_size, np.random.default_rng(0))
    shapes = Counter(_shape(found, groups) for groups in plan)
    lengths = [len(found.rows[i].ids) for groups in plan for group in groups for i in group]
    return {
        "batches": len(plan),
        "shapes": len(shapes),
        "rows": len(lengths),
        "real": sum(lengths),
        "buckets": sum(n * shape[0] * batch_size for shape, n in shapes.items()),
        "padded": len(lengths) * LIMIT,
    }


def _shape(found: Conversations, groups: list[list[int]]) -> tuple[int, int]:
    text = found.batch(groups, len(groups))["text"]
    return text["input_ids"].shape[1], text["labels"].shape[1]


class Training:
    """Training steps over given batches; a call is a step on each."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        """Compiles a step for every shape among the batches."""
        module = Llama(LlamaConfig.from_hf(LLAMA))
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = jax.jit(module.init)(jax.random.key(0), tokens, tokens)["params"]
        blind = VisionTransformer(VisionConfig(8, 1, 1, 8, 2, 2, 2))  # text alone never reaches it
        vision = jax.eval_shape(blind.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
        parts = Multimodal(RepAdapter(dropout=0.0), None, taps=1)
        task = InstructTask.of(parts, module, blind)
        self._frozen = {"language": params, "image": {}}
        self._batches = [jax.device_put(batch) for batch in batches]
        self._step = make_train_step(task, optax.sgd(0.0))
        trainable = parts.init(jax.random.key(1), params, vision)
        self._state = create(trainable, optax.sgd(0.0), jax.random.key(2))

    def __call__(self) -> float:
        """A step on every batch; returns the mean loss over tokens."""
        total = tokens = 0.0
        for batch in self._batches:
            self._state, metrics = self._step(self._state, self._frozen, batch)
            total += float(metrics["token_loss"].total)
            tokens += float(metrics["token_loss"].examples)
        jax.block_until_ready(self._state)
        return total / tokens


def side(rows: int, buckets: bool) -> Training:
    """Steps on batches that stand for all of an epoch.

    Args:
      rows: of a batch.
      buckets: whether rows are padded to their bucket's length rather than to the limit.

    Returns:
      The steps.
    """
    epoch = conversations(ROWS, LLAMA["vocab_size"])
    # Evenly through the plan by size, so that few batches stand for all.
    plan = sorted(epoch.plan(rows, np.random.default_rng(0)), key=lambda g: _shape(epoch, g))
    chosen = [plan[len(plan) * (2 * i + 1) // (2 * TIMED)] for i in range(TIMED)]
    if buckets:
        return Training([epoch.batch(groups, rows) for groups in chosen])
    most = bucket(max(len(row.answers) for row in epoch.rows))
    return Training(
        [
            {"text": collate([epoch.rows[i] for group in groups for i in group], LIMIT, most, True)}
            for groups in chosen
        ]
    )


def run(options: Options) -> Report:
    """Counts an epoch's columns, then times steps in buckets beside the same rows padded to 512.

    Args:
      options: the first of `batches` is the rows a timed batch, else 2.

    Returns:
      Shares of real columns, and seconds of both.
    """
    rows = options.sizes((2,), (4,))[0]
    total = count(conversations(ROWS, LLAMA["vocab_size"]), BATCH)
    sides = [
        Side(name, "benchmarks.instruct_buckets:side", {"rows": rows, "buckets": buckets})
        for name, buckets in (("buckets", True), (f"padded to {LIMIT}", False))
    ]
    comparison = compare(sides, options, check_equal)
    real, bucketed, whole = (total[name] for name in ("real", "buckets", "padded"))
    lines = (
        (f"padded to {LIMIT}", f"{whole:,}", f"{real / whole:.1%}", "1.00"),
        ("buckets", f"{bucketed:,}", f"{real / bucketed:.1%}", f"{whole / bucketed:.2f}"),
    )
    title = (
        f"Drawn lengths: {total['rows']:,} rows in {total['batches']:,} batches of {BATCH}, "
        f"{total['shapes']} shapes, {real:,} real columns"
    )
    work = f"{TIMED} steps of {rows} rows in buckets of length, small LLaMA"
    return Report(
        [
            Grid(title, ("rows are", "columns", "real", "columns saved, times"), lines),
            comparison.grid(f"{work}, f32"),
        ],
        {**comparison.samples(), "epoch": total},
        comparison.lines(work),
    )
