"""The few-shot protocol: shots, halves, figures; and data that cannot be dealt so."""

import numpy as np
import pytest

from mmjax.data.tables import table_of
from mmjax.errors import MmjaxError
from mmjax.evals import EvalSet, FewShot, View
from mmjax.evals.accuracy import base_and_new, choose_shots, harmonic_mean

NAMES = ["bird", "fish", "tree"]
LABELS = np.asarray([0, 1, 2, -1] * 6)


def test_fewer_shots_are_the_first_of_more_and_seeds_draw_others():
    four, two = (choose_shots(LABELS, NAMES, k, seed=0).reshape(3, -1) for k in (4, 2))
    assert (LABELS[four] == [[0], [1], [2]]).all()
    assert all(len(set(row)) == 4 for row in four)
    np.testing.assert_array_equal(four[:, :2], two)
    np.testing.assert_array_equal(choose_shots(LABELS, NAMES, 2, seed=0).reshape(3, -1), two)
    assert not np.array_equal(choose_shots(LABELS, NAMES, 2, seed=1).reshape(3, -1), two)


def test_data_that_cannot_be_dealt_is_refused():
    with pytest.raises(MmjaxError, match=r"1 classes have fewer than 6 training .*\(tree: 5\)"):
        choose_shots(LABELS[:-2], NAMES, 6, seed=0)
    with pytest.raises(MmjaxError, match=r"needs at least 2 classes, there are \['bird'\]"):
        choose_shots(LABELS, NAMES[:1], 1, seed=0)
    with pytest.raises(MmjaxError, match=r"needs at least 2 classes, there are \['tree'\]"):
        base_and_new(NAMES)
    assert base_and_new(["a", "b", "c", "d", "e"]) == (["a", "b", "c"], ["d", "e"])


def test_the_harmonic_mean_is_that_of_published_tables():
    # CoOp and CoCoOp over 11 data sets, as CoCoOp's table 1 prints them.
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)
    assert harmonic_mean(80.47, 71.69) == pytest.approx(75.83, abs=0.005)
    assert harmonic_mean(0.0, 0.5) == 0


def test_accuracy_is_over_items_and_over_classes():
    view = View(table_of([np.zeros(1, np.float32)] * 4), np.arange(4))
    data = EvalSet(view, view, np.asarray([0, 0, 0, 1]), view, view)
    logits = np.asarray([[2, 1], [2, 1], [1, 2], [2, 1]], np.float32)
    found = FewShot().run({"score": lambda _: logits}, data)
    assert found == {"accuracy": 0.5, "class_accuracy": pytest.approx((2 / 3 + 0) / 2)}
