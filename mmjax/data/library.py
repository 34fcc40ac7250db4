"""The library of a run: each encoder, corpus and table of features is loaded once."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from PIL import Image

from mmjax import assets
from mmjax.data import feature_cache, tables
from mmjax.data.corpora.catalog import load_corpus, load_parallel
from mmjax.data.pipeline import Choices
from mmjax.data.records import Corpus, Pair
from mmjax.data.splits import (
    Split,
    development_pool,
    split_by_class,
    split_by_family,
    split_folds,
)
from mmjax.data.tables import FeatureTable, InputTable, RawTable, View
from mmjax.data.transforms import view
from mmjax.encoders.base import Encoder
from mmjax.encoders.load import load_encoder
from mmjax.encoders.output import Inputs, Tower
from mmjax.errors import MmjaxError, setting
from mmjax.rng import seed_for
from mmjax.specs.data import PairsSpec
from mmjax.specs.spec import EncoderSpec
from mmjax.trees import PyTree

T = TypeVar("T")


@dataclass(frozen=True)
class TextBank:
    """Texts in a table, found by what they say."""

    table: InputTable
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

    table: InputTable
    rows: Sequence[Sequence[int]]  # of every item; the first style's views come first
    views: int

    def view(self, items: Int[np.ndarray, " k"]) -> View:
        """The first style's pictures of these items, all views of each."""
        return View(self.table, np.asarray([self.rows[i][: self.views] for i in items], np.int64))

    def choices(self, items: Int[np.ndarray, " k"]) -> Choices:
        """For every example (an item) all of its pictures."""
        return Choices.of(self.table, [list(self.rows[i]) for i in items])


