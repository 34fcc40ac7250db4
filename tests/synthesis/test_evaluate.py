"""Benchmarks from files to tables: answers are kept, resumed, and pictures may fail."""

import json

import numpy as np
import pytest
from PIL import Image

from mmjax.data.questions.general import COGNITION, PERCEPTION
from mmjax.data.questions.question import Question
from mmjax.errors import DataError, MmjaxError
from mmjax.evals.benchmarks import BENCHMARKS, benchmark, chosen
from mmjax.synthesis.benchmark_tables import published, tables
from mmjax.synthesis.evaluate import evaluate


@pytest.fixture
def root(tmp_path):
    """SLAKE with four questions, one of them about a damaged picture, and TruthfulQA with one."""
    folder = tmp_path / "sets" / "slake"
    (folder / "imgs").mkdir(parents=True)
    rows = [
        ("Is the heart normal?", "No", "CLOSED"),
        ("Is this a lung?", "Yes", "CLOSED"),
        ("Which organ?", "left lung", "OPEN"),
        ("Is it broken?", "Yes", "CLOSED"),
    ]
    listed = []
    for i, (text, answer, kind) in enumerate(rows):
        listed.append(
            {
                "qid": i,
                "img_name": f"{i}.png",
                "q_lang": "en",
                "answer_type": kind,
                "question": text,
                "answer": answer,
            }
        )
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / "imgs" / f"{i}.png")
    (folder / "imgs" / "3.png").write_bytes(b"no picture")
    (folder / "test.json").write_text(json.dumps(listed))
    other = tmp_path / "sets" / "truthful_qa"
    other.mkdir()
    targets = {"mc1_targets": {"so": 1, "not so": 0}, "mc2_targets": {"so": 1, "yes": 1, "no": 0}}
    (other / "mc_task.json").write_text(json.dumps([{"question": "Is it so?", **targets}]))
    return tmp_path / "sets"


class Model:
    """Answers by the red of a picture, and remembers what it was asked."""

    said = ("Yes, the heart is abnormal", "Yes", "left left left left")

    def __init__(self, breaks_after=99):
        self.asked, self.left = [], breaks_after

    def __call__(self, texts, pictures):
        if self.left < len(texts):
            raise KeyboardInterrupt
        self.left -= len(texts)
        self.asked += texts
        return [self.said[np.asarray(picture)[0, 0, 0]] for picture in pictures]


def _run(model, root, workdir, names=("slake",), **others):
    return evaluate(model, names, root, workdir, system="ours", batch=1, **others)


