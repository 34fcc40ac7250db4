"""Exact match on questions, yes/no and others apart, and what stands beside it."""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from mmjax.data.easy_vqa import EasyVqaQuestion

YES_NO = ("yes", "no")
LEAST_HELD_OUT = 1000  # questions of which the network may hold a tenth out, to know when to stop


def accuracies(
    right: Bool[np.ndarray, " n"], questions: Sequence[EasyVqaQuestion]
) -> dict[str, float]:
    """Shares of right answers.

    Args:
      right: bool [n].
      questions: the n questions.

    Returns:
      `vqa_acc` of all, `vqa_yes_no` and `vqa_other` of those whose answer is, or is not, yes or no;
      a kind that was not asked is left out.
    """
    binary = np.array([q.answer in YES_NO for q in questions], bool)
    kinds = {"vqa_acc": np.ones_like(binary), "vqa_yes_no": binary, "vqa_other": ~binary}
    return {name: float(right[kind].mean()) for name, kind in kinds.items() if kind.any()}


def without_images(
    train: Sequence[EasyVqaQuestion], test: Sequence[EasyVqaQuestion]
) -> dict[str, dict[str, float]]:
    """What the training questions alone give.

    Args:
      train: questions with their answers.
      test: what is to be answered.

    Returns:
      `majority`: always the commonest answer; `question`: the commonest answer to the same words
      (the commonest of all for words that were never asked), each as `accuracies`.
    """
    everything = Counter(q.answer for q in train)
    commonest = everything.most_common(1)[0][0]
    by_text: dict[str, Counter[str]] = {}
    for q in train:
        by_text.setdefault(q.text, Counter())[q.answer] += 1
    answers = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
    return {
        "majority": accuracies(np.array([q.answer == commonest for q in test]), test),
        "question": accuracies(
            np.array([q.answer == answers.get(q.text, commonest) for q in test]), test
        ),
    }


def probes(
    train: Sequence[EasyVqaQuestion],
    test: Sequence[EasyVqaQuestion],
    features: Float[np.ndarray, "n c"],
    seed: int,
    components: int = 64,
) -> dict[str, dict[str, float]]:
    """What classifiers of answers make of a picture's features beside the question's words.

    A linear one cannot join the two: "is it red?" needs their product. Needs scikit-learn.

    Args:
      train: questions with their answers.
      test: what is to be answered.
      features: of all pictures that the questions are about, by number.
      seed: of the network's first weights.
      components: principal components of the features that are kept.

    Returns:
      `probe_linear`: logistic regression; `probe_mlp`: a network of one hidden layer of 128; each
      as `accuracies`.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    train_features = features[sorted({q.image for q in train})]
    reduced = (
        PCA(min(components, *train_features.shape), random_state=seed)
        .fit(train_features)
        .transform(features)
    )
    words = CountVectorizer(binary=True).fit([q.text for q in train])

    def joined(questions: Sequence[EasyVqaQuestion]) -> Float[np.ndarray, "q d"]:
        bags = words.transform([q.text for q in questions]).toarray()
        return np.concatenate([reduced[[q.image for q in questions]], bags], axis=1)

    scaler = StandardScaler().fit(joined(train))
    x, y = scaler.transform(joined(train)), [q.answer for q in train]
    truths = np.array([q.answer for q in test])
    network = MLPClassifier(
        (128,), max_iter=200, random_state=seed, early_stopping=len(y) >= LEAST_HELD_OUT
    )
    by_probe: dict[str, dict[str, float]] = {}
    for name, model in (
        ("probe_linear", LogisticRegression(max_iter=1000)),
        ("probe_mlp", network),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a few questions are learned whole
            model.fit(x, y)
        by_probe[name] = accuracies(model.predict(scaler.transform(joined(test))) == truths, test)
    return by_probe
