"""Seed tasks: an image's caption with questions that have a precise and an informative answer."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmjax.data.files import name_of, whole_text
from mmjax.data.markers import Cues
from mmjax.data.turn_records import Record, images_of
from mmjax.synthesis.dialogues import turns_of
from mmjax.synthesis.pairs import CUES, caption_record
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.rows import meta_of, read_objects

# What data sets call a question and its answer, where they are no conversation.
_QUESTIONS, _ANSWERS = ("instruction", "question"), ("output", "answer", "target", "response")


def read_seeds(
    path: Path,
    incomplete: Counter[str],
    cues: Cues = CUES,
) -> Iterator[tuple[str, Record]]:
    """Yields caption records with triplets from one file, each with its place.

    Args:
      path: a .jsonl file, or a list in a .json file, of {"image", "caption", "question",
        "precise", "informative", ["id"]}, a row each; without an id the row is called by its image.
      incomplete: gets the number of rows that are left out, by what they lack.
      cues: ask for the caption.

    Raises:
      DataError: by file and row.
    """
    keys = ("question", "precise", "informative")
    for place, row in read_objects(path):
        paths, triplet = images_of(place, row.get("image")), Triplet.of_object(row)
        caption = _text(place, row, ("caption",))
        if not paths or not caption or triplet is None:
            lacking = [key for key in keys if not _text(place, row, (key,))]
            first = "image" if not paths else "caption" if not caption else lacking[0]
            incomplete[f"no {first}"] += 1
            continue
        meta = meta_of(row, "id", "image", "caption", *keys)
        meta["triplets"] = [triplet.as_object()]
        name = name_of(place, row, "id", paths[0])
        yield place, caption_record(name, paths, caption, cues, meta)


def join_seeds(
    tasks: Path,
    captions: Path,
    answers: Path,
    incomplete: Counter[str],
    cues: Cues = CUES,
) -> Iterator[tuple[str, Record]]:
    """Yields caption records with triplets from three files, joined by the names of images.

    Every file is a list of rows in a .json file, or a .jsonl file. A row has an `image`, and a
    conversation in LLaVA's form or texts under `instruction` (or `question`) and `output` (or
    `answer`, `target`, `response`); a caption may also stand under `caption`.

    Args:
      tasks: instructions with short answers, as Vision-FLAN has them.
      captions: as ALLaVA-Caption-VFLAN has them; the first of an image counts.
      answers: the same instructions with long answers, as ALLaVA-Instruct-VFLAN has them.
      incomplete: gets the number of tasks and answers that are left out, by why they are.
      cues: ask for the caption.

    Returns:
      (place, record) of each image, in the order of `tasks`; its id is the file's name without
      folders.

    Raises:
      DataError: by file and row.
    """
    described: dict[str, str] = {}
    for place, row in read_objects(captions):
        text = _text(place, row, ("caption",)) or next((a for _, a in _asked(place, row)), "")
        if text:
            described.setdefault(_basename(place, row), text)
    informative: dict[str, dict[str, str]] = defaultdict(dict)
    for place, row in read_objects(answers):
        for question, answer in _asked(place, row):
            informative[_basename(place, row)].setdefault(_key(question), answer)
    whole: dict[str, tuple[str, str, dict[str, Triplet]]] = {}
    seen = set[tuple[str, str]]()
    for place, row in read_objects(tasks):
        name = _basename(place, row)
        for question, precise in _asked(place, row):
            key = _key(question)
            triplet = Triplet.of_object(
                {
                    "question": question,
                    "precise": precise,
                    "informative": informative.get(name, {}).get(key, ""),
                }
            )
            if not name:
                incomplete["no image"] += 1
            elif (name, key) in seen:
                incomplete["asked twice"] += 1
            elif name not in described:
                incomplete["no caption"] += 1
            elif name not in informative:
                incomplete["no informative answer"] += 1
            elif key not in informative[name]:
                incomplete["informative answer to another question"] += 1
            elif triplet is None:
                incomplete["an empty text"] += 1
            else:
                image = images_of(place, row["image"])[0]
                whole.setdefault(name, (place, image, {}))[2][key] = triplet
            seen.add((name, key))
    incomplete["no precise answer"] += sum(
        (name, key) not in seen for name, entries in informative.items() for key in entries
    )
    return (
        (
            place,
            caption_record(
                name,
                (image,),
                described[name],
                cues,
                {"triplets": [triplet.as_object() for triplet in triplets.values()]},
            ),
        )
        for name, (place, image, triplets) in whole.items()
    )


def _basename(place: str, row: Mapping[str, Any]) -> str:
    """An image's name without folders; "" where a row has none."""
    paths = images_of(place, row.get("image"))
    return PurePosixPath(paths[0]).name if paths else ""


def _key(question: str) -> str:
    """What is the same for one question, however it is set."""
    return " ".join(question.casefold().split())


def _asked(place: str, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) of a row's turns, or of its texts."""
    if row.get("conversations") is None and row.get("messages") is None:
        return [(_text(place, row, _QUESTIONS), _text(place, row, _ANSWERS))]
    turns = turns_of(place, row)[0]
    return [
        (first.text.strip(), second.text.strip())
        for first, second in zip(turns[::2], turns[1::2], strict=False)
    ]


def _text(place: str, row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The text under the first of these keys that a row has; "" where it has none."""
    for key in keys:
        if row.get(key) is not None:
            return whole_text(f"{place}: {key!r}", row[key]).strip()
    return ""
