"""Composed conversations: what they may hold, how two answers become one, and what presets give."""

import collections
import itertools
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import pytest

from mmjax.data.turn_records import Message, Record
from mmjax.errors import DataError, MmjaxError
from mmjax.synthesis.compose import PRESETS, Composition, compose, compose_stage, with_kept
from mmjax.synthesis.draws import draw
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.templates import Wordings

EN = Wordings.read("en")
TASK = Triplet("Which animal is it?", "a lynx", "Its ears have tufts.")
TWO = Triplet("Where does it sit?", "on a rock", "There is a rock below it.")


def record(name="r1", *tasks: Triplet, caption="A spotted animal.", **meta) -> Record:
    turns = (Message("user", "Describe the image."), Message("assistant", caption))
    listed = [one.as_object() for one in tasks]
    return Record(name, ("a.png",), turns, {**meta, "triplets": listed})


MANY = [record(f"id-{i}", TASK, TWO) for i in range(400)]
INVERTED = Composition(inversion_rate=1)


def answers(found: Record) -> list[tuple[str, str]]:
    """(question, answer) of the turns that are no caption."""
    pairs = zip(found.turns[::2], found.turns[1::2], strict=True)
    return [(a.text, b.text) for a, b in pairs if a.text not in EN.captions]


def test_what_every_composed_record_keeps():
    for one in MANY:
        found = compose(one, {0, 1}, EN, 0)
        assert (found.id, found.images) == (one.id, one.images)
        assert [turn.role for turn in found.turns] == ["user", "assistant"] * 3
        assert [turn.loss for turn in found.turns] == [False, True] * 3  # answers alone
        said = [turn.text for turn in found.turns if turn.role == "user"]
        assert not any(a in text for text in said for a in ("lynx", "tufts", "on a rock", "below"))
        assert sum(text in EN.captions for text in said) == 1
        assert [question for question, _ in answers(found)] == [TASK.question, TWO.question]
        for (_, answer), task in zip(answers(found), (TASK, TWO), strict=True):
            assert (
                0 <= answer.index(task.informative) < answer.rindex(task.precise)
            )  # reasons first


def test_the_same_by_id_wherever_it_stands():
    first = [compose(one, {0}, EN, 3).line() for one in MANY]
    assert [compose(one, {0}, EN, 3).line() for one in MANY[::-1]] == first[::-1]
    assert [compose(one, {0}, EN, 4).line() for one in MANY] != first
    # Python salts its own hashes; two processes must write the same bytes.
    code = (
        "from mmjax.synthesis.draws import draw\n"
        "print([draw(3, 'place', name) < 0.5 for name in ('a', 'b', 'ü', 'id-1', 'id-2')])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert told == {
        f"{[draw(3, 'place', name) < 0.5 for name in ('a', 'b', 'ü', 'id-1', 'id-2')]}\n"
    }


def test_draws_are_even():
    found = [compose(one, {0}, EN, 0) for one in MANY]
    places = collections.Counter(one.meta["composed"]["caption"] for one in found)
    assert 150 < places["first"] < 250
    assert places["first"] + places["last"] == 400
    templates = collections.Counter(one.meta["composed"]["tasks"][0]["template"] for one in found)
    assert set(templates) == set(range(len(EN.chains)))
    assert max(templates.values()) < 60
    assert len({one.turns[0].text for one in found if one.turns[0].text in EN.captions}) == len(
        EN.captions
    )


@pytest.mark.parametrize(
    ("informative", "precise", "branch", "expected"),
    [
        # It concludes, and with the answer: it stands alone.
        ("It has tufts. So it is a lynx.", "A lynx.", "alone", "It has tufts. So it is a lynx."),
        # It concludes, but with something else.
        ("It has tufts. So it is a cat.", "a lynx", "chain", None),
        # The answer stands there, but no conclusion is drawn, or not in the last sentence.
        ("It has tufts. This is a lynx.", "a lynx", "chain", None),
        ("So it is a lynx. It has tufts.", "a lynx", "chain", None),
        # The precise answer concludes by itself.
        ("It has tufts.", "So it is a lynx.", "joined", "It has tufts.{}So it is a lynx."),
        # Nothing would be gained by saying it twice.
        ("A lynx.", "a lynx", "alone", "A lynx."),
    ],
)
def test_two_answers_become_one(informative, precise, branch, expected):
    for i in range(10):
        one = record(f"id-{i}", Triplet("What is it?", precise, informative))
        found = compose(one, {0}, EN, 0)
        told = found.meta["composed"]["tasks"][0]
        assert told["branch"] == branch
        assert ("template" in told) == (branch != "alone")
        ((_, answer),) = answers(found)
        if expected is None:
            assert answer == EN.fill(EN.chains[told["template"]], Triplet("", precise, informative))
        else:
            assert answer in [expected.format(gap) for gap in (" ", "\n", "\n\n")]


