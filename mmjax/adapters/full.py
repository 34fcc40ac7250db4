"""Full fine-tuning: every weight of a tower learns."""

import dataclasses

from mmjax.adapters.weights import Weights


@dataclasses.dataclass(frozen=True)
class Full(Weights):
    """As `Weights`, all of them; one tower alone is LiT.

    Source: for one tower Zhai et al. 2022 (LiT, arXiv 2111.07991).
    """
