"""LayerNorm tuning: scales and biases of all norms learn."""

import dataclasses

from mmjax.adapters.weights import Weights


@dataclasses.dataclass(frozen=True)
class LayerNormTuning(Weights):
    """As `Weights`, the parameters of layer norms and of RMS norms.

    Source: Zhao et al. 2023 (arXiv 2312.11420), section 2; PEFT's `LNTuningConfig`.
    """

    targets: tuple[str, ...] = (r"(.*/)?\w*norm\d?/(scale|bias)",)