@pytest.mark.parametrize("answer", ["precise", "informative"])
def test_one_of_the_answers_alone(answer):
    found = compose(record("r", TASK), {0}, EN, 0, Composition(answer=answer))
    assert answers(found) == [(TASK.question, getattr(TASK, answer))]
    assert found.meta["composed"]["tasks"] == [{"number": 0, "branch": answer}]


def test_a_question_has_no_cue():
    task = Triplet(f"{EN.precise}\nWhat is it?", "a", "b")
    assert answers(compose(record("r", task), {0}, EN, 0))[0][0] == "What is it?"


def test_inversion_is_an_option_with_a_rate():
    found = [compose(one, {0, 1}, EN, 0, Composition(inversion_rate=0.3)) for one in MANY]
    branches = collections.Counter(
        t["branch"] for one in found for t in one.meta["composed"]["tasks"]
    )
    assert 190 < branches["inverted"] < 290
    assert branches["inverted"] + branches["chain"] == 800
    for one in (compose(one, {0}, EN, 0, INVERTED) for one in MANY[:50]):
        template = EN.inverted[one.meta["composed"]["tasks"][0]["template"]]
        ((asked, answer),) = answers(one)
        assert asked == EN.fill(template.user, TASK)
        assert answer == EN.fill(template.assistant, TASK)
        assert TASK.precise in asked or TASK.informative in asked


def test_only_what_is_kept():
    one = record("r", TASK, TWO, source="s", raw="text", finished=True)
    found = compose(one, {1}, EN, 0)
    assert [question for question, _ in answers(found)] == [TWO.question]
    assert found.meta["source"] == "s"
    assert set(found.meta) == {"source", "composed"}  # the raw text is not carried on
    alone = compose(one, set(), EN, 0)
    assert alone.turns[1] == Message("assistant", "A spotted animal.", loss=True)
    assert (len(alone.turns), alone.meta["composed"]) == (2, {"caption": "alone", "tasks": []})
    assert len(compose(one, set(), EN, 0, Composition(tasks="all")).turns) == 6
    assert len(compose(one, {0, 1}, EN, 0, Composition(tasks="none")).turns) == 2
    assert compose(record("r"), set(), EN, 0).turns[1].text == "A spotted animal."


def test_of_several_tasks_as_many_as_are_wanted():
    """Each as often as the other, by the record's id; what the filter kept is not cut."""
    one = Composition(tasks="all", most=1)
    asked = [question for found in MANY for question, _ in answers(compose(found, (), EN, 0, one))]
    counts = collections.Counter(asked)
    assert len(asked) == 400
    assert set(counts) == {TASK.question, TWO.question}
    assert min(counts.values()) > 160
    assert len(answers(compose(MANY[0], {0, 1}, EN, 0, replace(one, tasks="kept")))) == 2
    both = answers(compose(MANY[0], (), EN, 0, replace(one, most=2)))
    assert [question for question, _ in both] == [TASK.question, TWO.question]


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_caption_stands_where_it_is_put(place):
    for one in MANY[:20]:
        found = compose(one, {0, 1}, EN, 0, Composition(caption=place))
        assert (found.turns[0].text in EN.captions) == (place == "first")
        assert (found.turns[-2].text in EN.captions) == (place == "last")


def test_an_instruction_of_the_data_set_stays():
    one = record("r", TASK)
    own = (Message("user", "Name the dish."), Message("assistant", "Soup"))
    found = compose(Record("r", (), own, one.meta), {0}, EN, 0, Composition(caption="first"))
    assert [turn.text for turn in found.turns[:2]] == ["Name the dish.", "Soup"]


def test_no_text_counts_as_an_image():
    # What others' files write for an image: a second one would make them unreadable.
    task = Triplet("<image>\nWhat is in <image>?", "<image>", "See <image>.")
    one = record("r", task, caption="A sign: <image>")
    for how in (Composition(), INVERTED):
        assert not any("<image>" in turn.text for turn in compose(one, {0}, EN, 0, how).turns)


