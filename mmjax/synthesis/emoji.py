"""A domain that every machine has: emoji of nature and food, with captions, and truths to test by.

The general tasks are about other emoji and easy-VQA's shapes. What a picture shows stands in the
emoji's metadata, so every answer, a model's or a synthesizer's, can be held against the truth.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import easy_vqa
from mmjax.data.corpora import emoji
from mmjax.data.markers import Cues
from mmjax.data.records import Item
from mmjax.data.splits import split_by_family
from mmjax.data.turn_records import Message, Record, read_records
from mmjax.errors import MmjaxError
from mmjax.files import write_atomic
from mmjax.rng import seed_for
from mmjax.specs.data import PairsSpec
from mmjax.synthesis.pairs import caption_record
from mmjax.synthesis.parse import Triplet

# Subgroups of the emoji -> what kind of thing their pictures show.
DOMAIN = {
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "dish",
    "food-asian": "dish",
    "food-sweet": "sweet",
    "drink": "drink",
}
GENERAL = {
    "place-building": "building",
    "transport-ground": "vehicle",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "sky-weather": "sky",
    "sport": "sport",
    "game": "game",
    "clothing": "clothing",
    "musical-instrument": "instrument",
    "computer": "computer",
    "book-paper": "book",
    "money": "money",
    "office": "office supply",
    "tool": "tool",
    "household": "household item",
    "hand-fingers-open": "hand",
    "face-smiling": "face",
    "cat-face": "face",
    "heart": "heart",
}
FILES = ("pairs", "seeds", "rules", "questions")
KIND, IS, NAME = "What kind of thing is this?", "Is this a {kind}?", "What is this?"
_IS = re.compile(r"is (?:this|it|that) (?:an? )?(.+?)\??", re.IGNORECASE)


@dataclass(frozen=True)
class Thing:
    """What a picture shows, by its metadata.

    Attributes:
      id: of the emoji.
      family: near-duplicates that stay on one side.
      name: in words.
      keywords: more words for it.
      kind: what kind of thing it is.
      image: the picture's file.
    """

    id: str
    family: str
    name: str
    keywords: tuple[str, ...]
    kind: str
    image: str

    @property
    def caption(self) -> str:
        """The name, and keywords that say more."""
        more = [word for word in self.keywords if word not in self.name]
        return f"{self.name}: {', '.join(more)}" if more else self.name

    def record(self, cues: Cues, triplets: Sequence[Triplet] = ()) -> Record:
        """The picture with its caption, and tasks about it."""
        truth = {"name": self.name, "keywords": list(self.keywords), "kind": self.kind}
        tasks = {"triplets": [triplet.as_object() for triplet in triplets]} if triplets else {}
        meta = {"truth": truth, **tasks}
        return caption_record(self.id, (self.image,), self.caption, cues, meta)


def tasks_of(thing: Thing, other: str) -> list[Triplet]:
    """Tasks that a rule makes of metadata: every one right, and all alike.

    Args:
      thing: what is shown.
      other: a kind of thing that it is not.

    Returns:
      What it is, what kind of thing, and whether it is of its own kind and of the other.
    """
    name, kind = thing.name, thing.kind
    seen = f"The picture shows {_a(name)}"
    return [
        Triplet(KIND, kind, f"{seen}, and {_a(name)} is a kind of {kind}."),
        Triplet(NAME, name, f"{seen}. That is something of the kind {kind}."),
        Triplet(IS.format(kind=kind), "yes", f"{seen}, which is a kind of {kind}."),
        Triplet(IS.format(kind=other), "no", f"{seen}, which is a kind of {kind}, no {other}."),
    ]


def is_right(triplet: Triplet, truth: Mapping[str, object]) -> bool | None:
    """Whether a task's precise answer is true, as far as metadata tell.

    Args:
      triplet: the task.
      truth: `meta["truth"]` of its record.

    Returns:
      None for a question that metadata do not answer.
    """
    name, kind = str(truth["name"]).casefold(), str(truth["kind"]).casefold()
    words = truth["keywords"]
    keywords = {str(word).casefold() for word in words} if isinstance(words, list) else set()
    names = {name, kind, *keywords, *name.split()}
    question, answer = (
        x.strip().strip(".").casefold() for x in (triplet.question, triplet.precise)
    )
    if question == KIND.casefold():
        return answer == kind or answer in keywords
    if question == NAME.casefold():
        return answer == name or answer in keywords
    match = _IS.fullmatch(question)
    if match is None or answer not in ("yes", "no"):
        return None
    return (match[1] in names) == (answer == "yes")


def with_truth(rows: Iterable[Mapping[str, Any]], generated: Path) -> Iterator[Mapping[str, Any]]:
    """Yields rows of an audit with what metadata know of them.

    Args:
      rows: one a task, in the order of the records.
      generated: the records, which bring their truth.

    Yields:
      The same rows; "right" says whether the answer is true, where metadata tell.
    """
    truths = ((record.id, record.meta.get("truth")) for record in read_records(generated))
    name, truth = "", None
    for row in rows:
        while name != row["id"]:
            name, truth = next(truths)
        task = Triplet.of_object(row)
        right = is_right(task, truth) if task and isinstance(truth, dict) else None
        yield row if right is None else {**row, "right": right}


def write_domain(folder: Path, seed: int, cues: Cues, shapes: int = 200, limit: int = 0) -> None:
    """Writes pictures and files: domain captions, general tasks, rule-made tasks, test questions.

    Args:
      folder: gets `pairs.jsonl` (captions of the domain), `seeds.jsonl` (general tasks),
        `rules.jsonl` (the pairs with tasks that a rule makes) and `questions.jsonl` (about pictures
        of the domain that stand in no other file), and `images/`.
      seed: draws which pictures are held out.
      cues: ask for captions.
      shapes: pictures of easy-VQA among the general tasks.
      limit: at most so many pictures of the domain are asked about (0: all).
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    things = {False: list[Thing](), True: list[Thing]()}
    corpus = emoji.load_emoji("", PairsSpec(label="subgroup"), ("en",))
    for item in corpus.items:
        for domain, kinds in ((True, DOMAIN), (False, GENERAL)):
            if item.label in kinds:
                things[domain].append(_thing(item, kinds[item.label], images))
    families = [picture.family for picture in things[True]]
    split = split_by_family(families, seed_for(seed, "split"), 0.3, 0.1)
    rng = np.random.default_rng(seed_for(seed, "tasks"))
    kinds = {
        domain: sorted(set(subgroups.values()))
        for domain, subgroups in ((True, DOMAIN), (False, GENERAL))
    }

    def tasks(thing: Thing, domain: bool) -> list[Triplet]:
        other_kind = rng.choice(
            [kind for kind in kinds[domain] if kind not in (thing.kind, *thing.keywords)]
        )
        return tasks_of(thing, str(other_kind))

    train = [things[True][i] for i in sorted([*split["train"], *split["val"]])]
    general = [thing.record(cues, tasks(thing, False)) for thing in things[False]]
    general += list(_shapes(shapes, cues))
    test = [things[True][i] for i in split["test"]][: limit or None]
    made = {
        "pairs": [thing.record(cues) for thing in train],
        "seeds": [general[i] for i in rng.permutation(len(general))],
        "rules": [thing.record(cues, tasks(thing, True)) for thing in train],
        "questions": [q for thing in test for q in _questions(thing, tasks(thing, True))],
    }
    for name in FILES:
        lines = "".join(record.line() for record in made[name])
        write_atomic(folder / f"{name}.jsonl", lines)


