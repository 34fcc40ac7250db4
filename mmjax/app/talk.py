"""A talk about a picture whose answers come piece by piece."""

import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from mmjax.app.limits import Limits
from mmjax.app.pictures import encoded
from mmjax.encoders.pictures import ImageLike
from mmjax.errors import MmjaxError

Exchange = tuple[str, str]  # a question that was asked before, and its answer


@runtime_checkable
class Answers(Protocol):
    """What a talk asks of an adapter; `mmjax.Answering` is one."""

    @property
    def card(self) -> Mapping[str, Any]:
        """Everything that is known of it."""
        ...

    @property
    def talks(self) -> bool:
        """Whether it learned conversations, rather than single questions."""
        ...

    def answer(
        self,
        questions: Sequence[str],
        images: Sequence[ImageLike] | None,
        max_new_tokens: int,
        *,
        history: Sequence[Sequence[Exchange]] | None,
        on_text: Callable[[int, str], None] | None,
        look_every: int,
    ) -> Sequence[Any]:
        """Answers questions, and says so piece by piece."""
        ...


class _LeftError(Exception):
    """The visitor stopped the answer, or went away."""


class PictureTalk:
    """Answers questions with an adapter.

    Attributes:
      limits: of what a visitor may send.
      sees: whether pictures can be asked about.
    """

    def __init__(self, adapted: Answers, limits: Limits, max_new_tokens: int = 96) -> None:
        """Nothing is asked yet.

        Args:
          adapted: answers questions.
          limits: of what a visitor may send.
          max_new_tokens: the most tokens an answer.
        """
        self._adapted, self.limits, self._most = adapted, limits, max_new_tokens
        self.sees = "image" in adapted.card["stage"]["encoders"]

    @property
    def about(self) -> str:
        """What the page does, in a sentence."""
        return "Answers questions about a picture." if self.sees else "Answers questions."

    def warm(self) -> None:
        """Asks once, so that no visitor waits until everything is compiled."""
        blank = encoded(Image.new("RGB", (32, 32), "white"), 32)
        for _ in self.ask("?", blank if self.sees else None, []):
            break

    def ask(
        self, question: object, picture: bytes | None, before: Sequence[Exchange]
    ) -> Generator[str, None, None]:
        """Answers a question.

        Closing the generator ends the answer at its next token.

        Args:
          question: a visitor's words.
          picture: that the talk is about; None for none.
          before: what was said of it.

        Yields:
          The answer so far.

        Raises:
          MmjaxError: no words, too many, or a talk that is longer than the model reads.
        """
        words = self.limits.text(question, "question")
        if len(before) >= self.limits.turns:
            raise MmjaxError(
                f"This talk has {len(before)} questions, the most it may have; begin a new one."
            )
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        left = threading.Event()

        def show(_: int, piece: str) -> None:
            if left.is_set():
                raise _LeftError
            pieces.put(piece)

        def work() -> None:
            try:
                self._adapted.answer(
                    [words],
                    None if picture is None else [picture],
                    self._most,
                    history=[list(before)] if self._adapted.talks else None,
                    on_text=show,
                    look_every=1,
                )
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)

        worker = threading.Thread(target=work, name="answer", daemon=True)
        worker.start()
        answer = ""
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                answer = (answer + piece).lstrip()  # answers begin with a space
                yield answer
        finally:
            left.set()
            worker.join()
        if not answer:
            yield "(an empty answer)"
