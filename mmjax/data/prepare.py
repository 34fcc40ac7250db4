"""What a stage reads with one seed: examples to train on, sets to evaluate on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmjax.data.library import (
    ImageBank,
    Library,
    TextBank,
    captions_of,
    names_and_captions,
)
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus, Pair
from mmjax.data.splits import Split
from mmjax.evals import EvalSet, ZeroShot
from mmjax.recipe import Recipe
from mmjax.spec import Stage
from mmjax.tasks import Tower


@dataclass(frozen=True)
class System:
    """One way to answer text queries: which published function reads which texts."""

    text_function: str
    data: EvalSet


@dataclass(frozen=True)
class StageData:
    """Everything that a stage reads with one seed.

    Attributes:
      towers: role -> frozen tower.
      phases: what is trained on, in turn.
      val: the trained system on the validation items, for model selection.
      test: system -> what is reported, on the test items. `adapted` is the trained one; for
        `language` there are also `ceiling` and `floor`, both through the frozen base.
      items: {"train", "val", "test"} -> indices of the corpus's items.
      corpus: the items.
    """

    towers: Mapping[str, Tower]
    phases: tuple[Phase, ...]
    val: System
    test: Mapping[str, System]
    items: Split
    corpus: Corpus


def prepare(stage: Stage, recipe: Recipe, seed: int, library: Library) -> StageData:
    """Builds tables, split, examples and evaluation sets of a stage.

    Args:
      stage: what is trained.
      recipe: languages.
      seed: draws the split.
      library: shared by all stages.

    Returns:
      The stage's data.
    """
    source, target = recipe.languages
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    cached = stage.train.cache_features
    language = stage.task == "language"
    pairs = library.pairs(stage) if language else []
    images = library.images(stage.encoders["image"], stage.pairs, cached)
    texts = library.texts(
        "text",
        stage.encoders["text"],
        {
            f"{target} captions": _all_captions(corpus, target),
            # Read by the floor: the base's own encoder on the language that it does not know.
            f"{source} names": _names(corpus, source),
            f"{target} parallel": [t for pair in pairs for t in pair.targets],
        },
        cached,
    )
    banks = {"image": images, "text": texts}
    foreign = None
    if language:
        foreign = banks["foreign"] = library.texts(
            "foreign",
            stage.encoders["foreign"],
            {
                f"{source} captions": _all_captions(corpus, source),
                f"{source} parallel": [pair.source for pair in pairs],
            },
            cached,
        )
    towers = {r: library.tower(r, stage.encoders[r], bank.table) for r, bank in banks.items()}

    def captions(language: str) -> Choices:
        bank = texts if foreign is None or language == target else foreign
        return bank.choices(
            names_and_captions(corpus.items[i].captions[language]) for i in split["train"]
        )

    if foreign is None:
        phases = [Phase(0, {"image": images.choices(split["train"]), "text": captions(target)})]
    else:
        contrast = {"foreign": captions(source), "image": images.choices(split["train"])}
        phases = _language_phases(
            stage, contrast, _text_phases(stage, corpus, split, recipe.languages, pairs, banks)
        )

    def evaluation(side: str, bank: TextBank, language: str) -> EvalSet:
        items = [corpus.items[i] for i in split[side]]
        labels = sorted({item.label for item in items if item.label})
        return EvalSet(
            images=images.view(split[side]),
            texts=bank.view(item.captions[language][0] for item in items),
            labels=np.asarray([labels.index(item.label) if item.label else -1 for item in items]),
            label_texts=bank.view(corpus.labels[label][language] for label in labels),
            base_texts=texts.view(item.captions[target][0] for item in items),
        )

    if foreign is None:
        val = System("embed_texts", evaluation("val", texts, target))
        test = {"adapted": System("embed_texts", evaluation("test", texts, target))}
    else:
        val = System("embed_texts", evaluation("val", foreign, source))
        test = {
            "adapted": System("embed_texts", evaluation("test", foreign, source)),
            "ceiling": System("embed_base_texts", evaluation("test", texts, target)),
            "floor": System("embed_base_texts", evaluation("test", texts, source)),
        }
    if "zeroshot" in recipe.evals:
        ZeroShot.check(len(test["adapted"].data.label_texts))
    return StageData(towers, tuple(phases), val, test, split, corpus)


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
    spec, everything = stage.parallel, [((pair.source,), pair.targets) for pair in pairs]
    parts = [(0, everything)]
    if "captions" in spec.sources:
        own = _caption_examples(corpus, split["train"], *languages)
        parts = [(0, own * spec.repeat_captions + everything)]
        if everything and spec.captions_from < 1:
            parts.append((round(stage.train.steps * spec.captions_from), own))
    return [
        Phase(
            start,
            {
                "foreign": foreign.choices(sources for sources, _ in examples),
                "text": texts.choices(targets for _, targets in examples),
            },
        )
        for start, examples in parts
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


def _caption_examples(
    corpus: Corpus, items: Int[np.ndarray, " k"], source: str, target: str
) -> list[tuple[Sequence[str], Sequence[str]]]:
    """(sources, targets) of every item: its name in both languages, its keywords in both."""
    found: list[tuple[Sequence[str], Sequence[str]]] = []
    for i in items:
        mine, theirs = (corpus.items[i].captions[language] for language in (source, target))
        found += [((mine[0],), (theirs[0],)), (captions_of(mine), captions_of(theirs))]
    return found


def _all_captions(corpus: Corpus, language: str) -> list[str]:
    """Every caption that training or evaluation may read, and the labels' names."""
    captions = [
        text for item in corpus.items for text in names_and_captions(item.captions[language])
    ]
    return captions + _names(corpus, language)


def _names(corpus: Corpus, language: str) -> list[str]:
    """The items' and the labels' names: what evaluation reads."""
    names = [item.captions[language][0] for item in corpus.items]
    return names + [labels[language] for labels in corpus.labels.values()]
