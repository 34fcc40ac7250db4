"""Every source of pictures with captions, and of parallel text, by name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from mmjax import plugins
from mmjax.data.corpora import jsonl
from mmjax.data.files import text_of
from mmjax.data.labels import select
from mmjax.data.own import FORMS, LISTS, is_own, own_rows
from mmjax.data.records import Corpus, Pair
from mmjax.errors import MmjaxError, setting
from mmjax.specs.data import PairsSpec

# (what stands behind the name's colon, spec, languages that every item must be captioned in) ->
# all items; `load_corpus` chooses among them.
Reader: TypeAlias = Callable[[str, PairsSpec, Sequence[str]], Corpus]
# Need no folder, and take none.
_WHOLE = ("emoji", "digits", "openclipart", "stamps", "breast_cancer")
_CN_CLIP = "mmjax.data.corpora.cn_clip:load_cn_clip"
CORPORA = plugins.Catalog[Reader](
    plugins.CORPORA,
    "a function that reads a corpus",
    Callable,
    {
        "cn_clip": _CN_CLIP,
        "muge": _CN_CLIP,
        **{
            name: f"mmjax.data.corpora.{name}:load_{name}"
            for name in (*_WHOLE, "food101", "mmimdb", "coop", "embeddings")
        },
    },
)


def load_corpus(spec: PairsSpec, languages: Sequence[str]) -> Corpus:
    """Reads the pictures and captions that a recipe names.

    Args:
      spec: source, styles, labels to leave out, limit.
      languages: languages that every item must be captioned in.

    Returns:
      The corpus.

    Raises:
      MmjaxError: an unknown source; a row without picture or caption (names file and row).
    """
    if is_own(spec.source):
        return select(jsonl.load_jsonl(spec.source, spec, languages), spec)
    name, _, place = spec.source.partition(":")
    reference = plugins.reference_in(spec.source)
    if reference is not None and name not in CORPORA:
        name, place = reference, spec.source[len(reference) + 1 :]
    misplaced = name in CORPORA.own and bool(place) == (name in _WHOLE)
    if misplaced or name not in CORPORA:
        raise MmjaxError(
            f"{setting('pairs.source')} is {spec.source!r}; expected 'emoji', 'digits', "
            f"{FORMS} for your own, 'openclipart', 'stamps', 'breast_cancer', one of 'cn_clip', "
            "'muge', 'food101', 'mmimdb' and 'coop' with its folder, as in 'muge:FOLDER', "
            "'embeddings:FILE', or package.module:Name for a corpus of your own"
        )
    return select(CORPORA.find(name, "pairs.source")(place, spec, languages), spec)


def load_parallel(source: str, limit: int) -> list[Pair]:
    """Reads parallel text other than captions.

    Args:
      source: `cedict`, or the path of a .jsonl, .csv or .tsv file with `source` and `target`.
      limit: only the first so many pairs (0: all); of `cedict` the words that learners meet first.

    Returns:
      Pairs.

    Raises:
      MmjaxError: an unknown source, an empty one, or a row without text.
    """
    if source == "cedict":
        from mmjax.data.corpora import cedict

        pairs = cedict.load_cedict(limit)
    elif Path(source).suffix in LISTS:
        pairs = [
            Pair(text_of(place, record, "source"), (text_of(place, record, "target"),))
            for place, record in own_rows(source)
        ]
    else:
        raise MmjaxError(
            f"{setting('parallel.sources')} names {source!r}; expected 'captions', 'cedict' or a "
            "path of a .jsonl, .csv or .tsv file"
        )
    if not pairs:
        raise MmjaxError(f"parallel source {source!r} has no pairs")
    return pairs[:limit] if limit else pairs
