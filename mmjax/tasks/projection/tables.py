"""Tables of a `projection` recipe: F1 of usual classifiers on raw and on projected features."""

import statistics
from collections.abc import Mapping, Sequence

from mmjax.evals.probe import POSITIVE
from mmjax.report.page import Table

METHODS = ("raw", "PCA", "LDA", "projection")
ALONE = "= "  # begins the systems that are one kind of features by itself
FITTING = "fitting classifiers on"  # begins how long that took, by method
STORED = "bytes an item:"  # begins what an item's features take in float32, by kind
Systems = Mapping[str, Mapping[str, Sequence[float]]]


def projection_tables(
    systems: Systems, labels: Mapping[str, str], counts: Mapping[str, Sequence[int]]
) -> list[Table]:
    """The tables, the one that says most first.

    Args:
      systems: method, or `= ` and one kind of features -> "CLASSIFIER AVERAGE" -> one value a seed.
      labels: system -> how a table calls it.
      counts: {"train", "val", "test", "classes"} -> one number a seed.

    Returns:
      Weighted and macro F1 of every method, the difference to the raw features, and every kind of
      features by itself.
    """
    names = _classifiers(systems["raw"])
    positive = any(metric.endswith(f" {POSITIVE}") for metric in systems["raw"])
    shown = (labels["projection"],)
    dealt = ", ".join(
        f"{_range(counts[side])} {what}"
        for side, what in (
            ("train", "items to learn from"),
            ("val", "to choose settings on"),
            ("test", "to test on"),
        )
    )
    caption = (
        f"{_range(counts['classes'])} classes; {dealt}. Each cell is the best of the same number "
        "of settings, two kinds of features times those of the classifier, chosen by weighted F1 "
        "on the inner split. Raw features under LR are the linear probe."
    )
    tables: list[Table] = []
    averages = [("weighted", caption), ("macro", "The same choices, classes alike.")]
    if positive:
        note = "The same choices, F1 of one class against all others; not to be compared with "
        averages.append((POSITIVE, f"{note}weighted F1, which counts every class."))
    for average, note in averages:
        rows = tuple(
            (labels[method], _cells(systems[method], names, average)) for method in METHODS
        )
        title = f"{average.capitalize()} F1 of classifiers on frozen features"
        tables.append(Table(title, (*names, "mean"), rows, note, (), shown))
    rows = tuple(
        (
            labels[method],
            tuple(
                tuple(a - b for a, b in zip(mine, theirs, strict=True))
                for mine, theirs in zip(
                    _cells(systems[method], names, "weighted"),
                    _cells(systems["raw"], names, "weighted"),
                    strict=True,
                )
            ),
        )
        for method in METHODS[1:]
    )
    note = "Seed by seed; positive is better than the raw features with settings of their own."
    columns = (*names, "mean")
    tables.append(Table("Weighted F1 against raw features", columns, rows, note, (), shown))
    rows = tuple(
        (labels[system], _cells(values, names, "weighted"))
        for system, values in systems.items()
        if system.startswith(ALONE)
    )
    note = "Weighted F1; the classifier's settings alone are chosen."
    tables.append(Table("Every kind of features by itself", (*names, "mean"), rows, note))
    return tables


def cost_table(
    timings: Mapping[str, float], counts: Mapping[str, Sequence[int]], seeds: int
) -> list[Table]:
    """What features take to store and classifiers to fit on them; nothing where nobody measured.

    Args:
      timings: phase -> seconds, all seeds.
      counts: "bytes an item: KIND" -> one number a seed, among others.
      seeds: how many.
    """
    stored = {k.removeprefix(f"{STORED} "): v for k, v in counts.items() if k.startswith(STORED)}
    rows: list[tuple[str, tuple[tuple[float, ...], ...]]] = []
    for kind, sizes in stored.items():
        rows.append((kind, (tuple(map(float, sizes)), ())))
    for name, seconds in timings.items():
        if name.startswith(FITTING):
            method = name.removeprefix(f"{FITTING} ").partition(",")[0]
            rows.append((f"classifiers on {method}", ((), (seconds / seeds,))))
        elif name.startswith("training "):
            called = name.partition(",")[0]
            rows.append((called, ((), (seconds / seeds,))))
    if not rows:
        return []
    columns = ("bytes an item", "seconds a seed")
    caption = (
        "Features in float32. Classifiers: all of them, in every setting and alternative that is "
        "tried, on as many cores as there are, so that the figures compare with each other alone."
    )
    return [Table("What it costs", columns, tuple(rows), caption, (".0f", ".2f"))]


def projection_headline(systems: Systems) -> list[tuple[str, str]]:
    """The best classifier of the raw features and of the projection."""
    lines: list[tuple[str, str]] = []
    for method in ("raw", "projection"):
        means = {
            name: statistics.fmean(systems[method][f"{name} weighted"])
            for name in _classifiers(systems[method])
        }
        best = max(means, key=lambda name: means[name])
        lines.append((f"{method}, best classifier, weighted F1", f"{means[best]:.3f} ({best})"))
    return lines


def verdict(systems: Systems) -> str:
    """Where the projection is ahead of the raw features, and where behind."""
    ahead, behind, even = list[str](), list[str](), list[str]()
    for name in _classifiers(systems["raw"]):
        key = f"{name} weighted"
        each = [a - b for a, b in zip(systems["projection"][key], systems["raw"][key], strict=True)]
        mean = statistics.fmean(each)
        same = all(x > 0 for x in each) or all(x < 0 for x in each)
        place = even if not same else ahead if mean > 0 else behind
        place.append(f"{name} ({mean:+.3f})")
    parts = [
        f"{what}: {', '.join(classifiers)}"
        for what, classifiers in (("ahead", ahead), ("behind", behind), ("neither", even))
        if classifiers
    ]
    return (
        "Does the projection beat tuned raw features? By weighted F1, in every fold, "
        f"{'; '.join(parts)}."
    )


def _classifiers(values: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition(" ")[0] for name in values))


def _cells(
    values: Mapping[str, Sequence[float]], names: Sequence[str], average: str
) -> tuple[tuple[float, ...], ...]:
    """One cell a classifier, then their mean."""
    cells = [tuple(values[f"{name} {average}"]) for name in names]
    mean = tuple(statistics.fmean(column) for column in zip(*cells, strict=True))
    return (*cells, mean)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
