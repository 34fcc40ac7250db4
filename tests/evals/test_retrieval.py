import dataclasses

import numpy as np
import pytest

from mmjax.data.tables import table_of
from mmjax.errors import MmjaxError
from mmjax.evals import (
    ClassSet,
    EvalSet,
    Retrieval,
    View,
    ZeroShot,
    rank_answers,
    ranks,
    recall_metrics,
)


def view(array):
    return View(table_of(list(np.asarray(array, np.float32))), np.arange(len(array)))


def identity(v):
    return v.table.gather(v.rows)["features"]


def test_ranks_by_hand():
    gallery = np.eye(3)
    queries = np.array([[1.0, 0.5, 0.0], [0.9, 0.5, 0.7], [0.0, 0.0, 1.0]])
    assert ranks(queries, gallery).tolist() == [1, 3, 1]
    assert ranks(queries, gallery, chunk=2).tolist() == [1, 3, 1]


def test_ties_and_nan_count_against_the_system():
    assert ranks(np.ones((4, 2)), np.ones((4, 2))).tolist() == [4, 4, 4, 4]
    assert ranks(np.full((4, 2), np.nan), np.ones((4, 2))).tolist() == [4, 4, 4, 4]


def test_the_same_text_is_a_right_answer_wherever_it_stands():
    gallery = np.eye(4)
    queries = np.array([[0.1, 0.9, 0, 0], [0.9, 0.1, 0, 0], [0, 0.5, 0.1, 0.4], [0, 0, 0, 1.0]])
    assert ranks(queries, gallery).tolist() == [2, 2, 3, 1]
    assert ranks(queries, gallery, np.array([7, 7, 2, 2])).tolist() == [1, 1, 2, 1]
    assert ranks(queries, gallery, np.array([7, 7, 2, 2]), chunk=3).tolist() == [1, 1, 2, 1]


def test_recalls_by_hand():
    found = recall_metrics(np.array([1, 2, 5, 11]), "t2i")
    assert found == {
        "t2i_R@1": 0.25,
        "t2i_R@5": 0.75,
        "t2i_R@10": 0.75,
        "t2i_mR": pytest.approx(1.75 / 3),
        "t2i_median_rank": 3.5,
    }


def eval_set(labels, names):
    pictures = view(np.eye(4))
    return EvalSet(pictures, pictures, np.asarray(labels), view(names), pictures)


FUNCTIONS = {"embed_images": identity, "embed_texts": identity}


def test_both_directions_and_their_mean():
    found = Retrieval().run(FUNCTIONS, eval_set([0, 0, 1, 1], np.eye(4)[:2]))
    assert found["t2i_R@1"] == found["i2t_R@1"] == found["mR"] == 1


def test_zero_shot_accuracy_over_items_and_over_classes():
    names = [[1, 0, 0, 0], [0, 0, 1, 1]]
    found = ZeroShot().run(FUNCTIONS, eval_set([0, 0, 1, 1], names))
    assert found["zeroshot_acc"] == 1.0  # item 1 is equally far from both names: the first wins
    found = ZeroShot().run(FUNCTIONS, eval_set([0, 1, 1, 1], names))
    assert found["zeroshot_acc"] == 0.75
    assert found["zeroshot_class_acc"] == pytest.approx((1 + 2 / 3) / 2)
    # A picture without a class is not asked about: it is neither right nor wrong.
    found = ZeroShot().run(FUNCTIONS, eval_set([0, -1, 1, 1], names))
    assert found == {"zeroshot_acc": 1.0, "zeroshot_class_acc": 1.0}


def test_one_class_is_an_error():
    with pytest.raises(MmjaxError, match="at least 2 classes, the test items have 1"):
        ZeroShot().run(FUNCTIONS, eval_set([0, 0, 0, 0], [[1, 0, 0, 0]]))


