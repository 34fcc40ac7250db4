"""What a stage reads: corpora, splits, frozen encoders and tables of their features."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from mmjax import assets
from mmjax.data import feature_cache, tables
from mmjax.data.pipeline import Choices, Phase
from mmjax.data.records import Corpus, Pair, load_corpus, load_parallel
from mmjax.data.splits import Split, split_by_family
from mmjax.data.tables import FeatureTable, RawTable, Table
from mmjax.data.transforms import view
from mmjax.encoders import Encoder, load_encoder
from mmjax.encoders.image_preprocess import open_image
from mmjax.errors import MmjaxError
from mmjax.evals import EvalSet, View, ZeroShot
from mmjax.rng import seed_for
from mmjax.spec import EncoderSpec, PairsSpec, Recipe, Stage
from mmjax.tasks import Inputs, Tower


@dataclass(frozen=True)
class TextBank:
    """Texts in a table, found by what they say."""

    table: Table
    row: Mapping[str, int]

    def view(self, texts: Iterable[str]) -> View:
        """The rows of these texts."""
        return View(self.table, np.asarray([self.row[t] for t in texts], np.int64))

    def choices(self, candidates: Iterable[Sequence[str]]) -> Choices:
        """For every example the texts that may stand for it."""
        return Choices.of(self.table, [[self.row[t] for t in texts] for texts in candidates])


@dataclass(frozen=True)
class ImageBank:
    """Pictures of items in a table: every item in every style and view."""

    table: Table
    rows: Sequence[Sequence[int]]  # of every item; the first is the first style's plain picture

    def view(self, items: Iterable[int]) -> View:
        """The first style's plain pictures of these items."""
        return View(self.table, np.asarray([self.rows[i][0] for i in items], np.int64))

    def choices(self, items: Iterable[int]) -> Choices:
        """For every example (an item) all of its pictures."""
        return Choices.of(self.table, [list(self.rows[i]) for i in items])


@dataclass(frozen=True)
class Pictures:
    """Pictures that are decoded and varied when their turn comes."""

    corpus: Corpus
    index: Sequence[tuple[int, str, str]]  # (item, style, view)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Image.Image:
        item, style, name = self.index[i]
        picture = self.corpus.items[item]
        try:
            return view(name, open_image(picture.images[style], i))
        except MmjaxError as error:
            raise MmjaxError(
                f"{self.corpus.name}, item {picture.id}, style {style}: {error}"
            ) from error


def captions_of(captions: Sequence[str]) -> list[str]:
    """Captions that training draws from: the name alone, and the name with its keywords."""
    name, *keywords = captions
    return [name, ", ".join([name, *keywords])] if keywords else [name]


