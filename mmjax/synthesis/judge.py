"""The consistency filter's judge: does a task's precise answer follow from its informative one?

A language model reads examples and a task, and the words that it may write next are weighed. The
examples are read once for all tasks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.data.files import read_object, text_of
from mmjax.data.markers import Markers
from mmjax.encoders.image_preprocess import ImageLike
from mmjax.encoders.language_model import LanguageModel
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.generation import Scored, cache_prefix, label_scores, score
from mmjax.generation.labels import first_tokens
from mmjax.progress import track
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.parts import plan_batches
from mmjax.trees import PyTree

LABELS = ("yes", "no", "open")
DIGITS = 4  # of scores: so many are the same on every machine
OWN = Path(__file__).with_name("consistency.json")
_PLACES = ("question", "informative", "precise")
_TOKENS = Markers("fields", "", "", "")  # a tokenizer's own; a field's text must not hold them
_GAP = "\n\n"  # between examples


@dataclass(frozen=True)
class Examples:
    """What the judge reads before a task, in any language.

    Attributes:
      introduction: says what each label means.
      item: a task; holds `{question}`, `{informative}` and `{precise}`, and the label goes behind.
      labels: the judge's words for `LABELS`, white space before them included.
      examples: tasks, each with one of `LABELS`.
    """

    introduction: str
    item: str
    labels: tuple[str, ...]
    examples: tuple[tuple[Triplet, str], ...]

    @classmethod
    def read(cls, path: Path = OWN) -> "Examples":
        """Reads a file of examples.

        Args:
          path: a JSON object {"introduction", "item", "labels": {"yes", "no", "open"}, "examples":
            [{"question", "informative", "precise", "label"}]}.

        Raises:
          DataError: something else, an item without a placeholder, or a label without an example;
            by file and entry.
        """
        content, place = read_object(path), str(path)
        text_of(place, content, "item")
        item = str(content["item"]).rstrip()
        placeholders = re.findall(r"\{(\w*)\}", item)
        if sorted(placeholders) != sorted(_PLACES):
            raise DataError(
                f"{path}: 'item' has the placeholders {shown(placeholders)}; expected each of "
                f"{', '.join(f'{{{name}}}' for name in _PLACES)} once"
            )
        labels, listed = content.get("labels"), content.get("examples")
        if not isinstance(labels, dict) or set(labels) != set(LABELS):
            raise DataError(f"{path}: 'labels' is {shown(labels)}; expected an object of {LABELS}")
        if not isinstance(listed, list):
            raise DataError(f"{path}: 'examples' is {shown(listed)}; expected a list")
        for label in LABELS:
            text_of(f"{path}, labels", labels, label)
        examples = tuple(
            _example(f"{path}, examples[{i}]", entry) for i, entry in enumerate(listed)
        )
        lacking = set(LABELS) - {label for _, label in examples}
        if lacking:
            raise DataError(f"{path}: no example is labelled {sorted(lacking)}; give one of each")
        words = tuple(str(labels[label]) for label in LABELS)
        return cls(text_of(place, content, "introduction"), item, words, examples)

    @property
    def text(self) -> str:
        """What stands in front of every task; tasks begin with the gap behind it."""
        solved = [
            self.ask(task) + self.labels[LABELS.index(label)] for task, label in self.examples
        ]
        return self.introduction + "".join(solved)

    def ask(self, task: Triplet) -> str:
        """A task up to its label. Each text is on one line, so that none can look like a field."""

        def fill(place: re.Match[str]) -> str:
            return _TOKENS.escape(" ".join(getattr(task, place[1]).split()))

        return _GAP + re.sub(r"\{(\w+)\}", fill, self.item)


def _example(place: str, content: object) -> tuple[Triplet, str]:
    task = Triplet.of_object(content) if isinstance(content, dict) else None
    label = content.get("label") if isinstance(content, dict) else None
    if task is None or label not in LABELS:
        raise DataError(
            f"{place}: is {shown(content)}; expected an object of question, informative and "
            f"precise, and a label of {LABELS}"
        )
    return task, label


class Judge:
    """Weighs tasks with a language model."""

    def __init__(
        self, model: LanguageModel, examples: Examples | None = None, adapters: PyTree = None
    ) -> None:
        """Reads the examples.

        Args:
          model: from `load_encoder`; best one that was not taught to chat.
          examples: None takes mmjax's own.
          adapters: parameters for the model's hook.

        Raises:
          MmjaxError: labels that begin alike, or examples that are too long for the model.
        """
        self._model, self._adapters = model, adapters
        self._examples = Examples.read() if examples is None else examples
        first_tokens(model, self._examples.labels)
        self._prefix = cache_prefix(model, self._examples.text, adapters)

    def sizes(self, tasks: Sequence[Triplet]) -> Int[np.ndarray, " n"]:
        """Tokens that each task is read as, behind the examples."""
        tokenizer = self._model.preprocess.tokenizer
        texts = [self._examples.ask(task) for task in tasks]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return np.array([len(encoding.ids) for encoding in encodings], np.int64)

    def scores(self, tasks: Sequence[Triplet]) -> Float[np.ndarray, "n 3"]:
        """Log-probabilities of `LABELS`, rounded.

        Args:
          tasks: that are computed together; a task's scores may depend on the others in their last
            bits, so whoever needs the same bytes again plans the same batches.

        Returns:
          Float64 [n, 3]; NaN where a task is longer than the model reads.
        """
        room = self._model.config.max_length - self._prefix.length - 1
        scores = np.full((len(tasks), len(LABELS)), np.nan)
        fit = np.flatnonzero(self.sizes(tasks) <= room).tolist()
        prompts = [self._examples.ask(tasks[i]) for i in fit]
        labels = self._examples.labels
        scores[fit] = label_scores(self._model, prompts, labels, self._prefix, self._adapters)
        return np.round(scores, DIGITS)


def judge(
    model: LanguageModel,
    tasks: Sequence[Triplet],
    examples: Examples | None = None,
    adapters: PyTree = None,
    batch_size: int = 32,
) -> Float[np.ndarray, "n 3"]:
    """Weighs tasks in batches of like length.

    Args:
      model: as `Judge` takes it.
      tasks: n of them.
      examples: None takes mmjax's own.
      adapters: parameters for the model's hook.
      batch_size: tasks that are read together.

    Returns:
      Log-probabilities of `LABELS`, float64 [n, 3]; NaN where a task is too long.
    """
    judging = Judge(model, examples, adapters)
    scores = np.full((len(tasks), len(LABELS)), np.nan)
    batches = plan_batches(judging.sizes(tasks), batch_size)
    for batch in track(batches, "judging tasks", len(batches)):
        scores[batch] = judging.scores([tasks[i] for i in batch])
    return scores


def margins(scores: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """By how much "yes" is likelier than the likelier one of "no" and "open", in logs."""
    return np.round(scores[:, 0] - scores[:, 1:].max(axis=1, initial=-np.inf), DIGITS)


def decide(
    margins: Float[np.ndarray, " n"],
    threshold: float = 0.0,
    keep_rate: float | None = None,
    looked: Float[np.ndarray, " n"] | None = None,
) -> Bool[np.ndarray, " n"]:
    """Which tasks are kept.

    Args:
      margins: margins, in the order of the tasks; NaN is never kept.
      threshold: the least margin that is kept; 0 keeps where a greedy judge would write "yes".
      keep_rate: share of the judged tasks to keep instead, those of the largest margins; of equal
        ones the first.
      looked: margins of `look`: below 0 nothing is kept, whatever the judge says.

    Returns:
      Bool [n].

    Raises:
      MmjaxError: a threshold or a rate that is none.
    """
    if not np.isfinite(threshold):
        raise MmjaxError(f"threshold {shown(threshold)} must be a finite number")
    if keep_rate is None:
        kept = margins >= threshold
    elif not 0 <= keep_rate <= 1:
        raise MmjaxError(f"keep_rate {shown(keep_rate)} must be from 0 to 1")
    else:
        judged = int(np.isfinite(margins).sum())
        # NaN is sorted behind all numbers.
        best = np.argsort(-margins, kind="stable")[: int(keep_rate * judged + 0.5)]
        kept = np.isin(np.arange(len(margins)), best)
    return kept if looked is None else kept & (looked >= 0)


# (questions, the answers to weigh, pictures) -> a `Scored` an answer; `Answering.score` is one.
Looker: TypeAlias = Callable[
    [Sequence[str], Sequence[Sequence[str]], Sequence[ImageLike]], Sequence[Sequence[Scored]]
]


def looker_of(model: LanguageModel) -> Looker:
    """A language model that sees pictures, asked in its own chat's form.

    Args:
      model: a LLaVA, say; its checkpoint brings a chat template.
    """

    def ask(
        questions: Sequence[str], answers: Sequence[Sequence[str]], images: Sequence[ImageLike]
    ) -> list[list[Scored]]:
        prompts = [
            [{"role": "user", "content": [{"type": "image", "image": image}, _text(question)]}]
            for question, image in zip(questions, images, strict=True)
        ]
        return score(model, prompts, answers)

    return ask


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


LOOK = 'Is "{precise}" the right answer to the question "{question}"? Answer yes or no.'


def look(
    looker: Looker,
    tasks: Sequence[Triplet],
    images: Sequence[ImageLike],
    wording: str = LOOK,
    words: tuple[str, str] = ("yes", "no"),
    batch_size: int = 16,
) -> Float[np.ndarray, " n"]:
    """Asks a model that sees the pictures whether the precise answers are right.

    Args:
      looker: the `score` of a loaded adapter, say.
      tasks: n of them.
      images: theirs.
      wording: how it is asked; holds `{question}` and `{precise}`.
      words: that stand for right and wrong.
      batch_size: tasks that are asked about together.

    Returns:
      By how much right is likelier than wrong, in logs, float64 [n].

    Raises:
      MmjaxError: a wording without a placeholder, or not one picture a task.
    """
    if not {"question", "precise"} <= set(re.findall(r"\{(\w+)\}", wording)):
        raise MmjaxError(f"wording {shown(wording)} lacks {{question}} or {{precise}}")
    if len(tasks) != len(images):
        raise MmjaxError(f"{len(tasks)} tasks but {len(images)} pictures; one for each")
    margins: list[float] = []
    for at in range(0, len(tasks), batch_size):
        questions = [
            re.sub(r"\{(question|precise)\}", lambda place, t=task: getattr(t, place[1]), wording)
            for task in tasks[at : at + batch_size]
        ]
        for right, wrong in looker(
            questions, [words] * len(questions), images[at : at + batch_size]
        ):
            margins.append(round(right.log_prob - wrong.log_prob, DIGITS))
    return np.array(margins, np.float64)


def scored(scores: Float[np.ndarray, " 3"] | None) -> Mapping[str, Any]:
    """What an audit says of one task's scores: "scores", "margin" and the likeliest "label"."""
    if scores is None or not np.isfinite(scores).all():
        return {"scores": None, "margin": None, "label": ""}
    return {
        "scores": dict(zip(LABELS, scores.tolist(), strict=True)),
        "margin": float(margins(scores[None])[0]),
        "label": LABELS[int(scores.argmax())],
    }
