"""Conversations about pictures as columns: what stands around the turns, and what is learned."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from mmjax.data.wording import Turn, cut
from mmjax.encoders.language_model import IMAGE, TEXT, WORD
from mmjax.encoders.picture_tokens import PictureTokens, text_positions
from mmjax.errors import MmjaxError


@dataclass(frozen=True)
class Conversation:
    """Turns about a picture, or about none.

    Attributes:
      turns: in order; at least one is learned.
      image: row of a table of pictures; None for text alone.
      at: letters of the first turn that stand before the picture, where a model reads it among
        the words; see `Layout.image_token`.
    """

    turns: tuple[Turn, ...]
    image: int | None = None
    at: int = 0


@dataclass(frozen=True)
class Layout:
    """What stands around the turns.

    Attributes:
      first: whether column 0 is kept for a modality token.
      bos: ids that begin every text of this model.
      image: ids in front of a picture's tokens.
      text: ids that stand there for text alone.
      taps: tokens a picture takes.
      eos: id that ends an answer.
      max_length: tokens that a row may have.
      image_token: of a model with an image tower of its own, the tokenizer's text for a picture.
        It stands in the user's first turn, before what is said.
      frame: what stands before that token and behind it.
    """

    first: bool
    bos: tuple[int, ...]
    image: tuple[int, ...]
    text: tuple[int, ...]
    taps: int
    eos: int
    max_length: int
    image_token: str = ""
    frame: tuple[str, str] = ("", "")

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, eos: Sequence[int], first: bool, taps: int, max_length: int
    ) -> "Layout":
        """The layout for a tokenizer, with LaVIN's words before a picture and in its place.

        Raises:
          MmjaxError: the model has no token that ends a text.
        """
        frame = (first, _begin(tokenizer, eos))
        words = [tuple(_ids(tokenizer, text)) for text in ("Image: ", "Image: N/A")]
        return cls(*frame, words[0], words[1], taps, eos[0], max_length)

    @classmethod
    def inline(
        cls,
        tokenizer: Tokenizer,
        eos: Sequence[int],
        first: bool,
        image_id: int,
        frame: tuple[str, str],
        max_length: int,
    ) -> "Layout":
        """The layout for a model that has a token for pictures.

        What of its frame would be tokens that its tokenizer does not have is left out.

        Raises:
          MmjaxError: the model has no token that ends a text, or its tokenizer none for pictures.
        """
        mark = tokenizer.id_to_token(image_id) or ""
        if not mark or _ids(tokenizer, mark) != [image_id]:
            raise MmjaxError(f"this model's tokenizer has no text for its image token, {image_id}")
        known = [
            part
            for part in frame
            if not part.strip() or tokenizer.token_to_id(part.strip()) is not None
        ]
        around = frame if len(known) == len(frame) else ("", "")
        return cls(first, _begin(tokenizer, eos), (), (), 0, eos[0], max_length, mark, around)

    def turns(self, conversation: Conversation) -> tuple[Turn, ...]:
        """A conversation's turns with the token for its picture, which no text can spell."""
        mark = self.image_token
        if not mark:
            return conversation.turns
        parted = f"{mark[0]}\\{mark[1:]}"
        turns = [replace(t, text=t.text.replace(mark, parted)) for t in conversation.turns]
        if conversation.image is not None:
            text, at, (before, behind) = turns[0].text, conversation.at, self.frame
            shown = f"{text[:at]}{before}{mark}{behind}{text[at:]}"
            turns[0] = replace(turns[0], text=shown)
        return tuple(turns)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _begin(tokenizer: Tokenizer, eos: Sequence[int]) -> tuple[int, ...]:
    """The ids that begin every text of a model whose texts end."""
    if not eos:
        raise MmjaxError("this language model names no end token, so answers could not end")
    framed = tokenizer.encode("a").ids
    return tuple(framed[: framed.index(_ids(tokenizer, "a")[0])])


@dataclass(frozen=True)
class Encoded:
    """One conversation as columns.

    Attributes:
      ids: int32 [l]; 0 where a modality token or a picture stands.
      slots: int32 [l]: which of the picture's tokens, or `WORD`.
      answers: int32 [a], columns of the tokens that are learned.
      modality: `TEXT` or `IMAGE`.
      cut: whether the last answers lost their end to the length that a row may have.
      prompt: the text before the first answer, which is cut into tokens together with it.
      size: of its picture's inputs; see `PictureTokens`.
      positions: int32 [l, 3]; None where tokens are counted.
    """

    ids: np.ndarray
    slots: np.ndarray
    answers: np.ndarray
    modality: int
    cut: bool = False
    prompt: str = ""
    size: int = 1
    positions: np.ndarray | None = None