def _questions(thing: Thing, tasks: Sequence[Triplet]) -> Iterator[Record]:
    """A record for each task, with the answer alone."""
    for i, task in enumerate(tasks):
        form = "closed" if task.precise in ("yes", "no") else ("kind", "name")[i]
        turns = Message("user", task.question), Message("assistant", task.precise, True)
        yield Record(f"{thing.id}-{i}", (thing.image,), turns, {"form": form})


def _thing(item: Item, kind: str, images: Path) -> Thing:
    stored = item.images["openmoji"]
    if not isinstance(stored, bytes):
        raise MmjaxError(f"emoji {item.id}: its picture is not stored as bytes")
    place = images / f"{item.id}.png"
    if not place.exists():
        write_atomic(place, stored)
    name, *keywords = item.captions["en"]
    return Thing(item.id, item.family, name, tuple(keywords), kind, str(place))


def _shapes(count: int, cues: Cues) -> Iterator[Record]:
    """Tasks about easy-VQA's training pictures, made of what its own answers say."""
    questions = easy_vqa.load_easy_vqa(easy_vqa.SOURCE, "train")
    answers: dict[int, dict[str, str]] = {}
    for one in questions.questions:
        if one.answer not in ("yes", "no"):
            about = "color" if "color" in one.text else "shape"
            answers.setdefault(one.image, {})[about] = one.answer
    whole = [picture for picture, facts in answers.items() if len(facts) == 2]
    for picture in whole[:count]:
        color, shape = answers[picture]["color"], answers[picture]["shape"]
        thing = f"{color} {shape}"
        seen = f"The picture shows {_a(thing)}"
        triplets = [
            Triplet("What shape is this?", shape, f"{seen}, and so its shape is a {shape}."),
            Triplet("What color is it?", color, f"{seen}, and so its color is {color}."),
            Triplet(f"Is this a {shape}?", "yes", f"{seen}, which is a {shape}."),
        ]
        meta = {"triplets": [one.as_object() for one in triplets]}
        image = str(questions.images[picture])
        yield caption_record(f"shape-{picture}", (image,), thing, cues, meta)


def _a(name: str) -> str:
    return f"{'an' if name[:1].casefold() in 'aeiou' else 'a'} {name}"
