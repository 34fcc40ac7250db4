"""Settings of the `instruct` task; `mmjax.specs.spec.Stage` checks them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mmjax import plugins
from mmjax.errors import check
from mmjax.specs.adapters import ADAPTERS
from mmjax.specs.bounds import (
    Bounds,
    Count,
    Few,
    Natural,
    Part,
    Rate,
    Scale,
    Seed,
    Temperature,
    Width,
    check_all,
)
from mmjax.specs.family import Names, TaskSettings, check_select, check_sides, refuse_others

if TYPE_CHECKING:
    from mmjax.specs.spec import Stage

OWN = ("routed", "single", "lora", "none")  # whose settings are fields of InstructSpec
DIALOGUES = ("llava", "alpaca", "records")  # files of turns; see `mmjax.data.dialogues`


@dataclass(frozen=True)
class QuestionsSpec:
    """Questions about pictures: what the `instruct` task learns to answer.

    Attributes:
      source: `easy_vqa`, or `easy_vqa:FOLDER` for a folder in its layout; `scienceqa:FOLDER`;
        `llava:FILE.json`, `alpaca:FILE.json` or `records:FILE.jsonl` (see `mmjax.data.dialogues`).
      mix: further files of the last three kinds that are learned together with `source`.
      asked: a `records:` file whose last answers are asked for in the end, of another domain, say,
        than what is learned: how many are right, strictly and as published scripts count. Empty
        asks for what is held out of `source`.
      asked_limit: about so many rows of `asked`, those of pictures spread evenly over the file, all
        rows of a picture together (0: all).
      markers: what stands around the turns of `records:` files; see `mmjax.data.markers`.
      images: folder of the pictures that `llava:` and `records:` files name.
      train_pictures: training pictures that are read, with all of their questions (0: all). Here
        and below, sources other than easy-VQA count rows instead: problems, conversations.
      val_pictures: training pictures held out for model selection, with all of their questions;
        of ScienceQA so many problems of its own validation split.
      test_pictures: test pictures that are read (0: all); of files of turns so many rows that are
        held out.
      per_picture: questions in a row of a batch that share a picture, which is then encoded once.
      captions: ScienceQA: put captions.json into the context.
      skip_empty: leave rows of files of turns with an empty answer, or with none to learn, out, and
        count them, instead of refusing them.
      answering: ScienceQA: `greedy` writes an answer and reads its letter; `likelihood` takes the
        likeliest letter after "The answer is".
      max_new_tokens: of a written answer.
      unanswered: what a written answer without a letter counts as: `wrong`, or as `random` an
        option that is drawn, as in the original evaluation.
      unanswered_seed: for these draws.
      text: plain text whose perplexity is measured with and without adapters, where the recipe's
        `evals` name `text`: a file in UTF-8, or `python`, the reference of Python's own `help()`.
      rehearsal: texts that the frozen language model writes itself and the adapters learn among
        the questions, as text alone, to keep what it can do without a picture (0: none); see
        `mmjax.tasks.instruct.rehearsal`.
      rehearsal_share: of the rows of an epoch that are such texts, repeated to make it up.
      rehearsal_length: tokens of such a text.
    """

    source: str = "easy_vqa"
    mix: tuple[str, ...] = ()
    asked: str = ""
    asked_limit: Natural = 0
    markers: Literal["plain", "chatml", "llama3", "vicuna"] = "plain"
    images: str = ""
    train_pictures: Natural = 0
    val_pictures: Count = 50
    test_pictures: Natural = 0
    per_picture: Few = 4
    captions: bool = False
    skip_empty: bool = False
    answering: Literal["greedy", "likelihood"] = "greedy"
    max_new_tokens: Width = 64
    unanswered: Literal["wrong", "random"] = "wrong"
    unanswered_seed: Seed = 0
    text: str = "python"
    rehearsal: Natural = 0
    rehearsal_share: Part = 0.1
    rehearsal_length: Annotated[int, Bounds(2, 1 << 16)] = 31

    @property
    def evaluation(self) -> Literal["vqa", "scienceqa", "held_out"]:
        """The evaluator that reads this source."""
        kind = self.source.partition(":")[0]
        if kind == "scienceqa":
            return "scienceqa"
        return "held_out" if kind in DIALOGUES else "vqa"

    @property
    def sides(self) -> tuple[str, ...]:
        """The splits that the source itself has; of files of turns, those that are `asked` too."""
        turns = ("train", "asked") if self.asked else ("train",)
        splits = {"scienceqa": ("train", "val", "test"), "held_out": turns}
        return splits.get(self.evaluation, ("train", "test"))

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_all(self, "questions")
        dialogues = self.evaluation == "held_out"
        good = not self.mix or dialogues
        kinds = [source.partition(":")[0] for source in (self.source, *self.mix)]
        good &= all(kind in DIALOGUES for kind in kinds[1:])
        expected = "'llava:', 'alpaca:' and 'records:' files, beside a source of these kinds"
        check(good, "questions.mix", self.mix, expected)
        good = self.markers == "plain" or "records" in kinds
        check(good, "questions.markers", self.markers, "'plain' without 'records:' files")
        good = not self.asked or (dialogues and self.asked.startswith("records:"))
        check(good, "questions.asked", self.asked, "a 'records:' file, beside a file of turns")
        good = not self.asked_limit or bool(self.asked)
        check(good, "questions.asked_limit", self.asked_limit, "0 where `asked` names no file")
        held = self.test_pictures
        check(not dialogues or held >= 1, "questions.test_pictures", held, "at least 1 held out")


@dataclass(frozen=True)
class InstructSpec:
    """What the `instruct` task trains; see `mmjax.adapters.rep_adapter`, `lora` and `multimodal`.

    Attributes:
      train: what learns: `adapter`; `projector`, the way from pictures to words: of a model with
        an image tower its own (a Qwen-VL's merger, an Mllama's projector), alone (adapter `none`)
        or beside adapters, or LaVIN's projection, which learns beside adapters anyway; or `full`,
        with adapter `none`: the weights of the language model and the projector, and with `visual`
        those of the vision transformer.
      start: what training begins at: a folder with an adapter, or an earlier stage of the recipe
        (the name of a variant), all of whose parts this stage trains on. Empty begins anew.
      adapter: in the language model: `routed` (mixture of modality adapters), `single` (the same
        without a router), `lora`, `none`, another of `mmjax.specs.adapters`, or another
        package's: `package.module:Name`.
      adapter_settings: of any but the first four: the fields of its dataclass.
      visual: whether adapters of the same kind sit in the vision transformer too.
      rank: width of the bottlenecks.
      scale: of what `routed` and `single` add.
      temperature: of the router.
      dropout: in the adapters while training.
      alpha: LoRA's scale is alpha / rank.
      targets: LoRA's maps in the language model; in the vision transformer it sits in `query` and
        `value`.
      taps: class tokens of the vision transformer that become tokens of the text; here and in the
        next three, of LaVIN's way to join two models: a LLaVA, say, has its own.
      tap_layers: after which layers they are read: `spread` evenly, or the `last` ones.
      norm_taps: layer norm of every class token before the projection; not in the original.
      hidden: width inside the projection of class tokens.
      clip_routing: `per_image`, or the original's `first_in_batch`, whose outputs depend on the
        other pictures of a batch.
      router_weight_dtype: `float16` rounds routing weights as the original does.
      remat: compute the language model's layers again going backward, to save memory.
      feed_forward: in whose layers another `routed` or `single` adapter sits before the
        feed-forward part: of neither model, of the `vision` transformer (the original's
        `router_block`), of the `language` model (its `block`), or of `both`.
    """

    train: Literal["adapter", "projector", "full"] = "adapter"
    start: str = ""
    adapter: str = "routed"
    adapter_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    visual: bool = True
    rank: Width = 8
    scale: Scale = 1.0
    temperature: Temperature = 10.0
    dropout: Rate = 0.1
    alpha: Scale = 16.0
    targets: tuple[str, ...] = ("query", "key", "value", "out")
    taps: Few = 6
    tap_layers: Literal["spread", "last"] = "spread"
    norm_taps: bool = False
    hidden: Width = 128
    clip_routing: Literal["per_image", "first_in_batch"] = "per_image"
    router_weight_dtype: Literal["float32", "float16"] = "float32"
    remat: bool = False
    feed_forward: Literal["none", "vision", "language", "both"] = "none"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_all(self, "instruct")
        adapters = list(dict.fromkeys((*OWN, *ADAPTERS)))
        # Another package's is imported by the task, before it trains.
        good = self.adapter in adapters or plugins.may_be(self.adapter, plugins.ADAPTERS)
        adapters += () if good else plugins.installed(plugins.ADAPTERS)
        expected = f"one of {adapters}, or package.module:Name for an adapter of your own"
        check(good, "instruct.adapter", self.adapter, expected)
        own, settings = self.adapter in OWN, self.adapter_settings
        expected = "nothing: this adapter's settings have names of their own"
        check(not (own and settings), "instruct.adapter_settings", settings, expected)
        good = self.train != "full" or self.adapter == "none"
        check(good, "instruct.adapter", self.adapter, "'none' with train='full'")
        block, name = self.feed_forward, "instruct.feed_forward"
        good = block == "none" or self.adapter in ("routed", "single")
        check(good, name, block, f"'none' with adapter={self.adapter!r}")
        good = self.visual or block in ("none", "language")
        check(good, name, block, "'none' or 'language' with visual=False")


def _check(stage: Stage) -> None:
    t, each = stage.train, stage.questions.per_picture
    refuse_others(stage, ("train.accumulate", "adapters"))
    check_sides(stage)
    check_select(stage, ("vqa_acc", "none"), "'vqa_acc' or 'none' here")
    if stage.questions.evaluation == "held_out":
        check_select(stage, ("none",), "'none' for this source")
    i = stage.instruct
    expected = "'none' where config.adapters says what sits in the encoders"
    check(not stage.adapters or i.adapter == "none", "instruct.adapter", i.adapter, expected)
    adapted = i.visual and (i.adapter != "none" or i.train == "full")
    adapted |= "image" in stage.adapters
    expected = "False while adapters sit in the vision transformer (instruct.visual)"
    check(not (t.cache_features and adapted), "train.cache_features", True, expected)
    expected = f"a multiple of {t.accumulate * each}: accumulate x questions.per_picture"
    good = t.batch_size % (t.accumulate * each) == 0
    check(good, "train.batch_size", t.batch_size, expected)


def _evals(stage: Stage) -> tuple[Names, Names]:
    answers = stage.questions.evaluation
    probed = answers == "vqa" and "image" in stage.encoders
    return (answers, "text", *(("probe",) if probed else ())), (answers,)


# A LLaVA, say, sees by itself.
_ROLES = (frozenset({"image", "language"}), frozenset({"language"}))
FAMILY = TaskSettings(_ROLES, _check, _evals, inside=("image",))
