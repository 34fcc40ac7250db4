"""How long does a training step of routed adapters take, beside torch and beside full fine-tuning?

All sides hold SmolLM2-135M in float32, read the same rows of text and learn the last quarter of
each; logits are computed at those positions only. The torch side is Hugging Face's model with the
same adapters written as modules of torch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from benchmarks.harness import Grid, Options, Report, check_equal, compare
from mmjax.adapters.multimodal import Multimodal
from mmjax.adapters.rep_adapter import RepAdapter
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.encoders.language_model import WORD
from mmjax.encoders.output import Batch
from mmjax.encoders.source import resolve
from mmjax.encoders.vision import VisionConfig, VisionTransformer
from mmjax.metrics import Metrics
from mmjax.state import create
from mmjax.step import make_train_step
from mmjax.tasks.instruct.task import InstructTask
from mmjax.trees import PyTree

MODEL = "asset:smollm2-135m-instruct"
LENGTH = 64  # columns a row, of which a quarter is learned
RATE = 1e-3
PARTS = Multimodal(RepAdapter(dropout=0.0), None, taps=1)
# Rows of text alone never reach it; the task only wants to know that there is one.
_BLIND = VisionTransformer(VisionConfig(8, 1, 1, 8, 2, 2, 2))


def batch_of(rows: int, vocab_size: int) -> dict[str, Any]:
    """Rows of random words behind a modality token, the last quarter of each to be learned."""
    draw = np.random.default_rng(0)
    learned = LENGTH // 4
    ids = draw.integers(3, vocab_size, (rows, LENGTH)).astype(np.int32)
    mask = np.ones((rows, LENGTH), np.int32)
    mask[:, 0] = 0  # the modality token is seen by no other
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


def initial(language: LanguageModel) -> PyTree:
    """Adapters as after some training: those at their start would change nothing."""
    vision = jax.eval_shape(_BLIND.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    trainable = PARTS.init(jax.random.key(0), language.params, vision)
    up = trainable["language"]["up"]
    up["kernel"] = 0.02 * jax.random.normal(jax.random.key(1), up["kernel"].shape)
    return trainable


class Side:
    """One way to train here."""

    def __init__(self, language: LanguageModel, batch: PyTree, everything: bool, up: bool) -> None:
        """Nothing is compiled yet.

        Args:
          language: the frozen model.
          batch: what is learned.
          everything: train all weights of the model and no adapter, rather than adapters.
          up: whether the adapters are those of `initial`, rather than without effect.
        """
        self._batch = jax.device_put(batch)
        tx = optax.adamw(RATE, weight_decay=0.0)
        if everything:
            bare = Multimodal(None, None, taps=1)
            task: InstructTask = _Everything.of(bare, language.module, _BLIND)
            trainable = jax.tree.map(jnp.copy, language.params)
            self._frozen: PyTree = {}
        else:
            task = InstructTask.of(PARTS, language.module, _BLIND)
            trainable = initial(language)
            if not up:
                trainable["language"]["up"]["kernel"] *= 0
            self._frozen = {"language": language.params, "image": {}}
        self._state = create(trainable, tx, jax.random.key(2))
        self._step = make_train_step(task, tx)
        self.loss = self.run()

    def run(self) -> float:
        """One step; returns the loss before it."""
        self._state, metrics = self._step(self._state, self._frozen, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"].total)


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
      MmjaxError: the sides' first losses differ by more than 1e-4.
    """
    rows = options.sizes((4,), (4,))[0]
    language = load_encoder(MODEL)
    assert isinstance(language, LanguageModel)
    batch = batch_of(rows, language.config.vocab_size)
    adapters, whole = Side(language, batch, False, True), Side(language, batch, True, False)
    # Adapters without effect leave the model's own loss, which full fine-tuning starts from.
    check_equal(
        {"adapters at their start": Side(language, batch, False, False).loss, "all": whole.loss}
    )
    sides: dict[str, Callable[[], Any]] = {"adapters": adapters.run, "all weights": whole.run}
    title = f"A step, {MODEL}, {rows} x {LENGTH} tokens, f32"
    if options.peer == "torch":
        from benchmarks.adapter_lm_torch import TorchSide

        peer = TorchSide(str(resolve(MODEL)), batch, initial(language), PARTS, RATE)
        check_equal({"adapters": adapters.loss, "torch": peer.loss})
        # The second losses come out of the first updates.
        check_equal({"adapters": adapters.run(), "torch": peer.run()})
        sides["adapters in torch"] = peer.run
    else:
        title += "; torch: skipped (--peer torch)"
    timed = compare(sides, options.num_rounds)
    rates = [(name, f"{rows * LENGTH * 2 / min(s):,.0f}") for name, s in timed.seconds.items()]
    return Report(
        [timed.grid(title), Grid("Tokens a second", ("side", "best"), tuple(rates))],
        {**timed.samples(), "rows": rows, "length": LENGTH},
    )
