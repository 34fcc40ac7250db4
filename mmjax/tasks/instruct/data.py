"""What an `instruct` stage reads of ScienceQA and of instructions, and how it is asked."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from PIL import Image

from mmjax.data.conversations import Conversations, encode
from mmjax.data.dialogues import Dialogues
from mmjax.data.library import Library
from mmjax.data.scienceqa import LETTERS, Problem, Problems
from mmjax.encoders import LanguageModel
from mmjax.encoders.image_preprocess import open_image
from mmjax.encoders.language_model import WORD
from mmjax.errors import DataError, MmjaxError, setting
from mmjax.evals.base import Evaluator
from mmjax.evals.scienceqa import NONE, UNANSWERED, accuracies, guess, read_answer, without_reading
from mmjax.rng import seed_for
from mmjax.specs.instruct import QuestionsSpec
from mmjax.specs.spec import Stage
from mmjax.tasks.instruct.easy_vqa import (
    BLANK,
    AskedSet,
    AskFn,
    InstructData,
    Records,
    check_divides,
    layout_of,
    picture_table,
    prepare_questions,
)
from mmjax.tasks.instruct.rehearsal import rehearse
from mmjax.tasks.instruct.sources import load_source

Conversable: TypeAlias = Problems | Dialogues


@dataclass(frozen=True)
class PictureFiles:
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
        if i == len(self.paths):
            return BLANK
        try:
            return open_image(self.paths[i])
        except MmjaxError as error:
            raise DataError(f"{self.names[i]}: {error}") from error


@dataclass(frozen=True)
class ProblemSet:
    """ScienceQA's problems that are asked.

    Attributes:
      conversations: the problems, in order.
      problems: the same as the data set has them.
      spec: how they are answered.
    """

    conversations: Conversations
    problems: Sequence[Problem]
    spec: QuestionsSpec

    def run(
        self, evaluators: Sequence[Evaluator], functions: Mapping[str, AskFn]
    ) -> dict[str, float]:
        """Accuracy by slice, of written answers or of the likeliest letter."""
        assert not evaluators
        asked, spec = self.conversations, self.spec
        if spec.answering == "likelihood":
            options = [
                [f"The answer is {letter}" for letter in LETTERS[: len(p.choices)]]
                for p in self.problems
            ]
            values = functions["options"](asked, options)
            return accuracies(np.array([int(np.argmax(v)) for v in values]), self.problems)
        said = functions["said"](asked, spec.max_new_tokens)
        pairs = zip(said, self.problems, strict=True)
        chosen = np.array([read_answer(text, len(p.choices)) for text, p in pairs])
        if spec.unanswered == "wrong":
            return accuracies(chosen, self.problems)
        drawn = guess(chosen, self.problems, spec.unanswered_seed)
        share = float((chosen == NONE).mean())
        return {**accuracies(drawn, self.problems), UNANSWERED: share}


@dataclass(frozen=True)
class HeldOut:
    """Conversations that were held out."""

    conversations: Conversations

    def run(
        self, evaluators: Sequence[Evaluator], functions: Mapping[str, AskFn]
    ) -> dict[str, float]:
        """`token_log_prob`: mean log-probability of the answers' tokens; e to minus it, perplexity.

        Every token weighs the same.
        """
        assert not evaluators
        values = functions["log_prob"](self.conversations)
        tokens = sum(len(row.answers) for row in self.conversations.rows)
        mean = float(values.sum()) / tokens
        return {"token_log_prob": mean, "perplexity": float(np.exp(-mean))}


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
    language = library.encoder(stage.encoders["language"])
    vision = library.encoder(stage.encoders["image"])
    assert isinstance(language, LanguageModel)
    layout = layout_of(stage, language, first)

    def read(source: Conversable, rows: Int[np.ndarray, " k"]) -> Conversations:
        at: list[int] = rows.tolist()
        said, tokenizer = [source.conversations[i] for i in at], language.preprocess.tokenizer
        encoded = [
            encode(one, tokenizer, layout, source.names[i], cut=True)
            for i, one in zip(at, said, strict=True)
        ]
        numbers = np.array([WORD if one.picture is None else one.picture for one in said])
        table = picture_table(vision, PictureFiles(source.pictures, source.picture_names))
        return Conversations(encoded, numbers, table, spec.per_picture, first)

    sources: dict[str, Conversable] = {}
    for side in spec.sides:
        found = load_source(spec, side, library)
        assert isinstance(found, Problems | Dialogues)
        sources[side] = found
    systems: dict[str, AskedSet] = {}
    if spec.evaluation == "scienceqa":
        problems = {side: found for side, found in sources.items() if isinstance(found, Problems)}
        train, counts = problems["train"], (spec.train_pictures, spec.val_pictures)
        items = {
            side: np.arange(len(problems[side].problems))[: count or None]
            for side, count in zip(spec.sides, (*counts, spec.test_pictures), strict=True)
        }
        chosen: dict[str, list[Problem]] = {
            side: [problems[side].problems[i] for i in rows] for side, rows in items.items()
        }
        asked = {side: read(problems[side], items[side]) for side in ("val", "test")}
        for side, found in asked.items():
            _check_room(found, problems[side].names, spec, language.config.max_length)
        val: AskedSet = ProblemSet(asked["val"], chosen["val"], spec)
        if (asked["test"].pictures != WORD).any():
            systems["blank"] = ProblemSet(_blank(asked["test"]), chosen["test"], spec)
        systems["adapted"] = ProblemSet(asked["test"], chosen["test"], spec)
        references = without_reading(chosen["train"], chosen["test"])
    else:
        train, references = sources["train"], {}
        assert isinstance(train, Dialogues)
        items = hold_out(len(train.conversations), spec, seed_for(seed, "split"))
        val, final = HeldOut(read(train, items["val"])), read(train, items["test"])
        if (final.pictures != WORD).any():
            systems["blank"] = HeldOut(_blank(final))
        systems["adapted"] = HeldOut(final)
    learned, digest = read(train, items["train"]), hashlib.sha256()
    cut = sum(row.cut for row in learned.rows)
    library.truncated["language"] = (cut, len(learned), layout.max_length)
    for source in sources.values():
        for one in source.conversations:
            digest.update(repr(one).encode())
    records = Records("+".join((spec.source, *spec.mix)), digest.hexdigest())
    left_out = train.skipped if isinstance(train, Dialogues) else 0
    learned = rehearse(learned, spec, seed, language)
    return InstructData(learned, val, systems, items, references, records, language, left_out)


def _check_room(asked: Conversations, names: Sequence[str], spec: QuestionsSpec, most: int) -> None:
    """Refuses, before anything is trained, a prompt after which no answer could be written."""
    new = spec.max_new_tokens if spec.answering == "greedy" else 8
    for name, row in zip(names, asked.rows, strict=False):
        if row.answers[0] + new > most:
            raise MmjaxError(
                f"{name} takes {row.answers[0]} tokens, which leaves no room for {new} new ones: "
                f"this model reads {most}; set a smaller "
                f"--{setting('questions.max_new_tokens')}"
            )


def _blank(asked: Conversations) -> Conversations:
    """The same about a white picture; what has no picture stays without one."""
    white = np.where(asked.pictures == WORD, WORD, len(asked.table) - 1)
    return dataclasses.replace(asked, pictures=white)


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
