"""What a stage reads with one seed: examples to train on, sets to evaluate on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmjax.data.captions import all_captions, asked_texts, names_and_captions, text_turns
from mmjax.data.library import ImageBank, Library, TextBank
from mmjax.data.pipeline import Choices, Phase, SharedRows
from mmjax.data.records import Corpus, Pair
from mmjax.data.splits import Split
from mmjax.evals import EvalSet, Evaluator, Functions, Retrieval, ZeroShot
from mmjax.specs.data import PairsSpec
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.adapting import tower_of, towers_of
from mmjax.tasks.base import GENERAL
from mmjax.tasks.dual_encoder.checks import check_captions, check_select
from mmjax.tasks.dual_encoder.eval_sets import (
    Benchmarks,
    benchmarks,
    check_labels,
    eval_set,
    text_set,
)
from mmjax.tasks.dual_encoder.parallel import held_out, pairs_of
from mmjax.tasks.run import StageData


@dataclass(frozen=True)
class System:
    """One way to answer text queries: which published functions read what.

    Attributes:
      text_function: reads the queries.
      data: what is asked.
      image_function: reads the pictures.
      general: for a domain, what is asked beside it: what the base was trained on.
      benchmarks: further test sets.
    """

    text_function: str
    data: EvalSet
    image_function: str = "embed_images"
    general: EvalSet | None = None
    benchmarks: Benchmarks = field(default_factory=Benchmarks)

    def reading(self, functions: Functions) -> Functions:
        """The published functions with this system's own as `embed_texts` and `embed_images`."""
        return {
            **functions,
            "embed_texts": functions[self.text_function],
            "embed_images": functions[self.image_function],
        }

    def run(self, evaluators: Sequence[Evaluator], functions: Functions) -> dict[str, float]:
        """Measures everything.

        Args:
          evaluators: what is measured on its own data.
          functions: published by a task.

        Returns:
          {metric: value}; names of what is asked beside the domain begin with `general_`, those of
          a benchmark with its name and a slash.
        """
        chosen, values = self.reading(functions), dict[str, float]()
        for evaluator in evaluators:
            values |= evaluator.run(chosen, self.data)
            if self.general is not None:
                figures = evaluator.run(chosen, self.general)
                values |= {f"{GENERAL}{name}": value for name, value in figures.items()}
        for name, data in self.benchmarks.retrieval.items():
            values |= {f"{name}/{k}": v for k, v in Retrieval().run(chosen, data).items()}
        for name, data in self.benchmarks.classification.items():
            values |= {f"{name}/{k}": v for k, v in ZeroShot().run(chosen, data).items()}
        return values


@dataclass(frozen=True)
class PairsData(StageData):
    """What a dual encoder's stage reads with one seed.

    Attributes:
      test: system -> what is reported, on the test items. `adapted` is the trained one; for
        `language` there are also `floor` and, where the items have captions in the base's language,
        `ceiling`, for `domain` `base`: all of them through the frozen base.
      prior: for elastic weight consolidation: what the base was trained on.
      train: for a domain: its training pairs, as they would be asked.
    """

    val: System | None
    test: Mapping[str, System]
    prior: Phase | None = None
    train: EvalSet | None = None


def prepare(
    stage: Stage, recipe: Recipe, seed: int, library: Library, base: Stage | None = None
) -> PairsData:
    """Builds tables, split, examples and evaluation sets of a stage.

    Args:
      stage: what is trained.
      recipe: languages.
      seed: draws the split.
      library: shared by all stages.
      base: the stage that a `domain` builds on.

    Returns:
      The stage's data.

    Raises:
      MmjaxError: the pairs lack captions that the stage reads.
    """
    if stage.task == "domain":
        assert base is not None
        return _prepare_domain(stage, base, recipe, seed, library)
    source, target = recipe.languages
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    if stage.task == "pretrained" and stage.name != recipe.main.name:
        towers = towers_of(stage, library)
        return PairsData(towers, (), None, split, corpus, {})
    language = stage.task == "language"
    pairs, (kept, held_pairs) = [], ([], [])
    if language:
        pairs, (kept, held_pairs) = pairs_of(stage, library), held_out(stage, seed, library)
    check_captions(stage, corpus, recipe.languages)
    images = library.images(stage.encoders["image"], stage.pairs, stage.caches("image"))
    texts = library.texts(
        "text",
        stage.encoders["text"],
        {
            f"{target} captions": all_captions(corpus, target),
            # Read by the floor: the base's own encoder on the language that it does not know.
            f"{source} names": asked_texts(corpus, source),
            f"{target} parallel": [t for pair in pairs for t in pair.targets],
        },
        stage.caches("text"),
    )
    banks = {"image": images, "text": texts}
    foreign = None
    if language:
        foreign = banks["foreign"] = library.texts(
            "foreign",
            stage.encoders["foreign"],
            {
                f"{source} captions": all_captions(corpus, source),
                f"{source} parallel": [pair.source for pair in pairs],
            },
            stage.caches("foreign"),
        )
    towers = {r: tower_of(stage, r, library, bank.table) for r, bank in banks.items()}

    def captions(language: str) -> Choices:
        bank = texts if foreign is None or language == target else foreign
        return bank.choices(names_and_captions(x, language) for x in corpus.at(split["train"]))

    if stage.task == "pretrained":
        phases = []
    elif foreign is None:
        phases = [Phase(0, {"image": images.choices(split["train"]), "text": captions(target)})]
    else:
        contrast = {"foreign": captions(source), "image": images.choices(split["train"])}
        phases = _language_phases(
            stage, contrast, _text_phases(stage, corpus, split, recipe.languages, kept, banks)
        )

    def evaluation(side: str, bank: TextBank, language: str) -> EvalSet:
        data = eval_set(corpus, split[side], images, bank, language)
        if corpus.queries or not corpus.speaks(target):
            return data  # no two captions of a picture need say the same
        base_texts = texts.view(x.captions[target][0] for x in corpus.at(split[side]))
        return dataclasses.replace(data, base_texts=base_texts)

    def test_system(function: str, role: str, language: str, base: bool) -> System:
        bank = banks[role]
        assert isinstance(bank, TextBank)
        data = evaluation("test", bank, language)
        reported = stage.task == "language" or stage.name == recipe.main.name
        sets = benchmarks(recipe, library, stage, role, language, base) if reported else None
        return System(function, data, benchmarks=sets or Benchmarks())

    if foreign is None:
        test = {"adapted": test_system("embed_texts", "text", target, True)}
        val = None if stage.task == "pretrained" else evaluation("val", texts, target)
    else:
        val = (
            text_set(held_pairs, foreign, texts)
            if held_pairs
            else evaluation("val", foreign, source)
        )
        test = {"adapted": test_system("embed_texts", "foreign", source, False)}
        if corpus.speaks(target):
            test["ceiling"] = test_system("embed_base_texts", "text", target, True)
        test["floor"] = test_system("embed_base_texts", "text", source, False)
        check_select(stage, corpus, recipe.languages, bool(held_pairs))
    if "zeroshot" in recipe.evals:
        check_labels(recipe, library)
        ZeroShot.check(len(test["adapted"].data.label_texts))
    validation = None if val is None else System("embed_texts", val)
    return PairsData(towers, tuple(phases), validation, split, corpus, test)


