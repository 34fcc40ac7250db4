"""What external models answer: OpenAI's forms and a simple one, and the labels of a judge."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.checks import foreign
from mmjax.data.files import name_of, whole_text
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.synthesis.judge import LABELS
from mmjax.synthesis.parts import Failure


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
      text: as it stands.
      finish_reason: why it ended, `stop` or `length`, say; None where the server does not tell.
      logprobs: log-probabilities of the likeliest first tokens, by token; None without any.
    """

    text: str
    finish_reason: str | None = None
    logprobs: Mapping[str, float] | None = None

    def as_object(self, name: str) -> dict[str, Any]:
        """The simple form, under an id."""
        content = {"id": name, "text": self.text, "finish_reason": self.finish_reason}
        return content if self.logprobs is None else content | {"logprobs": dict(self.logprobs)}


def read_answer(place: str, content: Mapping[str, Any]) -> tuple[str, Answer | Failure]:
    """Reads one line of answers.

    Args:
      place: names the file and the row in messages.
      content: OpenAI's batch output {"custom_id", "response": {"status_code", "body"}, "error"},
        or {"id", "text", ["finish_reason"], ["logprobs"]}.

    Returns:
      (id, the answer, or why there is none).

    Raises:
      DataError: neither form, by place.
    """
    key = "custom_id" if "custom_id" in content else "id"
    name = name_of(place, content, key, "")
    if not name:
        raise DataError(f"{place}: has no 'id' or 'custom_id'; an answer is found by it")
    if key == "id":
        return name, _answer(place, content, content.get("text"), content.get("logprobs"))
    response, error = content.get("response"), content.get("error")
    if error or not isinstance(response, dict):
        return name, Failure(reason_of(error) or "the batch has no response to it")
    status = response.get("status_code", 200)
    if status != 200:
        reason = reason_of(response.get("body")) or "no reason given"
        return name, Failure(f"the server answered {shown(status)}: {reason}")
    return name, answer_of_body(place, response.get("body"))


def answer_of_body(place: str, body: object) -> Answer:
    """The answer in what a server sends: its first choice.

    Raises:
      DataError: there is none, or it has no text.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise DataError(f"{place}: has no choices; expected the body of a completion")
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else choices[0].get("text")
    return _answer(place, choices[0], text, choices[0].get("logprobs"))


def reason_of(error: object) -> str:
    """What an error object of a server says, short enough for a sentence."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message")
    return " ".join(str(error or "").split())[:200]


def _answer(place: str, choice: Mapping[str, Any], text: object, logprobs: object) -> Answer:
    reason = choice.get("finish_reason")
    if reason is not None:
        reason = whole_text(f"{place}: 'finish_reason'", reason)
    return Answer(whole_text(f"{place}: the text", text), reason, _first_token(place, logprobs))


def _first_token(place: str, logprobs: object) -> dict[str, float] | None:
    """Log-probabilities by token, from any of three forms.

    They are {token: number}; {"content": [{"top_logprobs": [{"token", "logprob"}]}]}, which chats
    have; and {"top_logprobs": [{token: number}]}, which older completions have.
    """
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        first = logprobs["content"][:1]
        top_logprobs = (
            first[0].get("top_logprobs") if first and isinstance(first[0], dict) else None
        )
    elif isinstance(logprobs, dict) and isinstance(logprobs.get("top_logprobs"), list):
        top_logprobs = next(iter(logprobs["top_logprobs"]), None)
    else:
        top_logprobs = logprobs
    pairs = top_logprobs.items() if isinstance(top_logprobs, dict) else _listed(place, top_logprobs)
    try:
        # Of tokens that are spelt alike, such as parts of a letter, the likeliest comes first.
        scores: dict[str, float] = {}
        for token, value in pairs:
            where = f"{place}: the log-probability of {shown(token)}"
            scores.setdefault(foreign.text(f"{place}: a token", token), foreign.real(where, value))
    except MmjaxError as error:
        raise DataError(str(error)) from error
    return scores or None


def _listed(place: str, entries: object) -> list[tuple[object, object]]:
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{place}: 'logprobs' is {shown(entries)}; expected numbers by token")
    return [(entry.get("token"), entry.get("logprob")) for entry in entries]


def read_label(
    text: str, logprobs: Mapping[str, float] | None, labels: Sequence[str] = LABELS
) -> tuple[str | None, dict[str, float] | None]:
    """What a judge says.

    A token counts for the only label that begins with it. Of a label that none of the likeliest
    tokens begins, the log-probability is at most the lowest of theirs: this is what it gets.

    Args:
      text: the judge's answer.
      logprobs: of its first token, as `Answer` has them.
      labels: what it may say, in its language.

    Returns:
      (the likeliest label by score, or else the one that the text begins with, or None;
      log-probabilities by label, None where no label's is known).
    """
    by_label: dict[str, list[float]] = {label: [] for label in labels}
    for token, score in (logprobs or {}).items():
        begun = [label for label in labels if label.casefold().startswith(_bare(token))]
        if len(begun) == 1:
            by_label[begun[0]].append(score)
    if logprobs and any(by_label.values()):
        floor = min(logprobs.values())
        scores = {label: _sum(values) if values else floor for label, values in by_label.items()}
        return max(scores, key=scores.__getitem__), scores
    word = _bare(next(iter(text.split()), ""))
    return next((label for label in labels if label.casefold() == word), None), None


def _bare(word: str) -> str:
    """A word without what stands around it; a mark alone begins no label, nor does nothing."""
    return re.sub(r"^\W+|\W+$", "", word).casefold() or "\0"


def _sum(scores: Sequence[float]) -> float:
    most = max(scores)
    return most + math.log(sum(math.exp(score - most) for score in scores))
