"""scikit-learn's handwritten digits through DINOv2-small, projected towards their classes.

  python -m mmjax.main --config configs/projection_digits.py

The pictures come inside the scikit-learn package: 1,797 of them, 8 x 8 pixels, enlarged to 56.
Needs the asset dinov2-small (fetched on first use) and the extra `sklearn`.

Measured: not yet.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.projection_emoji import get_config as get_emoji


def get_config(choice: str = "") -> ConfigDict:
    """The recipe; `choice` is empty, or `tiny` for a try in seconds."""
    if choice not in ("", "tiny"):
        raise ValueError(f"{choice!r}; expected 'tiny' or nothing")
    tiny = choice == "tiny"
    config: Any = get_emoji(choice)
    config.name = f"projection_digits{'_tiny' if tiny else ''}"
    config.encoders = dict(
        image=dict(source="asset:dinov2-small", output="cls_mean", image_size=56)
    )
    config.pairs = dict(source="digits", folds=5, val_fraction=0.16, limit=200 if tiny else 0)
    return config
