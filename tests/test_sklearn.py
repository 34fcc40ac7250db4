"""The scikit-learn estimator: sklearn's own checks, its tools, and what goes wrong in real data."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmjax import trees
from mmjax.sklearn import ContrastiveProjection
from mmjax.tasks.projection import fit

ROOT = Path(__file__).parents[1]
N, D = 96, 12


@parametrize_with_checks([ContrastiveProjection(epochs=2, batch_size=32, out_dim=4, hidden=4)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def data(seed: int = 0, widths: tuple[int, ...] = (D,)) -> tuple[list[np.ndarray], np.ndarray]:
    """Three classes that noise hides in most columns."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 3
    parts = []
    for width in widths:
        x = rng.normal(size=(N, width)) * 2
        x[:, :3] += 3 * np.eye(3)[y]
        parts.append(x.astype(np.float32))
    return parts, y


def small(**settings) -> ContrastiveProjection:
    return ContrastiveProjection(
        **{"epochs": 3, "batch_size": 32, "out_dim": 5, "random_state": 0, **settings}
    )


def test_the_papers_projector_has_14480_parameters():
    x = np.random.default_rng(0).normal(size=(4, 768))
    fitted = ContrastiveProjection(epochs=1, batch_size=4, random_state=0).fit(x, [0, 1, 0, 1])
    assert trees.count(fitted.params_) == 14_480
    assert fitted.params_["modality_0"]["hidden"]["kernel"].shape == (768, 16)
    assert fitted.transform(x).shape == (4, 128)


@pytest.mark.parametrize("loss", ["pairwise_bce", "supcon", "infonce"])
def test_neighbours_share_a_label_more_often_than_before(loss):
    (train, other), y = data(0, (D, D))
    (test, more), _ = data(1, (D, D))
    x, asked = ([train, other], [test, more]) if loss == "infonce" else (train, test)
    fitted = small(loss=loss, epochs=60, learning_rate=1e-2).fit(x, y)
    flat, wanted = (np.concatenate(v, 1) if isinstance(v, list) else v for v in (x, asked))
    raw = KNeighborsClassifier(5).fit(flat, y).score(wanted, y)
    projected = KNeighborsClassifier(5).fit(fitted.transform(x), y)
    assert projected.score(fitted.transform(asked), y) > raw + 0.03
    assert fitted.loss_curve_[-1] < 0.8 * fitted.loss_curve_[0]
    assert fitted.n_iter_ == 60
    lengths = np.linalg.norm(fitted.transform(x).reshape(N, -1, 5), axis=2)
    assert np.allclose(lengths, 1, atol=1e-5) == (loss != "pairwise_bce")


def test_one_array_a_list_and_a_dict_are_the_same():
    (a, b), y = data(0, (D, 7))
    forms = [{"image": a, "note": b}, [a, b], np.hstack([a, b])]
    fitted = [small(widths=(D, 7)).fit(form, y) for form in forms]
    assert fitted[0].modalities_ == ("image", "note")
    first = fitted[0].transform(forms[0])
    assert first.shape == (N, 10)
    for other, form in zip(fitted, forms, strict=True):
        np.testing.assert_array_equal(other.transform(form), first)
    np.testing.assert_array_equal(fitted[0].transform(forms[2]), first)
    assert list(fitted[2].get_feature_names_out())[-1] == "contrastiveprojection9"
    single = small(mode="single").fit([a, b], y)
    assert single.transform([a, b]).shape == (N, 5)


def test_each_projector_trains_as_it_would_alone():
    (a, b), y = data(0, (D, 7))
    fitted = small().fit([a, b], y)
    holes = b.copy()
    holes[::4] = np.nan
    missing = small().fit([a, holes], y)
    for mine, theirs in zip(
        missing.params_["modality_0"].values(), fitted.params_["modality_0"].values(), strict=True
    ):
        np.testing.assert_allclose(mine["kernel"], theirs["kernel"], rtol=1e-5)
    assert not np.allclose(
        missing.params_["modality_1"]["out"]["kernel"],
        fitted.params_["modality_1"]["out"]["kernel"],
    )


def test_a_missing_modality_is_masked():
    (a, b), y = data(0, (D, 7))
    holes = b.copy()
    holes[::4] = np.nan
    fitted = small().fit([a, holes], y)
    # What stands behind a mask must not matter: the same as never having had those rows.
    found = fitted.transform([a, holes])
    assert not found[::4, 5:].any()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, :5], fitted.transform([a, None])[:, :5])
    assert not fitted.transform([a, None])[:, 5:].any()
    np.testing.assert_array_equal(fitted.transform({0: a, 1: holes}), found)
    single = small(mode="single").fit([a, holes], y)
    filled = np.where(np.isnan(holes), np.nanmean(holes, axis=0), holes)
    np.testing.assert_allclose(
        single.transform([a, holes]), single.transform([a, filled]), atol=1e-5
    )


def test_it_works_in_a_pipeline_and_in_a_search():
    (x,), y = data()
    names = np.array(["cat", "dog", "eel"])[y]
    chain = make_pipeline(
        StandardScaler(), small(epochs=30, learning_rate=1e-2), LogisticRegression()
    )
    search = GridSearchCV(chain, {"contrastiveprojection__temperature": [0.1, 1.0]}, cv=2)
    search.fit(x, names)
    assert set(search.predict(x)) <= {"cat", "dog", "eel"}
    assert search.best_score_ > 0.5


