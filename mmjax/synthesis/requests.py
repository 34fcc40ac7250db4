"""Requests for external models, and their answers: JSON lines in OpenAI's batch format, by id."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Generic,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

from PIL import Image

from mmjax.data.files import name_of, parse, read_jsonl
from mmjax.data.turn_records import BLANK, Record, as_line, check_new
from mmjax.encoders.pictures import open_image
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.progress import track
from mmjax.synthesis.answers import Answer, read_answer
from mmjax.synthesis.lines import read_placed, write_lines
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.parts import Failure
from mmjax.synthesis.request_texts import JUDGE, TASKS, RequestText

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_ADDRESSES = ("http://", "https://", "data:")

Body: TypeAlias = dict[str, Any]  # JSON


@runtime_checkable
class Identified(Protocol):
    """Anything that is asked about."""

    @property
    def id(self) -> str:
        """Unique among its like."""
        ...


T = TypeVar("T", bound=Identified)
Fail: TypeAlias = Callable[[str, Failure], None]  # takes an id, and why it has no answer


@dataclass(frozen=True)
class Asking:
    """How an external model is asked.

    Attributes:
      model: its name at the server.
      sees: whether it is shown the images.
      max_tokens: of an answer.
      temperature: 0 takes the likeliest token.
      seed: of what the server draws.
      stop: texts that end an answer.
      top_logprobs: likeliest first tokens whose log-probabilities are asked for; 0: none.
      side: longest side of the images that are sent, in pixels.
      more: anything else that the server takes, such as {"cache_prompt": False}.
    """

    model: str
    sees: bool = False
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    side: int = 1024
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def chat(self, text: str, images: Iterable[str] = ()) -> Body:
        """The body of a chat's request.

        Args:
          text: what the user says.
          images: paths or URLs, shown before it if the model sees.

        Raises:
          MmjaxError: an image that cannot be read.
        """
        shown_to = [image for image in images if self.sees and not image.startswith(BLANK)]
        parts: list[Body] = [
            {"type": "image_url", "image_url": {"url": image_url(image, self.side)}}
            for image in shown_to
        ]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        scores = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.top_logprobs else {}
        return {"messages": [{"role": "user", "content": content}], **self._how(), **scores}

    def prompt(self, text: str) -> Body:
        """The body of a request that goes on with a text, such as a synthesizer's prompt."""
        scores = {"logprobs": self.top_logprobs} if self.top_logprobs else {}
        return {"prompt": text, **self._how(), **scores}

    def _how(self) -> Body:
        how: Body = {"model": self.model, "max_tokens": self.max_tokens}
        how |= {"temperature": self.temperature, "seed": self.seed}
        return how | ({"stop": list(self.stop)} if self.stop else {}) | dict(self.more)


def image_url(image: str, side: int) -> str:
    """An image as a request carries it: a URL as it is, a file upright, as JPEG, in a data URL.

    Raises:
      MmjaxError: it cannot be read.
    """
    if image.startswith(_ADDRESSES):
        return image
    picture, buffer = open_image(image), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def ask_tasks(
    how: Asking, template: RequestText = TASKS, count: int = 1
) -> Callable[[Record], Body]:
    """Asks for tasks about captions; `parse_triplets` reads the answers.

    Args:
      how: which model, and how.
      template: with {caption}, and {count} if it likes.
      count: tasks that are wanted of each image.

    Returns:
      Caption record -> body.
    """
    amount = "one question" if count == 1 else f"{count} questions"

    def body(record: Record) -> Body:
        if len(record.turns) < 2:
            raise DataError(f"record {shown(record.id)} has no caption to make tasks of")
        values = {"caption": record.turns[1].text, "count": amount}
        return how.chat(template.fill(values), record.images)

    return body


@dataclass(frozen=True)
class CandidateTask:
    """A task to be judged.

    Attributes:
      record: whose it is.
      number: among its record's.
      triplet: the task.
    """

    record: Record
    number: int
    triplet: Triplet

    @property
    def id(self) -> str:
        """Its record's, and its number behind the last stroke."""
        return f"{self.record.id}/{self.number}"


def tasks_of(records: Iterable[Record]) -> Iterator[CandidateTask]:
    """The tasks of records whose meta has triplets, one by one."""
    for record in records:
        for number, content in enumerate(record.meta.get("triplets") or ()):
            triplet = Triplet.of_object(content) if isinstance(content, dict) else None
            if triplet is None:
                raise DataError(
                    f"record {shown(record.id)}, triplet {number}: is {shown(content)}; expected "
                    "question, precise and informative, none of them empty"
                )
            yield CandidateTask(record, number, triplet)


def ask_judge(how: Asking, template: RequestText = JUDGE) -> Callable[[CandidateTask], Body]:
    """Asks whether the answers of a task agree; `answers.read_label` reads what is said.

    Args:
      how: which model, and how; a few `max_tokens` are enough.
      template: with {question}, {informative} and {precise}.

    Returns:
      Task -> body.
    """
    return lambda task: how.chat(template.fill(task.triplet.as_object()), task.record.images)


