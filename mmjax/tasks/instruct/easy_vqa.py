"""What an `instruct` stage reads with one seed: conversations to learn, questions to be asked."""

import dataclasses
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Shaped
from PIL import Image

from mmjax.data import class_tokens, easy_vqa
from mmjax.data.conversations import Conversations
from mmjax.data.easy_vqa import EasyVqaQuestion, Questions
from mmjax.data.library import Library
from mmjax.data.picture_table import PictureTable
from mmjax.data.pipeline import Batches
from mmjax.encoders import Encoder, LanguageModel
from mmjax.encoders.language_model import WORD
from mmjax.errors import MmjaxError, setting
from mmjax.evals.base import Evaluator
from mmjax.evals.vqa import accuracies, probes, without_images
from mmjax.rng import seed_for
from mmjax.sharding import place_batch, replicated
from mmjax.specs.instruct import QuestionsSpec
from mmjax.specs.spec import Stage
from mmjax.tasks.base import Task
from mmjax.tasks.instruct.build import parts_of
from mmjax.tasks.instruct.rehearsal import rehearse
from mmjax.tasks.instruct.respond import Speaker
from mmjax.tasks.instruct.sources import load_source
from mmjax.tasks.instruct.task import InstructTask
from mmjax.tasks.instruct.towers import encode_about, encoders_of, image_table, layout_of
from mmjax.tasks.typed import jit
from mmjax.trees import PyTree

AskFn = Callable[..., Any]
BLANK = Image.new("RGB", (64, 64), "white")


@dataclass(frozen=True)
class AskedSet(ABC):
    """Something that a model is asked in evaluation.

    Attributes:
      conversations: as the model reads it.
    """

    conversations: Conversations

    def run(
        self, evaluators: Sequence[Evaluator], functions: Mapping[str, AskFn]
    ) -> dict[str, float]:
        """Metrics of what `functions`, as `Asked.bind` gives them, say.

        Retrieval evaluators have nothing to say here.
        """
        assert not evaluators
        return self.figures(functions)

    @abstractmethod
    def figures(self, functions: Mapping[str, AskFn]) -> dict[str, float]:
        """As `run`."""


@dataclass(frozen=True)
class QuestionSet(AskedSet):
    """Questions that are asked, and how a model reads them.

    Attributes: as of `AskedSet`, and
      questions: the same as the data set has them.
    """

    questions: Sequence[EasyVqaQuestion]

    def figures(self, functions: Mapping[str, AskFn]) -> dict[str, float]:
        """Accuracy of `functions["exact"]`."""
        return accuracies(functions["exact"](self.conversations), self.questions)


@dataclass(frozen=True)
class Records:
    """What a card says of the data."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class InstructData:
    """Everything that an `instruct` stage reads with one seed.

    Attributes:
      train: what is learned.
      val: asked while training, about pictures held out from it.
      test: system -> what is asked in the end: `adapted`, and `blank`: the same questions about a
        white picture.
      items: {"train", "val", "test"} -> numbers of pictures, or of rows.
      references: system -> metrics of what needs no model.
      corpus: names the data.
      language: the frozen language model.
      vision: what pictures pass through; see `encoders_of`.
      left_out: rows that were not read because an answer was empty.
      shown: the picture of each question that is asked in the end; None where there is none.
    """

    train: Conversations
    val: AskedSet
    test: Mapping[str, AskedSet]
    items: Mapping[str, Int[np.ndarray, " k"]]
    references: Mapping[str, Mapping[str, float]]
    corpus: Records
    language: LanguageModel
    vision: Encoder
    left_out: int = 0
    shown: Sequence[Path | Image.Image | None] = ()

    def example(self, batch_size: int, seed: int, mesh: Mesh | None = None) -> dict[str, Any]:
        """A batch of shapes for initial values; with a mesh this process's rows of it."""
        groups = self.train.plan(batch_size, np.random.default_rng(seed))[0]
        return self.train.batch(groups, batch_size, mesh)

    def batches(self, steps: int, batch_size: int, seed: int, mesh: Mesh | None = None) -> Batches:
        """A checkpointable iterator of batches; with a mesh of this process's rows of them."""
        return self.train.batches(steps, batch_size, seed, mesh)

    def publish(self, task: Task, mesh: Mesh) -> "QuestionFunctions":
        """The task's functions, compiled once for all evaluations."""
        return QuestionFunctions(task, mesh, self.language, self.vision)