def test_state_is_numpy_and_survives_pickle_and_clone():
    (x,), y = data()
    fitted = small(standardize=True).fit(x, y)
    for leaf in [
        array for layer in fitted.params_["modality_0"].values() for array in layer.values()
    ]:
        assert type(leaf) is np.ndarray
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(x), fitted.transform(x))
    copy: Any = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(x)


def test_nothing_is_held_out_unless_asked_for():
    (x,), y = data()
    fitted = small().fit(x, y)
    assert fitted.validation_curve_ == []
    changed = x.copy()
    for row in range(0, N, 7):  # every example counts
        changed[row] += 5
        other = small().fit(changed, y).params_["modality_0"]["out"]["kernel"]
        assert not np.array_equal(other, fitted.params_["modality_0"]["out"]["kernel"])
        changed[row] -= 5


def test_early_stopping_keeps_the_best_epoch():
    (x,), y = data()
    y = np.random.default_rng(0).permutation(y)  # nothing to learn: it overfits at once
    fitted = small(early_stopping=True, epochs=60, learning_rate=0.03, patience=3).fit(x, y)
    best = int(np.argmin(fitted.validation_curve_))
    assert fitted.n_iter_ == best + 4 < 60
    stopped = small(early_stopping=True, epochs=best + 1, learning_rate=0.03).fit(x, y)
    np.testing.assert_array_equal(stopped.transform(x), fitted.transform(x))


def test_one_compilation_serves_every_number_of_examples():
    (x,), y = data()
    small(out_dim=3).fit(x, y)
    run = fit.program(small(out_dim=3)._spec(), (D,)).run
    before = run._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
    small(out_dim=3, learning_rate=0.1, weight_decay=0.1).fit(x[:50], y[:50])
    assert run._cache_size() == before == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_other_layouts_and_types_give_the_same():
    (x,), y = data()
    fitted = small().fit(x, y)
    expected = fitted.transform(x)
    wide = np.repeat(x.astype(np.float64), 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    for other in (wide, np.asfortranarray(x), x.tolist()):
        np.testing.assert_array_equal(small().fit(other, y).transform(other), expected)
    assert expected.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y * 0), "y has 1 class"),
        (lambda x, y: (x[:0], y[:0]), "Found array with 0 sample"),
        (lambda x, y: (x * 0 + 1, y), "every feature of X is constant"),
        (lambda x, y: (np.where(x == x[3, 3], np.nan, x), y), "Input X contains NaN"),
        (lambda x, y: ([x, np.where(x == x[3, 3], np.nan, x)], y), "NaN: modality 1, row 3"),
        (lambda x, y: ([x * np.nan, x], y), r"fewer than 2 examples have the modalities \[0\]"),
        (lambda x, y: ([x, x[:9]], y), "inconsistent numbers of samples"),
        (lambda x, y: ([x, None], y), r"no data of the modalities \[1\] to learn from"),
        (lambda x, y: (x, np.linspace(0, 1, N)), "continuous"),
        (lambda x, y: ([x], None), "requires y to be passed"),
    ],
)
def test_data_that_cannot_be_learnt_from(change, message):
    (x,), y = data()
    x, y = change(x, y)
    with pytest.raises(ValueError, match=message):
        small().fit(x, y)


def test_constant_columns_beside_others_are_no_problem():
    (x,), y = data()
    x[:, 5] = 3
    fitted = small(standardize=True).fit(x, y)
    found = fitted.transform(x)
    assert np.isfinite(found).all()
    # A code that no training row had: it moves an example, but not out of sight.
    x[:, 5] = 4
    assert (
        np.linalg.norm(fitted.transform(x) - found, axis=1).max()
        < np.linalg.norm(found, axis=1).max()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "triplet"}, r"loss is 'triplet'; expected one of \('pairwise_bce'"),
        ({"mode": "both"}, "mode is 'both'"),
        ({"hidden": 0}, "hidden is 0; expected an integer of at least 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        (
            {"temperature": 0.005},
            r"temperature is 0\.005; expected a finite number of at least 0\.01",
        ),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"loss": "infonce"}, "give two, mode='per_modality'"),
        ({"widths": (5, 5)}, "12 columns; widths .5, 5. make another sum"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    (x,), y = data()
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(x, y)


def test_what_does_not_fit_the_fit_is_refused():
    (a, b), y = data(0, (D, 7))
    fitted = small().fit({"image": a, "note": b}, y)
    with pytest.raises(ValueError, match=r"modality note has 6 features; it had 7"):
        fitted.transform({"image": a, "note": b[:, :6]})
    with pytest.raises(ValueError, match="fitted on"):
        fitted.transform({"image": a, "sound": b})
    with pytest.raises(ValueError, match="row 0: it has no modality"):
        fitted.transform([a * np.nan, b * np.nan])


def test_import_is_light():
    code = (
        "import sys, mmjax.sklearn\n"
        "heavy = {'jax', 'flax', 'transformers', 'tensorflow_datasets', 'matplotlib', 'torch'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_scikit_learn_the_import_says_what_to_install():
    code = "import sys\nsys.modules['sklearn'] = None\nimport mmjax.sklearn"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "ImportError: mmjax.sklearn needs scikit-learn: python -m pip install" in done.stderr
