"""Probes choose on the inner split alone, and every method gets the same budget."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from mmjax.data.tables import View, table_of
from mmjax.evals import probe
from mmjax.evals.probe import FeatureMap, LabelledSet, NearestNeighbours

SPLIT = {"train": np.arange(0, 60), "val": np.arange(60, 80), "test": np.arange(80, 110)}


def blobs(noise: float, classes: int = 3, width: int = 6):
    rng = np.random.default_rng(0)
    labels = np.arange(110) % classes
    centres = np.eye(classes, width) * 3
    return (centres[labels] + noise * rng.normal(size=(110, width))).astype(np.float32), labels


def sides_of(x):
    return {side: x[items] for side, items in SPLIT.items()}


@pytest.fixture
def settings(monkeypatch):
    """A classifier that is right, one that always says class 0; in an order that tests choose."""

    def use(*names):
        made = {
            "right": lambda: KNeighborsClassifier(1),
            "zero": lambda: DummyClassifier(strategy="constant", constant=0),
        }
        monkeypatch.setattr(probe, "classifiers", lambda _: {"C": [made[n]() for n in names]})

    return use


def test_settings_and_features_are_chosen_on_the_inner_split(settings):
    x, labels = blobs(0.1)
    settings("zero", "right")
    # Good on the inner split, useless on the test: whoever peeked would choose the other one.
    trap = x.copy()
    trap[SPLIT["test"]] = 0
    maps = [
        FeatureMap("raw", "noise", sides_of(np.random.default_rng(1).normal(size=x.shape))),
        FeatureMap("raw", "trap", sides_of(trap)),
        FeatureMap("projection", "good", sides_of(x)),
    ]
    found = probe.probe(maps, sides_of(labels), 0).values
    assert found["projection"] == found["= good"] == {"C weighted": 1.0, "C macro": 1.0}
    assert found["raw"] == found["= trap"]
    assert found["= trap"]["C weighted"] < 0.4


def test_answers_are_those_of_the_classifier_that_is_best_on_the_inner_split(settings):
    x, labels = blobs(0.1)
    settings("zero", "right")
    found = probe.probe([FeatureMap("raw", "x", sides_of(x))], sides_of(labels), 0)
    name, said = found.best["raw"]
    assert name == "C"
    np.testing.assert_array_equal(said, labels[SPLIT["test"]])


def test_scores_are_scikit_learns_over_the_classes_that_are_asked_for(settings):
    x, labels = blobs(2.0)
    settings("right")
    found = probe.probe([FeatureMap("raw", "x", sides_of(x))], sides_of(labels), 0).values["raw"]
    model = KNeighborsClassifier(1).fit(x[SPLIT["train"]], labels[SPLIT["train"]])
    predicted, truth = model.predict(x[SPLIT["test"]]), labels[SPLIT["test"]]
    for average in ("weighted", "macro"):
        expected = f1_score(truth, predicted, average=average)
        assert found[f"C {average}"] == pytest.approx(expected)
    assert found["C weighted"] < 1


def test_every_method_has_as_many_alternatives():
    raw = [blobs(1.0)[0], blobs(1.0, width=9)[0]]
    maps = list(probe.baselines(raw, SPLIT, blobs(1.0)[1], 4, 0))
    assert [m.method for m in maps] == ["raw", "raw", "PCA", "PCA", "LDA", "LDA"]
    widths = [m.sides["test"].shape for m in maps]
    assert widths == [(30, 15), (30, 15), (30, 8), (30, 8), (30, 2), (30, 2)]


def test_baselines_are_fitted_on_the_training_items_alone():
    x, labels = blobs(1.0)
    changed = x.copy()
    changed[SPLIT["test"]] += 100
    for one, other in zip(
        probe.baselines([x], SPLIT, labels, 4, 0),
        probe.baselines([changed], SPLIT, labels, 4, 0),
        strict=True,
    ):
        np.testing.assert_allclose(one.sides["val"], other.sides["val"], atol=1e-6)


def test_all_seven_classifiers_learn_blobs():
    x, labels = blobs(0.3)
    found = probe.probe([FeatureMap("raw", "x", sides_of(x))], sides_of(labels), 0).values["raw"]
    names = {name.split()[0] for name in found}
    assert names == {"CART", "RF", "GBM", "MLP", "LR", "SVC", "kNN"}
    assert min(found.values()) > 0.9


def test_neighbours_vote():
    # Two near items of class 1, three far ones of class 0, seen from item 5; cosines decide.
    angles = np.deg2rad([40, 41, 42, 5, -5, 0])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1])
    view = View(table_of(list(7 * x)), np.arange(6))
    data = LabelledSet({"embed": view}, labels, np.arange(5), np.array([5]))
    functions = {"embed": lambda view: view.table.gather(view.rows)["features"]}
    right = [data.run([NearestNeighbours(k)], functions)["knn_acc"] for k in (1, 2, 3, 4, 5)]
    assert right == [1.0, 1.0, 1.0, 1.0, 0.0]
