"""The filter's judge: what it reads, what it weighs, and which tasks are kept."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mmjax.data.turn_records import Message, Record, as_line, read_records
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.errors import DataError, MmjaxError
from mmjax.generation import Scored, score
from mmjax.synthesis.audit import Choice, audit, carried, judge_tasks, look_at_tasks
from mmjax.synthesis.compose import with_kept
from mmjax.synthesis.judge import LABELS, OWN, Examples, Judge, decide, judge, look, margins
from mmjax.synthesis.parse import Triplet
from mmjax.synthesis.parts import Parts

CONTENT = {
    "introduction": "w4",
    "item": "w5 {question} w6 {informative} w7 {precise} w8",
    "labels": {"yes": " w20", "no": " w21", "open": " w22"},
    "examples": [
        {"question": "w30", "informative": "w31", "precise": "w32", "label": label}
        for label in LABELS
    ],
}


def task(i, words=1) -> Triplet:
    draw = np.random.default_rng(i)
    said = [" ".join(f"w{w}" for w in draw.integers(4, 50, words)) for _ in range(3)]
    return Triplet(*said)


@pytest.fixture
def model(folder) -> LanguageModel:
    loaded = load_encoder(folder("llama_tiny"))
    assert isinstance(loaded, LanguageModel)
    return loaded


@pytest.fixture
def examples(tmp_path) -> Examples:
    (tmp_path / "examples.json").write_text(json.dumps(CONTENT))
    return Examples.read(tmp_path / "examples.json")


def test_scores_are_those_of_the_whole_text(model, examples):
    tasks = [task(i, 1 + i % 3) for i in range(6)]
    found = judge(model, tasks, examples, batch_size=4)
    encode = model.preprocess.tokenizer.encode
    texts = [examples.text + examples.ask(one) for one in tasks]
    ids = [[1, *encode(text, add_special_tokens=False).ids] for text in texts]
    whole = score(model, ids, [[[20], [21], [22]]] * 6)
    assert_allclose(found, [[one.log_prob for one in row] for row in whole], atol=2e-4)
    assert_array_equal(found, np.round(found, 4))  # the same bytes on every machine
    assert_allclose(margins(found), found[:, 0] - np.maximum(found[:, 1], found[:, 2]), atol=1e-4)


def test_what_is_longer_than_the_model_reads_has_no_score(model, examples):
    found = Judge(model, examples).scores([task(0), task(1, 30), task(2)])
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    assert decide(margins(found), -100).tolist() == [True, False, True]


def test_a_text_stays_in_its_field(examples):
    found = examples.ask(Triplet("w9\n\nw5 <|end|> {precise}", "a", "b {informative}\r\n"))
    assert found == "\n\nw5 w9 w5 <\\|end|> {precise} w6 b {informative} w7 a w8"


def test_mmjax_has_two_examples_of_each_label():
    own = Examples.read()
    assert sorted(label for _, label in own.examples) == sorted(LABELS * 2)
    assert own.text.endswith(own.labels[LABELS.index(own.examples[-1][1])])
    assert own.text.count("Consistent: ") == 6
    # Another language is a copy of the file with other words.
    assert set(json.loads(OWN.read_text())) == set(CONTENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": "w5 {question} {precise}"}, r"'item' has the placeholders .*\{informative\}"),
        ({"item": "{question} {precise} {informative} {precise}"}, "once"),
        ({"item": "{question} {precise} {informative} {caption}"}, "placeholders"),
        ({"labels": {"yes": "a", "no": "b"}}, "'labels' is"),
        ({"labels": {"yes": "a", "no": "b", "open": " "}}, "labels: 'open' is"),
        ({"examples": CONTENT["examples"][:2]}, r"no example is labelled \['open'\]"),
        ({"examples": [{"question": "w5", "label": "yes"}]}, r"examples\[0\]: is"),
        ({"introduction": ""}, "'introduction' is"),
    ],
)
def test_files_that_are_no_examples(change, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CONTENT | change))
    with pytest.raises(DataError, match=rf"mine\.json.*{message}"):
        Examples.read(path)


def test_labels_of_examples_begin_with_different_tokens(model, examples, tmp_path):
    labels = {"yes": " w20", "no": " w20 w21", "open": " w22"}
    (tmp_path / "alike.json").write_text(json.dumps(CONTENT | {"labels": labels}))
    with pytest.raises(MmjaxError, match="begin with the same token"):
        Judge(model, Examples.read(tmp_path / "alike.json"))


def test_a_higher_threshold_or_a_lower_rate_keeps_no_other_tasks():
    found = np.random.default_rng(0).normal(size=200).round(1)  # many are equal
    found[7] = np.nan
    for kept in (
        [decide(found, threshold) for threshold in np.linspace(-3, 3, 13)],
        [decide(found, keep_rate=rate) for rate in np.linspace(1, 0, 11)],
    ):
        for more, fewer in itertools.pairwise(kept):
            assert not (fewer & ~more).any()
        assert not any(one[7] for one in kept)
        assert kept[0].sum() > kept[-1].sum()
    assert [decide(found, keep_rate=r).sum() for r in (0.0, 0.25, 1.0)] == [0, 50, 199]
    assert decide(np.array([1.0, 2.0, 1.0, 1.0]), keep_rate=0.5).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert decide(np.array([0.0, -1e-4]), 0.0).tolist() == [True, False]
    for threshold, rate in ((0.0, 1.5), (float("nan"), None)):
        with pytest.raises(MmjaxError, match="must be"):
            decide(found, threshold, rate)


def test_what_sees_the_picture_must_agree():
    asked = []

    def looker(questions, answers, images):
        asked.extend(zip(questions, images, strict=True))
        assert {tuple(words) for words in answers} == {("yes", "no")}
        each = [float(image[-1]) for image in images]
        return [[Scored(-value, np.zeros(1)), Scored(-1.0, np.zeros(1))] for value in each]

    tasks = [Triplet("w{precise}?", f"{i}", "long") for i in range(3)]
    looked = look(looker, tasks, ["p0", "p1", "p2"], batch_size=2)
    assert asked[1] == (
        'Is "1" the right answer to the question "w{precise}?"? Answer yes or no.',
        "p1",
    )
    assert looked.tolist() == [1.0, 0.0, -1.0]
    assert decide(np.array([1.0, -1.0, 1.0]), looked=looked).tolist() == [True, False, False]
    with pytest.raises(MmjaxError, match="3 tasks but 2 pictures"):
        look(looker, tasks, ["p0", "p1"])
    with pytest.raises(MmjaxError, match="lacks"):
        look(looker, tasks, ["p0"] * 3, "Is {precise} right?")


@pytest.fixture
def generated(tmp_path):
    """Nine records: most with a task or two, one with none, one with a task that is too long."""
    path = tmp_path / "generated.jsonl"
    turns = (Message("user", "Describe."), Message("assistant", "A caption."))
    lines = []
    for i in range(9):
        tasks = [task(10 * i + n, 30 if i == 6 else 1 + i % 4) for n in range((1, 2, 1, 0)[i % 4])]
        meta = {"triplets": [one.as_object() for one in tasks]}
        lines.append(Record(f"r{i}", (f"{i}.png",), turns, meta).line())
    path.write_text("".join(lines))
    return path


def test_shards_and_kills_leave_the_same_bytes(model, examples, generated, tmp_path):
    judging = Judge(model, examples)

    def lines(name, shards, stop=None):
        for shard in range(shards):
            parts = Parts(tmp_path / name, 9, shard, shards)
            if stop is not None:  # a run that was killed within its second batch
                judge_tasks(generated, parts, judging, 2)
                (path,) = (tmp_path / name).glob("*/lines.jsonl")
                path.write_bytes(path.read_bytes()[:stop])
            judge_tasks(generated, parts, judging, 2)
        return "".join(map(as_line, audit(generated, Parts(tmp_path / name, 9), Choice(-0.5))))

    whole = lines("whole", 1)
    assert lines("shards", 3) == whole
    assert lines("killed", 1, stop=200) == whole
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(row["id"], row["number"]) for row in rows][:4] == [
        ("r0", 0),
        ("r1", 0),
        ("r1", 1),
        ("r2", 0),
    ]
    assert (rows[0]["image"], rows[0]["caption"]) == ("0.png", "A caption.")
    for row in rows:
        if row["id"] == "r6":
            assert (row["scores"], row["margin"], row["label"], row["keep"]) == (
                None,
                None,
                "",
                False,
            )
            assert row["why"] == "longer than the judge reads"
        else:
            assert row["label"] == max(row["scores"], key=row["scores"].get)
            assert row["keep"] == (row["margin"] >= -0.5)
            assert row["why"] == ("kept" if row["keep"] else "margin below -0.5")
    assert {row["keep"] for row in rows} == {True, False}


def test_records_whose_tasks_are_rejected_keep_their_captions(model, examples, generated, tmp_path):
    parts = Parts(tmp_path / "parts", 9)
    judge_tasks(generated, parts, Judge(model, examples))
    rows = list(audit(generated, parts, Choice(keep_rate=0.3)))
    count = sum(row["keep"] for row in rows)
    assert count == round(0.3 * sum(row["label"] != "" for row in rows))
    placed = [(f"row {i}", row) for i, row in enumerate(rows)]
    left = list(with_kept(read_records(generated), placed))
    assert [one.id for one, _ in left] == [f"r{i}" for i in range(9)]
    assert sum(len(kept) for _, kept in left) == count
    looked, counts = Parts(tmp_path / "looked", 9), Counter(row["id"] for row in rows)
    looked.carry(lambda: ((i, {"looked": [-1.0] * counts[f"r{i}"]}) for i in range(9)))
    nobody = list(audit(generated, parts, Choice(-100), looked))
    assert {row["why"] for row in nobody} == {"the picture says no", "longer than the judge reads"}
    generated.write_text("".join(generated.read_text().splitlines(True)[:-1]))
    with pytest.raises(DataError, match="fewer tasks than were judged"):
        list(audit(generated, parts))


def test_scores_of_pictures_are_carried_to_the_same_picture_alone(tmp_path):
    """Two records with the same task: whoever saw one picture has said nothing of the other."""
    same = Triplet("w20?", "w21", "w22 w21").as_object()
    turns = Message("user", "w4"), Message("assistant", "w5")

    def write(name, images):
        records = (Record(i, (i,), turns, {"triplets": [same]}) for i in images)
        (path := tmp_path / name).write_text("".join(record.line() for record in records))
        return path

    def looker(questions, answers, images):
        return [[Scored(1.0, np.zeros(1)), Scored(0.0, np.zeros(1))] for _ in images]

    for name in ("a", "b"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    one, other = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    look_at_tasks(write("first.jsonl", [one]), Parts(tmp_path / "parts", 1), looker)
    both = write("both.jsonl", [one, other])
    parts = [tmp_path / "parts"]
    assert [row for row, _ in carried(both, parts, seen=True)] == [0]
