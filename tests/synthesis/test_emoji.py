"""The domain that every machine has: its truths, and that nothing tested is trained on."""

import json
from pathlib import Path

import pytest

from mmjax.data.markers import Cues
from mmjax.synthesis.emoji import FILES, GENERAL, Thing, is_right, tasks_of, write_domain
from mmjax.synthesis.parse import Triplet

PIG = Thing("1F416", "1F416", "pig", ("animal", "bacon", "farm"), "mammal", "pig.png")
TRUTH = {"name": "pig", "keywords": ["animal", "bacon", "farm"], "kind": "mammal"}


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain")
    write_domain(folder, 0, Cues(), shapes=3)
    lines = {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in FILES}
    return {name: [json.loads(line) for line in found] for name, found in lines.items()}


def test_rule_made_tasks_are_right():
    assert [is_right(task, TRUTH) for task in tasks_of(PIG, "bird")] == [True] * 4
    assert PIG.caption == "pig: animal, bacon, farm"


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("What kind of thing is this?", "bird", False),
        ("What kind of thing is this?", "Animal.", True),
        ("What is this?", "cow", False),
        ("Is this an animal?", "yes", True),
        ("Is this a mammal?", "no", False),
        ("is it a bird", "No", True),
        ("Is this a bird?", "perhaps", None),
        ("How many legs has it?", "four", None),
    ],
)
def test_answers_are_held_against_metadata(question, answer, right):
    assert is_right(Triplet(question, answer, "because"), TRUTH) is right


def test_nothing_that_is_asked_is_trained_on(domain):
    asked = {one["images"][0] for one in domain["questions"]}
    learned = {one["images"][0] for name in ("pairs", "seeds", "rules") for one in domain[name]}
    assert asked.isdisjoint(learned)
    assert len(asked) * 4 == len(domain["questions"])
    assert [one["id"] for one in domain["pairs"]] == [one["id"] for one in domain["rules"]]
    assert all(Path(image).is_file() for image in asked | learned)


def test_what_is_asked_has_its_truth_and_a_no_for_each_yes(domain):
    answers = [one["turns"][-1]["text"] for one in domain["questions"]]
    assert answers.count("yes") == answers.count("no") == len(answers) // 4
    for one in domain["rules"]:
        for task in one["meta"]["triplets"]:
            assert is_right(Triplet(**task), one["meta"]["truth"]), (one["id"], task)


def test_general_tasks_are_of_other_things(domain):
    kinds = {one["meta"]["truth"]["kind"] for one in domain["seeds"] if "truth" in one["meta"]}
    assert kinds == set(GENERAL.values())
    assert sum(one["id"].startswith("shape-") for one in domain["seeds"]) == 3
