"""What a trained `instruct` task says to many conversations: written answers, likely options."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mmjax.adapters.rep_adapter import bind, routing_table
from mmjax.data.conversations import Conversations
from mmjax.data.layout import Encoded
from mmjax.data.picture_table import PictureTable
from mmjax.data.tables import InputTable
from mmjax.data.wording import Turn, cut
from mmjax.encoders.base import Encoder
from mmjax.encoders.joined import among
from mmjax.encoders.language_model import IMAGE, TEXT, WORD, LanguageModel, embed
from mmjax.encoders.padding import bucket
from mmjax.encoders.pictures import ImageLike
from mmjax.generation import generate, score
from mmjax.generation.prompts import BUCKETS, Prompt
from mmjax.sharding import replicated
from mmjax.tasks.instruct.own_tower import OwnTowerTask, whole_params
from mmjax.tasks.instruct.task import InstructTask, frozen_tree
from mmjax.tasks.typed import jit
from mmjax.trees import PyTree

# A prompt's ids and, the same, which of its picture's tokens stands where.
Row: TypeAlias = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]


class Told(NamedTuple):
    """What `generate` and `score` are told.

    Attributes:
      prompts: one a row.
      images: their pictures; None where there are none, or where they are part of the prompts.
    """

    prompts: list[Prompt]
    images: list[list[ImageLike]] | None = None


class Telling(NamedTuple):
    """Prompts that a `Prompter` lays out together.

    Attributes:
      rows: n prompts, all with a picture or none.
      table: pictures.
      which: the row of `table` of each prompt; None for text alone.
      most: rows that programs are compiled for, at least n.
    """

    rows: Sequence[Row]
    table: InputTable
    which: Sequence[int] | None
    most: int


class Prompter:
    """What the language model reads of an `instruct` task's questions, beside its own weights.

    The modality token is not read: after it, routing weights are constants.
    """

    def __init__(
        self, task: InstructTask, language: LanguageModel, vision: Encoder, mesh: Mesh | None
    ) -> None:
        """Nothing is compiled yet.

        Args:
          task: what was trained.
          language: the frozen language model, without a hook.
          vision: what pictures pass through.
          mesh: what is made comes back whole from it; None is one device.
        """
        self._task, self._model = task, language.with_hook(task.parts.language)
        self._frozen = frozen_tree(language, vision)
        whole = None if mesh is None else replicated(mesh)

        def image_tokens(trainable: PyTree, frozen: PyTree, inputs: PyTree) -> jax.Array:
            return task.image_tokens(trainable, trainable.get("vision"), frozen, inputs)

        def lay_out(
            params: PyTree, ids: jax.Array, slots: jax.Array, pictures: jax.Array | None
        ) -> jax.Array:
            words = embed(language.module, params, ids)
            return words if pictures is None else among(words, pictures, slots)

        # (trainable, frozen, inputs of m pictures) -> float32 [m, taps, d]
        self._image_tokens = jit(image_tokens, out_shardings=whole)
        # (language model's params, ids [b, l], slots [b, l], image tokens) -> float [b, l, d]
        self._lay_out: Callable[..., jax.Array] = jit(lay_out, out_shardings=whole)

    def model(self, trainable: PyTree) -> LanguageModel:
        """The language model with the task's hook, and with its weights that learned."""
        whole = self._task.whole(trainable, {"language": self._model.params})
        return dataclasses.replace(self._model, params=whole["language"])

    def told(self, model: LanguageModel, trainable: PyTree, telling: Telling) -> Told:
        """Prompts laid out, padded for that to a length of a bucket and so many rows.

        Args:
          model: what `model` gave.
          trainable: as trained.
          telling: n prompts with their pictures.

        Returns:
          Embeddings [l, d] of each prompt, its picture among them.
        """
        rows, table, which, most = telling
        shown = None
        if which is not None:
            inputs = table.gather(np.asarray([*which, *[which[-1]] * (most - len(which))]))
            shown = self._image_tokens(trainable, self._frozen, inputs)
        shape = most, bucket(max(len(ids) for ids, _ in rows), BUCKETS)
        padded, places = np.zeros(shape, np.int32), np.full(shape, WORD, np.int32)
        for n, (ids, slots) in enumerate(rows):
            padded[n, : len(ids)], places[n, : len(ids)] = ids, slots
        laid = np.asarray(self._lay_out(model.params, padded, places, shown), np.float32)
        return Told([laid[n, : len(ids)] for n, (ids, _) in enumerate(rows)])

    def adapters(self, trainable: PyTree) -> dict[int, PyTree]:
        """The model's adapters for each modality, `TEXT` and `IMAGE`."""
        own = trainable.get("language")
        if not self._task.parts.routed:
            return dict.fromkeys((TEXT, IMAGE), own)
        table = routing_table(self._model, own, trainable["modality"]["embedding"])
        return {modality: bind(own, table, modality) for modality in (TEXT, IMAGE)}


