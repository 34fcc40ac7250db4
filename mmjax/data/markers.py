"""How the turns of a conversation are marked in a text, and the lines that ask for an answer."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmjax.data.turn_records import Message
from mmjax.data.wording import Turn
from mmjax.errors import MmjaxError, shown

# Of one tokenizer or another: tokens for roles, ends and images, or how they begin.
_TOKENS = ("<|", "<s>", "</s>", "<image>")


@dataclass(frozen=True)
class Markers:
    """What stands around the turns of a conversation.

    Attributes:
      name: of this way to mark them.
      user: before what the user says.
      assistant: before what the assistant says.
      end: behind every turn of the assistant's, and of the user's but for `user_end`.
      gap: between a marker and what is said. It is written by the model, as tokens of words begin
        with their space.
      user_end: behind a user's turn where it is another: LLaVA-1.5 ends the assistant's alone.
    """

    name: str
    user: str
    assistant: str
    end: str
    gap: str = ""
    user_end: str | None = None

    def end_of(self, role: str) -> str:
        """What stands behind a turn."""
        own = self.user_end if role == "user" else None
        return self.end if own is None else own

    @property
    def _all(self) -> tuple[str, str, str]:
        return self.user, self.assistant, self.end

    @functools.cached_property
    def _marks(self) -> re.Pattern[str]:
        """What must not be in a text, whether backslashes part it already or not."""
        own = [m.strip() for m in self._all if not any(token in m for token in _TOKENS)]
        words = [*_TOKENS, *(word for word in own if word)]
        return re.compile("|".join(rf"{re.escape(w[0])}\\*{re.escape(w[1:])}" for w in words))

    @functools.cached_property
    def _ends(self) -> re.Pattern[str]:
        """Markers as models write them: white space around them may lack."""
        named = zip(("user", "assistant", "end"), self._all, strict=True)
        return re.compile("|".join(f"(?P<{n}>{re.escape(m.strip())})" for n, m in named if m))

    def escape(self, text: str) -> str:
        """A text in which no marker is left: a backslash parts what looks like one.

        Captions come from anywhere: what they say must not become a turn of its own, nor a token
        that a tokenizer has for roles, ends or images.

        Args:
          text: any.

        Returns:
          The text; most have no marker and stay as they are.
        """
        return self._marks.sub(lambda match: f"{match[0][0]}\\{match[0][1:]}", text)

    def unescape(self, text: str) -> str:
        """The text that `escape` was given."""
        return self._marks.sub(lambda match: match[0].replace("\\", "", 1), text)

    def write(self, turns: Sequence[Message], then: str | None = None) -> str:
        """A conversation as one text.

        Args:
          turns: what is said.
          then: the role whose turn is begun, and left open, behind them.

        Returns:
          The text.
        """
        text = "".join(
            f"{self._before(turn.role)}{self._inside(turn.text)}{self.end_of(turn.role)}"
            for turn in turns
        )
        return text if then is None else text + self._before(then)

    def lay_out(self, turns: Sequence[Message]) -> tuple[Turn, ...]:
        """A conversation for training: what is learned, and where the model is to stop.

        The marker before a learned turn is learned too where the turn before it is, as the model
        has to write it; else it is what a prompt ends with. Turns that are learned one after the
        other are written at one go: behind the last of them stands the token that ends a text, in
        place of the marker.

        Args:
          turns: what is said.

        Returns:
          Pieces whose texts make up `write(turns)`, but for the ends that a token stands for.

        Raises:
          MmjaxError: nothing is to be learned, or a turn that is to be learned is empty.
        """
        if not any(turn.loss for turn in turns):
            raise MmjaxError("no turn is to be learned; give one of them loss")
        pieces: list[Turn] = []
        parted, goes_on = "", False
        for i, turn in enumerate(turns):
            before, text = parted + self._before(turn.role), self._inside(turn.text)
            if turn.loss and not text.strip():
                raise MmjaxError(f"turn {i} is empty, and is to be learned")
            stops = turn.loss and not any(following.loss for following in turns[i + 1 : i + 2])
            if turn.loss and not goes_on:
                pieces.append(Turn(before))
                before = ""
            end = self.end_of(turn.role)
            pieces.append(Turn(before + text + ("" if stops else end), turn.loss, stops))
            # The token is the marker without the white space that parts it from the next turn.
            parted = end[len(end.rstrip()) :] if stops else ""
            goes_on = turn.loss
        return tuple(pieces)

    def split(self, text: str, role: str = "user") -> list[Message]:
        """The turns of a text that begins within one; the reverse of `write`.

        Args:
          text: what a model wrote.
          role: whose turn the text begins in.

        Returns:
          Turns, empty ones too; what stands between an end and the next marker belongs to none.
        """
        turns: list[Message] = []
        at, whose = 0, role
        for match in self._ends.finditer(text):
            kind = match.lastgroup
            if whose:
                turns.append(self._said(whose, text[at : match.start()]))
            at, whose = match.end(), "" if kind == "end" else str(kind)
        if whose:
            turns.append(self._said(whose, text[at:]))
        return turns

    def _said(self, role: str, text: str) -> Message:
        return Message("user" if role == "user" else "assistant", self.unescape(text).strip())

    def _inside(self, text: str) -> str:
        return self.gap + self.escape(text)

    def _before(self, role: str) -> str:
        return self.user if role == "user" else self.assistant


MARKERS = {
    markers.name: markers
    for markers in (
        # The words of mmjax's own instructions; for models without tokens for roles.
        Markers("plain", "\nInstruction:", "\nResponse:", "", " "),
        Markers("chatml", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
        Markers(
            "llama3",
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        Markers("vicuna", " USER:", " ASSISTANT:", "</s>", " ", ""),
    )
}


def markers_of(name: str) -> Markers:
    """Markers by name.

    Raises:
      MmjaxError: none are called so.
    """
    if name not in MARKERS:
        raise MmjaxError(f"no markers are called {shown(name)}; one of {sorted(MARKERS)}")
    return MARKERS[name]


@dataclass(frozen=True)
class Cues:
    """Lines that say what is wanted; a data set in another language brings its own.

    Attributes:
      caption: asks for the caption.
      precise: stands in the line above a question whose answer is short.
      informative: stands in the line above one whose answer explains.
    """

    caption: str = "Describe the image."
    precise: str = "Answer in a few words."
    informative: str = "Answer and explain."

    def ask(self, cue: str, question: str) -> str:
        """A question under its cue."""
        return f"{cue}\n{question}"

    def read(self, text: str) -> tuple[str, str]:
        """(the cue that a user's turn begins with, or "", and the question behind it)."""
        question = text.strip()
        # The longer one first: the shorter may be how it begins.
        for cue in sorted((self.precise, self.informative), key=len, reverse=True):
            if question[: len(cue)].casefold() == cue.casefold():
                return cue, question[len(cue) :].strip()
        return "", question
