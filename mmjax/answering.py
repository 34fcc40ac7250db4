"""Using a trained `instruct` adapter: questions about pictures, and texts without one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.adapters.mma import IMAGE, TEXT
from mmjax.arguments import pictures, several, texts
from mmjax.base import check_encoder, stage_of
from mmjax.checkpoint import load_adapter_params
from mmjax.data.conversations import INSTRUCTION, QUESTION, Conversation, Layout, Turn, encode
from mmjax.data.library import Library
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.errors import MmjaxError
from mmjax.generation import Generation, Sampling, Scored, generate, score
from mmjax.speaking import Prompter
from mmjax.tasks import make_instruct
from mmjax.tasks.instruct import InstructTask
from mmjax.trees import PyTree

# A question that was asked before, and its answer.
Exchange = tuple[str, str]


class Answering:
    """A trained `instruct` adapter with the frozen models below it.

    Attributes:
      card: everything that is known of it.
    """

    def __init__(
        self,
        task: InstructTask,
        language: LanguageModel,
        vision: Encoder,
        trainable: PyTree,
        card: Mapping[str, Any],
        question: str = QUESTION,
    ) -> None:
        """Puts the adapter into its frozen models.

        Args:
          task: says where its parts sit.
          language: the frozen language model.
          vision: the frozen vision transformer, on the same mesh.
          trainable: what was trained, host arrays.
          card: everything that is known of it.
          question: how a question was put while training; holds `{question}`.
        """
        self._vision, self.card, self._question = vision, card, question
        self._prompter = Prompter(task, language, language.mesh)
        self._model = self._prompter.model
        mesh = language.mesh
        self._trainable = (
            jax.device_put(trainable) if mesh is None else sharding.place(trainable, mesh)
        )
        self._layout = Layout.of(
            language.preprocess.tokenizer,
            language.chat.eos_token_ids,
            False,  # bound to a modality, the adapters need no token that says which
            task.parts.taps,
            language.preprocess.max_length,
        )
        self._adapters = self._prompter.adapters(self._trainable)
        # The answer to come has a stand-in, so that the row has one; it is cut off again.
        self._last = Turn(" ?", learn=True)
        ids = language.preprocess.tokenizer.encode(self._last.text, add_special_tokens=False).ids
        self._cut = len(ids) + 1  # and its end

    @property
    def talks(self) -> bool:
        """Whether it learned conversations, rather than single questions."""
        return self._question == INSTRUCTION

    @classmethod
    def load(
        cls, folder: Path, allow_other_encoder: bool = False, mesh: Mesh | None = None
    ) -> "Answering":
        """Loads the adapter and checks its encoders; see `mmjax.load_adapter`."""
        params, card = load_adapter_params(folder)
        stage = stage_of(card)
        library = Library(mesh or sharding.make_mesh(), tuple(card["languages"]))
        for role, spec in stage.encoders.items():
            check_encoder(library, card, role, spec, allow_other_encoder, folder)
        language, vision = (library.encoder(stage.encoders[role]) for role in ("language", "image"))
        task = make_instruct(stage, language, vision)
        assert isinstance(language, LanguageModel)
        talks = stage.questions.evaluation == "held_out"
        return cls(task, language, vision, params, card, INSTRUCTION if talks else QUESTION)

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
        prompts, adapters = self._prompts(questions, images, history)
        return generate(
            self._model,
            prompts,
            max_new_tokens,
            sampling,
            key,
            on_text=on_text,
            adapters=adapters,
            look_every=look_every,
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
          answers: for each question the texts that are weighed; an answer that is a word begins
            with its space.
          images: n pictures, one a question; None asks about none.

        Returns:
          For each question one `Scored` an answer.

        Raises:
          MmjaxError: as `answer`; an answer without a token.
        """
        prompts, adapters = self._prompts(questions, images, None)
        return score(self._model, prompts, answers, adapters)

    def _prompts(
        self,
        questions: Sequence[str],
        images: Sequence[ImageLike] | None,
        history: Sequence[Sequence[Exchange]] | None,
    ) -> tuple[list[np.ndarray], PyTree]:
        """The questions as embeddings [l, d], and the language model's adapters for them."""
        texts(questions, "questions")
        if images is not None:
            pictures(images)
        if images is not None and len(images) != len(questions):
            raise MmjaxError(f"{len(images)} pictures for {len(questions)} questions; one for each")
        for i, exchanges in enumerate(several([] if history is None else history, "histories")):
            for exchange in several(exchanges, f"exchanges in history {i}"):
                if len(texts(exchange, f"exchange in history {i}")) != 2:
                    raise MmjaxError(f"history {i} holds no pair of a question and its answer")
        if history is not None and len(history) != len(questions):
            raise MmjaxError(
                f"{len(history)} histories for {len(questions)} questions; one for each"
            )
        found = None
        if images is not None and len(images):
            inputs = {"pixel_values": jnp.asarray(self._vision.preprocess(list(images)))}
            frozen = {"image": self._vision.params}
            found = self._prompter.image_tokens(self._trainable, frozen, inputs)
        # Instructions are answered without a space in front, as in the original's data.
        space = "" if self.talks else " "
        prompts = []
        for i, question in enumerate(questions):
            turns: list[Turn] = []
            for asked, answered in [] if history is None else history[i]:
                turns += [self._asked(asked, turns), Turn(space + answered.strip(), learn=True)]
            turns += [self._asked(question, turns), self._last]
            row = encode(
                Conversation(tuple(turns), None if images is None else i),
                self._model.preprocess.tokenizer,
                self._layout,
                f"question {i}",
            )
            ids, slots = (jnp.asarray(x[None, : -self._cut]) for x in (row.ids, row.slots))
            own = None if found is None else found[i : i + 1]
            laid = self._prompter.lay_out(self._model.params, ids, slots, own)
            prompts.append(np.asarray(laid[0], np.float32))
        return prompts, self._adapters[TEXT if images is None else IMAGE]

    def _asked(self, question: str, before: Sequence[Turn]) -> Turn:
        """A question as conversations have it: one after another begins on a line of its own."""
        return Turn("\n" * bool(before) + self._question.format(question=question))
