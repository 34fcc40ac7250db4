"""What a dual encoder's data can be refused for before any encoder reads it.

Records, splits and sizes alone decide; features take minutes.
"""

from mmjax.data.captions import text_turns
from mmjax.data.library import Library
from mmjax.data.pipeline import check_enough
from mmjax.data.records import Corpus
from mmjax.data.splits import Split
from mmjax.errors import MmjaxError, setting
from mmjax.evals import ZeroShot
from mmjax.sharding import check_batch
from mmjax.specs.recipe import Recipe
from mmjax.specs.spec import Stage
from mmjax.tasks.dual_encoder.eval_sets import labels_of, queries_of
from mmjax.tasks.dual_encoder.parallel import held_out


def check_pairs(stage: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    """Of `contrastive`, `language` and a `pretrained` that is measured."""
    (source, target), language = recipe.languages, stage.task == "language"
    corpus, split = library.corpus(stage.pairs), library.split(stage.pairs, seed)
    check_captions(stage, corpus, recipe.languages)
    kept, held_pairs = held_out(stage, seed, library) if language else ([], [])
    queries_of(corpus, split["test"], source if language else target)
    if stage.task != "pretrained" and not held_pairs:
        queries_of(corpus, split["val"], source if language else target)
    if language:
        if corpus.speaks(target):
            queries_of(corpus, split["test"], target)
        check_select(stage, corpus, recipe.languages, bool(held_pairs))
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


def check_domain(stage: Stage, base: Stage, recipe: Recipe, seed: int, library: Library) -> None:
    """Of `domain`."""
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


def check_captions(stage: Stage, corpus: Corpus, languages: tuple[str, str]) -> None:
    """Refuses pairs without the captions that a stage trains on."""
    source, target = languages
    language = stage.task == "language"
    needs: set[str] = {source} if language else {target} if stage.task == "contrastive" else set()
    if language and "captions" in stage.parallel.sources:
        needs.add(target)
    lacking = sorted(name for name in needs if not corpus.speaks(name))
    if lacking:
        raise MmjaxError(
            f"the pictures of {corpus.name} have no captions in {lacking}; give parallel text as "
            f".jsonl files in {setting('parallel.sources')} instead of 'captions', or other pairs"
        )


def check_select(stage: Stage, corpus: Corpus, languages: tuple[str, str], held: bool) -> None:
    """Refuses to choose the best step by twins of queries where the queries have none."""
    twins = held or (not corpus.queries and corpus.speaks(languages[1]))
    if stage.train.select in ("cosine_to_base", "t2t_mR") and not twins:
        source, target = languages
        raise MmjaxError(
            f"{setting('train.select')} is {stage.train.select!r}, but the pictures of "
            f"{corpus.name} have no {target} captions that say what their {source} ones do; hold "
            f"some parallel text out: --{setting('parallel.val_pairs')}=500"
        )
