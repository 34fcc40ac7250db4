"""Generation: a synthesizer reads an image and its caption, and writes tasks about them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from mmjax.data.markers import Cues, Markers
from mmjax.data.turn_records import BLANK, Message, Record
from mmjax.encoders.image_preprocess import open_image
from mmjax.encoders.language_model import LanguageModel
from mmjax.errors import MmjaxError
from mmjax.generation import generate
from mmjax.synthesis.parse import read_marked
from mmjax.synthesis.parts import Failure, Outcome, Parts, Rows, plan_batches
from mmjax.tasks.instruct.answering import Answering
from mmjax.trees import PyTree

log = logging.getLogger("mmjax")
WHITE = Image.new("RGB", (64, 64), "white")


@dataclass(frozen=True)
class Written:
    """What a synthesizer wrote behind a prompt.

    Attributes:
      text: with the markers of roles in it.
      finished: whether it ended, rather than running out of tokens.
    """

    text: str
    finished: bool


@runtime_checkable
class Writer(Protocol):
    """Goes on with texts about images."""

    def write(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[Written]:
        """Writes on behind each prompt, one image a prompt, greedily."""
        ...


@dataclass(frozen=True)
class AdaptedWriter:
    """An adapter that was tuned to synthesize, in its frozen models.

    Attributes:
      adapted: as `mmjax.load_adapter` gives it.
      max_new_tokens: of a text.
    """

    adapted: Answering
    max_new_tokens: int

    def write(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[Written]:
        """Greedy continuations."""
        generations = self.adapted.write(prompts, images, self.max_new_tokens)
        return [Written(generation.text, generation.finished) for generation in generations]


@dataclass(frozen=True)
class LlavaWriter:
    """A LLaVA that was tuned to synthesize, such as AdaMLLM's own.

    Attributes:
      model: from `load_encoder`.
      max_new_tokens: of a text.
      at: letters of a prompt that stand before its image: the marker of the user's turn.
      adapters: parameters for its hook.
    """

    model: LanguageModel
    max_new_tokens: int
    at: int = 0
    adapters: PyTree = None

    def with_image(self, prompt: str) -> str:
        """A prompt with its image where training puts it; see `mmjax.data.layout`."""
        return f"{prompt[: self.at]}<image>\n{prompt[self.at :]}"

    def write(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[Written]:
        """Greedy continuations, markers kept: they are special tokens of such models."""
        generations = generate(
            self.model,
            [self.with_image(prompt) for prompt in prompts],
            self.max_new_tokens,
            adapters=self.adapters,
            images=[[image] for image in images],
            stop_token_ids=self.model.chat.eos_token_ids[:1],
        )
        decode = self.model.preprocess.tokenizer.decode
        return [
            Written(decode(generation.token_ids, skip_special_tokens=False), generation.finished)
            for generation in generations
        ]


@dataclass(frozen=True)
class Generating:
    """How tasks are written.

    Attributes:
      markers: that the synthesizer was tuned with.
      cues: the same.
      batch_size: prompts that are continued together.
      triplets: most tasks of an image.
      tries: how often an image is read before it counts as failed.
    """

    markers: Markers
    cues: Cues
    batch_size: int = 32
    triplets: int = 1
    tries: int = 2

    def prompt(self, record: Record) -> str:
        """What the synthesizer reads: the caption's turn, and the user's next turn begun."""
        question = Message("user", self.cues.caption)
        return self.markers.write([question, record.turns[1]], then="user")


def generate_tasks(
    pairs: Path,
    parts: Parts,
    writer: Writer,
    how: Generating,
    retry_failed: bool = False,
) -> None:
    """Writes tasks about captions: this shard's share of them.

    Args:
      pairs: caption records.
      parts: keeps what was written.
      writer: the synthesizer.
      how: settings.
      retry_failed: whether images that could not be read are tried again.

    Raises:
      MmjaxError: damaged files.
    """
    rows = Rows(pairs)
    sizes = np.array([len(how.prompt(rows.record(row))) for row in range(len(rows))], np.int64)

    def do(batch: Sequence[int]) -> list[Outcome]:
        records = [rows.record(row) for row in batch]

        def write(shown: list[Image.Image]) -> list[Outcome]:
            written = writer.write([how.prompt(one) for one in records], shown)
            return [outcome(one, how) for one in written]

        return seeing(records, how.tries, write)

    parts.work(plan_batches(sizes, how.batch_size), do, "writing tasks", retry_failed)


def outcome(written: Written, how: Generating) -> dict[str, object]:
    """What is kept of a text: itself, and the tasks in it."""
    triplets = read_marked(written.text, written.finished, how.markers, how.cues, how.triplets)
    return {
        "raw": written.text,
        "finished": written.finished,
        "triplets": [triplet.as_object() for triplet in triplets],
    }


def with_tasks(record: Record, tasks: dict[str, object]) -> Record:
    """A caption record with what was written about it."""
    return Record(record.id, record.images, record.turns[:2], {**record.meta, **tasks})


def read_image(record: Record, tries: int) -> Image.Image | Failure:
    """A record's first picture, white where it has none; why not, once `tries` are spent."""
    if not record.images or record.images[0].startswith(BLANK):
        return WHITE
    error = ""
    for _ in range(tries):
        try:
            return open_image(Path(record.images[0]))
        except MmjaxError as failed:
            error = str(failed)
    log.warning("%s: %s", record.id, error)
    return Failure(error, tries)


def seeing(
    records: Sequence[Record], tries: int, do: Callable[[list[Image.Image]], Sequence[Outcome]]
) -> list[Outcome]:
    """What comes of records whose first pictures are shown.

    Args:
      records: with one picture, or none.
      tries: how often a picture is read before its record counts as failed.
      do: pictures -> an outcome for each record. The picture of one that failed is white, so that
        the others are computed as they would be with it.

    Returns:
      An outcome for each record.
    """
    opened = [read_image(one, tries) for one in records]
    outcomes = do([WHITE if isinstance(image, Failure) else image for image in opened])
    return [
        image if isinstance(image, Failure) else found
        for image, found in zip(opened, outcomes, strict=True)
    ]
