"""What a stage's data can be refused for before any encoder reads it.

Records, splits and sizes alone decide; features take minutes. Whoever builds what a stage reads may
rely on these.
"""

from mmjax.data.captions import check_captions, check_select, text_turns
from mmjax.data.dialogues import Dialogues
from mmjax.data.easy_vqa import Questions
from mmjax.data.library import Library
from mmjax.data.pipeline import check_enough
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.data.transforms import check_view
from mmjax.errors import MmjaxError, setting
from mmjax.evals import ZeroShot
from mmjax.rng import seed_for
from mmjax.sharding import check_batch
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.dual_encoder.eval_sets import labels_of, queries_of
from mmjax.tasks.instruct.data import hold_out
from mmjax.tasks.instruct.easy_vqa import check_divides, check_held_out
from mmjax.tasks.projection.data import check_output, classes_of


def check_data(
    stage: Stage, recipe: Recipe, seed: int, library: Library, base: Stage | None
) -> None:
    """Refuses a stage whose records, split or sizes do not fit what it is to do.

    Args:
      stage: what is trained; of `prompts` only what it has in common with the others.
      recipe: languages and evals.
      seed: draws the split.
      library: reads records; no encoder is loaded.
      base: the stage that a `domain` builds on.

    Raises:
      MmjaxError: names the setting, as the part of the recipe that is looked at has it.
    """
    reads_pairs = stage.task != "instruct"
    if stage.task != "pretrained":
        check_batch(stage.train.batch_size, library.mesh)
    for name in stage.pairs.views if reads_pairs else ():
        check_view(name)
    if not reads_pairs:
        _check_questions(stage, seed, library)
    elif stage.task == "projection":
        _check_labelled(stage, recipe, seed, library)
    elif stage.task == "domain":
        assert base is not None
        _check_domain(stage, base, recipe, seed, library)
    elif stage.task != "prompts" and (stage.task != "pretrained" or stage is recipe.main):
        _check_pairs(stage, recipe, seed, library)


def _check_pairs(stage: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    """Of `contrastive`, `language` and a `pretrained` that is measured."""
    (source, target), language = recipe.languages, stage.task == "language"
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    check_captions(stage, corpus, recipe.languages)
    kept, held = library.held_out(stage, seed) if language else ([], [])
    queries_of(corpus, split["test"], source if language else target)
    if stage.task != "pretrained" and not held:
        queries_of(corpus, split["val"], source if language else target)
    if language:
        if corpus.speaks(target):
            queries_of(corpus, split["test"], target)
        check_select(stage, corpus, recipe.languages, bool(held))
    if "zeroshot" in recipe.evals:
        ZeroShot.check(len(labels_of(corpus, split["test"])))
    sizes = [] if stage.task == "pretrained" else [len(split["train"])]
    if language and stage.loss.kind != "contrastive":
        turns = text_turns(stage, corpus, split["train"], recipe.languages, kept)
        two = stage.loss.kind == "two_stage"
        second = round(stage.train.steps * stage.loss.second_stage_from)
        parts = [len(examples) for start, examples in turns if not two or start < second]
        sizes = parts + (sizes if two else [])
    for size in sizes:
        check_enough(stage.train.batch_size, size)


def _check_domain(stage: Stage, base: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    language = recipe.languages[0 if stage.text_role == "foreign" else 1]
    parts: dict[str, tuple[Corpus, Split]] = {
        "own": (library.corpus(stage.pairs), library.split(stage.pairs, seed, domain=True)),
        "general": (library.corpus(base.pairs), library.split(base.pairs, seed)),
    }
    for name, (corpus, split) in parts.items():
        for side in ("test", "val", *(("train",) if name == "own" else ())):
            queries_of(corpus, split[side], language, one_each=side == "train")
        if "zeroshot" in recipe.evals:
            ZeroShot.check(len(labels_of(corpus, split["test"])))
    check_enough(stage.train.batch_size, len(parts["own"][1]["train"]))
    if stage.continual.kind == "ewc":
        size = min(stage.continual.fisher_batch_size, len(parts["general"][1]["train"]))
        check_batch(size, library.mesh, "continual.fisher_batch_size")


def _check_labelled(stage: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    classes_of(corpus)
    for role, spec in stage.encoders.items():
        check_output(role, spec, spec.output.startswith("tokens"))
    if "text" in stage.encoders and not all(
        item.captions.get(recipe.languages[1]) for item in corpus.items
    ):
        raise MmjaxError(
            f"not all items of {corpus.name} have a text in {recipe.languages[1]!r}; set "
            "--config.languages to (any, the one that they have), or leave the text encoder out"
        )
    check_enough(stage.train.batch_size, len(split["train"]))


def _check_questions(stage: Stage, seed: int, library: Library) -> None:
    spec = stage.questions
    check_divides(stage, library)
    train = library.questions(spec, spec.sides[0])
    if isinstance(train, Questions):
        check_held_out(spec, len(train.pictures))
    elif isinstance(train, Dialogues):
        hold_out(len(train.conversations), spec, seed_for(seed, "split"))


def check_shots(stage: Stage, corpus: Corpus, split: Split, classes: list[str], shots: int) -> None:
    """Refuses a few-shot stage without a test picture of its classes, or with too large a batch.

    Args:
      stage: a `prompts` stage.
      corpus: the items.
      split: as its seed draws it.
      classes: labels that are asked for.
      shots: pictures that are trained on, of all classes; 0 where none is.

    Raises:
      MmjaxError: names the setting.
    """
    if not any(corpus.items[i].label in classes for i in split["test"]):
        raise MmjaxError(
            f"no test picture of {corpus.name} has one of the classes {classes[:5]}; give more "
            f"items, or another {setting('pairs.test_fraction')}"
        )
    if shots:
        check_enough(stage.train.batch_size, shots)
