"""Settings of dual encoders: what is trained on which, and by which loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmjax.errors import check
from mmjax.specs.bounds import (
    MIN_TEMPERATURE,
    Count,
    Few,
    Part,
    Rate,
    Temperature,
    Weight,
    Width,
    WidthOrNone,
)
from mmjax.specs.family import (
    TaskSettings,
    check_adapters,
    check_select,
    check_sides,
    refuse_others,
)

if TYPE_CHECKING:
    from mmjax.specs.spec import Stage

# CLIP's range of a learnt 1 / exp(logit_scale); no loss uses a lower temperature, learnt or not.
MAX_TEMPERATURE = 1.0


@dataclass(frozen=True)
class HeadSpec:
    """A small head over frozen features; see `mmjax.adapters.projection.ProjectionHead`.

    Attributes:
      hidden: widths of the hidden layers; empty for a plain linear map.
      out_dim: width of one member's output; the joint space has members x out_dim dimensions.
      dropout: on the input features.
      hidden_dropout: on every hidden layer.
      members: independent copies; a pair's similarity is the mean of theirs.
    """

    hidden: tuple[Width, ...] = ()
    out_dim: Width = 256
    dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    members: Few = 1


@dataclass(frozen=True)
class AdapterSpec:
    """The language adapter: linear, `num_layers` transformer layers, masked mean, linear.

    Attributes:
      kind: `transformer`; or the baselines without one, on the mean token: `linear` (one linear
        map) and `mlp` (a GELU layer of width `skip_hidden` beside it).
      width: of the transformer layers.
      num_layers: 1 or 2 in the talk; any number is allowed.
      num_heads: attention heads; divides `width`.
      mlp_ratio: hidden width of the feed-forward part over `width`.
      dropout: after attention, in and after the feed-forward part, and before the output.
      input_dropout: on the standardised tokens (for `linear`: on their mean).
      skip: adds a linear map of the mean token to the output.
      skip_hidden: width of a GELU layer beside that linear map; 0 for none.
      members: copies of that map, trained each for itself; their outputs are averaged.
      space: `joint` maps into the joint space after the base's text head, `encoder` into the frozen
        text encoder's own embedding space (the base's text head follows, frozen).
    """

    kind: Literal["transformer", "linear", "mlp"] = "transformer"
    width: Width = 384
    num_layers: Few = 1
    num_heads: Few = 6
    mlp_ratio: Few = 4
    dropout: Rate = 0.1
    input_dropout: Rate = 0.0
    skip: bool = False
    skip_hidden: WidthOrNone = 0
    members: Few = 1
    space: Literal["joint", "encoder"] = "joint"

    def __post_init__(self) -> None:
        """Checks that the heads divide the width."""
        expected = f"a divisor of adapter.width={self.width}"
        good = self.num_heads > 0 and self.width % self.num_heads == 0
        check(good, "adapter.num_heads", self.num_heads, expected)


@dataclass(frozen=True)
class ResidualSpec:
    """What the `domain` task trains on top of a frozen dual encoder.

    Attributes:
      tune: `adapter` (residual adapters; see `mmjax.adapters.residual`), `heads` (all that the
        base itself trained, from where it stands; of a pretrained base its temperature), or `none`:
        nothing but what `adapters` put into the encoders.
      towers: which towers get an adapter.
      bottleneck: hidden width of the adapter.
      ratio: residual ratio of CLIP-Adapter: the adapter's share of the mixture, below 1.
      dropout: rate on the adapter's input and hidden layer.
    """

    tune: Literal["adapter", "heads", "none"] = "adapter"
    towers: tuple[str, ...] = ("image", "text")
    bottleneck: Width = 128
    ratio: Part = 0.2
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        """Checks the towers."""
        good = bool(self.towers) and set(self.towers) <= {"image", "text"}
        check(good, "residual.towers", self.towers, "('image', 'text') or one of them")


@dataclass(frozen=True)
class WeightingSpec:
    """Which pairs, and which negatives, count more; see `mmjax.losses.weighting`.

    Attributes:
      pairs: `none`, `focal` or `loss_softmax`.
      gamma: of `focal`; 0 weighs all pairs alike.
      temperature: of `loss_softmax`; the higher, the more alike.
      beta: concentration on hard negatives (HCL); 0 for none.
      tau_plus: share of the negatives that are taken to be positives (HCL).
    """

    pairs: Literal["none", "focal", "loss_softmax"] = "none"
    gamma: Weight = 1.0
    temperature: Temperature = 1.0
    beta: Weight = 0.0
    tau_plus: Rate = 0.0


@dataclass(frozen=True)
class ContinualSpec:
    """How the `domain` task is kept from forgetting what its base was trained on.

    Attributes:
      kind: `none`; `ewc` (elastic weight consolidation: parameters that mattered for the base's
        training pairs are held) or `distill` (embeddings of the base's training pictures and texts
        are held at those of the frozen base; no pair is needed for it).
      weight: of the penalty beside the contrastive loss.
      fisher_batches: batches of the base's training pairs that `ewc` reads before the first step.
      fisher_batch_size: pairs in each of them.
    """

    kind: Literal["none", "ewc", "distill"] = "none"
    weight: Weight = 1.0
    fisher_batches: Count = 16
    fisher_batch_size: Count = 64


@dataclass(frozen=True)
class LossSpec:
    """Which objective, with its own numbers.

    Attributes:
      kind: `contrastive` (symmetric InfoNCE), `distill_mse` (un-normalised), `distill_cosine` or
        `two_stage` (distillation, then contrastive with images frozen).
      distill: which distillation `two_stage` begins with.
      second_stage_from: share of the steps after which `two_stage` turns to the contrastive loss.
      init_temperature: 1 / exp(logit_scale) at the start of a contrastive loss; at least 0.01, and
        at most 1 where it is learnt.
      learn_temperature: whether logit_scale is trained; it is kept between those two, as CLIP's.
      label_smoothing: of the contrastive targets.
    """

    kind: Literal["contrastive", "distill_mse", "distill_cosine", "two_stage"] = "contrastive"
    distill: Literal["mse", "cosine"] = "mse"
    second_stage_from: Part = 0.7
    init_temperature: Temperature = 0.07
    learn_temperature: bool = True
    label_smoothing: Rate = 0.0

    def __post_init__(self) -> None:
        """Checks the temperature."""
        highest = MAX_TEMPERATURE if self.learn_temperature else math.inf
        check(
            MIN_TEMPERATURE <= self.init_temperature <= highest,
            "loss.init_temperature",
            self.init_temperature,
            f"at least {MIN_TEMPERATURE}, and at most {MAX_TEMPERATURE:g} where it is learnt",
        )


_RETRIEVED = ("mR", "t2i_mR", "none")  # no twins of queries are measured
_ANY = ("mR", "t2t_mR", "t2i_mR", "cosine_to_base", "none")
_JOINED, _ADAPTED = frozenset({"image", "text"}), frozenset({"image", "text", "foreign"})


def _check_pairs(stage: Stage) -> None:
    """Of `contrastive` and `domain`."""
    refuse_others(stage, ("adapters", "train.accumulate"))
    t = stage.train
    expected = f"a multiple of train.accumulate={t.accumulate}"
    check(t.batch_size % t.accumulate == 0, "train.batch_size", t.batch_size, expected)
    check_select(stage, _RETRIEVED)
    check_sides(stage)


def _check_pretrained(stage: Stage) -> None:
    refuse_others(stage)
    check_select(stage, _ANY, "another one for this task")
    for role, spec in stage.encoders.items():
        check(spec.output == "pooled", f"encoders.{role}.output", spec.output, "'pooled'")


def _check_language(stage: Stage) -> None:
    refuse_others(stage, ("loss.kind", "adapters"))
    check_adapters(stage, ("foreign",), "the base's own encoders are what it learns from")
    check_select(stage, _ANY, "another one for this task")
    held = stage.parallel.val_pairs > 0
    if held:
        choices = ("cosine_to_base", "t2t_mR", "none")
        check_select(stage, choices, f"with val_pairs one of {choices}")
    captions = "captions" in stage.parallel.sources
    trains = captions or stage.loss.kind in ("contrastive", "two_stage")
    check_sides(stage, trains, chosen=not held)


CONTRASTIVE = TaskSettings((_JOINED,), _check_pairs, other_evals=True)
PRETRAINED = TaskSettings((_JOINED,), _check_pretrained, other_evals=True)
LANGUAGE = TaskSettings(
    (_ADAPTED,),
    _check_language,
    other_evals=True,
    stands_on=("contrastive", "pretrained"),
    needs_base=True,
    own_encoders=True,
)
DOMAIN = TaskSettings(
    (_JOINED, _ADAPTED),
    _check_pairs,
    other_evals=True,
    stands_on=("contrastive", "pretrained", "language"),
    needs_base=True,
    benchmarks=False,
)
