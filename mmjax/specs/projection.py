"""Settings of small projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmjax.errors import check
from mmjax.specs.bounds import MIN_TEMPERATURE, Rate, Temperature, Width, WidthOrNone
from mmjax.specs.family import TaskSettings, check_select, check_sides, refuse_others

if TYPE_CHECKING:
    from mmjax.specs.spec import Stage


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
      features: modalities that the data brings as vectors or columns, by name, beside those that
        encoders make; see `mmjax.data.corpora.embeddings`.
      positive: a class whose own F1 is measured too, as the paper has it of two classes.
    """

    loss: Literal["pairwise_bce", "supcon", "infonce"] = "pairwise_bce"
    mode: Literal["per_modality", "single"] = "per_modality"
    hidden: WidthOrNone = 0
    out_dim: Width = 128
    normalize: bool | None = None
    temperature: Temperature = 0.1
    dropout: Rate = 0.0
    standardize: bool = False
    features: tuple[str, ...] = ()
    positive: str = ""

    def __post_init__(self) -> None:
        """Checks the temperature, and that each modality has a name of its own."""
        names = self.features
        good = len(set(names)) == len(names) and all(name.isidentifier() for name in names)
        free = not {"image", "text", "joined", "label", "adapters"} & set(names)
        expected = "different names of letters, none of them image, text, joined, label or adapters"
        check(good and free, "projection.features", names, expected)
        good = self.temperature >= MIN_TEMPERATURE
        check(good, "projection.temperature", self.temperature, f"at least {MIN_TEMPERATURE}")


def _check(stage: Stage) -> None:
    projection, pairs, cached = stage.projection, stage.pairs, stage.train.cache_features
    refuse_others(stage, ("adapters", "pairs.train_fraction"))
    check_sides(stage)
    check_select(stage, ("knn_acc", "none"), "'knn_acc' or 'none' here")
    check(cached, "train.cache_features", cached, "True: probes read the frozen features")
    for name in ("styles", "views"):
        values = getattr(pairs, name)
        check(len(values) == 1, f"pairs.{name}", values, "one alone for this task")
    modalities = len(stage.encoders) + len(projection.features)
    check(modalities > 0, "encoders", {}, "an encoder, or projection.features")
    if projection.loss == "infonce":
        several = modalities > 1 and projection.mode == "per_modality"
        expected = "two encoders and mode 'per_modality' for it"
        check(several, "projection.loss", projection.loss, expected)


FAMILY = TaskSettings(
    (frozenset({"image", "text"}), frozenset({"image"}), frozenset({"text"}), frozenset()),
    _check,
    lambda _: (("probe",), ("probe",)),
    learns_labels=True,
)