class OwnTowerPrompter(Prompter):
    """The same for a model that has an image tower of its own: `generate` shows it the pictures."""

    def __init__(
        self, task: OwnTowerTask, language: LanguageModel, vision: LanguageModel, mesh: Mesh | None
    ) -> None:
        """As `Prompter`; `vision` is the model without its decoder's weights."""
        super().__init__(task, language, vision, mesh)
        adapted = vision.with_hook(task.parts.language, tower="text")
        self._whole = adapted.with_hook(task.parts.vision, tower="image")

    def model(self, trainable: PyTree) -> LanguageModel:
        """The whole model with the task's hooks, and with its weights that learned."""
        whole = self._task.whole(trainable, self._frozen)
        return dataclasses.replace(self._whole, params=whole_params(whole))

    def told(self, model: LanguageModel, trainable: PyTree, telling: Telling) -> Told:
        """As `Prompter.told`: token ids, one for a whole picture, and the pictures."""
        rows, table, which, _ = telling
        prompts: list[Prompt] = [_collapsed(*row) for row in rows]
        if which is None:
            return Told(prompts)
        assert isinstance(table, PictureTable)
        return Told(prompts, [[table.picture(i)] for i in which])

    def adapters(self, trainable: PyTree) -> dict[int, PyTree]:
        """As `Prompter.adapters`, by tower where there is one in the image tower."""
        text = super().adapters(trainable)
        if self._task.parts.vision is None:
            return text
        seeing = {"image": trainable["vision"]}
        if self._task.parts.language is None:
            return dict.fromkeys(text, seeing)
        return {modality: {"text": own, **seeing} for modality, own in text.items()}


def _collapsed(ids: Int[np.ndarray, " l"], slots: Int[np.ndarray, " l"]) -> list[int]:
    """Token ids with one in place of all that a picture becomes."""
    shown = np.flatnonzero(slots != WORD)[1:]
    return np.delete(ids, shown).tolist()


def prompter_of(
    task: InstructTask, language: LanguageModel, vision: Encoder, mesh: Mesh | None
) -> Prompter:
    """The prompter of a task; arguments are as for `Prompter`."""
    if isinstance(task, OwnTowerTask):
        assert isinstance(vision, LanguageModel)
        return OwnTowerPrompter(task, language, vision, mesh)
    return Prompter(task, language, vision, mesh)


class Speaker:
    """Answers conversations up to their first answer, in batches of one modality and one length."""

    def __init__(
        self,
        task: InstructTask,
        language: LanguageModel,
        vision: Encoder,
        mesh: Mesh,
        batch_size: int = 32,
    ) -> None:
        """Nothing is compiled yet.

        Args:
          task: what was trained.
          language: the frozen language model, without a hook.
          vision: what pictures pass through.
          mesh: prompts come back whole from it.
          batch_size: rows that are answered together.
        """
        self._prompter, self._size = prompter_of(task, language, vision, mesh), batch_size
        self._tokenizer = language.preprocess.tokenizer

    def said(
        self, trainable: PyTree, conversations: Conversations, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers.

        Args:
          trainable: as trained.
          conversations: n conversations.
          max_new_tokens: the most tokens an answer.

        Returns:
          n texts.
        """
        texts: dict[int, str] = {}
        model = self._prompter.model(trainable)
        for rows, told, adapters in self._batches(model, trainable, conversations):
            answers = generate(
                model, told.prompts, max_new_tokens, adapters=adapters, images=told.images
            )
            texts |= {row: answer.text for row, answer in zip(rows, answers, strict=True)}
        return [texts[i] for i in range(len(conversations))]

    def options(
        self, trainable: PyTree, conversations: Conversations, options: Sequence[Sequence[str]]
    ) -> list[Float[np.ndarray, " k"]]:
        """Log-probabilities of given answers, each prompt read once.

        Args:
          trainable: as trained.
          conversations: n conversations.
          options: for each its possible answers.

        Returns:
          For each the log-probabilities of its options, float64 [k].
        """
        log_probs: dict[int, np.ndarray] = {}
        model = self._prompter.model(trainable)
        for rows, told, adapters in self._batches(model, trainable, conversations):
            ids = [[self._after(conversations.rows[i], text) for text in options[i]] for i in rows]
            scored = score(model, told.prompts, ids, adapters, told.images)
            for row, several in zip(rows, scored, strict=True):
                log_probs[row] = np.array([option.log_prob for option in several])
        return [log_probs[i] for i in range(len(conversations))]

    def _after(self, row: Encoded, answer: str) -> list[int]:
        """An answer's tokens behind the row's question."""
        turns = [Turn(row.prompt), Turn(answer, learn=True)]
        return cut(turns, self._tokenizer)[1]

    def _batches(
        self, model: LanguageModel, trainable: PyTree, conversations: Conversations
    ) -> Iterator[tuple[list[int], Told, PyTree]]:
        """(rows, their prompts, adapters of their modality), short ones first."""
        ends = [int(row.answers[0]) for row in conversations.rows]
        order = sorted(range(len(conversations)), key=lambda i: ends[i])
        start = int(conversations.first)  # column 0 would hold the modality token
        for modality, adapters in self._prompter.adapters(trainable).items():
            rows = [i for i in order if conversations.rows[i].modality == modality]
            for at in range(0, len(rows), self._size):
                chunk = rows[at : at + self._size]
                read = [(conversations.rows[i], slice(start, ends[i])) for i in chunk]
                prompts = [(row.ids[part], row.slots[part]) for row, part in read]
                which: list[int] = conversations.images[chunk].tolist()
                shown = which if modality == IMAGE else None
                telling = Telling(prompts, conversations.table, shown, self._size)
                yield chunk, self._prompter.told(model, trainable, telling), adapters
