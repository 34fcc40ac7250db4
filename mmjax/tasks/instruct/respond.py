"""What a trained `instruct` task says to many conversations: written answers, likely options."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mmjax.adapters.multimodal import assemble
from mmjax.adapters.rep_adapter import bind, routing_table
from mmjax.data.conversations import Conversations, Encoded
from mmjax.data.wording import Turn, cut
from mmjax.encoders.language_model import IMAGE, TEXT, WORD, LanguageModel, embed
from mmjax.encoders.text_preprocess import bucket
from mmjax.generation import generate, score
from mmjax.generation.prompts import BUCKETS
from mmjax.sharding import replicated
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.typed import jit
from mmjax.trees import PyTree


class Prompter:
    """What the language model reads of an `instruct` task's questions, beside its own weights.

    The modality token is not read: after it, routing weights are constants.

    Attributes:
      model: the language model with the task's hook.
    """

    def __init__(self, task: InstructTask, language: LanguageModel, mesh: Mesh | None) -> None:
        """Nothing is compiled yet.

        Args:
          task: what was trained.
          language: the frozen language model, without a hook.
          mesh: what is made comes back whole from it; None is one device.
        """
        self._task, self.model = task, language.with_hook(task.parts.language)
        whole = None if mesh is None else replicated(mesh)

        def image_tokens(trainable: PyTree, frozen: PyTree, inputs: PyTree) -> jax.Array:
            return task.image_tokens(trainable, trainable.get("vision"), frozen, inputs)

        def lay_out(params: PyTree, ids: jax.Array, slots: jax.Array, pictures: PyTree) -> PyTree:
            return assemble(embed(language.module, params, ids), pictures, slots, None)

        # (trainable, frozen, inputs of m pictures) -> float32 [m, taps, d]
        self.image_tokens = jit(image_tokens, out_shardings=whole)
        # (language model's params, ids [b, l], slots [b, l], image tokens) -> float [b, l, d]
        self.lay_out: Callable[..., PyTree] = jit(lay_out, out_shardings=whole)

    def embeddings(
        self,
        params: PyTree,
        ids: Sequence[Int[np.ndarray, " _"]],
        slots: Sequence[Int[np.ndarray, " _"]],
        pictures: Float[Array | np.ndarray, "b t d"] | None,
        rows: int = 1,
    ) -> list[Float[np.ndarray, "_ d"]]:
        """Prompts laid out, padded for that to a length of a bucket and so many rows.

        Args:
          params: the language model's.
          ids: of the prompts, at most `rows`.
          slots: the same, which of their pictures' tokens stands where; see `assemble`.
          pictures: image tokens of all rows; None where no prompt has a picture.
          rows: b.

        Returns:
          One array a prompt, of its own length.
        """
        shape = rows, bucket(max(map(len, ids)), BUCKETS)
        padded, places = np.zeros(shape, np.int32), np.full(shape, WORD, np.int32)
        for n, (row, slot) in enumerate(zip(ids, slots, strict=True)):
            padded[n, : len(row)], places[n, : len(row)] = row, slot
        laid = np.asarray(self.lay_out(params, padded, places, pictures), np.float32)
        return [laid[n, : len(row)] for n, row in enumerate(ids)]

    def adapters(self, trainable: PyTree) -> dict[int, PyTree]:
        """The language model's adapters for each modality, `TEXT` and `IMAGE`."""
        own = trainable.get("language")
        if not self._task.parts.routed:
            return dict.fromkeys((TEXT, IMAGE), own)
        table = routing_table(self.model, own, trainable["modality"]["embedding"])
        return {modality: bind(own, table, modality) for modality in (TEXT, IMAGE)}


class Speaker:
    """Answers conversations up to their first answer, in batches of one modality and one length."""

    def __init__(
        self, task: InstructTask, language: LanguageModel, mesh: Mesh, batch_size: int = 32
    ) -> None:
        """Nothing is compiled yet.

        Args:
          task: what was trained.
          language: the frozen language model, without a hook.
          mesh: prompts come back whole from it.
          batch_size: rows that are answered together.
        """
        self._prompter, self._size = Prompter(task, language, mesh), batch_size
        self._model = self._prompter.model

    def said(
        self, trainable: PyTree, frozen: PyTree, asked: Conversations, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers.

        Args:
          trainable: as trained.
          frozen: the frozen tree.
          asked: n conversations.
          max_new_tokens: the most tokens an answer.

        Returns:
          n texts.
        """
        found: dict[int, str] = {}
        for rows, prompts, adapters in self._batches(trainable, frozen, asked):
            said = generate(self._model, prompts, max_new_tokens, adapters=adapters)
            found |= {row: one.text for row, one in zip(rows, said, strict=True)}
        return [found[i] for i in range(len(asked))]

    def options(
        self,
        trainable: PyTree,
        frozen: PyTree,
        asked: Conversations,
        options: Sequence[Sequence[str]],
    ) -> list[Float[np.ndarray, " k"]]:
        """Log-probabilities of given answers, each prompt read once.

        Args:
          trainable: as trained.
          frozen: the frozen tree.
          asked: n conversations.
          options: for each its possible answers.

        Returns:
          For each the log-probabilities of its options, float64 [k].
        """
        found: dict[int, np.ndarray] = {}
        for rows, prompts, adapters in self._batches(trainable, frozen, asked):
            ids = [[self._after(asked.rows[i], text) for text in options[i]] for i in rows]
            scored = score(self._model, prompts, ids, adapters)
            for row, several in zip(rows, scored, strict=True):
                found[row] = np.array([one.log_prob for one in several])
        return [found[i] for i in range(len(asked))]

    def _after(self, row: Encoded, answer: str) -> list[int]:
        """An answer's tokens behind the row's question."""
        turns = [Turn(row.asked), Turn(answer, learn=True)]
        return cut(turns, self._model.preprocess.tokenizer)[1]

    def _batches(
        self, trainable: PyTree, frozen: PyTree, asked: Conversations
    ) -> Iterator[tuple[list[int], list[np.ndarray], PyTree]]:
        """(rows, prompts as embeddings, adapters of their modality), short ones first."""
        ends = [int(row.answers[0]) for row in asked.rows]
        order = sorted(range(len(asked)), key=lambda i: ends[i])
        for modality, adapters in self._prompter.adapters(trainable).items():
            rows = [i for i in order if asked.rows[i].modality == modality]
            for at in range(0, len(rows), self._size):
                chunk = rows[at : at + self._size]
                prompts = self._prompts(trainable, frozen, asked, chunk, ends)
                yield chunk, prompts, adapters

    def _prompts(
        self,
        trainable: PyTree,
        frozen: PyTree,
        asked: Conversations,
        chunk: Sequence[int],
        ends: Sequence[int],
    ) -> list[np.ndarray]:
        start = int(asked.first)  # column 0 would hold the modality token
        ids = [asked.rows[i].ids[start : ends[i]] for i in chunk]
        slots = [asked.rows[i].slots[start : ends[i]] for i in chunk]
        shown = None
        if asked.rows[chunk[0]].modality == IMAGE:
            which = asked.pictures[[*chunk, *[chunk[0]] * (self._size - len(chunk))]]
            shown = self._prompter.image_tokens(trainable, frozen, asked.table.gather(which))
        return self._prompter.embeddings(self._model.params, ids, slots, shown, self._size)
