"""What an `instruct` stage reads of ScienceQA and of instructions, and how it is asked."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Int
from PIL import Image

from mmjax.data import class_tokens
from mmjax.data.conversations import Conversations
from mmjax.data.dialogues import Dialogues
from mmjax.data.library import Library
from mmjax.data.scienceqa import LETTERS, Problem, Problems
from mmjax.data.splits import spread
from mmjax.data.tables import InputTable
from mmjax.data.turn_records import BLANK as NO_FILE
from mmjax.encoders.language_model import WORD
from mmjax.encoders.pictures import open_image, size_of
from mmjax.errors import DataError, MmjaxError, setting
from mmjax.evals.answers import shares
from mmjax.evals.scienceqa import NONE, UNANSWERED, accuracies, guess, read_answer, without_reading
from mmjax.rng import seed_for
from mmjax.specs.instruct import QuestionsSpec
from mmjax.specs.spec import Stage
from mmjax.tasks.instruct.build import parts_of
from mmjax.tasks.instruct.easy_vqa import (
    BLANK,
    AskedSet,
    AskFn,
    InstructData,
    Records,
    blanked,
    check_divides,
    prepare_questions,
)
from mmjax.tasks.instruct.rehearsal import rehearse
from mmjax.tasks.instruct.sources import load_source
from mmjax.tasks.instruct.towers import encode_about, encoders_of, image_table, layout_of

T = TypeVar("T")
Conversable: TypeAlias = Problems | Dialogues


@dataclass(frozen=True)
class ImageFiles:
    """Pictures that are opened when their turn comes; a white one stands behind the last.

    Attributes:
      paths: the files.
      names: whose each is, for messages.
    """

    paths: Sequence[Path]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths) + 1

    def __getitem__(self, i: int) -> Image.Image:
        return BLANK if self._is_blank(i) else self._told(open_image, i)

    def place(self, i: int) -> Path | Image.Image:
        """The file of a picture, which is not opened; a white picture where there is none."""
        return BLANK if self._is_blank(i) else self.paths[i]

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of a picture, which is not decoded for it."""
        return size_of(BLANK) if self._is_blank(i) else self._told(size_of, i)

    def _is_blank(self, i: int) -> bool:
        return i == len(self.paths) or self.paths[i] == Path(NO_FILE)

    def _told(self, read: Callable[[Path], T], i: int) -> T:
        try:
            return read(self.paths[i])
        except MmjaxError as error:
            raise DataError(f"{self.names[i]}: {error}") from error


@dataclass(frozen=True)
class ProblemSet(AskedSet):
    """ScienceQA's problems that are asked.

    Attributes: as of `AskedSet`, and
      problems: the same as the data set has them.
      spec: how they are answered.
    """

    problems: Sequence[Problem]
    spec: QuestionsSpec

    def figures(self, functions: Mapping[str, AskFn]) -> dict[str, float]:
        """Accuracy by slice, of written answers or of the likeliest letter."""
        conversations, spec = self.conversations, self.spec
        if spec.answering == "likelihood":
            options = [
                [f"The answer is {letter}" for letter in LETTERS[: len(p.choices)]]
                for p in self.problems
            ]
            values = functions["options"](conversations, options)
            return accuracies(np.array([int(np.argmax(v)) for v in values]), self.problems)
        answers = functions["said"](conversations, spec.max_new_tokens)
        pairs = zip(answers, self.problems, strict=True)
        chosen = np.array([read_answer(text, len(p.choices)) for text, p in pairs])
        if spec.unanswered == "wrong":
            return accuracies(chosen, self.problems)
        drawn = guess(chosen, self.problems, spec.unanswered_seed)
        share = float((chosen == NONE).mean())
        return {**accuracies(drawn, self.problems), UNANSWERED: share}


@dataclass(frozen=True)
class HeldOut(AskedSet):
    """Conversations that were held out."""

    def figures(self, functions: Mapping[str, AskFn]) -> dict[str, float]:
        """`token_log_prob`: mean log-probability of the answers' tokens; e to minus it, perplexity.

        Every token weighs the same.
        """
        values = functions["log_prob"](self.conversations)
        tokens = sum(len(row.answers) for row in self.conversations.rows)
        mean = float(values.sum()) / tokens
        return {"token_log_prob": mean, "perplexity": float(np.exp(-mean))}


@dataclass(frozen=True)
class AnswerSet(AskedSet):
    """Questions whose written answers are held against the truth.

    Attributes: as of `AskedSet`, whose conversations go up to their last answers, and
      truths: these answers.
      max_new_tokens: of a written answer.
    """

    truths: Sequence[str]
    max_new_tokens: int

    def figures(self, functions: Mapping[str, AskFn]) -> dict[str, float]:
        """Shares of right answers; see `mmjax.evals.answers.shares`."""
        return shares(functions["said"](self.conversations, self.max_new_tokens), self.truths)


