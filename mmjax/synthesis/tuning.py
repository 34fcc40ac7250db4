"""Conversations that a synthesizer is tuned on: it reads a caption and writes tasks about it."""

from collections.abc import Iterator
from dataclasses import replace

from tokenizers import Tokenizer

from mmjax.data.markers import Cues, Markers
from mmjax.data.turn_records import BLANK, Message, Record
from mmjax.errors import DataError, MmjaxError
from mmjax.synthesis.draws import draw
from mmjax.synthesis.parse import triplets_of


def tuning(record: Record, cues: Cues, seed: int, most: int = 1) -> Iterator[Record]:
    """Yields the conversations of a seed: its caption is read, its tasks are learned.

    Args:
      record: a caption record with its tasks in `meta["triplets"]`.
      cues: that the synthesizer will be prompted with.
      seed: of the order in which a task's answers stand, drawn by id.
      most: tasks a conversation, as many as are to be written about an image later. A record with
        more becomes several, whose ids count on: ID, ID#1, ...

    Raises:
      DataError: a record without a caption, or a damaged task.

    Source: Cheng et al. 2025 (AdaMLLM): the question stands in both turns, and is learned in both.
    """
    if len(record.turns) < 2 or not record.turns[1].text.strip():
        raise DataError(f"record {record.id}: has no caption; a synthesizer is tuned to read one")
    caption = (Message("user", cues.caption), Message("assistant", record.turns[1].text))
    tasks = triplets_of(record)
    meta = {key: value for key, value in record.meta.items() if key != "triplets"}
    for part, at in enumerate(range(0, len(tasks), most)):
        turns = [*caption]
        for number, task in enumerate(tasks[at : at + most], at):
            pairs = [(cues.precise, task.precise), (cues.informative, task.informative)]
            if draw(seed, "order", record.id, str(number)) < 0.5:
                pairs.reverse()
            for cue, answer in pairs:
                turns.append(Message("user", cues.ask(cue, task.question), loss=True))
                turns.append(Message("assistant", answer, loss=True))
        name = f"{record.id}#{part}" if part else record.id
        yield Record(name, record.images, tuple(turns), meta)


def blank(record: Record, share: float, seed: int) -> Record:
    """The record, or with a share of them, drawn by id, one whose images are blank.

    Tasks are often written from images alone; where there is nothing to see, the caption is read.

    Source: Cheng et al. 2025 (AdaMLLM), Appendix F, with a share of 0.1.
    """
    if draw(seed, "blank", record.id) >= share:
        return record
    return replace(record, images=(BLANK,) * len(record.images))


def check_end(markers: Markers, tokenizer: Tokenizer, eos: int) -> None:
    """Refuses markers whose end of a turn is the token at which the model stops writing.

    Args:
      markers: that a synthesizer is tuned with.
      tokenizer: of its language model.
      eos: id of the token that ends a text.

    Raises:
      MmjaxError: a synthesizer would stop behind its first question.
    """
    if eos in tokenizer.encode(markers.end, add_special_tokens=False).ids:
        raise MmjaxError(
            f"markers {markers.name!r} end every turn with {markers.end.strip()!r}, at which this "
            "model stops, behind its first question; take others, such as 'plain'"
        )
