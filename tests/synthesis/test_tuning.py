"""Tuning data of a synthesizer: what it reads, what it learns, and what draws depend on."""

import pytest
from tokenizers import Tokenizer

from mmjax import assets
from mmjax.data.markers import MARKERS, Cues
from mmjax.data.turn_records import BLANK, Message, Record
from mmjax.errors import DataError, MmjaxError
from mmjax.synthesis.parse import Triplet, read_marked
from mmjax.synthesis.tuning import blank, check_end, tuning

CUES = Cues()
TASKS = [Triplet(f"Question {i}?", f"short {i}", f"Since long {i}.") for i in range(5)]
OTHER = "What do you see?"  # the data set's own line, which no synthesizer is prompted with


def seed_record(name="r1", tasks=TASKS[:1], **changes) -> Record:
    turns = (Message("user", OTHER), Message("assistant", "A caption."))
    meta = {"source": "s", "triplets": [one.as_object() for one in tasks]}
    fields = {"id": name, "images": ("a.png", "b.png"), "turns": turns, "meta": meta}
    return Record(**(fields | changes))


MANY = [seed_record(f"id-{i}") for i in range(1_000)]


def test_the_caption_is_read_and_both_answers_are_learned_with_their_question():
    orders = []
    for one in MANY[:200]:
        (found,) = tuning(one, CUES, 0)
        assert (found.id, found.images, found.meta) == (one.id, one.images, {"source": "s"})
        assert found.turns[:2] == (
            Message("user", CUES.caption),
            Message("assistant", "A caption."),
        )
        assert [turn.loss for turn in found.turns] == [False, False, True, True, True, True]
        said = [turn.text for turn in found.turns[2:]]
        precise = [f"{CUES.precise}\nQuestion 0?", "short 0"]
        informative = [f"{CUES.informative}\nQuestion 0?", "Since long 0."]
        assert said in (precise + informative, informative + precise)
        orders.append(said[0] == precise[0])
    assert 70 < sum(orders) < 130
    again = [next(tuning(one, CUES, 0)).turns[2].text for one in reversed(MANY[:200])]
    assert [text.startswith(CUES.precise) for text in again] == orders[::-1]  # by id alone
    assert [next(tuning(one, CUES, 1)).line() for one in MANY[:200]] != [
        next(tuning(one, CUES, 0)).line() for one in MANY[:200]
    ]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, {"r1": [0], "r1#1": [1], "r1#2": [2], "r1#3": [3], "r1#4": [4]}),
        (2, {"r1": [0, 1], "r1#1": [2, 3], "r1#2": [4]}),
        (9, {"r1": [0, 1, 2, 3, 4]}),
    ],
)
@pytest.mark.parametrize("name", sorted(MARKERS))
def test_a_perfect_synthesizer_is_read_back(most, expected, name):
    """What is learned is what generation begins within and the parser reads: no task is lost."""
    markers, found = MARKERS[name], {}
    for one in tuning(seed_record(tasks=TASKS), CUES, 0, most):
        prompt = markers.write(one.turns[:2], then="user")
        text = markers.write(one.turns)
        assert text.startswith(prompt)
        tasks = read_marked(text.removeprefix(prompt), True, markers, CUES, most)
        found[one.id] = [TASKS.index(task) for task in tasks]
    assert found == expected


def test_a_seed_without_tasks_gives_nothing_to_learn():
    assert list(tuning(seed_record(tasks=[]), CUES, 0)) == []


@pytest.mark.parametrize(
    "turns", [(), (Message("user", OTHER),), (Message("user", OTHER), Message("assistant", " "))]
)
def test_a_seed_without_a_caption_is_named(turns):
    with pytest.raises(DataError, match="record r1: has no caption"):
        list(tuning(seed_record(turns=turns), CUES, 0))


def test_a_share_is_blank_by_id_and_keeps_its_number_of_images():
    found = [blank(one, 0.1, 0) for one in MANY]
    blanked = {one.id for one in found if one.images == (BLANK, BLANK)}
    assert 70 < len(blanked) < 130
    assert [one for one in found if one.id not in blanked] == [
        one for one in MANY if one.id not in blanked
    ]
    # Position, order and neighbours say nothing.
    assert {one.id for one in MANY[::-3] if blank(one, 0.1, 0).images[0] == BLANK} == {
        one.id for one in MANY[::-3] if one.id in blanked
    }
    assert {one.id for one in MANY if blank(one, 0.1, 1).images[0] == BLANK} != blanked
    assert all(blank(one, 0, 0) == one for one in MANY[:20])
    assert all(blank(one, 1, 0).images == (BLANK, BLANK) for one in MANY[:20])
    assert blank(seed_record(images=()), 1, 0).images == ()


def test_markers_at_whose_end_the_model_stops_are_refused():
    tokenizer = Tokenizer.from_file(str(assets.path("smollm2-135m-instruct") / "tokenizer.json"))
    (eos,) = tokenizer.encode("<|im_end|>", add_special_tokens=False).ids
    with pytest.raises(MmjaxError, match=r"markers 'chatml' end every turn with '<\|im_end\|>'"):
        check_end(MARKERS["chatml"], tokenizer, eos)
    for name in ("plain", "llama3", "vicuna"):
        check_end(MARKERS[name], tokenizer, eos)
    check_end(MARKERS["chatml"], tokenizer, 0)
