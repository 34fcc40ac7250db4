"""The report's part on classes: a table, what is taken for what, examples, what is left out."""

import math
from collections.abc import Iterator

from mmjax.data.labels import sentences
from mmjax.data.records import Corpus, Item
from mmjax.report import samples
from mmjax.report.classes import ClassFigures
from mmjax.report.page import ClassifiedImage, ClassReport, Table

THUMBNAIL = 96  # pixels
MATRIX = 60  # classes; a larger matrix is no picture any more
CONFUSIONS = 15


def class_report(figures: ClassFigures, corpus: Corpus) -> ClassReport:
    """Puts the part together.

    Args:
      figures: as measured.
      corpus: holds the pictures of the examples.

    Returns:
      The part of the report.
    """
    names = tuple(figures.names)
    small = len(names) <= MATRIX
    return ClassReport(
        table=_table(figures),
        left_out=tuple(sentences(figures.left_out)),
        names=names if small else (),
        matrix=tuple(
            tuple(figures.said.get(name, {}).get(answer, 0) for answer in names) for name in names
        )
        if small
        else (),
        confusions=tuple(
            sorted(
                (
                    (name, answer, count)
                    for name, counts in figures.said.items()
                    for answer, count in counts.items()
                    if answer != name
                ),
                key=lambda row: -row[2],
            )[:CONFUSIONS]
        ),
        examples=tuple(_pictures(figures, corpus)),
        caption=f"Answers of {figures.system}, over all seeds.",
    )


def _table(figures: ClassFigures) -> Table:
    """One row a class: its items, those on each side, and the share of right answers."""
    rows = []
    for c, name in enumerate(figures.names):
        support = [seed[c] for seed in figures.asked]
        right = [seed[c] for seed in figures.right]
        accuracy = tuple(r / n if n else math.nan for r, n in zip(right, support, strict=True))
        train = tuple(float(seed[c]) for seed in figures.train)
        rows.append(
            (name, ((float(figures.items[c]),), train, tuple(map(float, support)), accuracy))
        )
    columns = ("items", "on the training side", "asked about", "accuracy")
    nothing = sum(not any(seed[c] for seed in figures.asked) for c in range(len(figures.names)))
    caption = f"Accuracy of {figures.system}, class by class."
    if nothing:
        caption += f" {nothing} of {len(figures.names)} classes have no item that is asked about."
    return Table("Classes", columns, tuple(rows), caption, (".0f", ".0f", ".0f", ".3f"))


def _pictures(figures: ClassFigures, corpus: Corpus) -> Iterator[ClassifiedImage]:
    ids = {row[0] for row in figures.examples}
    # An item may be a text or numbers alone.
    items = {item.id: item for item in corpus.items if item.id in ids and item.images}
    for name, label, answer in figures.examples:
        if name in items:
            yield ClassifiedImage(thumbnail(items[name]), label, answer)


def thumbnail(item: Item) -> bytes:
    """A small picture of an item in its first style, as PNG."""
    return samples.thumbnail(item.picture(next(iter(item.images))), THUMBNAIL)