@pytest.mark.parametrize(
    ("one", "kept", "message"),
    [
        (record("r9", TASK), {1}, "record r9: task 1 is kept, and it has 1"),
        (record("r9"), {0}, "record r9: task 0 is kept, and it has 0"),
        (Record("r9", (), (), {"triplets": [5]}), {0}, "record r9, triplet 0: is 5"),
        (Record("r9", ("a.png",), ()), (), "record r9: has no caption"),
        (Record("r9", (), (Message("user", "Q"),)), (), "record r9: has no caption"),
        (record("r9", caption=" "), (), "record r9: has no caption"),
    ],
)
def test_records_that_cannot_be_composed_are_named(one, kept, message):
    with pytest.raises(DataError, match=message):
        compose(one, kept, EN, 0)


def test_inversion_without_templates_is_refused():
    with pytest.raises(MmjaxError, match="the wordings have no inverted template"):
        compose(record("r", TASK), {0}, replace(EN, inverted=()), 0, INVERTED)


STREAM = [(record("a", TASK, TWO), {0}), (record("b", TASK), set()), (record("c"), set())]
SEEDS = [record("s", TASK, TWO), record("t")]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        # By stage: (id, whether there is a caption, how many tasks).
        ("single_stage", {"composed": [("a", 1, 1), ("b", 1, 0), ("c", 1, 0)]}),
        (
            "two_stage",
            {"captions": [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)], "tasks": [("a", 0, 1)]},
        ),
        (
            "two_stage_reuse",
            {
                "captions": [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)],
                "composed": [("a", 1, 1), ("b", 1, 0), ("c", 1, 0)],
            },
        ),
        ("caption_only", {"captions": [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]}),
        ("task_only", {"tasks": [("a", 0, 1)]}),
        (
            "general_cot_captions",
            {"composed": [("a", 1, 0), ("b", 1, 0), ("c", 1, 0), ("s", 0, 2)]},
        ),
    ],
)
def test_presets_are_an_order_of_data(preset, expected):
    found = {
        stage.name: [
            (one.id, len(one.turns) // 2 - len(answers(one)), len(answers(one)))
            for one in compose_stage(stage, STREAM, EN, 0, general=SEEDS)
        ]
        for stage in PRESETS[preset]
    }
    assert found == expected
    assert list(found) == list(expected)  # the stages' order too


@pytest.mark.parametrize(
    ("preset", "stream", "general", "message"),
    [
        ("task_only", STREAM[1:], (), "stage 'tasks' has nothing to train on: the filter kept no"),
        ("single_stage", [], (), "stage 'composed' has nothing to train on: no record has a capt"),
        ("general_cot_captions", STREAM, (), "stage 'composed' needs general tasks"),
        ("general_cot_captions", STREAM, [record("a", TASK)], "general tasks: the id 'a' stands"),
    ],
)
def test_a_stage_without_data_is_refused(preset, stream, general, message):
    with pytest.raises(MmjaxError, match=message):
        list(compose_stage(PRESETS[preset][0], stream, EN, 0, general=general))


def row(name, number, keep, at=1):
    return f"audit.jsonl, row {at}", {"id": name, "number": number, "keep": keep}


def test_an_audit_is_read_beside_its_records():
    audit = [row("a", 1, False), row("a", 0, True), row("b", 0, False)]
    found = [(one.id, kept) for one, kept in with_kept((r for r, _ in STREAM), audit)]
    assert found == [("a", {0}), ("b", set()), ("c", set())]


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ([row("a", 0, True)], "before the audit's end: record a has 2 tasks, and the audit judges"),
        ([row("b", 0, True, 7)], "before audit.jsonl, row 7: record a has 2 tasks"),
        (
            [row("a", 0, True), row("a", 0, True, 2)],
            "row 2: 'number' is 0; expected each task once",
        ),
        ([row("a", "0", True)], "row 1: 'number' is '0'"),
        ([row("a", 0, "yes")], "row 1: 'keep' is 'yes'; expected true or false"),
        (
            [row("a", 0, True), row("a", 1, True), row("b", 0, True), row("z", 0, True, 4)],
            "row 4: judges record 'z', which is not of this file",
        ),
    ],
)
def test_an_audit_of_something_else_is_refused(audit, message):
    # Taken as it comes, a truncated audit would turn tasks into captions, silently.
    with pytest.raises(DataError, match=message):
        list(with_kept((one for one, _ in STREAM), audit))


def test_records_stream():
    def stream(count):
        for i in range(count):
            yield record(f"id-{i}", TASK, note=f"{i:09d}" * 2_000), {0}

    found = compose_stage(PRESETS["single_stage"][0], stream(500), EN, 0)
    tracemalloc.start()
    try:
        collections.deque(itertools.islice(found, 100), maxlen=0)
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in found) == 400
        assert tracemalloc.get_traced_memory()[0] - before < 1e6  # 7 MB of notes went through
    finally:
        tracemalloc.stop()
