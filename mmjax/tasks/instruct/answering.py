"""Using a trained `instruct` adapter: questions about pictures, and texts without one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.checks.arguments import pictures, several, texts
from mmjax.checks.foreign import reading
from mmjax.data.conversations import Conversation, Layout
from mmjax.data.conversations import encode_prompt as encode
from mmjax.data.library import Library
from mmjax.data.wording import QUESTION, Turn, Wording, ask, cut
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import IMAGE, TEXT
from mmjax.errors import MmjaxError
from mmjax.generation import Generation, Sampling, Scored, generate, score
from mmjax.runs.adapter_files import CARD, load_adapter_params
from mmjax.tasks import typed
from mmjax.tasks.instruct.respond import Prompter
from mmjax.tasks.instruct.task import InstructTask, make_instruct
from mmjax.tasks.run import check_encoder, stage_of
from mmjax.trees import PyTree

# A question that was asked before, and its answer.
Exchange = tuple[str, str]
_DEFAULT = Wording(QUESTION, " ")


def _check_size(wanted: jax.ShapeDtypeStruct, found: np.ndarray) -> None:
    if wanted.shape != found.shape:
        raise ValueError(f"an array of shape {found.shape}, where its stage has {wanted.shape}")


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
          vision: the frozen vision transformer, on the same mesh.
          trainable: what was trained, host arrays.
          card: everything that is known of it.
          wording: how a question was put while training.
        """
        self._vision, self.card = vision, card
        self._question, self._space, self.talks = wording.question, wording.space, wording.talks
        self._prompter = Prompter(task, language, language.mesh)
        self._model = self._prompter.model
        mesh = language.mesh
        self._trainable = (
            typed.device_put(trainable) if mesh is None else sharding.place(trainable, mesh)
        )
        self._layout = Layout.of(
            language.preprocess.tokenizer,
            language.chat.eos_token_ids,
            False,  # bound to a modality, the adapters need no token that says which
            task.parts.taps,
            language.preprocess.max_length,
        )
        self._adapters = self._prompter.adapters(self._trainable)

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
        with reading(folder / CARD, "the card of its parameters", MmjaxError):
            sizes = typed.shapes(task.parts.init, jax.random.key(0), language.params, vision.params)
            jax.tree.map(_check_size, sizes, params)
        assert isinstance(language, LanguageModel)
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
          answers: for each question the texts that are weighed.
          images: n pictures, one a question; None asks about none.

        Returns:
          For each question one `Scored` an answer.

        Raises:
          MmjaxError: as `answer`; an answer without a token.
        """
        prompts, adapters = self._prompts(questions, images, None)
        if len(questions) != len(answers):
            raise MmjaxError(f"{len(questions)} questions but {len(answers)} lists of answers")
        tokenizer = self._model.preprocess.tokenizer
        ids = [
            [cut([self._asked(question, []), self._said(a)], tokenizer)[1] for a in several]
            for question, several in zip(questions, answers, strict=True)
        ]
        return score(self._model, prompts, ids, adapters)

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
            # As many as a power of two, the last one again and again: few numbers are compiled for.
            more = [images[-1]] * ((1 << (len(images) - 1).bit_length()) - len(images))
            inputs = {"pixel_values": self._vision.preprocess([*images, *more])}
            frozen = {"image": self._vision.params}
            found = np.asarray(self._prompter.image_tokens(self._trainable, frozen, inputs))
        prompts: list[np.ndarray] = []
        for i, question in enumerate(questions):
            turns: list[Turn] = []
            said: Sequence[Exchange] = () if history is None else history[i]
            for asked, answered in said:
                turns += [self._asked(asked, turns), self._said(answered.strip())]
            turns += [self._asked(question, turns)]
            ids, slots = encode(
                Conversation(tuple(turns), None if images is None else i),
                self._model.preprocess.tokenizer,
                self._layout,
                f"question {i}",
            )
            own = None if found is None else found[i : i + 1]
            prompts.append(self._prompter.embeddings(self._model.params, [ids], [slots], own)[0])
        return prompts, self._adapters[TEXT if images is None else IMAGE]

    def _asked(self, question: str, before: Sequence[Turn]) -> Turn:
        """A question as conversations have it: one after another begins on a line of its own."""
        return Turn("\n" * bool(before) + ask(self._question, question))

    def _said(self, answer: str) -> Turn:
        """An answer as it was learned: behind a space, or behind none."""
        begun = not answer.strip() or answer[0].isspace()
        return Turn(answer if begun else self._space + answer, learn=True)
