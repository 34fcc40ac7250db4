"""One training run as frozen dataclasses: names, choices, defaults, and sizes that fit together."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

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
from mmjax.specs.data import PairsSpec, ParallelSpec
from mmjax.specs.dual_encoder import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    AdapterSpec,
    ContinualSpec,
    HeadSpec,
    LossSpec,
    ResidualSpec,
    WeightingSpec,
)
from mmjax.specs.instruct import InstructSpec, QuestionsSpec
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.prompts import FewShotSpec, PromptSpec


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
    pictures: Literal["own", "imagenet_square"] = "own"


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


@dataclass(frozen=True)
class TrainSpec:
    """The loop.

    Attributes:
      steps: optimizer steps.
      batch_size: examples a step, over all devices and processes.
      accumulate: parts that a batch is cut into to save memory; `instruct` only.
      eval_every: steps between validations (also after the last step).
      patience: validations without a better value before the run stops early; 0 never stops.
      save_every: steps between checkpoints (also after the last step).
      keep: checkpoints kept.
      log_every: steps between lines of metrics.
      select: validation metric whose best step becomes the adapter (higher is better).
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
    select: Literal["mR", "t2t_mR", "t2i_mR", "cosine_to_base", "knn_acc", "vqa_acc", "none"] = "mR"
    cache_features: bool = True


