"""How a question is put, while training and ever after; and how what is said is cut into tokens."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from mmjax.checks import foreign
from mmjax.errors import MmjaxError
from mmjax.specs.instruct import QuestionsSpec

QUESTION = "Question: {question}\nResponse:"
INSTRUCTION = "Instruction: {question}\nResponse:"
# ScienceQA's question, context and options (QCM), with LaVIN's last line.
PROBLEM = "Question: {question}\nContext: {context}\nOptions: {options}\nResponse:"
_NOTHING = "N/A"  # stands where a problem has no context
_BLANKS = re.compile(r"\{(question|context|options)\}")


@dataclass(frozen=True)
class Turn:
    """A piece of a conversation.

    Attributes:
      text: what is said.
      learn: whether its tokens are learned.
      ends: whether an end token follows where they are, which is learned too.
    """

    text: str
    learn: bool = False
    ends: bool = True


@dataclass(frozen=True)
class Wording:
    """The words around a question and its answer, as an adapter's card keeps them.

    Attributes:
      question: how a question is put; holds `{question}`, ScienceQA's `{context}` and `{options}`
        too.
      space: what stands before an answer: a space, or nothing.
      talks: whether conversations were learned, rather than single questions.
      gap: white space between an answer's end and the next question.
    """

    question: str
    space: str = ""
    talks: bool = False
    gap: str = "\n"

    @property
    def at(self) -> int:
        """Letters before a picture that stands among the words; see `Conversation.at`."""
        return self.question.index("{question}") if self.talks else 0

    @classmethod
    def of(cls, questions: QuestionsSpec) -> "Wording":
        """The words that a source of questions is learned in."""
        return _LEARNED[questions.evaluation]

    @classmethod
    def of_card(cls, card: Mapping[str, Any], questions: QuestionsSpec, where: str) -> "Wording":
        """The words that an adapter was trained in.

        Args:
          card: of the adapter; one that was written before cards had `prompt` has its source's.
          questions: what it learned, by the same card.
          where: names the card in messages.

        Raises:
          MmjaxError: the card's `prompt` is none.
        """
        prompt = card.get("prompt")
        if prompt is None:
            return cls.of(questions)
        if not isinstance(prompt, Mapping):
            raise MmjaxError(f"{where}: 'prompt' is {foreign.shown(prompt)}; expected an object")
        question = foreign.text(f"{where}: 'prompt.question'", prompt.get("question"), 4096)
        if question.count("{question}") != 1:
            raise MmjaxError(
                f"{where}: 'prompt.question' is {foreign.shown(question)}; expected a text with "
                "{question} in it once"
            )
        space, talks = prompt.get("space", ""), prompt.get("talks", False)
        if space not in ("", " ") or not isinstance(talks, bool):
            raise MmjaxError(
                f"{where}: 'prompt' has space {foreign.shown(space)} and talks "
                f"{foreign.shown(talks)}; expected '' or ' ', and true or false"
            )
        gap = foreign.text(f"{where}: 'prompt.gap'", prompt.get("gap", "\n"), 16)
        if gap.strip():
            raise MmjaxError(f"{where}: 'prompt.gap' is {foreign.shown(gap)}; expected white space")
        return cls(question, space, talks, gap)


_LEARNED = {
    "vqa": Wording(QUESTION, " "),
    "scienceqa": Wording(PROBLEM),
    "held_out": Wording(INSTRUCTION, talks=True),
}


def problem(question: str, context: str, options: str) -> str:
    """A problem as ScienceQA's adapters read it, double spaces collapsed as LaVIN does.

    Args:
      question: what is asked.
      context: a passage to read; may be empty.
      options: "(A) one (B) another"; may be empty.

    Source: Lu et al. 2022 (ScienceQA), with LaVIN's last line.
    """
    parts = {"question": question, "context": context or _NOTHING, "options": options or _NOTHING}
    return _fill(PROBLEM, parts).replace("  ", " ").strip()


def ask(wording: str, question: str) -> str:
    """A question in the words that were learned.

    Args:
      wording: see `Wording.question`.
      question: what is asked. In these words already, or lacking no more than the first and the
        last of them, it keeps its own. Else, where they have options, those in the question begin
        with its first "(A)".
    """
    head, tail = wording.partition("{question}")[0], _BLANKS.split(wording)[-1]
    whole = f"{head}{question}{tail}"
    for text in (question.strip(), whole):
        if _pattern(wording).fullmatch(text):
            return text
    if "{options}" not in wording:
        return _fill(wording, {"question": question})
    stem, mark, options = question.partition("(A)")
    parts = {"question": stem.strip(), "options": f"{mark}{options}".strip() or _NOTHING}
    return _fill(wording, parts).replace("  ", " ")


def _fill(wording: str, parts: Mapping[str, str]) -> str:
    """Puts the parts into the blanks, whatever braces they hold themselves."""
    return _BLANKS.sub(lambda blank: parts.get(blank[1], _NOTHING), wording)


@functools.lru_cache(maxsize=64)
def _pattern(wording: str) -> re.Pattern[str]:
    pieces = _BLANKS.split(wording)[::2]  # without the names of the blanks
    return re.compile("(.+)".join(map(re.escape, pieces)), re.DOTALL)


def cut(turns: Sequence[Turn], tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens of every turn, as they are in the text that the turns make together.

    A tokenizer of sentencepiece's kind puts a space before the first word of whatever it is given,
    so turns that are cut apart have other tokens: "▁The" after "Response:" in place of "The". A
    turn begins after as many tokens as what stands before it has by itself. Where a token would
    reach over that place, the turn is cut by itself: what is written after a prompt is written
    after the prompt's own tokens.

    Args:
      turns: in order.
      tokenizer: of the language model.

    Returns:
      Ids without special tokens, a list for each turn.

    Source: Luo et al. 2023 (LaVIN), whose prompt and answer are encoded as one text of which the
      prompt's own number of tokens is not learned.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    tokens: list[list[int]] = []
    text, prefix = "", None
    for turn in turns:
        prefix = encode(text) if prefix is None else prefix
        whole = encode(text + turn.text)
        joined = whole[: len(prefix)] == prefix
        tokens.append(whole[len(prefix) :] if joined else encode(turn.text))
        if joined and not (turn.learn and turn.ends):
            text, prefix = text + turn.text, whole
        else:  # a cut, or an end token follows: nothing before this turn reaches over it
            text, prefix = turn.text, None
    return tokens