def prepare_instructions(stage: Stage, seed: int, library: Library, first: bool) -> InstructData:
    """Builds what an `instruct` stage reads, of any source.

    A row that is longer than `encoders.language.max_length` is cut at its end and counted, as the
    original does; one whose question alone is longer is refused.

    Args:
      stage: what is trained.
      seed: draws what is held out.
      library: encoders and questions.
      first: whether a modality token stands in front.

    Returns:
      The stage's data.

    Raises:
      MmjaxError: damaged data; a question that is longer than the model reads, or leaves no room to
        answer it; nothing left to learn from.
    """
    spec = stage.questions
    if spec.evaluation == "vqa":
        return prepare_questions(stage, seed, library, first)
    check_divides(stage, library)
    language, vision = encoders_of(stage, library)
    layout = layout_of(language, vision, stage.instruct.taps, first)

    @functools.cache
    def files_of(side: str) -> ImageFiles:
        return ImageFiles(sources[side].images, sources[side].image_names)

    def pictures(side: str, rows: Iterable[int]) -> list[Path | Image.Image | None]:
        images = [sources[side].conversations[i].image for i in rows]
        return [None if image is None else files_of(side).place(image) for image in images]

    @functools.cache
    def shown(side: str) -> InputTable:
        """The pictures of all rows of a side: class tokens of an arm's are another's too."""
        files = files_of(side)
        if not stage.train.cache_features:
            return image_table(vision, files)
        layers = parts_of(stage.instruct).tapped(vision.config.num_layers)
        return class_tokens.load_class_tokens(
            vision, [files.place(i) for i in range(len(files))], layers
        )

    def read(side: str, rows: Int[np.ndarray, " k"]) -> Conversations:
        source, table = sources[side], shown(side)
        at: list[int] = rows.tolist()
        conversations = [source.conversations[i] for i in at]
        encoded = [
            encode_about(c, language, layout, table, source.names[i], cut=True)
            for i, c in zip(at, conversations, strict=True)
        ]
        numbers = np.array([WORD if c.image is None else c.image for c in conversations])
        return Conversations(encoded, numbers, table, spec.per_picture, first)

    sources: dict[str, Conversable] = {}
    for side in spec.sides:
        source = load_source(spec, side, library)
        assert isinstance(source, Problems | Dialogues)
        sources[side] = source
    systems: dict[str, AskedSet] = {}
    if spec.evaluation == "scienceqa":
        problems = {
            side: source for side, source in sources.items() if isinstance(source, Problems)
        }
        train, counts = problems["train"], (spec.train_pictures, spec.val_pictures)
        items = {
            side: np.arange(len(problems[side].problems))[: count or None]
            for side, count in zip(spec.sides, (*counts, spec.test_pictures), strict=True)
        }
        chosen: dict[str, list[Problem]] = {
            side: [problems[side].problems[i] for i in rows] for side, rows in items.items()
        }
        questions = {side: read(side, items[side]) for side in ("val", "test")}
        for side, conversations in questions.items():
            _check_room(conversations, problems[side].names, spec, language.config.max_length)
        val: AskedSet = ProblemSet(questions["val"], chosen["val"], spec)
        if (questions["test"].images != WORD).any():
            systems["blank"] = ProblemSet(blanked(questions["test"]), chosen["test"], spec)
        systems["adapted"] = ProblemSet(questions["test"], chosen["test"], spec)
        seen = pictures("test", items["test"].tolist())
        references = without_reading(chosen["train"], chosen["test"])
    else:
        train, references = sources["train"], {}
        assert isinstance(train, Dialogues)
        items = hold_out(len(train.conversations), spec, seed_for(seed, "split"))
        val, kind = HeldOut(read("train", items["val"])), HeldOut
        if spec.asked:
            dialogues = sources["asked"]
            about = [
                i if conversation.image is None else -1 - conversation.image
                for i, conversation in enumerate(dialogues.conversations)
            ]
            numbers = spread(about, spec.asked_limit)
            final = read("asked", np.array(numbers))
            _check_room(
                final, [dialogues.names[i] for i in numbers], spec, language.config.max_length
            )
            seen = pictures("asked", numbers)
            truths = [dialogues.conversations[i].turns[-1].text.strip() for i in numbers]
            kind = functools.partial(AnswerSet, truths=truths, max_new_tokens=spec.max_new_tokens)
        else:
            final = read("train", items["test"])
            seen = pictures("train", items["test"].tolist())
        if (final.images != WORD).any():
            systems["blank"] = kind(blanked(final))
        systems["adapted"] = kind(final)
    learned, digest = read("train", items["train"]), hashlib.sha256()
    cut = sum(row.cut for row in learned.rows)
    library.truncated["language"] = (cut, len(learned), layout.max_length)
    for source in sources.values():
        for conversation in source.conversations:
            digest.update(repr(conversation).encode())
    records = Records("+".join((spec.source, *spec.mix)), digest.hexdigest())
    left_out = train.skipped if isinstance(train, Dialogues) else 0
    learned = rehearse(learned, spec, seed, language)
    return InstructData(
        learned, val, systems, items, references, records, language, vision, left_out, seen
    )


def _check_room(
    questions: Conversations, names: Sequence[str], spec: QuestionsSpec, most: int
) -> None:
    """Refuses, before anything is trained, a prompt after which no answer could be written."""
    new = spec.max_new_tokens if spec.answering == "greedy" else 8
    for name, row in zip(names, questions.rows, strict=False):
        if row.answers[0] + new > most:
            raise MmjaxError(
                f"{name} takes {row.answers[0]} tokens, which leaves no room for {new} new ones: "
                f"this model reads {most}; set a smaller "
                f"--{setting('questions.max_new_tokens')}"
            )


def hold_out(count: int, spec: QuestionsSpec, seed: int) -> dict[str, Int[np.ndarray, " k"]]:
    """Rows for each side; which ones are held out, the seed draws.

    Raises:
      MmjaxError: none is left to learn from.
    """
    val, test = spec.val_pictures, spec.test_pictures
    if val + test >= count:
        raise MmjaxError(
            f"{setting('questions')} holds out {val} and {test} of {count} rows: none is left "
            "to learn from; set smaller val_pictures and test_pictures"
        )
    order = np.random.default_rng(seed).permutation(count)
    train = order[val + test :][: spec.train_pictures or None]
    sides = {"train": train, "val": order[:val], "test": order[val : val + test]}
    return {side: np.sort(rows) for side, rows in sides.items()}
