"""From tokens to text: where a row ends, and what of it may be shown already."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from mmjax.encoders.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a prompt was continued with.

    Attributes:
      text: the new text, without what ended it.
      token_ids: int32 [t], all new tokens, with the one that ended them.
      log_probs: float32 [t], each token's log-probability under the model itself.
      finished: whether a stop token or string ended it, not `max_new_tokens`.
    """

    text: str
    token_ids: np.ndarray
    log_probs: np.ndarray
    finished: bool


class Reader:
    """Follows one row: its text, where it ends, and what of it was already passed on."""

    def __init__(
        self,
        model: LanguageModel,
        row: int,
        stop: Sequence[str],
        ends: Sequence[int],
        on_text: Callable[[int, str], None] | None,
    ) -> None:
        """Starts with no token.

        Args:
          model: its tokenizer is used.
          row: the row's number, for `on_text`.
          stop: texts that end it.
          ends: tokens that end it.
          on_text: called as on_text(row, new piece of text).
        """
        self._decode = model.preprocess.tokenizer.decode
        self._row, self._stop, self._ends, self._on_text = row, stop, ends, on_text
        self._ids: list[int] = []
        self._passed_on = 0
        self._text = ""
        self._finished = False

    def read(self, tokens: Int[np.ndarray, "t"]) -> bool:
        """Takes the row's tokens so far; returns whether the row has ended."""
        if self._finished:
            return True
        ids = tokens.tolist()
        at = next((i for i, token in enumerate(ids) if token in self._ends), None)
        self._ids = ids if at is None else ids[: at + 1]
        self._text = self._decode(ids[:at])
        self._finished = at is not None
        stops = [(self._text.find(s), s) for s in self._stop if s in self._text]
        if stops:
            self._finished = True
            place, string = min(stops)
            self._cut(place + len(string))
            self._text = self._text[:place]
        self._pass_on(self._text if self._finished else self._settled())
        return self._finished

    def _cut(self, length: int) -> None:
        """Drops the tokens after the one that completes the first `length` characters."""
        while len(self._ids) > 1 and len(self._decode(self._ids[:-1])) >= length:
            self._ids.pop()

    def _settled(self) -> str:
        """The text without an unfinished character and without what may begin a stop string."""
        text = self._text.rstrip("\ufffd")
        held = [n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])]
        return text[: len(text) - max(held, default=0)]

    def _pass_on(self, text: str) -> None:
        if self._on_text is not None and len(text) > self._passed_on:
            self._on_text(self._row, text[self._passed_on :])
            self._passed_on = len(text)

    def finish(self, log_probs: Float[np.ndarray, "n"]) -> Generation:
        """The row's result, once no more tokens come."""
        self._pass_on(self._text)
        ids = np.array(self._ids, np.int32)
        return Generation(self._text, ids, log_probs[: len(ids)], self._finished)
