"""A stand-in for clinical notes beside measurements: scikit-learn's breast cancer table.

569 real fine-needle aspirates, 30 numbers each, malignant or benign (Wolberg, Street, Mangasarian,
1995, UCI Machine Learning Repository); they come inside the scikit-learn package (extra `sklearn`).
The notes are made up: sentences of coarse words for some of the same numbers, none for every fifth
row, so that a modality lacks by row as in a clinic. What is measured on them says how the method
behaves, nothing about notes that people write.
"""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.data.corpora.embeddings import COLUMNS
from mmjax.data.records import Corpus, Item
from mmjax.errors import MmjaxError
from mmjax.specs.data import PairsSpec

LANGUAGE = "en"
NAMES = ("malignant", "benign")  # as scikit-learn counts them
SENTENCES = 4  # of a note
_WORDS = ("very small", "small", "moderate", "large", "very large")
_NO_NOTE, _NO_NUMBERS = 0.2, 0.1  # shares of the rows that lack one of the two, never both
_FORMS = ("{0} is {1}.", "There is {1} {0}.", "Noted: {1} {0}.")


def load_breast_cancer(place: str, spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the table, with a note for most of its rows.

    Args:
      place: "": the package has it.
      spec: as of every corpus; nothing of it is read here.
      languages: with `en` among them.

    Returns:
      The corpus: a row's numbers are the modality `columns`, its note is its caption.

    Raises:
      MmjaxError: scikit-learn is not installed, or another language alone.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise MmjaxError(
            "config.pairs.source 'breast_cancer' comes with scikit-learn: "
            "python -m pip install 'mmjax[sklearn]'"
        ) from error
    if LANGUAGE not in languages:
        raise MmjaxError(
            f"config.languages is {tuple(languages)}; the notes of breast_cancer are in 'en'"
        )
    dataset: Any = load_breast_cancer()
    numbers, classes = np.asarray(dataset["data"], np.float32), np.asarray(dataset["target"])
    features = [str(name) for name in dataset["feature_names"]]
    # Fifths of all rows: the words of a scale that a reader has, not of the split.
    edges = np.quantile(numbers, (0.2, 0.4, 0.6, 0.8), axis=0)
    items: list[Item] = []
    for i, (row, kind) in enumerate(zip(numbers, classes, strict=True)):
        rng = np.random.default_rng(zlib.crc32(f"note {i}".encode()))
        draw = rng.random()
        captions = {LANGUAGE: (_note(row, features, edges, rng),)} if draw >= _NO_NOTE else {}
        measured = {COLUMNS: row} if draw < 1 - _NO_NUMBERS else {}
        name = f"case-{i:03d}"
        items.append(Item(name, name, NAMES[kind], captions, {}, keywords=False, features=measured))
    labels = {name: {LANGUAGE: name} for name in NAMES}
    digest = hashlib.sha256(numbers.tobytes() + classes.tobytes() + b"notes 1")
    return Corpus("breast_cancer", tuple(items), labels, digest.hexdigest())


def _note(
    row: Float[np.ndarray, " d"],
    features: Sequence[str],
    edges: Float[np.ndarray, "e d"],
    rng: np.random.Generator,
) -> str:
    """A few of a row's numbers in words; the class is no part of it."""
    chosen = rng.permutation(len(features))[:SENTENCES]
    sentences = [
        _FORMS[int(rng.integers(len(_FORMS)))].format(
            features[k], _WORDS[int((row[k] > edges[:, k]).sum())]
        )
        for k in chosen
    ]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
