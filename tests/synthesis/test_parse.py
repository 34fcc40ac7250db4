"""What a synthesizer wrote: whole tasks are found, everything else is left."""

import json

import pytest

from mmjax.data.markers import MARKERS, Cues
from mmjax.data.turn_records import Message, Record
from mmjax.errors import DataError
from mmjax.synthesis.parse import Triplet, parse_triplets, read_marked, triplets_of

CUES = Cues("Describe.", "Few words.", "Explain.")
P, E = CUES.precise, CUES.informative
CAT = Triplet("What is it?", "A cat", "It has whiskers, so a cat.")
DOG = Triplet("Where is the dog?", "Left", "It stands on the left.")


def turns(*said: tuple[str, str, str]) -> list[Message]:
    """(cue, question, answer) as turns."""
    return [
        turn
        for cue, question, answer in said
        for turn in (Message("user", f"{cue}\n{question}"), Message("assistant", answer))
    ]


def short(task: Triplet) -> tuple[str, str, str]:
    return P, task.question, task.precise


def long(task: Triplet) -> tuple[str, str, str]:
    return E, task.question, task.informative


WRITTEN = {
    "in order": ([short(CAT), long(CAT)], [CAT]),
    "the other way round": ([long(CAT), short(CAT)], [CAT]),
    "two tasks, mixed": ([short(CAT), long(DOG), short(DOG), long(CAT)], [CAT, DOG]),
    "one-sided": ([short(CAT), long(DOG)], []),
    "one of two is one-sided": ([short(CAT), short(DOG), long(DOG)], [DOG]),
    "asked twice under one cue": ([short(CAT), (P, CAT.question, "A lynx"), long(CAT)], [CAT]),
    "written another way": ([short(CAT), (E, " what  is IT?", CAT.informative)], [CAT]),
    "no cue": ([("", CAT.question, "A cat"), long(CAT)], []),
    "a cue alone": ([(P, "", "A cat"), (E, "", "It is.")], []),
    "an empty answer": ([(P, CAT.question, " "), long(CAT)], []),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", sorted(MARKERS))
@pytest.mark.parametrize("case", WRITTEN)
def test_tasks_are_what_stands_under_both_cues(case, name):
    said, expected = WRITTEN[case]
    markers = MARKERS[name]
    text = markers.write(turns(*said)).removeprefix(markers.user)
    assert read_marked(text, True, markers, CUES, 5) == expected
    assert read_marked(text, True, markers, CUES) == expected[:1]


@pytest.mark.parametrize("name", sorted(MARKERS))
def test_of_a_text_that_was_cut_off_only_whole_turns_count(name):
    markers = MARKERS[name]
    text = markers.write(turns(short(CAT), long(CAT), short(DOG), long(DOG)))
    text = text.removeprefix(markers.user)
    found = [read_marked(text[:at], False, markers, CUES, 5) for at in range(len(text))]
    whole = text.index(DOG.question)
    # However long the piece: no task with half an answer, and those that were found stay found.
    assert all(one in ([], [CAT], [CAT, DOG]) for one in found)
    assert [len(one) for one in found] == sorted(len(one) for one in found)
    assert found[whole] == [CAT]
    assert read_marked(text, True, markers, CUES, 5) == [CAT, DOG]


def test_roles_out_of_turn_are_left():
    markers = MARKERS["chatml"]
    said = [Message("assistant", "A lynx"), Message("user", f"{P}\nlost"), *turns(short(CAT))]
    text = markers.write([*said, Message("assistant", "again"), *turns(long(CAT))])
    assert read_marked(text.removeprefix(markers.user), True, markers, CUES) == [CAT]
    system = text.replace("<|im_start|>assistant\nagain", "<|im_start|>system\nagain")
    assert read_marked(system, True, markers, CUES) == [CAT]


@pytest.mark.parametrize(
    ("cues", "task"),
    [
        (
            Cues("请描述图片。", "请简短回答。", "请解释后回答。"),
            Triplet("图中是什么动物?", "猫", "它有胡须,所以是猫。"),
        ),
        (
            Cues("Beschreibe das Bild.", "Antworte kurz.", "Antworte ausführlich."),
            Triplet("Wie heißt das Tier?", "Füchsin", "Rotes Fell und weiße Schnauze: Füchsin."),
        ),
        (
            Cues("صف الصورة.", "أجب باختصار.", "أجب مع الشرح."),
            Triplet("ما هذا الحيوان؟", "قطة", "له شوارب، إذن هي قطة."),
        ),
    ],
    ids=["zh", "de", "ar"],
)
@pytest.mark.parametrize("name", sorted(MARKERS))
def test_any_language(cues, task, name):
    markers = MARKERS[name]
    said = [(cues.informative, task.question, task.informative)]
    said += [(cues.precise, task.question, task.precise)]
    text = markers.write(turns(*said)).removeprefix(markers.user)
    assert read_marked(text, True, markers, cues) == [task]


def test_what_was_escaped_comes_back():
    markers = MARKERS["vicuna"]
    task = Triplet("What says USER: 5?", "</s>", "The screen says USER: 5, so </s>.")
    text = markers.write(turns(short(task), long(task)))
    assert read_marked(text, True, markers, CUES) == [task]


ONE, TWO = (json.dumps(task.as_object()) for task in (CAT, DOG))
CODE = Triplet("What does ```x = {1}``` print?", "{1}", "It is a set, so {1}.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE, [CAT]),
        (f"[{ONE}, {TWO}]", [CAT, DOG]),
        (f'{{"tasks": [{ONE}, {TWO}]}}', [CAT, DOG]),
        (f"Sure {{here}}:\n```json\n[{ONE}]\n```\nAnything else?", [CAT]),
        (f"```\n{ONE}", [CAT]),
        (f"{ONE}\n{TWO}", [CAT, DOG]),
        (f"{ONE}\n{ONE}", [CAT]),
        (f'{{"tasks": [{ONE}, {TWO[:-9]}', [CAT]),  # cut off
        (json.dumps(CODE.as_object()), [CODE]),
        (json.dumps({"question": "Q", "precise": "A"}), []),  # one-sided
        (json.dumps({"question": "Q", "precise": 3, "informative": "B"}), []),
        (json.dumps({"question": "Q", "precise": " ", "informative": "B"}), []),
        ('{"question": "\\ud800", "precise": "A", "informative": "B"}', []),
        ('{"a": ' * 5_000, []),
        (f'{{"n": {"9" * 5_000}}} {ONE}', [CAT]),
        ("no JSON", []),
        ("", []),
    ],
)
def test_json_is_found_in_whatever_stands_around_it(text, expected):
    assert parse_triplets(text, 5) == expected
    assert parse_triplets(text) == expected[:1]


def test_tasks_keep_their_numbers_or_are_refused():
    record = Record("r7", (), (), {"triplets": [CAT.as_object(), DOG.as_object()]})
    assert triplets_of(record) == [CAT, DOG]
    assert triplets_of(Record("r7", (), ())) == []
    # Left out, it would shift the numbers that an audit knows the others by.
    broken = Record("r7", (), (), {"triplets": [{"question": "Q"}, CAT.as_object()]})
    with pytest.raises(DataError, match=r"record r7, triplet 0: is .* expected an object"):
        triplets_of(broken)
    with pytest.raises(DataError, match="record r7: 'triplets' is 5; expected a list"):
        triplets_of(Record("r7", (), (), {"triplets": 5}))