def encode(
    conversation: Conversation,
    tokenizer: Tokenizer,
    layout: Layout,
    where: str = "conversation",
    cut: bool = False,
    shown: PictureTokens | None = None,
) -> Encoded:
    """Lays a conversation out: modality, BOS, prefix, picture, turns; an end where an answer ends.

    Args:
      conversation: what is said.
      tokenizer: of the language model.
      layout: what stands around.
      where: names the conversation in messages.
      cut: drop what a row has no room for from its end, as long as some of an answer is left.
      shown: its picture's tokens; None takes `layout.taps`.

    Returns:
      Its columns.

    Raises:
      MmjaxError: nothing to learn, an empty answer, or more tokens than a row may have; with `cut`
        only where they leave no room for any answer.
    """
    ids, slots, answers = _lay_out(conversation, tokenizer, layout, where, shown)
    if not answers:
        raise MmjaxError(f"{where} has no answer to learn; mark at least one turn")
    most = layout.max_length
    if len(ids) > most and not cut:
        raise MmjaxError(f"{where} takes {len(ids)} tokens; this model reads {most}: shorten it")
    if answers[0] >= most:
        raise MmjaxError(
            f"{where} takes {answers[0]} tokens before its first answer; this model reads {most}: "
            "shorten it or raise --config.encoders.language.max_length"
        )
    kept = (ids[:most], slots[:most], [at for at in answers if at < most])
    columns, places, learned = (np.asarray(x, np.int32) for x in kept)
    modality = TEXT if conversation.image is None else IMAGE
    first = itertools.takewhile(lambda turn: not turn.learn, conversation.turns)
    question = "".join(turn.text for turn in first)
    encoded = Encoded(columns, places, learned, modality, len(ids) > most, question)
    if shown is None:
        return encoded
    positions = _positions(slots, shown, layout.first)
    return replace(
        encoded, size=shown.size, positions=None if positions is None else positions[:most]
    )


def _positions(
    slots: Sequence[int], shown: PictureTokens, first: bool
) -> Int[np.ndarray, "l 3"] | None:
    """Three positions of a row's tokens; a modality token in front is not counted."""
    if shown.positions is None:
        return None
    front, at = int(first), next(i for i, slot in enumerate(slots) if slot != WORD)
    own = text_positions(len(slots) - front, [(at - front, shown.positions)])
    return np.concatenate([np.zeros((front, 3), np.int32), own])


def encode_prompt(
    conversation: Conversation,
    tokenizer: Tokenizer,
    layout: Layout,
    where: str = "conversation",
    shown: PictureTokens | None = None,
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """What the language model reads of a conversation whose last turn is still to be answered.

    With the answer behind it, `encode` lays out the same columns.

    Args:
      conversation: what was said.
      tokenizer: of the language model.
      layout: what stands around.
      where: names the conversation in messages.
      shown: as for `encode`.

    Returns:
      (ids, slots), int32 [l]; see `Encoded`.

    Raises:
      MmjaxError: an empty answer, or more tokens than a row may have.
    """
    ids, slots, _ = _lay_out(conversation, tokenizer, layout, where, shown)
    if len(ids) > layout.max_length:
        raise MmjaxError(
            f"{where} takes {len(ids)} tokens; this model reads {layout.max_length}: shorten it"
        )
    return np.asarray(ids, np.int32), np.asarray(slots, np.int32)


def _lay_out(
    conversation: Conversation,
    tokenizer: Tokenizer,
    layout: Layout,
    where: str,
    read: PictureTokens | None,
) -> tuple[list[int], list[int], list[int]]:
    """(ids, slots, columns that are learned), however long."""
    picture, inline = conversation.image is not None, bool(layout.image_token)
    shown: list[int] = list(range(layout.taps)) if read is None else read.places.tolist()
    ids = [0] * layout.first + [*layout.bos, *(layout.image if picture else layout.text)]
    slots = [WORD] * len(ids)
    if picture and not inline:
        ids += [0] * len(shown)
        slots += shown
    answers: list[int] = []
    turns = layout.turns(conversation)
    for i, (turn, tokens) in enumerate(zip(turns, cut(turns, tokenizer), strict=True)):
        if picture and inline and not i:
            (mark,) = _ids(tokenizer, layout.image_token)
            at = tokens.index(mark)
            slots += [WORD] * at + shown
            tokens = [*tokens[:at], *[tokens[at]] * len(shown), *tokens[at + 1 :]]
        if turn.learn:
            if not turn.text.strip():
                raise MmjaxError(f"{where} has an empty answer; give it a text or leave it out")
            answers += range(len(ids), len(ids) + len(tokens) + turn.ends)
        ids += [*tokens, layout.eos] if turn.learn and turn.ends else tokens
        slots += [WORD] * (len(ids) - len(slots))
    return ids, slots, answers
