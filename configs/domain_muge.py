"""Chinese e-commerce (MUGE) for the dual encoder that `language_emoji` made.

  python -m mmjax.main --config configs/domain_muge.py:path/to/MUGE

Needs a finished run of `language_emoji` in runs/language_emoji, and MUGE in Chinese-CLIP's layout
(`mmjax/data/corpora/cn_clip.py` says how the files look), which Chinese-CLIP's README links. Its
validation set is the test set here, measured as on its leaderboard: all pictures in the gallery,
any right one among the first k. What is forgotten is measured on the emoji.

Measured: not yet; the loader is tested on files in the same format.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.domain_emoji import get_config as get_domain
from configs.language_emoji import get_config as get_base


def get_config(folder: str = "data/MUGE") -> ConfigDict:
    """The recipe; `folder` holds the data."""
    base: Any = get_base()
    config: Any = get_domain()
    config.name = "domain_muge"
    config.seeds = (0,)
    del config.base  # a recipe there, a path here
    config.base = "runs/language_emoji"
    config.encoders = base.encoders
    config.pairs = dict(source=f"muge:{folder}", val_fraction=0.02)
    config.loss.learn_temperature = True  # a language adapter has none
    config.train.update(dict(steps=2000, batch_size=512, eval_every=200, save_every=200))
    config.variants = dict(plain=dict(weighting=dict(pairs="none")))
    return config
