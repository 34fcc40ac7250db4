"""Photographs of dishes (Food-101) for the dual encoder that `base_emoji` made of drawn ones.

  python -m mmjax.main --config configs/domain_food101.py:path/to/food-101

Needs a finished run of `base_emoji` in runs/base_emoji, and Food-101 as its makers pack it
(`mmjax/data/corpora/food101.py` says how the files look). Pictures of one class share a caption and
are each other's positives. What is forgotten is measured on the emoji.

Measured: not yet; the loader is tested on files in the same format.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.domain_emoji import get_config as get_domain


def get_config(folder: str = "data/food-101") -> ConfigDict:
    """The recipe; `folder` holds the data."""
    config: Any = get_domain()
    config.name = "domain_food101"
    config.seeds = (0,)
    config.evals = ("retrieval", "zeroshot")
    del config.base  # a recipe there, a path here
    config.base = "runs/base_emoji"
    config.pairs = dict(source=f"food101:{folder}", val_fraction=0.05)
    config.train.update(dict(steps=2000, batch_size=512, eval_every=200, save_every=200))
    config.variants = dict(plain=dict(weighting=dict(pairs="none")))
    return config