@dataclass(frozen=True)
class Images:
    """Pictures that are decoded and varied when their turn comes."""

    corpus: Corpus
    index: Sequence[tuple[int, str, str]]  # (item, style, view)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Image.Image:
        item, style, name = self.index[i]
        try:
            return view(name, self.corpus.items[item].picture(style))
        except MmjaxError as error:
            raise MmjaxError(f"{self.corpus.name}, {error}") from error


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
        # role -> (texts cut, texts, tokens kept): for the report.
        self.truncated: dict[str, tuple[int, int, int]] = {}
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
                pooling=spec.pooling,
                tower=spec.tower,
                quantize=spec.quantize,
                family=spec.family,
            )
            changed = encoder.preprocess
            if spec.max_length is not None:
                try:
                    changed = dataclasses.replace(changed, max_length=spec.max_length)
                except MmjaxError as error:
                    raise MmjaxError(f"config.encoders: {spec.source}: {error}") from error
            if spec.pictures == "imagenet_square":
                changed = changed.imagenet_square()
            if changed is not encoder.preprocess:
                encoder = dataclasses.replace(encoder, preprocess=changed)
            self._encoders[key] = encoder
        return self._encoders[key]

    def remember(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` returned when it was first asked for under this key."""
        if key not in self._tables:
            self._tables[key] = make()
        return self._tables[key]

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
        key = PairsSpec(
            spec.source,
            spec.styles,
            exclude_labels=spec.exclude_labels,
            limit=spec.limit,
            sides=spec.sides,
            label=spec.label,
            min_families=spec.min_families,
            keep_families=spec.keep_families or not spec.min_families,
            development=spec.development if spec.pool == "development" else 0.0,
            pool=spec.pool,
        )
        if key not in self._corpora:
            self._corpora[key] = load_corpus(spec, self.languages)
        return self._corpora[key]

    def parallel(self, source: str, limit: int) -> list[Pair]:
        """Parallel text other than captions."""
        if (source, limit) not in self._parallel:
            self._parallel[source, limit] = load_parallel(source, limit)
        return self._parallel[source, limit]

    def split(self, spec: PairsSpec, seed: int, domain: bool = False) -> Split:
        """The split that a seed draws, of the domain or of all other items.

        Raises:
          MmjaxError: `pairs.domain.labels` that the corpus does not have; an empty side.
        """
        items, labels = self.corpus(spec).items, spec.domain.labels
        corpus_labels = {item.label for item in items} | set(self.corpus(spec).labels)
        if unknown := sorted(set(labels) - corpus_labels):
            raise MmjaxError(
                f"{setting('pairs.domain.labels')} names {unknown}; labels of "
                f"{self.corpus(spec).name} are {sorted({item.label for item in items})}"
            )
        chosen = [
            i for i, item in enumerate(items) if (item.label in labels) == domain or not labels
        ]
        shares = spec.domain if domain and labels else spec
        families = [items[i].family if spec.keep_families else items[i].id for i in chosen]
        fractions = seed_for(seed, "split"), shares.test_fraction, shares.val_fraction
        sides = [items[i].side for i in chosen]
        classes = [items[i].label for i in chosen]
        pool: Sequence[bool] = ()  # where it is all that is read, it is dealt like anything else
        if spec.development and spec.pool == "all":
            every = development_pool(
                [item.family for item in items], spec.development, [item.side for item in items]
            )
            pool = [bool(every[i]) for i in chosen]
        if spec.folds:
            split = split_folds(families, classes, seed, spec.folds, shares.val_fraction, pool)
        elif spec.stratify and not any(sides):
            split = split_by_class(families, classes, *fractions, pool)
        else:
            split = split_by_family(families, *fractions, sides, spec.sides, pool)
        if spec.train_fraction < 1:
            order = np.random.default_rng(seed_for(seed, "fraction")).permutation(split["train"])
            split["train"] = np.sort(order[: round(len(order) * spec.train_fraction) or 1])
        if domain:
            # Whoever gets fewer pairs gets some of those that others get.
            order = np.random.default_rng(seed_for(seed, "fraction")).permutation(split["train"])
            split["train"] = np.sort(order[: round(len(order) * spec.domain.fraction) or 1])
        return {side: np.asarray(chosen)[indices] for side, indices in split.items()}

    def tower(self, role: str, spec: EncoderSpec, table: InputTable | None) -> Tower:
        """The frozen encoder as a task sees it, for the table that feeds it, if any does."""
        encoder = self.encoder(spec)
        if isinstance(table, FeatureTable):
            return Tower(role, table.width, logit_scale=encoder.logit_scale)
        encode = functools.partial(encode_in_step, encoder, spec.output)
        return Tower(role, encoder.width(spec.output), encode, encoder.logit_scale)

    def images(self, spec: EncoderSpec, pairs: PairsSpec, cached: bool) -> ImageBank:
        """Every item's pictures through an image encoder."""
        return self.pictures(spec, self.corpus(pairs), pairs.styles, pairs.views, cached)

    def pictures(
        self,
        spec: EncoderSpec,
        corpus: Corpus,
        styles: tuple[str, ...] = ("photo",),
        views: tuple[str, ...] = ("plain",),
        cached: bool = True,
    ) -> ImageBank:
        """The same of any corpus."""
        ids = tuple(item.id for item in corpus.items)
        key = ("images", spec, corpus.fingerprint, ids, styles, views, cached)
        if key not in self._tables:
            encoder = self.encoder(spec)
            index = [
                (i, style, name)
                for i, item in enumerate(corpus.items)
                for style in sorted(item.images, key=_order(styles))
                for name in views
            ]
            pictures = Images(corpus, index)
            if cached:
                request = feature_cache.Request(
                    "image",
                    (encoder.outputs_fingerprint, corpus.fingerprint),
                    pictures,
                    [f"{corpus.items[i].id}/{style}/{name}" for i, style, name in index],
                    spec.output,
                )
                table: InputTable = self._cached(request, encoder)
            else:
                table = RawTable(pictures, lambda xs: {"pixel_values": encoder.preprocess(xs)})
            rows: list[list[int]] = [[] for _ in corpus.items]
            for row, (i, _, _) in enumerate(index):
                rows[i].append(row)
            self._tables[key] = ImageBank(table, rows, len(views))
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
        key = (role, spec, hashlib.sha256("\0".join(flat).encode()).hexdigest(), cached)
        if key not in self._tables:
            row = {t: i for i, t in enumerate(flat)}
            encoder = self.encoder(spec)
            truncated = encoder.preprocess.tokenize(flat).num_truncated
            self.truncated[role] = (truncated, len(flat), encoder.preprocess.max_length)
            if cached:
                requests = [
                    feature_cache.Request(
                        f"{role} {name}", (encoder.outputs_fingerprint,), texts, texts, spec.output
                    )
                    for name, texts in unique.items()
                ]
                table: InputTable = tables.concatenate([self._cached(r, encoder) for r in requests])
            else:
                tokens = encoder.preprocess.tokenize(flat)
                length = max(len(ids) for ids in tokens.ids)
                table = RawTable(flat, functools.partial(_tokenize, encoder, length))
            self._tables[key] = TextBank(table, row)
        return self._tables[key]

    def _cached(self, request: feature_cache.Request, encoder: Encoder) -> FeatureTable:
        return feature_cache.load_features(
            assets.cache_dir() / "features", request, lambda: encoder
        )


def _order(styles: Sequence[str]) -> Callable[[str], int]:
    """Sorts styles as a recipe names them; the first is what evaluation shows."""
    return lambda style: styles.index(style) if style in styles else len(styles)


def _constants(preprocess: Any) -> dict[str, Any]:
    """A preprocessing's JSON-able constants."""
    fields = {f.name: getattr(preprocess, f.name) for f in dataclasses.fields(preprocess)}
    return {k: v for k, v in fields.items() if isinstance(v, (int, float, str, tuple, type(None)))}


def _tokenize(encoder: Encoder, length: int, texts: Sequence[str]) -> dict[str, np.ndarray]:
    batch = encoder.preprocess(texts, pad_to=(length,))
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def encode_in_step(
    encoder: Encoder,
    output: str,
    params: PyTree,
    inputs: Inputs,
    adapters: PyTree = None,
    patches: bool = False,
) -> Inputs:
    """The encoder inside a step, for what no feature cache holds.

    Args:
      encoder: perhaps with an adapter's hook.
      output: which of its outputs is read.
      params: tree like the encoder's.
      inputs: a prepared batch.
      adapters: parameters for the hook.
      patches: whether a picture's patches are read beside that output.

    Returns:
      {"features": f32 [b d] or [b l d], ["mask"], ["patches": f32 [b l d], "patch_mask"]}.
    """
    encoded = encoder.apply(params, dict(inputs), adapters)
    features = {"features": encoded.select(output).astype(jnp.float32)}
    if output.startswith("tokens"):
        features["mask"] = encoded.mask.astype(bool)
    if patches:
        features["patches"] = encoded.tokens.astype(jnp.float32)
        mask = encoded.mask.astype(bool)
        features["patch_mask"] = mask.at[:, 0].set(False) if encoder.has_class_token else mask
    return features