class QuestionFunctions:
    """A task's published functions, fed with conversations in batches."""

    def __init__(
        self,
        task: Task,
        mesh: Mesh,
        language: LanguageModel,
        vision: Encoder,
        batch_size: int = 32,
    ) -> None:
        """Nothing is compiled yet.

        Args:
          task: publishes `exact` and `log_prob`.
          mesh: batches are split over its data axis; results come back whole.
          language: the frozen language model.
          vision: what pictures pass through.
          batch_size: least rows a batch.
        """
        assert isinstance(task, InstructTask)
        self._mesh, self._batch_size = mesh, batch_size
        self._functions = {
            name: jit(function, out_shardings=replicated(mesh))
            for name, function in task.functions().items()
        }
        self._speaker = Speaker(task, language, vision, mesh, batch_size)

    def bind(self, trainable: PyTree, frozen: PyTree) -> Mapping[str, AskFn]:
        """Functions of conversations.

        Returns:
          `exact`: whether each is answered exactly, bool [n]; `log_prob`: of each one's answers,
          float32 [n]; `said` and `options`: see `Speaker`.
        """
        trees = trainable, frozen
        return {
            **{name: functools.partial(self._ask, name, *trees) for name in self._functions},
            "said": functools.partial(self._speaker.said, trainable),
            "options": functools.partial(self._speaker.options, trainable),
        }

    def _ask(
        self, name: str, trainable: PyTree, frozen: PyTree, conversations: Conversations
    ) -> Shaped[np.ndarray, " n"]:
        each = conversations.per_picture * self._mesh.shape["data"]
        size = -(-self._batch_size // each) * each
        values: dict[int, Any] = {}
        for groups in conversations.plan(size, None):
            batch = place_batch(conversations.batch(groups, size, self._mesh), self._mesh, size)
            outputs = np.asarray(self._functions[name](trainable, frozen, batch))
            for i, group in enumerate(groups):
                values |= zip(group, outputs[i * conversations.per_picture :], strict=False)
        return np.asarray([values[i] for i in range(len(conversations))])


def prepare_questions(stage: Stage, seed: int, library: Library, first: bool) -> InstructData:
    """Builds what an `instruct` stage reads of easy-VQA.

    Args:
      stage: what is trained.
      seed: draws which pictures are held out for validation.
      library: encoders and questions.
      first: whether a modality token stands in front.

    Returns:
      The stage's data.

    Raises:
      MmjaxError: questions that are damaged, or longer than the model reads.
    """
    spec, each = stage.questions, stage.questions.per_picture
    train, test = _sides(spec, library)
    check_held_out(spec, len(train.images))
    check_divides(stage, library)
    kept, val, test_images = _split(spec, seed, train, test)
    language, vision = encoders_of(stage, library)
    layout = layout_of(language, vision, stage.instruct.taps, first)

    def conversations(questions: Questions, side: str, blank: bool = False) -> Conversations:
        shown = (*questions.images, BLANK)
        table = image_table(vision, shown)
        rows = [
            encode_about(q.conversation, language, layout, table, f"{side} question {i}")
            for i, q in enumerate(questions.questions)
        ]
        numbers = np.asarray([q.image for q in questions.questions])
        if not stage.train.cache_features:
            whole = Conversations(rows, numbers, table, each, first)
            return blanked(whole) if blank else whole
        if blank:
            numbers = np.full_like(numbers, len(questions.images))
        used, numbers = np.unique(numbers, return_inverse=True)
        layers = parts_of(stage.instruct).tapped(vision.config.num_layers)
        pictures: list[Path | Image.Image] = [shown[i] for i in used]
        table = class_tokens.load_class_tokens(vision, pictures, layers)
        return Conversations(rows, numbers, table, each, first)

    taught, held_out = train.of_images(kept), train.of_images(val)
    final = test.of_images(test_images)
    learned = conversations(taught, "training")
    digest = hashlib.sha256(repr((train.questions, test.questions)).encode()).hexdigest()
    return InstructData(
        rehearse(learned, spec, seed, language),
        QuestionSet(conversations(held_out, "validation"), held_out.questions),
        {
            "blank": QuestionSet(conversations(final, "test", blank=True), final.questions),
            "adapted": QuestionSet(conversations(final, "test"), final.questions),
        },
        {"train": kept, "val": val, "test": test_images},
        without_images(taught.questions, final.questions),
        Records(spec.source, digest),
        language,
        vision,
        shown=[final.images[question.image] for question in final.questions],
    )


def blanked(conversations: Conversations) -> Conversations:
    """The same about white pictures: as large as they were, or the last one of the table."""
    if isinstance(conversations.table, PictureTable):
        return dataclasses.replace(
            conversations, table=dataclasses.replace(conversations.table, blank=True)
        )
    white = np.where(conversations.images == WORD, WORD, len(conversations.table) - 1)
    return dataclasses.replace(conversations, images=white)


def ask_probes(stage: Stage, seed: int, library: Library) -> dict[str, dict[str, float]]:
    """What classifiers make of the frozen class token and the question's words; see `probes`.

    Args:
      stage: an `instruct` stage on easy-VQA.
      seed: of the split, the same as for `prepare_questions`.
      library: encoders and questions.

    Returns:
      System -> metrics on the same test questions.
    """
    train, test = _sides(stage.questions, library)
    kept, _, test_images = _split(stage.questions, seed, train, test)
    vision = library.encoder(stage.encoders["image"])
    shown: list[Path | Image.Image] = [
        *(train.images[i] for i in kept),
        *(test.images[i] for i in test_images),
    ]
    last = class_tokens.load_class_tokens(vision, shown, (vision.config.num_layers - 1,)).values[
        :, 0
    ]
    places = dict(zip(kept.tolist(), range(len(kept)), strict=True))
    learned = [
        dataclasses.replace(q, image=places[q.image]) for q in train.of_images(kept).questions
    ]
    final = [
        dataclasses.replace(q, image=len(kept) + q.image)
        for q in test.of_images(test_images).questions
    ]
    return probes(learned, final, last, seed)


def _sides(spec: QuestionsSpec, library: Library) -> tuple[Questions, Questions]:
    train, test = (load_source(spec, side, library) for side in ("train", "test"))
    assert isinstance(train, Questions)
    assert isinstance(test, Questions)
    return train, test


def _split(
    spec: QuestionsSpec, seed: int, train: Questions, test: Questions
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " v"], Int[np.ndarray, " t"]]:
    """Pictures of (training, validation, test); the last are the first ones of the test side."""
    kept, val = easy_vqa.split_images(len(train.images), spec.val_pictures, seed_for(seed, "split"))
    test_images = np.arange(len(test.images))[: spec.test_pictures or None]
    return kept[: spec.train_pictures or None], val, test_images


def check_held_out(spec: QuestionsSpec, pictures: int) -> None:
    """Refuses to hold all training pictures out."""
    if spec.val_pictures >= pictures:
        raise MmjaxError(
            f"{setting('questions.val_pictures')} holds out {spec.val_pictures} of {pictures} "
            "pictures: none is left to learn from"
        )


def check_divides(stage: Stage, library: Library) -> None:
    """Refuses a batch whose pictures cannot be split over the mesh and its micro-batches."""
    each, shards = stage.questions.per_picture, library.mesh.shape["data"]
    parts, pictures = stage.train.accumulate, stage.train.batch_size // each
    if pictures % (shards * parts):
        raise MmjaxError(
            f"{setting('train.batch_size')} {stage.train.batch_size} is {pictures} pictures a step "
            f"(questions.per_picture {each}), which do not divide over {shards} data shards"
            f"{f' and {parts} micro-batches' if parts > 1 else ''}"
        )