def test_figures_and_a_picture_that_fails(root, tmp_path):
    (row,) = _run(Model(), root, tmp_path / "run")
    assert (row.asked, row.total, row.missing) == (4, 4, 1)
    # "No" is found in "abnormal"; the damaged picture counts as wrong in both.
    assert row.figures["closed"] == pytest.approx((200 / 3, 100 / 3))
    assert row.figures["open"] == pytest.approx((80, 50))
    lines = (tmp_path / "run/answers/slake.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["answer"] is None
    assert "3.png" in last["error"]


def test_killed_anywhere_it_goes_on(root, tmp_path):
    whole = tmp_path / "whole"
    rows = _run(Model(), root, whole)
    for cut in (1, 2):
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(KeyboardInterrupt):
            _run(Model(breaks_after=cut), root, folder)
        path = folder / "answers/slake.jsonl"
        with path.open("ab") as file:
            file.write(b'{"answer":"Ye')  # half a line
        model = Model()
        assert _run(model, root, folder) == rows
        assert len(model.asked) == 3 - cut
        assert path.read_bytes() == (whole / "answers/slake.jsonl").read_bytes()
        again = Model()
        assert _run(again, root, folder) == rows
        assert not again.asked


def test_failed_pictures_are_asked_again_if_wanted(root, tmp_path):
    _run(Model(), root, tmp_path / "run")
    Image.new("RGB", (4, 4), (1, 0, 0)).save(root / "slake/imgs/3.png")
    (row,) = _run(Model(), root, tmp_path / "run")
    assert row.missing == 1
    (row,) = _run(Model(), root, tmp_path / "run", retry=True)
    assert row.missing == 0
    assert row.figures["closed"].strict == pytest.approx(200 / 3)


def test_answers_of_others_are_refused(root, tmp_path):
    _run(Model(), root, tmp_path / "run")
    with pytest.raises(MmjaxError, match="holds answers of 'ours', not of 'theirs'"):
        evaluate(Model(), ["slake"], root, tmp_path / "run", system="theirs")
    path = root / "slake/test.json"
    path.write_text(path.read_text().replace("Which organ?", "Which one?"))
    with pytest.raises(DataError, match=r"slake\.jsonl, row 3: answers another question"):
        _run(Model(), root, tmp_path / "run")


def test_a_set_without_any_picture_is_refused(root, tmp_path):
    for path in (root / "slake/imgs").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none of its 4 pictures is there"):
        _run(Model(), root, tmp_path / "run")


def test_wrong_calls_are_one_sentence(root, tmp_path):
    with pytest.raises(MmjaxError, match="no benchmark is called 'slak'"):
        benchmark("slak")
    with pytest.raises(MmjaxError, match="give `score`"):
        _run(Model(), root, tmp_path / "run", ["truthful_qa"])
    with pytest.raises(MmjaxError, match="1 questions of SLAKE have 0 answers"):
        _run(lambda texts, pictures: [], root, tmp_path / "run")


def test_likelihoods_choose(root, tmp_path):
    def score(texts, options, pictures):
        assert pictures == [None]
        return [np.log([0.5, 0.3, 0.2][: len(several)]) for several in options]

    names = ["truthful_qa"]
    (row,) = _run(Model(), root, tmp_path / "run", names, score=score)
    assert row.figures["mc1"].strict == 100
    assert row.figures["mc2"].strict == pytest.approx(80)
    assert _run(Model(), root, tmp_path / "run", names, score=lambda *_: 1 / 0) == [row]
    kept = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert kept["rows"][0]["figures"]["mc1"] == {"legacy": 100.0, "strict": 100.0}


def test_mme_has_its_scores(root, tmp_path):
    for subtask in (*PERCEPTION, *COGNITION):
        folder = root / "mme" / subtask
        folder.mkdir(parents=True)
        (folder / "1.txt").write_text("Is it?\tYes\nIs it not?\tNo\n")
        Image.new("RGB", (2, 2)).save(folder / "1.png")

    def answer(texts, pictures):
        return ["It is so: yes" if "not" not in text else "No" for text in texts]

    (row,) = _run(answer, root, tmp_path / "run", ["mme"])
    # MME's script looks at the first four letters alone.
    assert row.figures["perception"] == pytest.approx((500, 2000))
    assert row.figures["cognition"] == pytest.approx((200, 800))
    table = tables([("ours", [row])])[-1]
    assert table.title == "MME by subtask: ours"
    assert table.rows[0] == ("existence", ((50.0,), (0.0,), (100.0,), (100.0,)))


def test_tables_have_published_rows_above_ours(root, tmp_path):
    rows = _run(Model(), root, tmp_path / "run", limit=2)
    domain, beside = tables([("ours", rows)])
    assert domain.title.startswith("Biomedicine")
    labels = [label for label, _ in domain.rows]
    assert labels[0] == "LLaVA-v1.6-8B"
    assert labels[-2:] == ["ours (legacy)", "ours (strict)"] == list(domain.highlight)
    assert domain.columns[-1] == "mean"
    assert domain.rows[-1][1][-1] == ()  # no mean of some columns
    assert "ours, SLAKE: 2 of 4 questions, the paper asks 1,061." in domain.caption
    assert beside.columns == ("SLAKE: F1 of open answers' words",)


def test_published_rows_have_the_papers_means():
    means = {"biomedicine": (60.3, 62.0), "food": (42.0, 47.8), "remote_sensing": (70.8, 69.1)}
    labels = {"biomedicine": " + AdaMLLM, PMC-refined"}
    for domain, (small, large) in means.items():
        rows = dict(published(domain))
        keys = {f"{n}.{k}" for n, b in BENCHMARKS.items() if b.domain == domain for k in b.columns}
        assert all(set(values) == keys for values in rows.values())
        end = labels.get(domain, " + AdaMLLM")
        for system, mean in (("LLaVA-v1.6-8B", small), ("Llama-3.2-11B", large)):
            values = rows[system + end].values()
            assert sum(values) / len(values) == pytest.approx(mean, abs=0.051)


def test_a_limit_spreads_and_keeps_groups_together():
    questions = [Question(str(i), "", None, ("a",), group=str(i // 2)) for i in range(20)]
    assert [q.id for q in chosen(questions, 4)] == ["0", "1", "10", "11"]
    assert chosen(questions, 0) == questions == chosen(questions, 99)
