"""Using a trained `instruct` adapter: questions about pictures, and texts without one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.checks.arguments import pictures, several, texts
from mmjax.checks.foreign import reading
from mmjax.data.layout import Conversation
from mmjax.data.layout import encode_prompt as encode
from mmjax.data.wording import QUESTION, Turn, Wording, ask, cut
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import IMAGE, TEXT
from mmjax.errors import MmjaxError
from mmjax.generation import Generation, Sampling, Scored, generate, score
from mmjax.runs.adapter_files import CARD, load_adapter_params
from mmjax.tasks import typed
from mmjax.tasks.cards import library_of
from mmjax.tasks.instruct.assembly import placed
from mmjax.tasks.instruct.build import make_instruct
from mmjax.tasks.instruct.respond import Row, Telling, Told, prompter_of
from mmjax.tasks.instruct.task import InstructTask, frozen_tree
from mmjax.tasks.instruct.towers import encoders_of, image_table, layout_of, tokens_of
from mmjax.tasks.run import stage_of
from mmjax.trees import PyTree

# A question that was asked before, and its answer.
Exchange = tuple[str, str]
_DEFAULT = Wording(QUESTION, " ")


def _check_size(wanted: jax.ShapeDtypeStruct, array: np.ndarray) -> None:
    if wanted.shape != array.shape:
        raise ValueError(f"an array of shape {array.shape}, where its stage has {wanted.shape}")


class Answering:
    """A trained `instruct` adapter with the frozen models below it.

    Attributes:
      card: everything that is known of it.
      talks: whether it learned conversations, rather than single questions.
    """

    def __init__(
        self,
        task: InstructTask,
        language: LanguageModel,
        vision: Encoder,
        trainable: PyTree,
        card: Mapping[str, Any],
        wording: Wording = _DEFAULT,
    ) -> None:
        """Puts the adapter into its frozen models.

        Args:
          task: says where its parts sit.
          language: the frozen language model.
          vision: the frozen vision transformer, on the same mesh; see `encoders_of`.
          trainable: what was trained, host arrays.
          card: everything that is known of it.
          wording: how a question was put while training.
        """
        self.card, mesh = card, language.mesh
        self._wording, self._question, self.talks = wording, wording.question, wording.talks
        frozen = frozen_tree(language, vision)
        trainable = (
            typed.device_put(trainable) if mesh is None else placed(task, trainable, frozen, mesh)
        )
        frozen = task.whole(trainable, frozen)
        self._vision = dataclasses.replace(vision, params=frozen["image"])
        # What learned of the frozen models' own weights is in them from here on.
        self._trainable = {name: part for name, part in trainable.items() if name != "weights"}
        language = dataclasses.replace(language, params=frozen["language"])
        self._prompter = prompter_of(task, language, self._vision, mesh)
        self._model = self._prompter.model(self._trainable)
        # Bound to a modality, the adapters need no token that says which.
        self._layout = layout_of(language, vision, task.parts.taps, first=False)
        self._adapters = self._prompter.adapters(self._trainable)

    @classmethod
    def load(
        cls, folder: Path, allow_other_encoder: bool = False, mesh: Mesh | None = None
    ) -> "Answering":
        """Loads the adapter and checks its encoders; see `mmjax.load_adapter`."""
        params, card = load_adapter_params(folder)
        stage = stage_of(card)
        library = library_of(card, allow_other_encoder, folder, mesh)
        language, vision = encoders_of(stage, library)
        task = make_instruct(stage, language, vision)
        with reading(folder / CARD, "the card of its parameters", MmjaxError):
            frozen = frozen_tree(language, vision)
            sizes = typed.shapes(task.init, jax.random.key(0), frozen, {})
            jax.tree.map(_check_size, sizes, params)
        wording = Wording.of_card(card, stage.questions, f"the card of {folder}")
        return cls(task, language, vision, params, card, wording)

    def answer(
        self,
        questions: Sequence[str],
        images: Sequence[ImageLike] | None = None,
        max_new_tokens: int = 16,
        sampling: Sampling | None = None,
        key: jax.Array | None = None,
        history: Sequence[Sequence[Exchange]] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        look_every: int = 8,
    ) -> list[Generation]:
        """Answers questions about pictures, or without any.

        They are put in the words that were learned. A ScienceQA adapter's question may give its
        options behind itself, "(A) air (B) rock"; or be a whole problem as it was learned, context
        and all (`mmjax.data.scienceqa.Problem.prompt`), which is read as it stands.

        Args:
          questions: n texts.
          images: n pictures, one a question; None asks about none.
          max_new_tokens: the most tokens an answer.
          sampling: None takes the likeliest token at every step.
          key: where `sampling` draws from.
          history: for each question the (question, answer) pairs before it, the oldest first, about
            the same picture; None has none.
          on_text: called as on_text(question's number, new piece of its answer).
          look_every: tokens between two calls of `on_text`.

        Returns:
          One `Generation` a question.

        Raises:
          MmjaxError: not one picture or history a question, a picture that cannot be read, or a
            question that is longer, with what was said before it, than the model reads.
        """
        told, adapters = self._prompts(questions, images, history)
        return generate(
            self._model,
            told.prompts,
            max_new_tokens,
            sampling,
            key,
            on_text=on_text,
            adapters=adapters,
            images=told.images,
            look_every=look_every,
        )

    def write(
        self,
        prompts: Sequence[str],
        images: Sequence[ImageLike] | None = None,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Goes on with texts as they stand, behind their pictures: nothing is put around them.

        Args:
          prompts: n texts.
          images: n pictures, one a text; None for none.
          max_new_tokens: the most tokens a text.
          stop: texts that end one.

        Returns:
          One `Generation` a text.

        Raises:
          MmjaxError: as `answer`.
        """
        texts(prompts, "prompts")
        told, adapters = self._laid_out([[Turn(prompt)] for prompt in prompts], images, "prompt")
        return generate(
            self._model,
            told.prompts,
            max_new_tokens,
            stop=stop,
            adapters=adapters,
            images=told.images,
        )

    def score(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        images: Sequence[ImageLike] | None = None,
    ) -> list[list[Scored]]:
        """Log-probabilities of given answers, for multiple choice.

        Args:
          questions: n texts.
          answers: for each question the texts that are weighed.
          images: n pictures, one a question; None asks about none.

        Returns:
          For each question one `Scored` an answer.

        Raises:
          MmjaxError: as `answer`; an answer without a token.
        """
        told, adapters = self._prompts(questions, images, None)
        if len(questions) != len(answers):
            raise MmjaxError(f"{len(questions)} questions but {len(answers)} lists of answers")
        tokenizer = self._model.preprocess.tokenizer
        ids = [
            [cut([self._asked(question, []), self._said(a)], tokenizer)[1] for a in several]
            for question, several in zip(questions, answers, strict=True)
        ]
        return score(self._model, told.prompts, ids, adapters, told.images)

    def _prompts(
        self,
        questions: Sequence[str],
        images: Sequence[ImageLike] | None,
        history: Sequence[Sequence[Exchange]] | None,
    ) -> tuple[Told, PyTree]:
        """The questions as the model is told them, and the adapters for them."""
        texts(questions, "questions")
        for i, exchanges in enumerate(several([] if history is None else history, "histories")):
            for exchange in several(exchanges, f"exchanges in history {i}"):
                if len(texts(exchange, f"exchange in history {i}")) != 2:
                    raise MmjaxError(f"history {i} holds no pair of a question and its answer")
        if history is not None and len(history) != len(questions):
            raise MmjaxError(
                f"{len(history)} histories for {len(questions)} questions; one for each"
            )
        conversations: list[list[Turn]] = []
        for i, question in enumerate(questions):
            turns: list[Turn] = []
            past: Sequence[Exchange] = () if history is None else history[i]
            for before, answered in past:
                turns += [self._asked(before, turns), self._said(answered.strip())]
            conversations.append([*turns, self._asked(question, turns)])
        return self._laid_out(conversations, images, "question")

    def _laid_out(
        self, question: Sequence[Sequence[Turn]], images: Sequence[ImageLike] | None, what: str
    ) -> tuple[Told, PyTree]:
        """Turns with their pictures as the model is told them, and the adapters for them."""
        if images is not None:
            pictures(images)
        if images is not None and len(images) != len(question):
            raise MmjaxError(f"{len(images)} pictures for {len(question)} {what}s; one for each")
        table = image_table(self._vision, [] if images is None else list(images))
        rows: list[Row] = []
        for i, turns in enumerate(question):
            about, name = None if images is None else i, f"{what} {i}"
            rows.append(
                encode(
                    Conversation(tuple(turns), about, self._wording.at),
                    self._model.preprocess.tokenizer,
                    self._layout,
                    name,
                    tokens_of(table, about, name),
                )
            )
        adapters = self._adapters[TEXT if images is None else IMAGE]
        if not rows:
            return Told([]), adapters
        which = None if images is None else list(range(len(images)))
        # As many as a power of two: few numbers are compiled for.
        most = 1 << (len(rows) - 1).bit_length()
        telling = Telling(rows, table, which, most)
        return self._prompter.told(self._model, self._trainable, telling), adapters

    def _asked(self, question: str, before: Sequence[Turn]) -> Turn:
        """A question as conversations have it: one after another begins on a line of its own."""
        gap = self._wording.gap if before else ""
        return Turn(gap + ask(self._question, question))

    def _said(self, answer: str) -> Turn:
        """An answer as it was learned: behind a space, or behind none."""
        begun = not answer.strip() or answer[0].isspace()
        return Turn(answer if begun else self._wording.space + answer, learn=True)
