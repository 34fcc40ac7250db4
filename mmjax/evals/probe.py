"""Probes: how well do usual classifiers do on some features? Every setting is chosen on `val`.

Needs scikit-learn (extra `sklearn`), which is imported on first use.
"""

import importlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmjax.data.tables import View
from mmjax.errors import MmjaxError
from mmjax.evals.base import Functions
from mmjax.progress import track

Sides = Mapping[str, Any]  # {"train", "val", "test"} -> array
AVERAGES = ("weighted", "macro")
POSITIVE = "positive"  # F1 of one class against all others


@dataclass(frozen=True)
class LabelledSet:
    """Items with classes, to be told apart by features.

    Attributes:
      views: published function -> what it reads of every item.
      labels: class of every item.
      fitted: numbers of the items that a classifier may learn from.
      queries: numbers of the items that it is asked about.
    """

    views: Mapping[str, View]
    labels: Int[np.ndarray, " n"]
    fitted: Int[np.ndarray, " k"]
    queries: Int[np.ndarray, " q"]

    def run(self, evaluators: Sequence[Any], functions: Functions) -> dict[str, float]:
        """Measures everything."""
        values: dict[str, float] = {}
        for evaluator in evaluators:
            values |= evaluator.run(functions, self)
        return values

    def embed(self, functions: Functions) -> Float[np.ndarray, "n d"]:
        """Every item's embeddings by all functions, side by side."""
        return np.concatenate([functions[f](view) for f, view in self.views.items()], axis=1)


@dataclass(frozen=True)
class NearestNeighbours:
    """A vote of the nearest items by cosine: quick enough for model selection while training."""

    k: int = 5

    def run(self, functions: Functions, data: LabelledSet) -> dict[str, float]:
        """Returns `knn_acc`; among classes with as many votes the one with the nearer items."""
        embedded = data.embed(functions)
        embedded = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
        cosines = embedded[data.queries] @ embedded[data.fitted].T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]
        labels = data.labels[data.fitted][nearest]
        similarity = np.take_along_axis(cosines, nearest, axis=1)
        votes = np.zeros((len(labels), int(data.labels.max()) + 1))
        for column in range(labels.shape[1]):
            near = 1 + 1e-3 * similarity[:, column]
            votes[np.arange(len(labels)), labels[:, column]] += near
        right = votes.argmax(axis=1) == data.labels[data.queries]
        return {"knn_acc": float(right.mean())}


@dataclass(frozen=True)
class FeatureMap:
    """Some features of every item, on each side.

    Attributes:
      method: what it is an alternative of: `raw`, `PCA`, `LDA`, `projection`.
      name: of this alternative.
      sides: {"train", "val", "test"} -> [n d].
    """

    method: str
    name: str
    sides: Sides


def check_installed() -> None:
    """Refuses a recipe that ends in probes before anything is trained for it.

    Raises:
      MmjaxError: scikit-learn is missing.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MmjaxError(
            "config.evals 'probe' needs scikit-learn's classifiers: "
            "python -m pip install 'mmjax[sklearn]'"
        ) from error


def classifiers(seed: int) -> dict[str, list[Any]]:
    """The classifiers of arXiv 2502.02048, kNN in the place of XGB, each with settings to try.

    Gradient boosting is scikit-learn's histogram form, with few rounds and a tenth of the features
    at each split, so that 58 classes take seconds.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    boosted = _untyped("ensemble").HistGradientBoostingClassifier

    def boosting(rate: float) -> Any:
        return boosted(
            learning_rate=rate,
            max_iter=10,
            max_leaf_nodes=8,
            min_samples_leaf=5,
            # Newton steps on classes of a few items explode without it.
            l2_regularization=1.0,
            max_bins=32,
            max_features=0.1,
            early_stopping=False,
            random_state=seed,
        )

    def forest(leaf: int) -> Any:
        return RandomForestClassifier(60, min_samples_leaf=leaf, random_state=seed)

    def network(alpha: float) -> Any:
        return MLPClassifier((128,), alpha=alpha, max_iter=40, random_state=seed)

    return {
        "CART": [DecisionTreeClassifier(min_samples_leaf=n, random_state=seed) for n in (1, 5)],
        "RF": [forest(1), forest(3)],
        "GBM": [boosting(0.1), boosting(0.3)],
        "MLP": [network(1e-3), network(0.3)],
        "LR": [LogisticRegression(C=c, max_iter=200) for c in (1e-2, 1e-1, 1.0, 10.0, 100.0)],
        "SVC": [SVC(C=c, gamma="scale") for c in (1.0, 10.0)],
        "kNN": [KNeighborsClassifier(k, metric="cosine") for k in (1, 5, 15)],
    }


