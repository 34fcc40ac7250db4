"""Columns of measurements beside notes, either of which may lack: a stand-in for clinical data.

  python -m mmjax.main --config configs/projection_breast_cancer.py
  python -m mmjax.main --config configs/projection_breast_cancer.py:columns   # no encoder at all

scikit-learn's breast cancer table: 569 cases, 30 numbers each, malignant or benign. The numbers are
real; the notes are sentences that mmjax makes of some of them, for four cases of five, and every
tenth case lacks its numbers (`mmjax/data/corpora/breast_cancer.py`). Figures say how projections
behave where a modality lacks by row, nothing about notes that people write. The paper's pairwise
loss, a projector a modality; beside it SupCon, raw features, PCA and LDA, under seven classifiers;
F1 of the malignant class, as the paper reports it, and what fitting and storing cost. Needs the
extra `sklearn`, and the asset minilm-l6 but for `:columns`.

Measured: not yet.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.projection_emoji import get_config as get_emoji


def get_config(choice: str = "") -> ConfigDict:
    """The recipe; `choice` is empty, `columns`, `tiny`, or both of these with a comma."""
    words = set(choice.split(",")) - {""}
    if words - {"columns", "tiny"}:
        raise ValueError(f"{choice!r}; expected 'columns', 'tiny', both with a comma, or nothing")
    tiny = "tiny" in words
    config: Any = get_emoji("tiny" if tiny else "")
    config.name = "_".join(["projection_breast_cancer", *sorted(words)])
    config.encoders = ConfigDict()
    if "columns" not in words:
        config.encoders = dict(text=dict(source="asset:minilm-l6", output="pooled"))
    config.pairs = dict(
        source="breast_cancer", folds=5, val_fraction=0.16, limit=120 if tiny else 0
    )
    config.projection = dict(
        loss="pairwise_bce",
        mode="per_modality",
        hidden=0,
        out_dim=128,
        temperature=0.1,
        dropout=0.0,
        standardize=True,  # numbers of a table are on scales of their own
        features=("columns",),
        positive="malignant",
    )
    config.optim = dict(name="adamw", lr=1e-3, weight_decay=0.0, schedule="constant")
    config.train.steps = 6 if tiny else 30  # about ten epochs of 128
    config.train.eval_every = 3 if tiny else 30
    config.train.save_every = 3 if tiny else 30
    config.variants = dict(
        supcon=dict(projection=dict(loss="supcon", hidden=64, dropout=0.1)),
    )
    return config