@dataclass(frozen=True)
class MeshSpec:
    """Sizes of the mesh axes.

    Attributes:
      data: splits the batch; -1 takes the devices that `model` leaves.
      model: splits large weights.
    """

    data: Annotated[int, Bounds(1, 1 << 20, besides=(-1,))] = -1
    model: Annotated[int, Bounds(1, 1 << 20)] = 1


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
    """

    name: str
    task: Literal[
        "contrastive", "pretrained", "language", "domain", "projection", "prompts", "instruct"
    ]
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
    loss: LossSpec = field(default_factory=LossSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    @property
    def text_role(self) -> str:
        """The encoder that reads queries."""
        return "foreign" if "foreign" in self.encoders else "text"

    def __post_init__(self) -> None:
        """Checks every number, and what one field alone cannot show."""
        check_all(self)
        joined, adapted = {"image", "text"}, {"image", "text", "foreign"}
        roles = {
            "contrastive": (joined,),
            "pretrained": (joined,),
            "language": (adapted,),
            "domain": (joined, adapted),
            "projection": (joined, {"image"}, {"text"}),
            "prompts": (joined,),
            "instruct": ({"image", "language"},),
        }[self.task]
        check(
            set(self.encoders) in roles,
            "encoders",
            sorted(self.encoders),
            f"the roles {' or '.join(str(sorted(r)) for r in roles)}",
        )
        for role, e in self.encoders.items():
            good = role == "image" or e.pictures == "own"
            check(good, f"encoders.{role}.pictures", e.pictures, "'own' for what reads no pictures")
        t, p, a, loss = self.train, self.pairs, self.adapter, self.loss
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
        check(
            a.width % a.num_heads == 0,
            "adapter.num_heads",
            a.num_heads,
            f"a divisor of adapter.width={a.width}",
        )
        for name in ("out_dim", "members"):
            image, text = getattr(self.image_head, name), getattr(self.text_head, name)
            check(image == text, f"text_head.{name}", text, f"{image}: both heads share one space")
        highest = MAX_TEMPERATURE if loss.learn_temperature else math.inf
        check(
            MIN_TEMPERATURE <= loss.init_temperature <= highest,
            "loss.init_temperature",
            loss.init_temperature,
            f"at least {MIN_TEMPERATURE}, and at most {MAX_TEMPERATURE:g} where it is learnt",
        )
        if self.task != "language":
            check(loss.kind == "contrastive", "loss.kind", loss.kind, "'contrastive' for this task")
        if self.task in ("contrastive", "domain"):  # no twins of queries are measured there
            choices = ("mR", "t2i_mR", "none")
            check(t.select in choices, "train.select", t.select, f"one of {choices} for this task")
        self._check_pairs()
        self._check_domain()
        self._check_projection()
        self._check_instruct()
        if self.task == "prompts":
            check(t.select == "none", "train.select", t.select, "'none': no item chooses the step")
            check(t.cache_features, "train.cache_features", t.cache_features, "True for this task")
            output = self.encoders["text"].output
            check(output == "pooled", "encoders.text.output", output, "'pooled' for this task")

    def _check_instruct(self) -> None:
        t, each = self.train, self.questions.per_picture
        if self.task != "instruct":
            check(t.accumulate == 1, "train.accumulate", t.accumulate, "1 for this task")
            check(t.select != "vqa_acc", "train.select", t.select, "another one for this task")
            return
        check(t.select in ("vqa_acc", "none"), "train.select", t.select, "'vqa_acc' or 'none' here")
        if self.questions.evaluation == "held_out":
            check(t.select == "none", "train.select", t.select, "'none' for this source")
        adapted = self.instruct.visual and self.instruct.adapter != "none"
        expected = "False while adapters sit in the vision transformer (instruct.visual)"
        check(not (t.cache_features and adapted), "train.cache_features", True, expected)
        asked = self.questions.source.partition(":")[0] == "easy_vqa"
        expected = "False for other questions than easy_vqa"
        check(asked or not t.cache_features, "train.cache_features", True, expected)
        expected = f"a multiple of {t.accumulate * each}: accumulate x questions.per_picture"
        good = t.batch_size % (t.accumulate * each) == 0
        check(good, "train.batch_size", t.batch_size, expected)

    def _check_pairs(self) -> None:
        sides, held = self.pairs.sides, self.parallel.val_pairs
        known = {"train", "val", "test"}
        check(
            "test" in sides and set(sides) <= known,
            "pairs.sides",
            sides,
            f"'test', and of {sorted(known - {'test'})} what is wanted beside it",
        )
        if self.task == "pretrained":
            for role, spec in self.encoders.items():
                check(spec.output == "pooled", f"encoders.{role}.output", spec.output, "'pooled'")
            return
        language = self.task == "language"
        if language and held:
            select, choices = self.train.select, ("cosine_to_base", "t2t_mR", "none")
            check(select in choices, "train.select", select, f"with val_pairs one of {choices}")
        captions = language and "captions" in self.parallel.sources
        if not language or captions or self.loss.kind in ("contrastive", "two_stage"):
            check("train" in sides, "pairs.sides", sides, "'train' too: this stage trains on pairs")
        if not (language and held):
            wanted = "'train' or 'val' too (or parallel.val_pairs): the best step is chosen on them"
            check(len(set(sides) & {"train", "val"}) > 0, "pairs.sides", sides, wanted)

    def _check_domain(self) -> None:
        r = self.residual
        check(
            bool(r.towers) and set(r.towers) <= {"image", "text"},
            "residual.towers",
            r.towers,
            "('image', 'text') or one of them",
        )

    def _check_projection(self) -> None:
        p, pairs, t = self.projection, self.pairs, self.train
        good = p.temperature >= MIN_TEMPERATURE
        check(good, "projection.temperature", p.temperature, f"at least {MIN_TEMPERATURE}")
        if self.task != "projection":
            share = pairs.train_fraction
            check(share == 1, "pairs.train_fraction", share, "1 for this task")
            check(t.select != "knn_acc", "train.select", t.select, "another one for this task")
            return
        check(t.select in ("knn_acc", "none"), "train.select", t.select, "'knn_acc' or 'none' here")
        check(t.cache_features, "train.cache_features", False, "True: probes read the features")
        for name in ("styles", "views"):
            found = getattr(pairs, name)
            check(len(found) == 1, f"pairs.{name}", found, "one alone for this task")
        if p.loss == "infonce":
            several = len(self.encoders) > 1 and p.mode == "per_modality"
            check(several, "projection.loss", p.loss, "two encoders and mode 'per_modality' for it")
