"""Classes and sides of a split: how even they are, and what stands on two sides at once."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from mmjax.inspection.findings import Finding, Level
from mmjax.inspection.pictures import Doubles
from mmjax.inspection.reading import DataRow
from mmjax.synthesis.dedup import words_of

UNEVEN = 10  # times as many rows in the largest class as in the smallest
CLASS_ROWS = 4  # rows of a class that all three sides can have some of


def look_at_classes(rows: Sequence[DataRow]) -> list[Finding]:
    """What is wrong with the classes."""
    count = Counter(row.label for row in rows if row.label)
    if not count:
        return []
    findings = []
    without = tuple(row.place for row in rows if not row.label)
    if without:
        findings.append(
            Finding("unlabelled", "warning", "no label, where others have one", without)
        )
    if len(count) == 1:
        findings.append(Finding("class", "error", f"the only class is {next(iter(count))!r}"))
        return findings
    if len(count) > len(rows) / 2 and len(rows) > CLASS_ROWS:
        text = f"{len(count)} classes for {len(rows)} rows: are these labels, or names?"
        findings.append(Finding("class", "warning", text))
        return findings
    forms: dict[str, list[str]] = defaultdict(list)
    for label in count:
        forms[" ".join(words_of(label.replace("_", " ")))].append(label)
    for same in forms.values():
        if len(same) > 1:
            text = f"{' and '.join(map(repr, same))} are one class, it seems"
            places = tuple(row.place for row in rows if row.label in same[1:])
            findings.append(Finding("class", "warning", text, places))
    rare = [label for label, n in count.items() if n < CLASS_ROWS]
    if rare:
        places = tuple(row.place for row in rows if row.label in rare)
        names = ", ".join(f"{label!r} ({count[label]})" for label in rare[:6])
        more = f" and {len(rare) - 6} more" if len(rare) > 6 else ""
        text = f"too few for training, validation and test: {names}{more}"
        findings.append(Finding("rare", "warning", text, places))
    (most, n), (least, m) = count.most_common()[0], count.most_common()[-1]
    if n >= UNEVEN * m:
        text = f"classes are uneven: {most!r} has {n} rows, {least!r} has {m}"
        findings.append(Finding("uneven", "warning", text))
    return findings


def leaks(rows: Sequence[DataRow], doubles: Doubles) -> list[Finding]:
    """What stands on more than one side of the split that the data brings."""
    if not any(row.side for row in rows):
        return []
    findings = []
    group = doubles.group_of()
    several: Sequence[tuple[str, Mapping[int, Hashable]]] = (
        ("the picture", group),
        ("the family", {i: row.family for i, row in enumerate(rows) if row.family}),
        ("the text", _said(rows)),
    )
    for what, key in several:
        sides: dict[Hashable, set[str]] = defaultdict(set)
        for i, value in key.items():
            sides[value].add(rows[i].side or "train")
        torn = {value for value, at in sides.items() if len(at) > 1}
        places = tuple(
            rows[i].place
            for i, value in key.items()
            if value in torn and (rows[i].side or "train") != "test"
        )
        if places:
            at = sorted({s for v in torn for s in sides[v]}, key=("train", "val", "test").index)
            text = f"{what} stands in {' and '.join(at)} too: what is tested was learned"
            level: Level = "warning" if what == "the text" else "error"
            findings.append(Finding("leak", level, text, places))
    unsaid = tuple(row.place for row in rows if not row.side)
    if unsaid:
        text = "no side of the split, where others name one; such rows are trained on"
        findings.append(Finding("split", "warning", text, unsaid))
    return findings


def _said(rows: Sequence[DataRow]) -> dict[int, Hashable]:
    """Row -> all its words; captions that are the class's name say nothing of the row."""
    by_row: dict[int, Hashable] = {}
    for i, row in enumerate(rows):
        own = [text for text in row.first.values() if text.strip() and text.strip() != row.label]
        if own:
            by_row[i] = " ".join(words_of(" ".join(own)))
    return by_row


def leaking(rows: Sequence[DataRow], doubles: Doubles) -> set[int]:
    """Rows beside the test whose picture or family the test has too."""
    group, bad = doubles.group_of(), set[int]()
    for key in (group, {i: row.family for i, row in enumerate(rows) if row.family}):
        tested = {value for i, value in key.items() if rows[i].side == "test"}
        bad |= {i for i, value in key.items() if value in tested and rows[i].side != "test"}
    return bad
