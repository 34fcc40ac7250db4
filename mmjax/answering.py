"""Using a trained `instruct` adapter: questions about pictures, and texts without one."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import sharding
from mmjax.adapters.mma import IMAGE, TEXT, bind, routing_table
from mmjax.adapters.multimodal import assemble
from mmjax.base import check_encoder, stage_of
from mmjax.checkpoint import load_adapter_params
from mmjax.data.conversations import Conversation, Layout, Turn, encode
from mmjax.data.library import Library
from mmjax.encoders import LanguageModel
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import embed
from mmjax.errors import MmjaxError
from mmjax.generation import Generation, Sampling, generate
from mmjax.tasks import make_instruct


class Answering:
    """A trained `instruct` adapter with the frozen models below it.

    Attributes:
      card: everything that is known of it.
    """

    def __init__(self, folder: Path, allow_other_encoder: bool) -> None:
        """Loads the adapter and checks its encoders; see `mmjax.load_adapter`."""
        self._mesh = sharding.make_mesh()
        params, self.card = load_adapter_params(folder)
        stage = stage_of(self.card)
        library = Library(self._mesh, tuple(self.card["languages"]))
        for role, spec in stage.encoders.items():
            check_encoder(library, self.card, role, spec, allow_other_encoder, folder)
        language, self._vision = (
            library.encoder(stage.encoders[role]) for role in ("language", "image")
        )
        self._task = make_instruct(stage, language, self._vision)
        assert isinstance(language, LanguageModel)
        self._model = language.with_hook(self._task.parts.language)
        self._trainable = sharding.place(params, self._mesh)
        self._layout = Layout.of(
            language.preprocess.tokenizer,
            language.chat.eos_token_ids,
            False,  # bound to a modality, the adapters need no token that says which
            self._task.parts.taps,
            language.preprocess.max_length,
        )
        self._adapters = [self._trainable.get("language")] * 2
        if self._task.parts.routed:
            own = self._trainable["language"]
            table = routing_table(self._model, own, self._trainable["modality"]["embedding"])
            self._adapters = [bind(own, table, modality) for modality in (TEXT, IMAGE)]
        self._image_tokens = jax.jit(
            lambda trainable, frozen, pixels: self._task.image_tokens(
                trainable, trainable.get("vision"), frozen, {"pixel_values": pixels}
            )
        )
        self._lay_out = jax.jit(
            lambda params, ids, slots, pictures: assemble(
                embed(self._model.module, params, ids), pictures, slots, None
            )
        )

    def answer(
        self,
        questions: Sequence[str],
        images: Sequence[ImageLike] | None = None,
        max_new_tokens: int = 16,
        sampling: Sampling | None = None,
        key: jax.Array | None = None,
    ) -> list[Generation]:
        """Answers questions about pictures, or without any.

        Args:
          questions: n texts.
          images: n pictures, one a question; None asks about none.
          max_new_tokens: the most tokens an answer.
          sampling: None takes the likeliest token at every step.
          key: where `sampling` draws from.

        Returns:
          One `Generation` a question.

        Raises:
          MmjaxError: not one picture a question, a picture that cannot be read, or a question
            that is longer than the model reads.
        """
        if isinstance(questions, str):
            raise MmjaxError("expected a list of questions, got a single one; put it into a list")
        if images is not None and len(images) != len(questions):
            raise MmjaxError(f"{len(images)} pictures for {len(questions)} questions; one for each")
        if not len(questions):
            return []
        found = None
        if images is not None:
            pixels = jnp.asarray(self._vision.preprocess(list(images)))
            frozen = {"image": self._vision.params}
            found = self._image_tokens(self._trainable, frozen, pixels)
        prompts = []
        for i, question in enumerate(questions):
            # The answer stands in for what is to come, so that the row has one; it is cut off.
            turns = (Turn(f"Question: {question}\nResponse:"), Turn(" ?", learn=True))
            picture = None if images is None else i
            row = encode(
                Conversation(turns, picture),
                self._model.preprocess.tokenizer,
                self._layout,
                f"question {i}",
            )
            end = int(row.answers[0])
            ids, slots = (jnp.asarray(x[None, :end]) for x in (row.ids, row.slots))
            own = None if found is None else found[i : i + 1]
            laid = self._lay_out(self._model.params, ids, slots, own)
            prompts.append(np.asarray(laid[0], np.float32))
        adapters = self._adapters[TEXT if images is None else IMAGE]
        return generate(self._model, prompts, max_new_tokens, sampling, key, adapters=adapters)
