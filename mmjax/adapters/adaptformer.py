"""AdaptFormer: a bottleneck beside the feed-forward part of every layer."""

import dataclasses
from typing import ClassVar, Literal

from mmjax.adapters.hooks import FEED_FORWARD_OUTPUT
from mmjax.adapters.houlsby import Houlsby
from mmjax.specs.bounds import Scale


@dataclasses.dataclass(frozen=True)
class AdaptFormer(Houlsby):
    """As `Houlsby`, of what the feed-forward part has read: the two run side by side.

    Source: Chen et al. 2022 (arXiv 2205.13535), equations 4 and 5.
    """

    act: Literal["relu", "gelu", "silu"] = "relu"
    scale: Scale = 0.1
    places: ClassVar[tuple[str, ...]] = (FEED_FORWARD_OUTPUT,)
    parallel: ClassVar[bool] = True
