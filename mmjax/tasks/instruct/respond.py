"""What a trained `instruct` task says to many conversations: written answers, likely options."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mmjax.adapters.multimodal import place_images
from mmjax.adapters.rep_adapter import bind, routing_table
from mmjax.data.conversations import Conversations
from mmjax.data.layout import Encoded
from mmjax.data.wording import Turn, cut
from mmjax.encoders.language_model import IMAGE, TEXT, WORD, LanguageModel, embed
from mmjax.encoders.padding import bucket
from mmjax.generation import generate, score
from mmjax.generation.prompts import BUCKETS
from mmjax.sharding import replicated
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.typed import jit
from mmjax.trees import PyTree


class Prompter:
    """What the language model reads of an `instruct` task's questions, beside its own weights.

    The modality token is not read: after it, routing weights are constants.
    """

    def __init__(self, task: InstructTask, language: LanguageModel, mesh: Mesh | None) -> None:
        """Nothing is compiled yet.

        Args:
          task: what was trained.
          language: the frozen language model, without a hook.
          mesh: what is made comes back whole from it; None is one device.
        """
        self._task, self._model = task, language.with_hook(task.parts.language)
        whole = None if mesh is None else replicated(mesh)

        def image_tokens(trainable: PyTree, frozen: PyTree, inputs: PyTree) -> jax.Array:
            return task.image_tokens(trainable, trainable.get("vision"), frozen, inputs)

        def lay_out(params: PyTree, ids: jax.Array, slots: jax.Array, pictures: PyTree) -> PyTree:
            return place_images(embed(language.module, params, ids), pictures, slots, None)

        # (trainable, frozen, inputs of m pictures) -> float32 [m, taps, d]
        self.image_tokens = jit(image_tokens, out_shardings=whole)
        # (language model's params, ids [b, l], slots [b, l], image tokens) -> float [b, l, d]
        self.lay_out: Callable[..., PyTree] = jit(lay_out, out_shardings=whole)

    def model(self, trainable: PyTree) -> LanguageModel:
        """The language model with the task's hook, and with its weights that learned."""
        whole = self._task.whole(trainable, {"language": self._model.params})
        return dataclasses.replace(self._model, params=whole["language"])

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
          slots: the same, which of their pictures' tokens stands where; see `place_images`.
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
        table = routing_table(self._model, own, trainable["modality"]["embedding"])
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
        self._tokenizer = language.preprocess.tokenizer

    def said(
        self, trainable: PyTree, frozen: PyTree, conversations: Conversations, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers.

        Args:
          trainable: as trained.
          frozen: the frozen tree.
          conversations: n conversations.
          max_new_tokens: the most tokens an answer.

        Returns:
          n texts.
        """
        texts: dict[int, str] = {}
        model = self._prompter.model(trainable)
        for rows, prompts, adapters in self._batches(model, trainable, frozen, conversations):
            answers = generate(model, prompts, max_new_tokens, adapters=adapters)
            texts |= {row: answer.text for row, answer in zip(rows, answers, strict=True)}
        return [texts[i] for i in range(len(conversations))]

    def options(
        self,
        trainable: PyTree,
        frozen: PyTree,
        conversations: Conversations,
        options: Sequence[Sequence[str]],
    ) -> list[Float[np.ndarray, " k"]]:
        """Log-probabilities of given answers, each prompt read once.

        Args:
          trainable: as trained.
          frozen: the frozen tree.
          conversations: n conversations.
          options: for each its possible answers.

        Returns:
          For each the log-probabilities of its options, float64 [k].
        """
        log_probs: dict[int, np.ndarray] = {}
        model = self._prompter.model(trainable)
        for rows, prompts, adapters in self._batches(model, trainable, frozen, conversations):
            ids = [[self._after(conversations.rows[i], text) for text in options[i]] for i in rows]
            scored = score(model, prompts, ids, adapters)
            for row, several in zip(rows, scored, strict=True):
                log_probs[row] = np.array([option.log_prob for option in several])
        return [log_probs[i] for i in range(len(conversations))]

    def _after(self, row: Encoded, answer: str) -> list[int]:
        """An answer's tokens behind the row's question."""
        turns = [Turn(row.prompt), Turn(answer, learn=True)]
        return cut(turns, self._tokenizer)[1]

    def _batches(
        self, model: LanguageModel, trainable: PyTree, frozen: PyTree, conversations: Conversations
    ) -> Iterator[tuple[list[int], list[np.ndarray], PyTree]]:
        """(rows, prompts as embeddings, adapters of their modality), short ones first."""
        ends = [int(row.answers[0]) for row in conversations.rows]
        order = sorted(range(len(conversations)), key=lambda i: ends[i])
        for modality, adapters in self._prompter.adapters(trainable).items():
            rows = [i for i in order if conversations.rows[i].modality == modality]
            for at in range(0, len(rows), self._size):
                chunk = rows[at : at + self._size]
                prompts = self._prompts(model, trainable, frozen, conversations, chunk, ends)
                yield chunk, prompts, adapters

    def _prompts(
        self,
        model: LanguageModel,
        trainable: PyTree,
        frozen: PyTree,
        conversations: Conversations,
        chunk: Sequence[int],
        ends: Sequence[int],
    ) -> list[np.ndarray]:
        start = int(conversations.first)  # column 0 would hold the modality token
        ids = [conversations.rows[i].ids[start : ends[i]] for i in chunk]
        slots = [conversations.rows[i].slots[start : ends[i]] for i in chunk]
        shown = None
        if conversations.rows[chunk[0]].modality == IMAGE:
            which = conversations.images[[*chunk, *[chunk[0]] * (self._size - len(chunk))]]
            shown = self._prompter.image_tokens(
                trainable, frozen, conversations.table.gather(which)
            )
        return self._prompter.embeddings(model.params, ids, slots, shown, self._size)
