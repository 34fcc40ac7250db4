"""Seed tasks: three files joined, and what is left out is counted."""

import json
from collections import Counter
from typing import Any

from mmjax.data.turn_records import read_records
from mmjax.synthesis.formats import convert, iter_records
from tests.synthesis.samples import CAPTION, pair


def talk(image: str, *turns: str) -> dict[str, Any]:
    said = [
        {"from": ("human", "gpt")[i % 2], "value": ("" if i else "<image>\n") + text}
        for i, text in enumerate(turns)
    ]
    return {"id": f"row of {image}", "image": image, "conversations": said}


def test_three_files_are_joined_by_image_and_question_and_losses_are_counted(tmp_path):
    tasks = [
        {"image": "191/a.jpg", "instruction": "What is it?", "output": "bus"},
        talk("191/b.jpg", "How many?", "two", "Colour?", "red"),
        {"image": "a.jpg", "instruction": "Whose  is it?", "answer": "hers"},
        {"image": "a.jpg", "instruction": "what is IT?", "output": "car"},
        {"image": "c.jpg", "instruction": "Where?", "output": "here"},
        {"image": "d.jpg", "instruction": "Why?", "output": "so"},
        {"image": "e.jpg", "instruction": "When?", "output": " "},
        {"instruction": "Who?", "output": "she"},
    ]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    captions = [talk(f"vflan/{n}.jpg", "Describe.", f"Caption {n}.") for n in "abde"]
    (tmp_path / "captions.json").write_text(json.dumps([*captions, talk("a.jpg", "?", "Another.")]))
    answers = [
        talk("vflan/a.jpg", "What is it?", "It is a bus."),
        talk("vflan/a.jpg", "whose is it?", "It is hers."),
        talk("vflan/b.jpg", "How many?", "There are two.", "Size?", "It is small."),
        talk("vflan/c.jpg", "Where?", "It is here."),
        talk("vflan/e.jpg", "When?", "It is now."),
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    incomplete = Counter[str]()
    source = f"seeds:{tmp_path}/tasks.jsonl,{tmp_path}/captions.json,{tmp_path}/answers.json"
    first, second = iter_records(source, images="F", incomplete=incomplete)
    assert (first.id, first.images) == ("a.jpg", ("F/191/a.jpg",))
    assert [turn.text for turn in first.turns] == [CAPTION, "Caption a."]
    assert first.meta["triplets"] == [
        {"question": "What is it?", "precise": "bus", "informative": "It is a bus."},
        {"question": "Whose  is it?", "precise": "hers", "informative": "It is hers."},
    ]
    assert second.meta["triplets"] == [
        {"question": "How many?", "precise": "two", "informative": "There are two."}
    ]
    assert incomplete == {
        "informative answer to another question": 1,  # the colour of b
        "asked twice": 1,  # what a is
        "no caption": 1,  # of c
        "no informative answer": 1,  # of d
        "an empty text": 1,  # of e
        "no image": 1,
        "no precise answer": 1,  # the size of b
    }


def test_one_file_has_whole_tasks_and_others_are_counted(tmp_path):
    whole = {"image": "a.jpg", "caption": "A bus.", "question": "q", "precise": "p"}
    rows = [
        {**whole, "id": 1, "informative": "i", "task": "vqa"},
        {**whole, "id": 2},
        {**whole, "id": 3, "informative": "i", "caption": ""},
        {**whole, "id": 4, "informative": "i", "image": None},
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = convert(f"seeds:{tmp_path}/seeds.jsonl", f"records:{tmp_path}/r.jsonl")
    assert done.records == 1
    assert done.incomplete == {"no informative": 1, "no caption": 1, "no image": 1}
    (found,) = read_records(tmp_path / "r.jsonl")
    triplet = {"question": "q", "precise": "p", "informative": "i"}
    assert found == pair("1", str(tmp_path / "a.jpg"), "A bus.", task="vqa", triplets=[triplet])