class Library:
    """Loads each encoder, corpus and table once for all stages and seeds of a run."""

    def __init__(self, mesh: Mesh, languages: tuple[str, str]) -> None:
        """Nothing is loaded yet.

        Args:
          mesh: where encoders live.
          languages: (source, target).
        """
        self.mesh = mesh
        self.languages = languages
        self._encoders: dict[EncoderSpec, Encoder] = {}
        self._tables: dict[Any, Any] = {}
        self._corpora: dict[PairsSpec, Corpus] = {}
        self._parallel: dict[tuple[str, int], list[Pair]] = {}

    def encoder(self, spec: EncoderSpec) -> Encoder:
        """The frozen encoder of a spec, loaded on first use."""
        key = dataclasses.replace(spec, output="pooled")
        if key not in self._encoders:
            encoder = load_encoder(
                spec.source,
                jnp.dtype(spec.dtype),
                mesh=self.mesh if self.mesh.size > 1 else None,
                image_size=spec.image_size,
            )
            if spec.max_length is not None:
                preprocess = dataclasses.replace(encoder.preprocess, max_length=spec.max_length)
                encoder = dataclasses.replace(encoder, preprocess=preprocess)
            self._encoders[key] = encoder
        return self._encoders[key]

    def identity(self, spec: EncoderSpec) -> dict[str, Any]:
        """What a card says of an encoder."""
        encoder = self.encoder(spec)
        return {
            **dataclasses.asdict(spec),
            "family": encoder.family,
            "fingerprint": encoder.fingerprint,
            "preprocess": _constants(encoder.preprocess),
            "preprocess_fingerprint": encoder.preprocess.fingerprint,
        }

    def corpus(self, spec: PairsSpec) -> Corpus:
        """The items of a spec, whatever its split."""
        key = dataclasses.replace(spec, views=("plain",), test_fraction=0.2, val_fraction=0.1)
        if key not in self._corpora:
            self._corpora[key] = load_corpus(spec, self.languages)
        return self._corpora[key]

    def parallel(self, source: str, limit: int) -> list[Pair]:
        """Parallel text other than captions."""
        if (source, limit) not in self._parallel:
            self._parallel[source, limit] = load_parallel(source, limit)
        return self._parallel[source, limit]

    def split(self, spec: PairsSpec, seed: int) -> Split:
        """The split that a seed draws."""
        families = [item.family for item in self.corpus(spec).items]
        fractions = spec.test_fraction, spec.val_fraction
        return split_by_family(families, seed_for(seed, "split"), *fractions)

    def tower(self, role: str, spec: EncoderSpec, table: Table) -> Tower:
        """The frozen encoder as a task sees it, for the table that feeds it."""
        if isinstance(table, FeatureTable):
            return Tower(role, table.width)
        encoder = self.encoder(spec)
        doubled = 2 if spec.output == "cls_mean" else 1
        encode = functools.partial(_encode, encoder, spec.output)
        return Tower(role, encoder.hidden_size * doubled, encode)

    def images(self, spec: EncoderSpec, pairs: PairsSpec, cached: bool) -> ImageBank:
        """Every item's pictures through an image encoder."""
        key = ("images", spec, pairs.source, pairs.styles, pairs.views, pairs.limit)
        key = (*key, pairs.exclude_labels, cached)
        if key not in self._tables:
            corpus, encoder = self.corpus(pairs), self.encoder(spec)
            index = [
                (i, style, name)
                for i, item in enumerate(corpus.items)
                for style in item.images
                for name in pairs.views
            ]
            pictures = Pictures(corpus, index)
            if cached:
                request = feature_cache.Request(
                    "image",
                    (encoder.outputs_fingerprint, corpus.fingerprint),
                    pictures,
                    [f"{corpus.items[i].id}/{style}/{name}" for i, style, name in index],
                    spec.output,
                )
                table: Table = self._cached(request, encoder)
            else:
                table = RawTable(pictures, lambda xs: {"pixel_values": encoder.preprocess(xs)})
            rows: list[list[int]] = [[] for _ in corpus.items]
            for row, (i, _, _) in enumerate(index):
                rows[i].append(row)
            self._tables[key] = ImageBank(table, rows)
        return self._tables[key]

    def texts(
        self, role: str, spec: EncoderSpec, parts: Mapping[str, Sequence[str]], cached: bool
    ) -> TextBank:
        """Texts through a text encoder; each part is cached on its own."""
        unique = {name: list(dict.fromkeys(texts)) for name, texts in parts.items()}
        seen: set[str] = set()
        for name, texts in unique.items():
            unique[name] = [t for t in texts if t not in seen]
            seen.update(unique[name])
        unique = {name: texts for name, texts in unique.items() if texts}
        flat = [t for texts in unique.values() for t in texts]
        row = {t: i for i, t in enumerate(flat)}
        key = (role, spec, hashlib.sha256("\0".join(flat).encode()).hexdigest(), cached)
        if key not in self._tables:
            encoder = self.encoder(spec)
            if cached:
                requests = [
                    feature_cache.Request(
                        f"{role} {name}", (encoder.outputs_fingerprint,), texts, texts, spec.output
                    )
                    for name, texts in unique.items()
                ]
                table: Table = tables.concatenate([self._cached(r, encoder) for r in requests])
            else:
                tokens = encoder.preprocess.tokenize(flat)
                length = max(len(ids) for ids in tokens.ids)
                table = RawTable(flat, functools.partial(_tokenize, encoder, length))
            self._tables[key] = TextBank(table, row)
        return self._tables[key]

    def _cached(self, request: feature_cache.Request, encoder: Encoder) -> FeatureTable:
        return feature_cache.load(assets.cache_dir() / "features", request, lambda: encoder)


