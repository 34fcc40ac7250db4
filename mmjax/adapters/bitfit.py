"""BitFit: the biases learn, and nothing else."""

import dataclasses

from mmjax.adapters.weights import Weights


@dataclasses.dataclass(frozen=True)
class BitFit(Weights):
    """As `Weights`, the biases of dense maps and norms.

    Source: Ben Zaken et al. 2021 (arXiv 2106.10199), section 3.
    """

    targets: tuple[str, ...] = (r"(.*/)?\w*bias",)