def baselines(
    raw: Sequence[Float[np.ndarray, "n _"]],
    split: Mapping[str, Int[np.ndarray, " _"]],
    labels: Int[np.ndarray, " n"],
    width: int,
    seed: int,
) -> Iterator[FeatureMap]:
    """Two alternatives each of the raw features, their principal components and discriminants.

    Args:
      raw: every modality's features of all items.
      split: {"train", "val", "test"} -> items; everything is fitted on `train`.
      labels: class of every item.
      width: components of each modality.
      seed: of the randomised parts.

    Yields:
      The maps.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler, normalize

    train = split["train"]
    scaled = [StandardScaler().fit(x[train]).transform(x) for x in raw]
    units = [normalize(x) for x in raw]

    def sides(parts: Sequence[Any]) -> Sides:
        whole = np.concatenate(parts, axis=1)
        return {side: whole[items] for side, items in split.items()}

    def reduced(parts: Sequence[Any]) -> list[Any]:
        sizes = [min(width, len(train), x.shape[1]) for x in parts]
        return [
            PCA(size, random_state=seed).fit(x[train]).transform(x)
            for size, x in zip(sizes, parts, strict=True)
        ]

    yield FeatureMap("raw", "raw, standardised", sides(scaled))
    yield FeatureMap("raw", "raw, unit length", sides(units))
    yield FeatureMap("PCA", f"PCA({width}), standardised first", sides(reduced(scaled)))
    yield FeatureMap("PCA", f"PCA({width}), unit length first", sides(reduced(units)))
    joined = sides(scaled)
    most = min(width * len(raw), len(np.unique(labels[train])) - 1, joined["train"].shape[1])
    for shrinkage in (0.1, 0.5):
        lda = LinearDiscriminantAnalysis("eigen", shrinkage=shrinkage, n_components=most)
        lda.fit(joined["train"], labels[train])
        projected = {side: lda.transform(x) for side, x in joined.items()}
        yield FeatureMap("LDA", f"LDA, shrinkage {shrinkage}", projected)


@dataclass(frozen=True)
class Probed:
    """What classifiers made of some features.

    Attributes:
      values: for every method, and `= NAME` for every map by itself, {"CART weighted": F1, ...} on
        `test`.
      best: method -> (the classifier that is best on `val`, its answers on `test`).
      seconds: method -> how long its classifiers took to fit, in all settings and alternatives.
    """

    values: dict[str, dict[str, float]]
    best: dict[str, tuple[str, Int[np.ndarray, " n"]]]
    seconds: dict[str, float]


def probe(
    maps: Sequence[FeatureMap],
    labels: Sides,
    seed: int,
    note: str = "",
    positive: int | None = None,
) -> Probed:
    """Fits every classifier with all its settings on every map, choosing by weighted F1 on `val`.

    Args:
      maps: features; those of one method are alternatives that are chosen from too.
      labels: {"train", "val", "test"} -> class of every item.
      seed: of the classifiers.
      note: for the progress bar.
      positive: a class whose own F1 is measured beside the averages.

    Returns:
      What came out.
    """
    from sklearn.exceptions import ConvergenceWarning

    cells = [(features, name) for name in classifiers(seed) for features in maps]

    def one(cell: tuple[FeatureMap, str]) -> _Chosen:
        return _best(cell[0].sides, labels, classifiers(seed)[cell[1]], positive)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # The settings are a budget: some do not converge in it, and validation tells how good they
        # are all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        done = list(track(pool.map(one, cells), f"probes{note}", total=len(cells)))
    values: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    best: dict[tuple[str, str], _Chosen] = {}
    for (features, name), chosen in zip(cells, done, strict=True):
        seconds[features.method] = seconds.get(features.method, 0.0) + chosen.seconds
        scores = {f"{name} {average}": score for average, score in chosen.scores.items()}
        values.setdefault(f"= {features.name}", {}).update(scores)
        if (features.method, name) not in best or chosen.by > best[features.method, name].by:
            best[features.method, name] = chosen
            values.setdefault(features.method, {}).update(scores)
    answers = {}
    for method in dict.fromkeys(method for method, _ in best):
        _, name = max((key for key in best if key[0] == method), key=lambda key: best[key].by)
        answers[method] = name, best[method, name].predicted
    return Probed(values, answers, seconds)


def _untyped(module: str) -> Any:
    """A module of scikit-learn whose defaults mislead type checkers."""
    return importlib.import_module(f"sklearn.{module}")


class _Chosen(NamedTuple):
    """The setting of a classifier that is best on `val`: by which F1, F1s and answers on `test`."""

    by: float
    scores: dict[str, float]
    predicted: Int[np.ndarray, " n"]
    seconds: float  # that all settings took to fit


def _best(
    sides: Sides, labels: Sides, settings: Sequence[Any], positive: int | None = None
) -> _Chosen:
    """Of the setting that is best on `val`."""
    f1_score = _untyped("metrics").f1_score

    began = time.perf_counter()
    fitted = [setting.fit(sides["train"], labels["train"]) for setting in settings]
    seconds = time.perf_counter() - began

    def score(model: Any, side: str, average: str) -> float:
        classes = np.unique(labels[side])
        predicted = model.predict(sides[side])
        return float(
            f1_score(labels[side], predicted, labels=classes, average=average, zero_division=0)
        )

    by_val = [score(model, "val", "weighted") for model in fitted]
    chosen = int(np.argmax(by_val))
    scores = {a: score(fitted[chosen], "test", a) for a in AVERAGES}
    predicted = fitted[chosen].predict(sides["test"])
    if positive is not None:
        own = labels["test"] == positive, predicted == positive
        scores[POSITIVE] = float(f1_score(*own, zero_division=0))
    return _Chosen(by_val[chosen], scores, predicted, seconds)
