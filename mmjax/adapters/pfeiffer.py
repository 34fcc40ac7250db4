"""Pfeiffer's adapters: one bottleneck a layer, after the feed-forward part."""

import dataclasses
from typing import ClassVar

from mmjax.adapters.hooks import FEED_FORWARD_OUTPUT
from mmjax.adapters.houlsby import Houlsby


@dataclasses.dataclass(frozen=True)
class Pfeiffer(Houlsby):
    """As `Houlsby`, after the feed-forward part alone.

    Source: Pfeiffer et al. 2020 (AdapterFusion, arXiv 2005.00247), section 5.1 and figure 5.
    """

    places: ClassVar[tuple[str, ...]] = (FEED_FORWARD_OUTPUT,)
