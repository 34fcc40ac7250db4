"""Your own ready embeddings and columns of numbers, projected towards their classes.

  python -m mmjax.main --config configs/projection_embeddings.py:data/cases.npz
  ... --config.projection.features='("note", "scan", "columns")'

The file is .npz, .parquet, .jsonl, .csv or .tsv: a `label` a row, vectors of any encoder, numbers;
a row may lack a modality (`mmjax/data/corpora/embeddings.py` says how). No encoder runs. To read
texts or pictures of the same rows beside them say so behind the file; the encoders are the paper's:

  configs/projection_embeddings.py:data/cases.parquet,text,image

The settings are the paper's (arXiv 2502.02048): pairwise BCE, hidden 16, 128 dimensions, ten epochs
of 128 for a thousand rows; set --config.train.steps to yours. With two classes
--config.projection.positive=NAME reports that class's own F1, as the paper does; weighted F1 does
not compare with it. Needs the extra `sklearn`.

Measured: not here; bring the data.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.projection_emoji import get_config as get_emoji

ENCODERS = dict(
    image=dict(source="hf:google/vit-base-patch16-224-in21k", output="cls"),
    text=dict(source="hf:google-bert/bert-base-uncased", output="cls", max_length=128),
)


def get_config(choice: str = "data/cases.npz") -> ConfigDict:
    """The recipe for a file; `,text` and `,image` behind it add encoders."""
    file, *roles = choice.split(",")
    if not set(roles) <= set(ENCODERS):
        raise ValueError(f"{choice!r}; expected a file, perhaps with ',text' or ',image' behind it")
    config: Any = get_emoji()
    config.name = f"projection_{file.rsplit('/', 1)[-1].partition('.')[0]}"
    config.encoders = ConfigDict({role: ENCODERS[role] for role in roles})
    config.pairs = dict(source=f"embeddings:{file}", folds=5, val_fraction=0.16)
    config.projection = dict(
        loss="pairwise_bce",
        mode="per_modality",
        hidden=0,
        out_dim=128,
        temperature=0.1,
        dropout=0.0,
        standardize=False,
        features=("columns",),
        positive="",
    )
    config.optim = dict(name="adamw", lr=1e-3, weight_decay=0.0, schedule="constant")
    config.train.update(dict(steps=80, eval_every=80, save_every=80))
    config.variants = dict(supcon=dict(projection=dict(loss="supcon", hidden=512, dropout=0.5)))
    return config
