"""What is asked of a system in evaluation: its own test items, and the benchmarks beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmjax.data.captions import asked_texts
from mmjax.data.corpora import class_folders
from mmjax.data.labels import check_names
from mmjax.data.library import ImageBank, Library, TextBank
from mmjax.data.records import Corpus, Pair
from mmjax.errors import MmjaxError
from mmjax.evals import ClassSet, EvalSet, View, empty_view
from mmjax.specs.data import PairsSpec
from mmjax.specs.recipe import BenchmarksSpec, Recipe, benchmark_name
from mmjax.specs.spec import EncoderSpec, Stage


def eval_set(
    corpus: Corpus,
    items: Int[np.ndarray, " k"],
    images: ImageBank,
    texts: TextBank,
    language: str,
    one_each: bool = False,
) -> EvalSet:
    """Some items, asked for in a language.

    Args:
      corpus: holds the items.
      items: which; all of them make the gallery.
      images: their pictures.
      texts: holds their queries.
      language: of the queries.
      one_each: asks for every item by its first caption, even where the corpus has more queries.

    Returns:
      Every query of the corpus that names one of the items; by its name where it has no queries.

    Raises:
      MmjaxError: nothing asks for them in this language.
    """
    chosen = corpus.at(items)
    queries, answers = queries_of(corpus, items, language, one_each)
    labels = labels_of(corpus, items)
    named = all(language in corpus.labels[label] for label in labels)  # else they are not asked for
    return EvalSet(
        images=images.view(items),
        texts=texts.view(queries),
        labels=np.asarray([labels.index(item.label) if item.label else -1 for item in chosen]),
        label_texts=texts.view(corpus.labels[x][language] for x in labels if named),
        base_texts=empty_view(texts.table),
        queries=tuple(queries),
        answers=answers,
    )


def labels_of(corpus: Corpus, items: Int[np.ndarray, " k"]) -> list[str]:
    """The classes of some items, sorted."""
    return sorted({item.label for item in corpus.at(items)} - {""})


def queries_of(
    corpus: Corpus, items: Int[np.ndarray, " k"], language: str, one_each: bool = False
) -> tuple[list[str], Int[np.ndarray, "p 2"] | None]:
    """What asks for some items in a language; see `eval_set`.

    Returns:
      (texts; (query, item) pairs of what answers them, None where each item has its own).

    Raises:
      MmjaxError: nothing asks for them in this language.
    """
    chosen = corpus.at(items)
    answers = None
    if corpus.queries and not one_each:
        place = {item.id: n for n, item in enumerate(chosen)}
        entries = [
            q for q in corpus.queries if q.language == language and place.keys() & set(q.items)
        ]
        pairs = [(n, place[i]) for n, q in enumerate(entries) for i in q.items if i in place]
        queries, answers = [query.text for query in entries], np.asarray(pairs, np.int64)
    else:
        queries = [item.captions[language][0] for item in chosen if item.captions.get(language)]
    if not queries or (answers is None and len(queries) < len(chosen)):
        raise MmjaxError(
            f"{corpus.name} has no queries in {language!r} for its {len(chosen)} pictures; set "
            "--config.languages to those that it has"
        )
    return queries, answers


def text_set(pairs: Sequence[Pair], foreign: TextBank, texts: TextBank) -> EvalSet:
    """Held-out parallel text: no picture is asked for."""
    queries = tuple(pair.source for pair in pairs)
    return EvalSet(
        images=empty_view(foreign.table),
        texts=foreign.view(queries),
        labels=np.zeros(0, np.int64),
        label_texts=empty_view(foreign.table),
        base_texts=texts.view(pair.targets[0] for pair in pairs),
        queries=queries,
    )


@dataclass(frozen=True)
class Benchmarks:
    """Further test sets as one system reads them: name -> what is asked."""

    retrieval: Mapping[str, EvalSet] = field(default_factory=dict[str, EvalSet])
    classification: Mapping[str, ClassSet] = field(default_factory=dict[str, ClassSet])


def check_eval_sets(recipe: Recipe, library: Library) -> None:
    """Reads what is asked, without any encoder: a mistake must not cost a training.

    Raises:
      MmjaxError: as `eval_set`, `check_labels`, `mmjax.data.corpora.catalog.load_corpus` and
        `mmjax.data.corpora.class_folders.load_class_folder`.
    """
    check_labels(recipe, library)
    spec = recipe.benchmarks
    for source in spec.retrieval:
        library.corpus(_pairs(source, spec))
    for folder in spec.classification if "classification" in recipe.evals else ():
        data = _classes(folder, spec)
        if data.classes < 2:
            raise MmjaxError(f"{folder} has one class; a classification needs at least 2")
        for base in (False, True):
            _prompts(data, spec, base)


def check_labels(recipe: Recipe, library: Library) -> None:
    """Refuses classes that have no name in a language in which they are asked for.

    Raises:
      MmjaxError: names the row.
    """
    main, (source, target) = recipe.main, recipe.languages
    if "zeroshot" not in recipe.evals and main.task != "prompts":
        return
    corpus = library.corpus(main.pairs)
    languages = {source} if main.text_role == "foreign" else {target}
    if main.task == "language" and corpus.speaks(target):
        languages.add(target)  # of the ceiling
    for language in sorted(languages):
        check_names(corpus, language)


def benchmarks(
    recipe: Recipe, library: Library, stage: Stage, role: str, language: str, base: bool
) -> Benchmarks:
    """The recipe's benchmarks through a stage's encoders.

    Args:
      recipe: names them.
      library: loads them.
      stage: its image encoder reads the pictures.
      role: the encoder that reads the texts.
      language: of the queries; sets that have none in it are left out.
      base: whether classes are named in the base's language.

    Returns:
      What the system can be asked.
    """
    spec, cached = recipe.benchmarks, {r: stage.caches(r) for r in stage.encoders}
    image, text = stage.encoders["image"], stage.encoders[role]
    retrieval: dict[str, EvalSet] = {}
    for source in spec.retrieval:
        corpus, name = library.corpus(_pairs(source, spec)), benchmark_name(source)
        if not corpus.speaks(language):
            continue
        bank = _texts(library, role, text, name, asked_texts(corpus, language), cached[role])
        pictures = library.pictures(image, corpus, cached=cached["image"])
        everything = np.arange(len(corpus.items))
        retrieval[name] = eval_set(corpus, everything, pictures, bank, language)
    classification: dict[str, ClassSet] = {}
    for folder in spec.classification if "classification" in recipe.evals else ():
        data, name = _classes(folder, spec), benchmark_name(folder)
        prompts = _prompts(data, spec, base)
        if prompts is None:
            continue
        bank = _texts(library, role, text, name, [p for c in prompts for p in c], cached[role])
        rows = np.asarray([[bank.row[p] for p in c] for c in prompts], np.int64)
        items = np.arange(len(data.images.items))
        classification[name] = ClassSet(
            library.pictures(image, data.images, cached=cached["image"]).view(items),
            np.asarray([int(item.label) for item in data.images.items]),
            View(bank.table, rows),
        )
    return Benchmarks(retrieval, classification)


def _texts(
    library: Library,
    role: str,
    spec: EncoderSpec,
    name: str,
    texts: Sequence[str],
    cached: bool,
) -> TextBank:
    return library.texts(f"{role}, {name}", spec, {name: texts}, cached)


def _pairs(source: str, spec: BenchmarksSpec) -> PairsSpec:
    return PairsSpec(source, ("photo",), limit=spec.limit, sides=("test",))


def _classes(folder: str, spec: BenchmarksSpec) -> class_folders.ClassFolder:
    return class_folders.load_class_folder(Path(folder), (spec.names, spec.base_names), spec.limit)


def _prompts(
    data: class_folders.ClassFolder, spec: BenchmarksSpec, base: bool
) -> list[list[str]] | None:
    if base:
        return data.prompts(spec.base_names, spec.base_templates)
    return data.prompts(spec.names, spec.templates)
