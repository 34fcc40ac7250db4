"""Settings of the `prompts` task: what is trained, and on how few examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmjax.errors import check
from mmjax.specs.bounds import Count, Few, Natural, Part, Weight, Width, WidthOrNone, check_all
from mmjax.specs.family import (
    TaskSettings,
    check_adapters,
    check_select,
    check_sides,
    refuse_others,
)

if TYPE_CHECKING:
    from mmjax.specs.spec import Stage

PromptMethod = Literal[
    "structured",
    "factorised",
    "coop",
    "cocoop",
    "kgcoop",
    "maple",
    "linear_probe",
    "linear_probe_plus",
    "tip_adapter",
    "clip_adapter",
    "task_residual",
    "clap",
]
WEIGHTS = (".tar", ".pt", ".pth", ".bin", ".safetensors")  # of a context that CoOp trained
ADAPTABLE = ("structured", "coop", "cocoop", "kgcoop")  # with adapters in their towers
IN_TOWER = (*ADAPTABLE, "maple")


@dataclass(frozen=True)
class PromptSpec:
    """What the `prompts` task trains; see `mmjax.adapters.prompts` and `.classifiers`.

    Attributes:
      method: `structured` (General | Domain | Instance tokens through the frozen text tower),
        `factorised` (an attention over several cached prompts a class), `coop`, `cocoop`, `kgcoop`,
        `maple` (tokens in the layers of both towers), `linear_probe`, `linear_probe_plus` (LP++),
        `tip_adapter` (training-free with `train.steps=0`, else Tip-Adapter-F), `clip_adapter`,
        `task_residual` or `clap`.
      template: hand-written prompt of the zero-shot classifier; {} stands for the class's name.
      templates: hand-written prompts that `factorised` attends over.
      context: words that the General tokens start from, or a checkpoint of CoOp's; "" for small
        random vectors. Of `maple` the words behind so many stay words.
      ending: words at the end of prompts in the tower; CoOp's full stop, without which what it
        trained would be read in another prompt. "" for none.
      general: General tokens; `factorised`: whether (above 0) the prompts' shares are learnt.
        CoOp's M, MaPLe's b. 0 switches the part off.
      domain: whether the class's name is read, of which `factorised` learns a residual; False puts
        one learnt token a class into its place, or leaves the residual out.
      instance: queries refined by the picture's patches; 0 switches the part off.
      anchor: weight of 1 - cosine between learnt and hand-written prompts.
      depth: layers of `maple` with tokens of their own (its J), of the first one on; of towers that
        have fewer all.
      chunk: prompts that the text tower reads at a time; 0 for all at once.
      attention: width of the attention over patches of `factorised`.
      alpha: Tip-Adapter's residual ratio; TaskRes's scale of the residual.
      beta: Tip-Adapter's sharpness.
      ratio: CLIP-Adapter's residual ratio.
      bottleneck: hidden width of CLIP-Adapter, and of CoCoOp's meta-net.
    """

    method: PromptMethod = "structured"
    template: str = "a photo of a {}."
    templates: tuple[str, ...] = ("a photo of a {}.",)
    context: str = ""
    ending: str = "."
    general: WidthOrNone = 4
    domain: bool = True
    instance: WidthOrNone = 2
    anchor: Weight = 0.0
    depth: Few = 9
    chunk: Natural = 0
    attention: Width = 64
    alpha: Weight = 1.0
    beta: Weight = 1.0
    ratio: Part = 0.2
    bottleneck: Width = 64

    @property
    def is_imported(self) -> bool:
        """Whether `context` names a file that CoOp trained, not words."""
        return "/" in self.context or self.context.endswith(WEIGHTS)

    @property
    def in_tower(self) -> bool:
        """Whether learnt vectors go through the text tower in every step."""
        return self.method in IN_TOWER

    @property
    def couples(self) -> bool:
        """Whether tokens learn in the image tower too, so that it runs in every step."""
        return self.method == "maple"

    @property
    def keeps_words(self) -> bool:
        """Whether words of `context` that are more than the General tokens stay words."""
        return self.couples and bool(self.context) and not self.is_imported

    @property
    def reads_patches(self) -> bool:
        """Whether the patches of pictures are read."""
        return self.method in ("structured", "factorised") and self.instance > 0

    @property
    def names_new_classes(self) -> bool:
        """Whether what was learnt says something of classes that were not trained on."""
        trained = ("linear_probe", "linear_probe_plus", "tip_adapter", "task_residual", "clap")
        per_class = self.method in trained or (self.in_tower and not self.domain)
        return not per_class

    def __post_init__(self) -> None:
        """Checks names and sizes."""
        for text in (self.template, *self.templates):
            check(text.count("{}") == 1, "prompts.template", text, "a text with {} in it once")
        check(bool(self.templates), "prompts.templates", self.templates, "at least one prompt")
        check_all(self, "prompts")
        if self.method in ("coop", "kgcoop", "cocoop", "maple"):
            check(self.general > 0, "prompts.general", self.general, "at least 1 for this method")
        if self.method == "structured":
            learnt = self.general > 0 or self.instance > 0 or not self.domain
            check(learnt, "prompts.general", self.general, "something that is learnt")


@dataclass(frozen=True)
class FewShotSpec:
    """The protocol of the `prompts` task.

    Attributes:
      shots: training pictures a class.
      min_families: labels with fewer families of items are left out.
      half: `base` trains on the first half of the classes (sorted by label) and tests on both.
      styles: other picture styles that the test items are asked in too.
      domain: whether its items are those of `pairs.domain`, dealt as the domain is, rather than all
        others.
    """

    shots: Count = 16
    min_families: Count = 1
    half: Literal["all", "base"] = "all"
    styles: tuple[str, ...] = ()
    domain: bool = False

    def __post_init__(self) -> None:
        """Checks sizes."""
        check_all(self, "fewshot")


def _check_adapters(stage: Stage) -> None:
    """Refuses adapters in towers whose outputs a method reads from the cache."""
    spec = stage.prompts
    tower = f"the methods through the text tower ({', '.join(ADAPTABLE)})"
    if not spec.in_tower:
        why = f"prompts.method={spec.method!r} learns on embeddings that are computed once; {tower}"
        check_adapters(stage, (), f"{why} take one")
    if spec.couples:
        why = f"prompts.method={spec.method!r} has tokens of its own in both towers"
        check_adapters(stage, (), why)
    why = f"names are read by the encoder {stage.text_role!r} alone"
    check_adapters(stage, ("image", stage.text_role), why)
    plain, views = "plain" in stage.pairs.views, stage.pairs.views
    good = plain or "image" not in stage.adapters or not spec.reads_patches
    check(good, "pairs.views", views, "'plain' among them: patches are read in it")


def _check(stage: Stage) -> None:
    cached, labels = stage.train.cache_features, stage.pairs.domain.labels
    output = stage.encoders["text"].output
    refuse_others(stage, ("adapters",))
    _check_adapters(stage)
    check_sides(stage)
    check_select(stage, ("none",), "'none': no item chooses the step")
    check(cached, "train.cache_features", cached, "True for this task")
    check(output == "pooled", "encoders.text.output", output, "'pooled' for this task")
    good = bool(labels) or not stage.fewshot.domain
    check(good, "fewshot.domain", True, "False without pairs.domain.labels")


FAMILY = TaskSettings(
    (frozenset({"image", "text"}), frozenset({"image", "text", "foreign"})),
    _check,
    lambda _: (("fewshot",), ("fewshot",)),
    stands_on=("contrastive", "pretrained", "language", "domain"),
    in_step=lambda stage: ("image",) if stage.prompts.couples else (),
    on_card=("classes",),
    learns_labels=True,
)