def _constants(preprocess: Any) -> dict[str, Any]:
    """A preprocessing's JSON-able constants."""
    fields = {f.name: getattr(preprocess, f.name) for f in dataclasses.fields(preprocess)}
    return {k: v for k, v in fields.items() if isinstance(v, (int, float, str, tuple, type(None)))}


def _tokenize(encoder: Encoder, length: int, texts: Sequence[str]) -> dict[str, np.ndarray]:
    batch = encoder.preprocess(texts, pad_to=(length,))
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _encode(encoder: Encoder, output: str, params: Any, inputs: Inputs) -> Inputs:
    """The encoder inside a step, for runs without a feature cache."""
    found = encoder.apply(params, dict(inputs))
    if output == "tokens":
        return {"features": found.tokens.astype(jnp.float32), "mask": found.mask.astype(bool)}
    if output == "cls_mean":
        tokens = found.tokens.astype(jnp.float32)
        pooled = jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=-1)
        return {"features": pooled}
    pooled = found.pooled if output == "pooled" else found.tokens[:, 0].astype(jnp.float32)
    return {"features": pooled}


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
    pairs = _parallel(stage, library) if language else []
    images = library.images(stage.encoders["image"], stage.pairs, cached)
    texts = library.texts(
        "text",
        stage.encoders["text"],
        {
            f"{target} captions": _all_captions(corpus, target),
            # Read by the floor: the base's own encoder on the language that it does not know.
            f"{source} captions": _all_captions(corpus, source),
            f"{target} parallel": [t for pair in pairs for t in pair.targets],
        },
        cached,
    )
    banks = {"image": images, "text": texts}
    if language:
        banks["foreign"] = library.texts(
            "foreign",
            stage.encoders["foreign"],
            {
                f"{source} captions": _all_captions(corpus, source),
                f"{source} parallel": [pair.source for pair in pairs],
            },
            cached,
        )
    towers = {r: library.tower(r, stage.encoders[r], bank.table) for r, bank in banks.items()}

    def captions(language: str) -> list[list[str]]:
        return [captions_of(corpus.items[i].captions[language]) for i in split["train"]]

    if not language:
        phases = [
            {"image": images.choices(split["train"]), "text": texts.choices(captions(target))}
        ]
    else:
        foreign = banks["foreign"]
        assert isinstance(foreign, TextBank)
        own = _caption_pairs(corpus, split["train"], source, target)
        if "captions" in stage.parallel.sources:
            pairs = own * stage.parallel.repeat_captions + pairs
        distill = {
            "foreign": foreign.choices([pair.source] for pair in pairs),
            "text": texts.choices(pair.targets for pair in pairs),
        }
        contrast = {
            "foreign": foreign.choices(captions(source)),
            "image": images.choices(split["train"]),
        }
        phases = {"contrastive": [contrast], "two_stage": [distill, contrast]}.get(
            stage.loss.kind, [distill]
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

    if not language:
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
    second = round(stage.train.steps * stage.loss.second_stage_from)
    starts = [0, second][: len(phases)]
    return StageData(
        towers,
        tuple(Phase(start, roles) for start, roles in zip(starts, phases, strict=True)),
        val,
        test,
        split,
        corpus,
    )


def _parallel(stage: Stage, library: Library) -> list[Pair]:
    sources = [s for s in stage.parallel.sources if s != "captions"]
    pairs = [pair for s in sources for pair in library.parallel(s, stage.parallel.limit)]
    if not pairs and "captions" not in stage.parallel.sources:
        raise MmjaxError(
            "config.parallel.sources is empty; expected 'captions', 'cedict' or .jsonl paths"
        )
    return pairs


def _caption_pairs(corpus: Corpus, items: Iterable[int], source: str, target: str) -> list[Pair]:
    """Name with name, and name with keywords with the same in the other language."""
    found = []
    for i in items:
        captions = corpus.items[i].captions
        both = zip(captions_of(captions[source]), captions_of(captions[target]), strict=False)
        found += [Pair(mine, (theirs,)) for mine, theirs in both]
    return found


def _all_captions(corpus: Corpus, language: str) -> list[str]:
    """Every caption that training or evaluation may read, and the labels' names."""
    captions = [text for item in corpus.items for text in captions_of(item.captions[language])]
    return captions + [names[language] for names in corpus.labels.values()]
