"""Drama against comedy by poster and plot (MM-IMDb), as in the paper of the projection.

  python -m mmjax.main --config configs/projection_mmimdb.py:path/to/mmimdb

Needs MM-IMDb as its authors pack it (`mmjax/data/corpora/mmimdb.py` says how the files look), the
extra `sklearn`, and the paper's two encoders, from a hub or as local folders: ViT-B/16 of
ImageNet-21k and uncased BERT, the CLS token of each.

Measured: not yet; the loader is tested on files in the same format.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.projection_emoji import get_config as get_emoji


def get_config(folder: str = "data/mmimdb") -> ConfigDict:
    """The recipe; `folder` holds the data."""
    config: Any = get_emoji()
    config.name = "projection_mmimdb"
    config.encoders = dict(
        image=dict(source="hf:google/vit-base-patch16-224-in21k", output="cls"),
        text=dict(source="hf:google-bert/bert-base-uncased", output="cls", max_length=128),
    )
    config.pairs = dict(source=f"mmimdb:{folder}", folds=5, val_fraction=0.16)
    config.train.update(dict(steps=800, eval_every=200, save_every=200))
    config.variants.paper.train.update(dict(steps=600))  # about ten epochs
    return config
