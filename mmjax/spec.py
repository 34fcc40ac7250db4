"""One training run as frozen dataclasses: names, choices, defaults, and sizes that fit together."""

from dataclasses import dataclass, field
from typing import Literal

from mmjax.errors import check
from mmjax.fewshot_spec import FewShotSpec, PromptSpec
from mmjax.instruct_spec import InstructSpec, QuestionsSpec


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
    """

    source: str
    output: Literal["pooled", "tokens", "tokens_deep", "cls", "cls_mean", "cls_mean_deep"] = (
        "pooled"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    image_size: int | None = None
    max_length: int | None = None
    tower: Literal["text", "image"] | None = None


@dataclass(frozen=True)
class DomainSpec:
    """Which items are a domain. Other tasks than `domain` neither train on them nor test on them.

    Attributes:
      labels: of the items that are the domain; empty where the whole source is.
      fraction: share of the domain's training items that is read: how few pairs are enough?
      test_fraction: share of the domain's items held out for the test, families kept whole.
      val_fraction: share of the domain's items held out for model selection.
    """

    labels: tuple[str, ...] = ()
    fraction: float = 1.0
    test_fraction: float = 0.3
    val_fraction: float = 0.15


@dataclass(frozen=True)
class PairsSpec:
    """Pictures with captions in one or two languages, and how they are split.

    Attributes:
      source: `emoji`, `digits`, the path of a .jsonl file (one picture a line), or a folder in the
        layout of a data set: `cn_clip:FOLDER` (or `muge:FOLDER`: the same), `food101:FOLDER`,
        `mmimdb:FOLDER`, `coop:FOLDER`.
      styles: picture styles to read; the first one is what evaluation shows.
      views: named fixed variations of every picture (`mmjax.data.transforms.VIEWS`); training
        draws one at each visit, evaluation averages the embeddings of all.
      label: which field of the emoji is an item's label.
      exclude_labels: labels that are left out.
      test_fraction: share of items held out for the test, families kept whole.
      val_fraction: share of items held out for model selection, families kept whole.
      stratify: deals the items of each label for themselves, so that no side lacks one.
      keep_families: False deals items one by one, so that near-duplicates of what is tested may be
        trained on: only for comparison with figures that were measured so.
      limit: at most so many items (0: all); for quick tries.
      sides: which sides are read of a source that comes split; with `test` alone nothing is trained
        or selected on its pairs, and a source that does not come split is all test.
      label: of emoji: which of its classes is an item's label.
      min_families: labels with fewer families are left out.
      folds: 0 deals `test_fraction` anew with every seed; with k the seeds 0 .. k-1 hold out the k
        folds of one partition, each label spread evenly, seeds k .. 2k-1 those of the next.
      train_fraction: share of the training items that is read (`projection` alone): how few labels
        are enough?
      domain: which of the items are a domain with a split of its own.
    """

    source: str = "emoji"
    styles: tuple[str, ...] = ("openmoji",)
    views: tuple[str, ...] = ("plain",)
    label: Literal["group", "subgroup"] = "group"
    exclude_labels: tuple[str, ...] = ()
    test_fraction: float = 0.2
    val_fraction: float = 0.1
    stratify: bool = False
    keep_families: bool = True
    limit: int = 0
    sides: tuple[str, ...] = ("train", "val", "test")
    label: Literal["group", "subgroup"] = "group"
    min_families: int = 0
    folds: int = 0
    train_fraction: float = 1.0
    domain: DomainSpec = field(default_factory=DomainSpec)


@dataclass(frozen=True)
class ParallelSpec:
    """Parallel text: what the language adapter is distilled on.

    Attributes:
      sources: `captions` (the training split's own names and keywords), `cedict`, or paths of
        .jsonl files with `source` and `target` texts.
      limit: at most so many pairs of each source other than `captions` (0: all).
      repeat_captions: how often the captions' pairs stand in one epoch beside the other sources.
      captions_from: share of the steps after which only the captions are left; 1 never leaves the
        other sources.
      val_pairs: so many pairs of the other sources are held out, and the best step is chosen by
        them rather than by validation items: no picture is needed for it. 0 for none.
    """

    sources: tuple[str, ...] = ("captions", "cedict")
    limit: int = 0
    repeat_captions: int = 1
    captions_from: float = 1.0
    val_pairs: int = 0


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

    hidden: tuple[int, ...] = ()
    out_dim: int = 256
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    members: int = 1


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
    width: int = 384
    num_layers: int = 1
    num_heads: int = 6
    mlp_ratio: int = 4
    dropout: float = 0.1
    input_dropout: float = 0.0
    skip: bool = False
    skip_hidden: int = 0
    members: int = 1
    space: Literal["joint", "encoder"] = "joint"


@dataclass(frozen=True)
class ResidualSpec:
    """What the `domain` task trains on top of a frozen dual encoder.

    Attributes:
      tune: `adapter` (residual adapters; see `mmjax.adapters.residual`) or `heads` (all that the
        base itself trained, from where it stands: full fine-tuning).
      towers: which towers get an adapter.
      bottleneck: hidden width of the adapter.
      ratio: residual ratio of CLIP-Adapter: the adapter's share of the mixture, below 1.
      dropout: rate on the adapter's input and hidden layer.
    """

    tune: Literal["adapter", "heads"] = "adapter"
    towers: tuple[str, ...] = ("image", "text")
    bottleneck: int = 128
    ratio: float = 0.2
    dropout: float = 0.0


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
    gamma: float = 1.0
    temperature: float = 1.0
    beta: float = 0.0
    tau_plus: float = 0.0


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
    weight: float = 1.0
    fisher_batches: int = 16
    fisher_batch_size: int = 64


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
      temperature: divides the logits.
      dropout: on the input features.
      standardize: learn a shift and scale of the features first (not in the paper).
    """

    loss: Literal["pairwise_bce", "supcon", "infonce"] = "pairwise_bce"
    mode: Literal["per_modality", "single"] = "per_modality"
    hidden: int = 0
    out_dim: int = 128
    normalize: bool | None = None
    temperature: float = 0.1
    dropout: float = 0.0
    standardize: bool = False


@dataclass(frozen=True)
class LossSpec:
    """Which objective, with its own numbers.

    Attributes:
      kind: `contrastive` (symmetric InfoNCE), `distill_mse` (un-normalised), `distill_cosine` or
        `two_stage` (distillation, then contrastive with images frozen).
      distill: which distillation `two_stage` begins with.
      second_stage_from: share of the steps after which `two_stage` turns to the contrastive loss.
      init_temperature: 1 / exp(logit_scale) at the start of a contrastive loss.
      learn_temperature: whether logit_scale is trained.
      label_smoothing: of the contrastive targets.
    """

    kind: Literal["contrastive", "distill_mse", "distill_cosine", "two_stage"] = "contrastive"
    distill: Literal["mse", "cosine"] = "mse"
    second_stage_from: float = 0.7
    init_temperature: float = 0.07
    learn_temperature: bool = True
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class OptimSpec:
    """The optimizer: see `mmjax.optim`."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    clip_norm: float = 0.0


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

    steps: int = 300
    batch_size: int = 512
    accumulate: int = 1
    eval_every: int = 50
    patience: int = 0
    save_every: int = 100
    keep: int = 2
    log_every: int = 10
    select: Literal["mR", "t2t_mR", "t2i_mR", "cosine_to_base", "knn_acc", "vqa_acc", "none"] = "mR"
    cache_features: bool = True


@dataclass(frozen=True)
class MeshSpec:
    """Sizes of the mesh axes; -1 takes the devices that the other axis leaves."""

    data: int = -1
    model: int = 1


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
        """Checks what one field alone cannot show."""
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
        t, p, a, loss = self.train, self.pairs, self.adapter, self.loss
        for name in ("steps", "batch_size", "eval_every", "save_every", "keep", "log_every"):
            free = self.prompts.method == "tip_adapter" and name == "steps"
            least = 0 if free else 1
            check(getattr(t, name) >= least, f"train.{name}", getattr(t, name), f"at least {least}")
        check(t.batch_size >= 2, "train.batch_size", t.batch_size, "at least 2")
        for where, shares in (("pairs", p), ("pairs.domain", p.domain)):
            test, val = shares.test_fraction, shares.val_fraction
            check(0 < test < 1, f"{where}.test_fraction", test, "between 0 and 1")
            check(0 < val < 1, f"{where}.val_fraction", val, "between 0 and 1")
            check(
                test + val < 0.9,
                f"{where}.val_fraction",
                val,
                "test and validation together under 0.9 of the items",
            )
        share = p.domain.fraction
        check(0 < share <= 1, "pairs.domain.fraction", share, "above 0, at most 1")
        check(
            bool(p.styles) and bool(p.views), "pairs.views", p.views, "at least one style and view"
        )
        check(
            a.width % a.num_heads == 0,
            "adapter.num_heads",
            a.num_heads,
            f"a divisor of adapter.width={a.width}",
        )
        check(a.num_layers >= 1, "adapter.num_layers", a.num_layers, "at least 1")
        check(a.members >= 1, "adapter.members", a.members, "at least 1")
        for name, head in (("image_head", self.image_head), ("text_head", self.text_head)):
            check(0 <= head.dropout < 1, f"{name}.dropout", head.dropout, "in [0, 1)")
            check(0 <= head.hidden_dropout < 1, name, head.hidden_dropout, "dropouts in [0, 1)")
            check(head.members >= 1, f"{name}.members", head.members, "at least 1")
        for name in ("out_dim", "members"):
            image, text = getattr(self.image_head, name), getattr(self.text_head, name)
            check(image == text, f"text_head.{name}", text, f"{image}: both heads share one space")
        share = self.parallel.captions_from
        check(0 < share <= 1, "parallel.captions_from", share, "above 0, at most 1")
        check(0 <= a.dropout < 1, "adapter.dropout", a.dropout, "in [0, 1)")
        check(0 <= a.input_dropout < 1, "adapter.input_dropout", a.input_dropout, "in [0, 1)")
        check(self.optim.lr > 0, "optim.lr", self.optim.lr, "a positive learning rate")
        check(loss.init_temperature > 0, "loss.init_temperature", loss.init_temperature, "above 0")
        check(
            0 < loss.second_stage_from < 1,
            "loss.second_stage_from",
            loss.second_stage_from,
            "between 0 and 1",
        )
        if self.task != "language":
            check(loss.kind == "contrastive", "loss.kind", loss.kind, "'contrastive' for this task")
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
        check(t.accumulate >= 1, "train.accumulate", t.accumulate, "at least 1")
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
        check(held >= 0, "parallel.val_pairs", held, "at least 0")
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
        r, w, c = self.residual, self.weighting, self.continual
        check(
            bool(r.towers) and set(r.towers) <= {"image", "text"},
            "residual.towers",
            r.towers,
            "('image', 'text') or one of them",
        )
        check(r.bottleneck >= 1, "residual.bottleneck", r.bottleneck, "at least 1")
        check(0 < r.ratio < 1, "residual.ratio", r.ratio, "between 0 and 1")
        check(0 <= r.dropout < 1, "residual.dropout", r.dropout, "in [0, 1)")
        check(w.gamma >= 0, "weighting.gamma", w.gamma, "at least 0")
        check(w.temperature > 0, "weighting.temperature", w.temperature, "above 0")
        check(w.beta >= 0, "weighting.beta", w.beta, "at least 0")
        check(0 <= w.tau_plus < 1, "weighting.tau_plus", w.tau_plus, "in [0, 1)")
        check(c.weight >= 0, "continual.weight", c.weight, "at least 0")
        for name in ("fisher_batches", "fisher_batch_size"):
            check(getattr(c, name) >= 1, f"continual.{name}", getattr(c, name), "at least 1")

    def _check_projection(self) -> None:
        p, pairs, t = self.projection, self.pairs, self.train
        for name in ("folds", "min_families"):
            check(getattr(pairs, name) >= 0, f"pairs.{name}", getattr(pairs, name), "at least 0")
        check(pairs.folds != 1, "pairs.folds", pairs.folds, "0, or at least 2")
        share = pairs.train_fraction
        check(0 < share <= 1, "pairs.train_fraction", share, "above 0, at most 1")
        check(p.hidden >= 0, "projection.hidden", p.hidden, "at least 0")
        check(p.out_dim >= 1, "projection.out_dim", p.out_dim, "at least 1")
        check(p.temperature > 0, "projection.temperature", p.temperature, "above 0")
        check(0 <= p.dropout < 1, "projection.dropout", p.dropout, "in [0, 1)")
        if self.task != "projection":
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