def requests_of(
    items: Iterable[T], make_body: Callable[[T], Body], fail: Fail | None = None
) -> Iterator[Body]:
    """Requests in OpenAI's batch format, one by one.

    Args:
      items: what is asked about.
      make_body: what is asked about each.
      fail: takes those of which none can be made, an image that cannot be read, say; without it
        the first of them raises.

    Yields:
      {"custom_id", "method", "url", "body"}.

    Raises:
      MmjaxError: an id that stands twice; without `fail`, what `make_body` raises.
    """
    seen: set[str] = set()
    for number, item in enumerate(items):
        check_new(f"item {number}", item.id, seen)
        try:
            body = make_body(item)
        except MmjaxError as error:
            if fail is None:
                raise
            fail(item.id, Failure(str(error)))
            continue
        url = CHAT if "messages" in body else COMPLETION
        yield {"custom_id": item.id, "method": "POST", "url": url, "body": body}


def export_requests(
    items: Iterable[T], path: Path, make_body: Callable[[T], Body], fail: Fail | None = None
) -> int:
    """Writes requests that any batch server takes, whole or not at all.

    Args:
      items: as `requests_of`, as are `make_body` and `fail`.
      path: the file to make or replace.
      make_body: what is asked about each.
      fail: takes those of which no request can be made.

    Returns:
      How many requests there are.

    Raises:
      MmjaxError: as `requests_of`, or the file cannot be written.
    """
    return write_lines(path, map(as_line, requests_of(items, make_body, fail)))


def read_requests(path: Path) -> Iterator[Body]:
    """Yields the requests of a file that `export_requests` wrote.

    Raises:
      DataError: a row that is none, or an id that stands twice; by file and row.
    """
    seen: set[str] = set()
    for place, content in read_jsonl(path):
        check_new(place, name_of(place, content, "custom_id", ""), seen)
        if content.get("url") not in (CHAT, COMPLETION) or not isinstance(
            content.get("body"), dict
        ):
            raise DataError(f"{place}: expected 'body', and a 'url' {CHAT} or {COMPLETION}")
        yield content


class Reply(NamedTuple, Generic[T]):
    """An item and what was answered; see `Answer`."""

    item: T
    text: str
    finish_reason: str | None
    logprobs: Mapping[str, float] | None


def import_responses(
    path: Path, items: Iterable[T], fail: Fail, counts: Counter[str] | None = None
) -> Iterator[Reply[T]]:
    """Finds the answers to items, in whatever order they stand.

    Of several answers to an id the last counts; what says why there is none counts only where there
    is no answer. Ids and the places of their lines are in memory, nothing else.

    Args:
      path: JSON lines, as `answers.read_answer` takes them.
      items: what was asked about, in the order that replies shall have.
      fail: takes the id of each item without an answer, and why.
      counts: adds up what was `answered`, `failed`, `missing`, `repeated` and `unknown`, which are
        answers to ids that no item has.

    Yields:
      Replies.

    Raises:
      DataError: a line that is no answer; by file and row.
    """
    tally = counts if counts is not None else Counter[str]()
    places, failures = find_answers(path, tally)
    with path.open("rb") as file:
        for item in items:
            place = places.pop(item.id, None)
            if place is None:
                why = failures.pop(item.id, None)
                tally["missing" if why is None else "failed"] += 1
                fail(item.id, why or Failure(f"{path} has no answer to it"))
                continue
            answer = _answer_at(file, place, path)
            tally["answered"] += 1
            yield Reply(item, answer.text, answer.finish_reason, answer.logprobs)
    tally["unknown"] += len(places) + len(failures)


def find_answers(path: Path, counts: Counter[str]) -> tuple[dict[str, int], dict[str, Failure]]:
    """Where the answers of a file stand, by id; those of failures alone are kept themselves.

    Args:
      path: as `import_responses`.
      counts: adds up what was `repeated`.

    Returns:
      ({id: byte where the line of its last answer begins}, {id without an answer: why}).

    Raises:
      DataError: a line that is no answer; by file and row.
    """
    places: dict[str, int] = {}
    failures: dict[str, Failure] = {}
    for place, where, content in track(read_placed(path), f"reading {path.name}"):
        name, answer = read_answer(where, content)
        counts["repeated"] += name in places or name in failures
        if isinstance(answer, Answer):
            places[name] = place
            failures.pop(name, None)
        elif name not in places:
            failures[name] = answer
    return places, failures


def _answer_at(file: BinaryIO, place: int, path: Path) -> Answer:
    file.seek(place)
    where = f"{path}, byte {place}"
    line = file.readline().decode("utf-8" if place else "utf-8-sig")
    _, answer = read_answer(where, parse(where, line, "an answer"))
    if isinstance(answer, Failure):
        raise DataError(f"{where}: changed while it was read; import it again")
    return answer