# Two pictures of two captions, one that two captions share, one that nobody asks for.
ANSWERS = np.array([[0, 0], [1, 0], [2, 1], [3, 1], [4, 0], [4, 2]])
TEXTS = np.array(
    [
        [0.9, 0.1, 0.0, 0.2],  # its picture first
        [0.5, 0.7, 0.0, 0.6],  # its picture third
        [0.2, 0.3, 0.4, 0.5],  # third
        [0.6, 0.8, 0.1, 0.0],  # first
        [0.1, 0.9, 0.8, 0.0],  # one of its two pictures second, the other third
    ]
)


def test_several_captions_a_picture_by_hand():
    pictures = np.eye(4)
    assert rank_answers(TEXTS, pictures, ANSWERS).tolist() == [1, 3, 3, 1, 2]
    # Picture 0 finds caption 0 first; 1 finds caption 4 (not its own) before 3; 2 finds its own
    # caption first; nothing is right for picture 3.
    assert rank_answers(pictures, TEXTS, ANSWERS[:, ::-1]).tolist() == [1, 2, 1, 0]
    queries = EvalSet(view(pictures), view(TEXTS), np.zeros(4, int), view(TEXTS), view(TEXTS))
    found = Retrieval().run(FUNCTIONS, dataclasses.replace(queries, answers=ANSWERS))
    assert found["t2i_R@1"] == pytest.approx(2 / 5)
    assert found["i2t_R@1"] == pytest.approx(2 / 3)  # the picture without a caption asks nothing
    assert found["t2i_R@5"] == found["i2t_R@5"] == 1
    assert found["mR"] == pytest.approx((found["t2i_mR"] + found["i2t_mR"]) / 2)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_several_captions_a_picture_against_the_published_script(chunk):
    """cn_clip/eval/evaluation.py: any right answer among the first k of a sorted list."""
    rng = np.random.default_rng(0)
    texts, pictures = rng.normal(size=(60, 8)), rng.normal(size=(25, 8))
    pairs = {(int(q), int(p)) for q, p in rng.integers(0, (60, 20), (90, 2)) if q != 7}
    answers = np.array(sorted(pairs, key=lambda pair: hash(pair)))
    for queries, gallery, right in (
        (texts, pictures, answers),
        (pictures, texts, answers[:, ::-1]),
    ):
        rank = rank_answers(queries, gallery, right, chunk)
        ranking = np.argsort(-(queries @ gallery.T), axis=1)
        truth = [set(right[right[:, 0] == q, 1].tolist()) for q in range(len(queries))]
        assert [bool(t) for t in truth] == (rank > 0).tolist()
        for k in (1, 5, 10):
            hits = [bool(truth[q] & set(ranking[q, :k].tolist())) for q in range(len(queries))]
            assert hits == ((rank > 0) & (rank <= k)).tolist()


def test_ties_and_nan_of_several_captions_count_against_the_system():
    answers = np.array([[0, 1], [0, 2], [1, 0]])
    assert rank_answers(np.ones((2, 3)), np.ones((4, 3)), answers).tolist() == [3, 4]
    assert rank_answers(np.full((2, 3), np.nan), np.ones((4, 3)), answers).tolist() == [3, 4]


def test_a_class_is_the_normalised_mean_of_its_prompts():
    # Prompts of class 0 point along two axes; alone, the second class's would win picture 1.
    prompts = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0.6, 0.8]], np.float32)
    pictures = np.array([[1, 0, 0], [0.6, 0.7, 0.1], [0, 0.1, 1]], np.float32)
    table = table_of(list(prompts))
    names = View(table, np.array([[0, 1], [2, 3]]))

    def embed_texts(asked):
        each = asked.table.gather(asked.rows.reshape(-1))["features"]
        mean = each.reshape(*asked.rows.shape, -1).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    functions = {"embed_images": identity, "embed_texts": embed_texts}
    found = ZeroShot().run(functions, ClassSet(view(pictures), np.array([0, 0, 1]), names))
    assert found == {"zeroshot_acc": 1.0, "zeroshot_class_acc": 1.0}
