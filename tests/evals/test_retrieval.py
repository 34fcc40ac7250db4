import numpy as np
import pytest

from mmjax.data.tables import table_of
from mmjax.errors import MmjaxError
from mmjax.evals import EvalSet, Retrieval, View, ZeroShot, ranks, recall_metrics


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


def test_one_class_is_an_error():
    with pytest.raises(MmjaxError, match="at least 2 classes, the test items have 1"):
        ZeroShot().run(FUNCTIONS, eval_set([0, 0, 0, 0], [[1, 0, 0, 0]]))
