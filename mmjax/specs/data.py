"""Settings of pictures with captions, and of parallel text; `Stage` checks them."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from mmjax.errors import check
from mmjax.specs.bounds import Bounds, Count, Natural, Part, Share

Pool: TypeAlias = Annotated[float, Bounds(0, 0.9)]


@dataclass(frozen=True)
class DomainSpec:
    """Which items are a domain. Other tasks than `domain` neither train on them nor test on them.

    Attributes:
      labels: of the items that are the domain; empty where the whole source is.
      fraction: share of the domain's training items that is read: how few pairs are enough?
      test_fraction: share of the domain's items held out for the test, families kept whole.
      val_fraction: share of the domain's items held out for model selection.
    """

    labels: tuple[str, ...] = ()
    fraction: Share = 1.0
    test_fraction: Part = 0.3
    val_fraction: Part = 0.15


@dataclass(frozen=True)
class PairsSpec:
    """Pictures with captions in one or two languages, and how they are split.

    Attributes:
      source: `emoji`, `digits`, your own data (the path of a .jsonl, .csv, .tsv, .tar or .parquet
        file with one picture a row, `hf:ORG/NAME` on the hub, or `folder:DIR` with one folder a
        class; see `mmjax.data.own`), or a folder in the layout of a data set: `cn_clip:FOLDER` (or
        `muge:FOLDER`: the same), `food101:FOLDER`, `mmimdb:FOLDER`, `coop:FOLDER`.
      styles: picture styles to read; the first one is what evaluation shows.
      views: named fixed variations of every picture (`mmjax.data.transforms.VIEWS`); training
        draws one at each visit, evaluation averages the embeddings of all.
      exclude_labels: labels that are left out.
      test_fraction: share of items held out for the test, families kept whole.
      val_fraction: share of items held out for model selection, families kept whole.
      stratify: deals the items of each label for themselves, so that no side lacks one.
      keep_families: False deals items one by one, so that near-duplicates of what is tested may be
        trained on: only for comparison with figures that were measured so.
      limit: at most so many items (0: all); for quick tries.
      sides: which sides are read of a source that comes split; with `test` alone nothing is trained
        or selected on its pairs, and a source that does not come split is all test.
      label: of emoji: which of its classes is an item's label.
      min_families: labels with fewer families are left out.
      folds: 0 deals `test_fraction` anew with every seed; with k the seeds 0 .. k-1 hold out the k
        folds of one partition, each label spread evenly, seeds k .. 2k-1 those of the next.
      train_fraction: share of the training items that is read (`projection` alone): how few labels
        are enough?
      domain: which of the items are a domain with a split of its own.
      development: share of the families that are the development pool (see `mmjax.data.splits`): no
        seed tests one of its items, every seed validates on them alone. Settings are chosen on it.
        0, of the older recipes, has none: one seed's validation items are another's test items.
      pool: `development` reads the items of the development pool alone, and deals them to training,
        validation and test among themselves: for whoever chooses settings.
    """

    source: str = "emoji"
    styles: tuple[str, ...] = ("openmoji",)
    views: tuple[str, ...] = ("plain",)
    exclude_labels: tuple[str, ...] = ()
    test_fraction: Part = 0.2
    val_fraction: Part = 0.1
    stratify: bool = False
    keep_families: bool = True
    limit: Natural = 0
    sides: tuple[str, ...] = ("train", "val", "test")
    label: Literal["group", "subgroup"] = "group"
    min_families: Natural = 0
    folds: Annotated[int, Bounds(2, 1_000, besides=(0,))] = 0
    train_fraction: Share = 1.0
    domain: DomainSpec = field(default_factory=DomainSpec)
    development: Pool = 0.0
    pool: Literal["all", "development"] = "all"

    def __post_init__(self) -> None:
        """Checks that there is a pool where one is read."""
        some = self.development > 0
        check(some or self.pool == "all", "pairs.development", self.development, _ABOVE)
        check(
            "train" in self.sides or not some,
            "pairs.development",
            self.development,
            "0: these pairs are all test",
        )


_ABOVE = "above 0, as of the recipe whose settings are chosen"


@dataclass(frozen=True)
class ParallelSpec:
    """Parallel text: what the language adapter is distilled on.

    Attributes:
      sources: `captions` (the training split's own names and keywords), `cedict`, or paths of
        .jsonl, .csv or .tsv files with `source` and `target` texts.
      limit: at most so many pairs of each source other than `captions` (0: all).
      repeat_captions: how often the captions' pairs stand in one epoch beside the other sources.
      captions_from: share of the steps after which only the captions are left; 1 never leaves the
        other sources.
      val_pairs: so many pairs of the other sources are held out, and the best step is chosen by
        them rather than by validation items: no picture is needed for it. 0 for none.
    """

    sources: tuple[str, ...] = ("captions", "cedict")
    limit: Natural = 0
    repeat_captions: Count = 1
    captions_from: Share = 1.0
    val_pairs: Natural = 0
