"""Compose: an image's caption and the tasks that were kept become a conversation to train on."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from mmjax.data.turn_records import Message, Record, check_new
from mmjax.errors import DataError, MmjaxError, shown
from mmjax.synthesis.draws import draw, pick
from mmjax.synthesis.parse import Triplet, triplets_of
from mmjax.synthesis.templates import Wordings, holds, last_sentence

# What of `meta` is spent when its tasks have become turns.
_SPENT = ("triplets", "raw", "finished")
_IMAGE = "<image>"  # how files of conversations write an image; none of a record's texts has it
Mix: TypeAlias = dict[str, str | int]
# Records, each with the numbers of the tasks that are kept.
Kept: TypeAlias = Iterable[tuple[Record, Collection[int]]]


@dataclass(frozen=True)
class Composition:
    """How records are composed.

    Attributes:
      caption: where the caption's turn stands, `random` by the record's id; `none` leaves it out.
      tasks: which of a record's tasks become turns: `kept` by the filter, `all`, or `none`.
      answer: both answers `fused` into one, or one of them alone.
      inversion_rate: share of the tasks that show an answer and ask for what it belongs to.
      most: tasks of a record where `all` become turns, drawn by its id (0: all of them).
    """

    caption: Literal["first", "last", "random", "none"] = "random"
    tasks: Literal["kept", "all", "none"] = "kept"
    answer: Literal["fused", "precise", "informative"] = "fused"
    inversion_rate: float = 0.0
    most: int = 0


@dataclass(frozen=True)
class StageMix:
    """What one stage of training reads.

    Attributes:
      name: of the stage, and of its file.
      captions: whether captions have turns.
      tasks: whether tasks have.
      general: whether tasks of other images, such as a synthesizer's seeds, follow.
    """

    name: str
    captions: bool
    tasks: bool
    general: bool = False


_CAPTIONS, _TASKS = StageMix("captions", True, False), StageMix("tasks", False, True)
_BOTH = StageMix("composed", True, True)
# The arms of AdaMLLM's Tables 4 and 5: an order of data, nothing else.
PRESETS: Mapping[str, tuple[StageMix, ...]] = MappingProxyType(
    {
        "single_stage": (_BOTH,),
        "two_stage": (_CAPTIONS, _TASKS),
        "two_stage_reuse": (_CAPTIONS, _BOTH),
        "caption_only": (_CAPTIONS,),
        "task_only": (_TASKS,),
        "general_cot_captions": (StageMix("composed", True, False, general=True),),
    }
)


def compose(
    record: Record,
    kept: Collection[int],
    wordings: Wordings,
    seed: int,
    how: Composition = Composition(),
) -> Record:
    """Composes a conversation that is learned: assistant's turns alone have loss.

    Args:
      record: a caption record with its tasks in `meta["triplets"]`.
      kept: numbers of the tasks that the filter kept.
      wordings: templates.
      seed: of the draws, which depend on the record's id besides.
      how: settings.

    Returns:
      The record's id and images, with other turns; with none where `how` leaves out the caption and
      no task is kept. `meta["composed"]` says where the caption stands and, of every task, by which
      branch and template it was made.

    Raises:
      DataError: a record without a caption, a damaged task, or one that is kept and is none.
      MmjaxError: inversion is on, and the wordings have no template for it.

    Source: Cheng et al. 2025 (AdaMLLM), whose inverted templates are an option here.
    """
    if how.inversion_rate and not wordings.inverted:
        raise MmjaxError("inversion_rate is above 0, and the wordings have no inverted template")
    triplets = triplets_of(record)
    every = range(len(triplets))
    if how.most:
        drawn = sorted(every, key=lambda n: draw(seed, "task", record.id, str(n)))
        every = sorted(drawn[: how.most])
    numbers = {"kept": sorted(kept), "all": every, "none": ()}[how.tasks]
    tasks: list[Message] = []
    mix: list[Mix] = []
    for number in numbers:
        if not 0 <= number < len(triplets):
            raise DataError(
                f"record {record.id}: task {number} is kept, and it has {len(triplets)}; filter "
                "and compose the same file"
            )
        turns, origin = _task(triplets[number], wordings, how, seed, (record.id, str(number)))
        tasks += turns
        mix.append({"number": number, **origin})
    caption = [] if how.caption == "none" else _caption(record, wordings, seed)
    place = how.caption
    if place == "random":
        place = "first" if draw(seed, "place", record.id) < 0.5 else "last"
    both = [*caption, *tasks] if place == "first" else [*tasks, *caption]
    meta = {key: value for key, value in record.meta.items() if key not in _SPENT}
    meta["composed"] = {"caption": place if tasks or not caption else "alone", "tasks": mix}
    return Record(record.id, record.images, tuple(both), meta)


def compose_stage(
    stage: StageMix,
    records: Iterable[tuple[Record, Collection[int]]],
    wordings: Wordings,
    seed: int,
    how: Composition = Composition(),
    general: Iterable[Record] = (),
) -> Iterator[Record]:
    """Yields what a stage of a preset trains on.

    Args:
      stage: one of `PRESETS[name]`.
      records: each with the numbers of the tasks that are kept; as many come out, but for those
        of which a stage without captions leaves no turn.
      wordings: templates.
      seed: as for `compose`.
      how: settings; what the stage leaves out is left out.
      general: of stages that have them, caption records with tasks, all of which become turns.

    Raises:
      DataError: as `compose`; general tasks with an id of another record.
      MmjaxError: nothing is left to train on, or the general tasks lack.
    """
    caption = how.caption if stage.captions else "none"
    own = replace(how, caption=caption, tasks=how.tasks if stage.tasks else "none")
    ids: set[str] = set()
    count = 0
    for record, kept in records:
        conversation = compose(record, kept, wordings, seed, own)
        if conversation.turns:
            count += 1
            if stage.general:
                ids.add(conversation.id)
            yield conversation
    if not count:
        why = "no record has a caption" if stage.captions else "the filter kept no task"
        raise MmjaxError(f"stage {stage.name!r} has nothing to train on: {why}")
    if not stage.general:
        return
    count = 0
    others = replace(how, caption="none", tasks="all")
    for record in general:
        check_new("general tasks", record.id, ids)
        conversation = compose(record, (), wordings, seed, others)
        if conversation.turns:
            count += 1
            yield conversation
    if not count:
        raise MmjaxError(
            f"stage {stage.name!r} needs general tasks; name a file of seeds with them"
        )


def stage_of(
    name: str,
    records: Kept,
    wordings: Wordings,
    seed: int,
    how: Composition,
    general: Iterable[Record] = (),
) -> Iterator[Record]:
    """Yields what a stage by name trains on; see `mmjax.specs.synthesis.ComposeSpec.stages`.

    Args:
      name: of the stage.
      records: as for `compose_stage`.
      wordings: templates.
      seed: as for `compose`.
      how: settings.
      general: caption records with general tasks.
    """
    stages = {
        "captions": _CAPTIONS,
        "tasks": _TASKS,
        "general": StageMix(name, False, True),
        "general_captions": PRESETS["general_cot_captions"][0],
    }
    own = how if name in ("captions", "tasks", "general_captions") else replace(how, tasks="all")
    stage = stages.get(name, StageMix(name, True, True))
    return compose_stage(stage, records, wordings, seed, own, general)


def with_kept(
    records: Iterable[Record], audit: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[Record, frozenset[int]]]:
    """Yields records with the numbers of their tasks that an audit keeps, a line of each in memory.

    Args:
      records: with tasks.
      audit: (place, row) of `read_jsonl`: a row for each task, in the order of the records.

    Raises:
      DataError: a row that is none, or an audit of other records; by its place.
    """
    rows = iter(audit)
    row = next(rows, None)
    for record in records:
        judged: dict[int, bool] = {}
        while row is not None and row[1].get("id") == record.id:
            place, content = row
            number, keep = content.get("number"), content.get("keep")
            if isinstance(number, bool) or not isinstance(number, int) or number in judged:
                raise DataError(f"{place}: 'number' is {shown(number)}; expected each task once")
            if not isinstance(keep, bool):
                raise DataError(f"{place}: 'keep' is {shown(keep)}; expected true or false")
            judged[number] = keep
            row = next(rows, None)
        if sorted(judged) != list(range(total := len(triplets_of(record)))):
            where = "the audit's end" if row is None else row[0]
            raise DataError(
                f"before {where}: record {record.id} has {total} tasks, and the audit judges those "
                f"of numbers {sorted(judged)}; filter this file again"
            )
        yield record, frozenset(number for number, keep in judged.items() if keep)
    if row is not None:
        raise DataError(
            f"{row[0]}: judges record {shown(row[1].get('id'))}, which is not of this file or "
            "stands elsewhere in it; filter this file again"
        )


def _caption(record: Record, wordings: Wordings, seed: int) -> list[Message]:
    """The caption's turns; where mmjax's own line asks for it, one of several does."""
    if not record.turns or len(record.turns) % 2 or not record.turns[-1].text.strip():
        raise DataError(
            f"record {record.id}: has no caption; expected what is asked and the answer"
        )
    turns = [_said(turn.role, turn.text) for turn in record.turns]
    if turns[0].text in wordings.captions:
        turns[0] = Message("user", pick(wordings.captions, seed, "caption", record.id)[1])
    return turns


def _task(
    task: Triplet, wordings: Wordings, how: Composition, seed: int, names: tuple[str, str]
) -> tuple[list[Message], Mix]:
    """The turns of a task, and how they were made."""
    question = wordings.cues.read(task.question)[1] or task.question
    task = Triplet(question, task.precise, task.informative)
    if how.inversion_rate and draw(seed, "inversion", *names) < how.inversion_rate:
        if not wordings.inverted:
            raise MmjaxError(
                "inversion_rate is above 0, and the wordings have no inverted template"
            )
        number, template = pick(wordings.inverted, seed, "inverted", *names)
        texts = [wordings.fill(text, task) for text in (template.user, template.assistant)]
        origin: Mix = {"branch": "inverted", "template": number}
    else:
        answer, origin = _answer(task, wordings, how.answer, seed, names)
        texts = [question, answer]
    return [_said("user", texts[0]), _said("assistant", texts[1])], origin


def _answer(
    task: Triplet, wordings: Wordings, answer: str, seed: int, names: tuple[str, str]
) -> tuple[str, Mix]:
    """One answer of two: its reasons, then what follows from them."""
    if answer != "fused":
        return getattr(task, answer), {"branch": answer}
    end = last_sentence(task.informative)
    same = holds(task.precise, task.informative) and holds(task.informative, task.precise)
    if same or (holds(end, task.precise) and wordings.concludes(end)):
        return task.informative, {"branch": "alone"}
    branch = "joined" if wordings.concludes(task.precise) else "chain"
    templates = wordings.joins if branch == "joined" else wordings.chains
    number, template = pick(templates, seed, branch, *names)
    return wordings.fill(template, task), {"branch": branch, "template": number}


def _said(role: Literal["user", "assistant"], text: str) -> Message:
    """A turn; what stands for an image in some formats would be counted as another one."""
    content = text.replace(_IMAGE, "").strip() or "image" if _IMAGE in text else text
    return Message(role, content, loss=role == "assistant")