@dataclass(frozen=True)
class _Part:
    """One part of a corpus, the domain or the rest, through the encoders of a dual encoder."""

    corpus: Corpus
    split: Split
    images: ImageBank
    texts: TextBank
    language: str

    def pairs(self, roles: tuple[str, str]) -> Phase:
        """Its training pairs."""
        train = self.split["train"]
        captions = [names_and_captions(x, self.language) for x in self.corpus.at(train)]
        image, text = roles
        return Phase(0, {image: self.images.choices(train), text: self.texts.choices(captions)})

    def evaluation(self, side: str) -> EvalSet:
        return eval_set(
            self.corpus,
            self.split[side],
            self.images,
            self.texts,
            self.language,
            one_each=side == "train",  # to be weighed pair by pair
        )


def _prepare_domain(
    stage: Stage, base: Stage, recipe: Recipe, seed: int, library: Library
) -> PairsData:
    """The domain's pairs to train on; beside its own items those of its base to be asked."""
    source, target = recipe.languages
    language, role = (source if stage.text_role == "foreign" else target), stage.text_role

    def part(spec: PairsSpec, domain: bool) -> _Part:
        corpus = library.corpus(spec)
        parts = {f"{language} captions": all_captions(corpus, language)}
        return _Part(
            corpus,
            library.split(spec, seed, domain),
            library.images(stage.encoders["image"], spec, stage.caches("image")),
            library.texts(role, stage.encoders[role], parts, stage.caches(role)),
            language,
        )

    own, general = part(stage.pairs, domain=True), part(base.pairs, domain=False)
    phase, prior = own.pairs(("image", role)), None
    if stage.continual.kind == "ewc":
        prior = general.pairs(("image", role))
    elif stage.continual.kind == "distill":
        rest = general.pairs((f"{GENERAL}image", f"{GENERAL}text"))
        shared = {r: SharedRows(c.table, np.unique(c.rows)) for r, c in rest.roles.items()}
        phase = Phase(0, {**phase.roles, **shared})

    def system(side: str, kind: str) -> System:
        return System(
            f"embed_{kind}texts",
            own.evaluation(side),
            f"embed_{kind}images",
            general.evaluation(side),
        )

    test = {"adapted": system("test", ""), "base": system("test", "base_")}
    if "zeroshot" in recipe.evals:
        ZeroShot.check(len(test["adapted"].data.label_texts))
    tables = {"image": own.images.table, role: own.texts.table}
    towers = {r: tower_of(stage, r, library, tables.get(r)) for r in stage.encoders}
    return PairsData(
        towers,
        (phase,),
        system("val", ""),
        own.split,
        own.corpus,
        test,
        prior,
        own.evaluation("train"),
    )


def _text_phases(
    stage: Stage,
    corpus: Corpus,
    split: Split,
    languages: tuple[str, str],
    pairs: Sequence[Pair],
    banks: Mapping[str, TextBank | ImageBank],
) -> list[Phase]:
    """Distillation on all parallel text, then, where the recipe says so, on captions alone."""
    foreign, texts = banks["foreign"], banks["text"]
    assert isinstance(foreign, TextBank)
    assert isinstance(texts, TextBank)
    turns = text_turns(stage, corpus, split["train"], languages, pairs)
    return [
        Phase(
            start,
            {
                "foreign": foreign.choices(sources for sources, _ in examples),
                "text": texts.choices(targets for _, targets in examples),
            },
        )
        for start, examples in turns
    ]


def _language_phases(
    stage: Stage, contrast: Mapping[str, Choices], distill: list[Phase]
) -> list[Phase]:
    """The phases of the chosen loss."""
    if stage.loss.kind == "contrastive":
        return [Phase(0, contrast)]
    if stage.loss.kind == "two_stage":
        second = round(stage.train.steps * stage.loss.second_stage_from)
        return [phase for phase in distill if phase.start < second] + [Phase(second, contrast)]
    return distill
