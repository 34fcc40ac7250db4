"""Settings of small projections."""

from dataclasses import dataclass
from typing import Literal

from mmjax.specs.bounds import Rate, Temperature, Width, WidthOrNone


@dataclass(frozen=True)
class ProjectionSpec:
    """What the `projection` task trains; see `mmjax.adapters.projection.Projector`.

    Attributes:
      loss: `pairwise_bce` (the paper's), `supcon`, or `infonce` (across modalities; items of one
        label are each other's positives).
      mode: one projector `per_modality`, or a `single` one on all features side by side.
      hidden: width of the hidden layer; 0 takes the paper's min(d / 2, 16).
      out_dim: width of each projector's output.
      normalize: whether outputs are unit vectors; None: as usual for the loss (`pairwise_bce` no,
        the others yes).
      temperature: divides the logits; at least 0.01.
      dropout: on the input features.
      standardize: learn a shift and scale of the features first (not in the paper).
    """

    loss: Literal["pairwise_bce", "supcon", "infonce"] = "pairwise_bce"
    mode: Literal["per_modality", "single"] = "per_modality"
    hidden: WidthOrNone = 0
    out_dim: Width = 128
    normalize: bool | None = None
    temperature: Temperature = 0.1
    dropout: Rate = 0.0
    standardize: bool = False
