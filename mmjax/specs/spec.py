"""One training run as frozen dataclasses: names, choices, defaults, and sizes that fit together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from mmjax.errors import check
from mmjax.specs.bounds import (
    Bounds,
    Count,
    Few,
    Fraction,
    Natural,
    Rate,
    Weight,
    check_all,
)
from mmjax.specs.build import build
from mmjax.specs.data import PairsSpec, ParallelSpec
from mmjax.specs.dual_encoder import (
    AdapterSpec,
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.specs.families import family_of
from mmjax.specs.family import check_kinds
from mmjax.specs.instruct import InstructSpec, QuestionsSpec
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.prompts import FewShotSpec, PromptSpec

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen encoder and which of its outputs the task reads.

    Attributes:
      source: `asset:NAME`, a local folder in HF layout, or `hf:org/name[@revision]`.
      output: `pooled` (the encoder's own embedding), `tokens` (every token), `tokens_deep`
        (beside each the same token after five sixths and after half of the layers), `cls`,
        `cls_mean` (CLS beside the mean patch token), or `cls_mean_deep` (beside them CLS after the
        five layers before the last).
      dtype: of the weights and the forward pass.
      image_size: side of the square picture in pixels; None keeps the encoder's own.
      max_length: tokens kept of a text; longer ones are truncated, counted and reported.
      tower: which tower of a source that has two, such as CLIP; None takes the role's.
      pooling: of a text encoder's tokens, instead of what its folder says; see
        `mmjax.load_encoder`.
      quantize: `int8` keeps the kernels of dense layers in a quarter of float32, `nf4` in an
        eighth; None in `dtype`.
      family: `package.module:Name` of an encoder family of another package; None takes what the
        source says.
      pictures: prepared with the encoder's `own` constants, or as `imagenet_square`: squashed to a
        square, with ImageNet's mean and deviation, as LaVIN gives them to CLIP.
    """

    source: str
    output: Literal["pooled", "tokens", "tokens_deep", "cls", "cls_mean", "cls_mean_deep"] = (
        "pooled"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    image_size: Annotated[int, Bounds(8, 2048)] | None = None
    max_length: Annotated[int, Bounds(3, 1 << 20)] | None = None
    tower: Literal["text", "image"] | None = None
    pooling: Literal["mean", "cls", "max", "pooler", "classifier"] | None = None
    quantize: Literal["int8", "nf4"] | None = None
    family: str | None = None
    pictures: Literal["own", "imagenet_square"] = "own"


@dataclass(frozen=True)
class RateSpec:
    """A learning rate of some parameters' own.

    Attributes:
      parameters: a pattern (regular expression) of their whole paths, as `params.txt` has them.
      factor: of the schedule's rate.
    """

    parameters: str
    factor: Annotated[float, Bounds(0, 1e6)]

    def __post_init__(self) -> None:
        """Checks the pattern."""
        try:
            re.compile(self.parameters)
        except re.error as error:
            expected = f"a regular expression ({error})"
            check(False, "optim.rates.parameters", self.parameters, expected)


@dataclass(frozen=True)
class OptimSpec:
    """The optimizer: see `mmjax.optim`.

    Attributes:
      name: `adamw` or `sgd`.
      lr: peak of the schedule.
      weight_decay: times the learning rate; decoupled in `adamw`, part of the gradient in `sgd`.
        A run's `params.txt` says which parameters it pulls towards 0.
      decay: what is decayed: `matrices` (every parameter with two axes or more that is no bias,
        scale or shift: kernels, prompts' vectors, residuals, prototypes, embeddings) or `kernels`
        (those of dense layers alone).
      b1: of Adam; the momentum of `sgd`.
      b2: of Adam.
      schedule: of the learning rate after the warm-up.
      warmup_steps: linear, from 0.
      final_fraction: of `lr`, at which the schedule ends.
      clip_norm: of the whole gradient; 0 for none.
      rates: of parameters that learn slower or faster than others, decay included; of several
        patterns that match a parameter the first counts.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Bounds(1e-30, 1e38)] = 1e-3  # what float32 holds
    weight_decay: Weight = 0.0
    decay: Literal["matrices", "kernels"] = "matrices"
    b1: Rate = 0.9
    b2: Rate = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Natural = 0
    final_fraction: Fraction = 0.0
    clip_norm: Weight = 0.0
    rates: tuple[RateSpec, ...] = ()


@dataclass(frozen=True)
class TrainSpec:
    """The loop.

    Attributes:
      steps: optimizer steps.
      batch_size: examples a step, over all devices and processes.
      accumulate: parts that a batch is cut into to save memory. The gradient is that of the whole
        batch, also of a contrastive loss (`mmjax.tasks.gradient_cache`).
      eval_every: steps between validations (also after the last step).
      patience: validations without a better value before the run stops early; 0 never stops.
      save_every: steps between checkpoints (also after the last step).
      keep: checkpoints kept.
      log_every: steps between lines of metrics.
      select: validation metric whose best step becomes the adapter (higher is better), one of the
        task's; `none` takes the last step.
      cache_features: read frozen features from the cache; False runs the encoders in every step.
    """

    steps: Natural = 300
    batch_size: Count = 512
    accumulate: Count = 1
    eval_every: Count = 50
    patience: Natural = 0
    save_every: Count = 100
    keep: Few = 2
    log_every: Count = 10
    select: str = "mR"
    cache_features: bool = True


@dataclass(frozen=True)
class MeshSpec:
    """Sizes of the mesh axes.

    Attributes:
      data: splits the batch; -1 takes the devices that `model` leaves.
      model: splits large weights.
      slices: TPU slices that a slower network joins; `data` goes over them, `model` stays in one.
      fsdp: whether weights that learn, and their moments, are split over `data` too.
    """

    data: Annotated[int, Bounds(1, 1 << 20, besides=(-1,))] = -1
    model: Annotated[int, Bounds(1, 1 << 20)] = 1
    slices: Annotated[int, Bounds(1, 1 << 10)] = 1
    fsdp: bool = False


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe: a task, its data, its sizes.

    Attributes:
      name: its folder below the run's seed folder.
      task: `contrastive` (two heads over frozen towers), `pretrained` (two frozen towers that share
        a space already, such as CLIP's: nothing is trained), `language` (the language adapter),
        `domain` (residual adapters on a dual encoder that one of the others made), `projection`
        (small projectors trained on labels), `prompts` (few-shot classification with a dual
        encoder) or `instruct` (adapters that let a language model answer about pictures).
      encoders: role -> encoder. Roles: `image`, `text` and, for `language` and for a `domain` on
        top of one, `foreign`; `projection` takes any of the first two, `instruct` `image` and
        `language`.
      adapters: role -> an adapter in that encoder, which is trained beside what the task trains:
        its `kind`, one of `mmjax.specs.adapters` or `package.module:Name`, and its settings. The
        encoder runs in every step then, whatever `train.cache_features` says.
      settings: of a task of another package: its family's own dataclass.
    """

    name: str
    task: str
    encoders: dict[str, EncoderSpec]
    pairs: PairsSpec = field(default_factory=PairsSpec)
    parallel: ParallelSpec = field(default_factory=ParallelSpec)
    image_head: HeadSpec = field(default_factory=HeadSpec)
    text_head: HeadSpec = field(default_factory=HeadSpec)
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    residual: ResidualSpec = field(default_factory=ResidualSpec)
    weighting: WeightingSpec = field(default_factory=WeightingSpec)
    continual: ContinualSpec = field(default_factory=ContinualSpec)
    projection: ProjectionSpec = field(default_factory=ProjectionSpec)
    prompts: PromptSpec = field(default_factory=PromptSpec)
    fewshot: FewShotSpec = field(default_factory=FewShotSpec)
    questions: QuestionsSpec = field(default_factory=QuestionsSpec)
    instruct: InstructSpec = field(default_factory=InstructSpec)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    loss: LossSpec = field(default_factory=LossSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    settings: object = None

    def settings_as(self, kind: type[T]) -> T:
        """The settings of another package's task, which are of this type."""
        assert isinstance(self.settings, kind)
        return self.settings

    def caches(self, role: str) -> bool:
        """Whether an encoder's features are computed once and for all."""
        in_step = (*self.adapters, *family_of(self.task).in_step(self))
        return self.train.cache_features and role not in in_step

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        return "foreign" if "foreign" in self.encoders else "text"

    def __post_init__(self) -> None:
        """Checks every number, and what one field alone cannot show."""
        check_all(self)
        family = family_of(self.task)
        check(
            frozenset(self.encoders) in family.roles,
            "encoders",
            sorted(self.encoders),
            f"the roles {' or '.join(str(sorted(r)) for r in family.roles)}",
        )
        for role, e in self.encoders.items():
            good = role == "image" or e.pictures == "own"
            check(good, f"encoders.{role}.pictures", e.pictures, "'own' for what reads no pictures")
        check_kinds(self, family.inside)
        t, p = self.train, self.pairs
        free = self.prompts.method == "tip_adapter"
        check(t.steps >= 1 or free, "train.steps", t.steps, "at least 1")
        check(t.batch_size >= 2, "train.batch_size", t.batch_size, "at least 2")
        for where, shares in (("pairs", p), ("pairs.domain", p.domain)):
            check(
                shares.test_fraction + shares.val_fraction < 0.9,
                f"{where}.val_fraction",
                shares.val_fraction,
                "test and validation together under 0.9 of the items",
            )
        check(
            bool(p.styles) and bool(p.views), "pairs.views", p.views, "at least one style and view"
        )
        splits = {"train", "val", "test"}
        check(
            "test" in p.sides and set(p.sides) <= splits,
            "pairs.sides",
            p.sides,
            f"'test', and of {sorted(splits - {'test'})} what is wanted beside it",
        )
        for name in ("out_dim", "members"):
            image, text = getattr(self.image_head, name), getattr(self.text_head, name)
            check(image == text, f"text_head.{name}", text, f"{image}: both heads share one space")
        family.check(self)


def read_stage(values: Mapping[str, Any], where: str = "") -> Stage:
    """A stage from its settings, those of another package's task among them.

    Args:
      values: field name -> value; nested mappings for nested dataclasses.
      where: the mapping's place in the recipe, for messages.

    Raises:
      MmjaxError: an unknown name, a missing one, a value of another type or out of its bounds.
    """
    task, own, name = values.get("task"), values.get("settings"), "settings"
    kind = family_of(task).settings if isinstance(task, str) else None
    if kind is not None:
        own = build(kind, {} if own is None else own, f"{where}.{name}" if where else name)
    else:
        check(not own, name, own, "nothing: the settings of this task have names of their own")
        own = None
    return build(Stage, {**values, name: own}, where)
